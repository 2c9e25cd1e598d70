//! Which podCIDRs, addresses and next hops are good for use, each looked at alone.

use std::net::IpAddr;
use std::sync::LazyLock;

use wire::IpPrefix;

use crate::objects::Address;

/// What a node may be reached by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct NodeRanges {
    pub(crate) pod_cidrs: Vec<IpPrefix>,
    /// `InternalIP` first, then `ExternalIP`.
    pub(crate) addresses: Vec<IpAddr>,
    /// From the annotation; at most one a family.
    pub(crate) routers: Vec<IpAddr>,
    /// From another one; what it says of tunnels.
    pub(crate) tunnels: Option<String>,
}

impl NodeRanges {
    pub(crate) fn covers(&self, address: IpAddr) -> bool {
        self.pod_cidrs.iter().any(|prefix| prefix.contains(address))
    }

    /// What packets of the node's and of its pods' come from; none of them is in another. A link-local address says nothing beyond its link.
    pub(crate) fn sources(&self) -> impl Iterator<Item = IpPrefix> {
        let own = self.addresses.iter().chain(&self.routers);
        let own = own.filter(|own| !self.covers(**own) && station(&Address::Ip(**own)).is_ok());
        self.pod_cidrs.iter().copied().chain(own.map(|own| IpPrefix::host(*own)))
    }
}

/// A range that pods can be in.
pub(crate) fn pod_cidr(text: &str) -> Result<IpPrefix, String> {
    let prefix: IpPrefix = text.parse().map_err(|error: wire::AddrError| error.to_string())?;
    range_fault(prefix).map_or(Ok(prefix), Err)
}

/// Why no pods can be in a range, if they cannot.
#[must_use]
pub fn range_fault(prefix: IpPrefix) -> Option<String> {
    let (special, what) = SPECIAL.iter().find(|(special, _)| overlap(prefix, *special))?;
    Some(format!("overlaps {special} ({what}), where no pod can be"))
}

/// Ranges that are never routed (RFC 6890).
static SPECIAL: LazyLock<Vec<(IpPrefix, &str)>> = LazyLock::new(|| {
    let special = [
        ("0.0.0.0/8", "this network"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("224.0.0.0/3", "multicast and reserved"),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
    ];
    special.into_iter().filter_map(|(text, what)| Some((text.parse().ok()?, what))).collect()
});

pub(crate) fn overlap(a: IpPrefix, b: IpPrefix) -> bool {
    a.contains(b.addr()) || b.contains(a.addr())
}

/// The router's own address in a range of pods', behind the network's; none is free in one that has room for a single address.
pub(crate) fn router_address(cidr: IpPrefix) -> Option<IpAddr> {
    let address = match cidr.addr() {
        IpAddr::V4(network) => IpAddr::V4((network.to_bits().checked_add(1)?).into()),
        IpAddr::V6(network) => IpAddr::V6((network.to_bits().checked_add(1)?).into()),
    };
    cidr.contains(address).then_some(address)
}

/// An address that one station can have, beyond its own link.
pub(crate) fn station(address: &Address) -> Result<IpAddr, String> {
    let Address::Ip(address) = *address else { return Err("is no IP address".to_owned()) };
    match SPECIAL.iter().find(|(special, _)| special.contains(address)) {
        Some((_, what)) => Err(format!("is a {what} address")),
        None => Ok(address),
    }
}

/// The next hops that an annotation names, one a family: link-local will do for IPv6, as in any router's advertisement
/// (RFC 4861, section 4.2).
pub(crate) fn routers(list: &str, problems: &mut Vec<String>) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    for text in list.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        let link_local = text.parse().is_ok_and(|own: std::net::Ipv6Addr| own.is_unicast_link_local());
        let address =
            if link_local { text.parse().map_err(|_| String::new()) } else { station(&text.into()) };
        let problem = match address {
            Ok(address) if found.iter().any(|other| other.is_ipv4() == address.is_ipv4()) => {
                "is a second one of its family".to_owned()
            }
            Ok(address) => {
                found.push(address);
                continue;
            }
            Err(why) => why,
        };
        problems.push(format!("annotation {} `{text}`: {problem}", crate::ROUTER_ADDRESSES));
    }
    found
}
