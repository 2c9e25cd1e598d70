//! Which podCIDRs and addresses of the nodes are good for use.
//!
//! Each is judged alone: a bad value costs itself and nothing beside it. Nodes are judged oldest first, so that a node
//! that joins with another's range never takes it away.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::LazyLock;

use wire::IpPrefix;

use crate::view::Node;

/// What a node may be reached by.
#[derive(Debug, Default)]
pub(crate) struct NodeRanges {
    pub(crate) pod_cidrs: Vec<IpPrefix>,
    /// `InternalIP` first, then `ExternalIP`.
    pub(crate) addresses: Vec<IpAddr>,
    /// From the annotation; at most one a family.
    pub(crate) routers: Vec<IpAddr>,
}

/// The nodes' ranges by name.
pub(crate) fn node_ranges<'a>(
    nodes: &'a BTreeMap<String, Node>,
    warnings: &mut Vec<String>,
) -> BTreeMap<&'a str, NodeRanges> {
    let mut oldest_first: Vec<(&String, &Node)> = nodes.iter().collect();
    oldest_first.sort_by_key(|(name, node)| (node.created.is_none(), &node.created, *name));

    let mut ranges: BTreeMap<&str, NodeRanges> = BTreeMap::new();
    let mut cidrs = Taken::default();
    let mut owners: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for (name, node) in oldest_first {
        let mut range = NodeRanges::default();
        for (i, text) in node.pod_cidrs.iter().enumerate() {
            match pod_cidr(text, &cidrs) {
                Ok(prefix) => {
                    cidrs.insert(prefix, name);
                    range.pod_cidrs.push(prefix);
                }
                Err(why) => {
                    warnings.push(format!("Node {name}: spec.podCIDRs[{i}] `{text}`: {why}; left out"))
                }
            }
        }
        for kind in ["InternalIP", "ExternalIP"] {
            for (i, own) in node.addresses.iter().enumerate().filter(|(_, own)| own.kind == kind) {
                let text = &own.address;
                let field = format!("Node {name}: status.addresses[{i}].address `{text}`");
                match station(text) {
                    Ok(address) => match owners.get(&address) {
                        None => {
                            owners.insert(address, name);
                            range.addresses.push(address);
                        }
                        // The same address as InternalIP and ExternalIP is common and no fault.
                        Some(&owner) if owner == name => {}
                        Some(owner) => warnings
                            .push(format!("{field}: is an address of the older Node {owner} too; left out")),
                    },
                    Err(why) => warnings.push(format!("{field}: {why}; left out")),
                }
            }
        }
        range.routers = routers(name, node, warnings);
        ranges.insert(name, range);
    }
    ranges
}

/// Ranges that have an owner, none of which overlaps another: two that do not lie side by side, so that only those
/// next to a new one need a look.
#[derive(Debug, Default)]
struct Taken<'a>(BTreeMap<IpAddr, (IpPrefix, &'a str)>);

impl<'a> Taken<'a> {
    fn insert(&mut self, prefix: IpPrefix, owner: &'a str) {
        self.0.insert(prefix.addr(), (prefix, owner));
    }

    /// One that overlaps `prefix`, and its owner.
    fn overlapped(&self, prefix: IpPrefix) -> Option<(IpPrefix, &'a str)> {
        let before = self.0.range(..=prefix.addr()).next_back();
        let after = self.0.range(prefix.addr()..).next();
        let found = before.into_iter().chain(after).find(|(_, (other, _))| overlap(prefix, *other));
        found.map(|(_, taken)| *taken)
    }
}

fn pod_cidr(text: &str, taken: &Taken<'_>) -> Result<IpPrefix, String> {
    let prefix: IpPrefix = text.parse().map_err(|error: wire::AddrError| error.to_string())?;
    if let Some((special, what)) = SPECIAL.iter().find(|(special, _)| overlap(prefix, *special)) {
        return Err(format!("overlaps {special} ({what}), where no pod can be"));
    }
    match taken.overlapped(prefix) {
        Some((other, owner)) => Err(format!("overlaps {other} of the older Node {owner}")),
        None => Ok(prefix),
    }
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

/// An address that one station can have, beyond its own link.
pub(crate) fn station(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| "is no IP address".to_owned())?;
    match SPECIAL.iter().find(|(special, _)| special.contains(address)) {
        Some((_, what)) => Err(format!("is a {what} address")),
        None => Ok(address),
    }
}

/// A next hop: link-local will do for IPv6, as in any router's advertisement (RFC 4861, section 4.2).
fn routers(name: &str, node: &Node, warnings: &mut Vec<String>) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    let list = node.router_addresses.as_deref().unwrap_or_default();
    for text in list.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        let link_local = text.parse().is_ok_and(|own: std::net::Ipv6Addr| own.is_unicast_link_local());
        let address = if link_local { text.parse().map_err(|_| String::new()) } else { station(text) };
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
        let annotation = crate::ROUTER_ADDRESSES;
        warnings.push(format!("Node {name}: annotation {annotation} `{text}`: {problem}; left out"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::NodeAddress;
    use proptest::prelude::*;

    proptest! {
        /// Only neighbours are looked at; a naive search looks at all.
        #[test]
        fn overlaps_are_found_among_many(texts in proptest::collection::vec("(10\\.[0-3]|fd00)", 1..24), lens in proptest::collection::vec(8u8..26, 24)) {
            let mut taken = Taken::default();
            let mut all: Vec<IpPrefix> = vec![];
            for (i, (text, len)) in texts.iter().zip(lens).enumerate() {
                let text = if text == "fd00" { format!("fd00:{i}::") } else { format!("{text}.{}.0", i * 11) };
                let prefix = IpPrefix::containing(text.parse().unwrap(), len).unwrap();
                let expected = all.iter().any(|other| overlap(prefix, *other));
                prop_assert_eq!(taken.overlapped(prefix).is_some(), expected);
                if !expected {
                    taken.insert(prefix, "a");
                    all.push(prefix);
                }
            }
        }
    }

    fn node(name: &str, created: &str, cidrs: &[&str]) -> (String, Node) {
        let node = Node {
            created: (!created.is_empty()).then(|| created.into()),
            pod_cidrs: cidrs.iter().map(|text| (*text).into()).collect(),
            ..Node::default()
        };
        (name.into(), node)
    }

    #[test]
    fn a_bad_value_costs_itself_alone_and_is_quoted() {
        let mut warnings = vec![];
        let bad = ["fd00::/200", "10.1.0.1/24", "x", "0.0.0.0/0", "fe80::/64", "10.1.0.0/24"];
        let nodes = [node("n", "2026-01-01T00:00:00Z", &bad)].into();
        let ranges = node_ranges(&nodes, &mut warnings);
        assert_eq!(ranges["n"].pod_cidrs, ["10.1.0.0/24".parse().unwrap()]);
        assert_eq!(warnings.len(), 5, "{warnings:#?}");
        assert!(warnings[0].starts_with("Node n: spec.podCIDRs[0] `fd00::/200`: "), "{}", warnings[0]);
        assert!(warnings[1].contains("did you mean 10.1.0.0/24"), "{}", warnings[1]);
        assert!(warnings[3].contains("this network"), "{}", warnings[3]);
    }

    #[test]
    fn the_older_node_keeps_its_range() {
        let mut warnings = vec![];
        let young = node("a", "2026-01-02T00:00:00Z", &["10.1.0.0/16", "10.9.0.0/24"]);
        let old = node("b", "2026-01-01T00:00:00Z", &["10.1.1.0/24"]);
        let ageless = node("c", "", &["10.9.0.0/25"]);
        let nodes = [ageless, young, old].into();
        let ranges = node_ranges(&nodes, &mut warnings);
        assert_eq!(ranges["b"].pod_cidrs.len(), 1);
        assert_eq!(ranges["a"].pod_cidrs, ["10.9.0.0/24".parse().unwrap()]);
        assert!(ranges["c"].pod_cidrs.is_empty());
        assert!(
            warnings[0].contains("Node a") && warnings[0].contains("10.1.1.0/24 of the older Node b"),
            "{warnings:?}"
        );
    }

    #[test]
    fn addresses_and_routers_are_judged_one_by_one() {
        let mut warnings = vec![];
        let address = |kind: &str, address: &str| NodeAddress { kind: kind.into(), address: address.into() };
        let mut first = node("a", "", &[]);
        first.1.addresses = vec![
            address("Hostname", "a"),
            address("ExternalIP", "203.0.113.1"),
            address("InternalIP", "192.168.77.11"),
            address("ExternalIP", "192.168.77.11"),
            address("InternalIP", "127.0.0.1"),
        ];
        first.1.router_addresses = Some("192.168.77.1, fe80::9,10.0.0.1,nonsense".into());
        let mut second = node("b", "", &[]);
        second.1.addresses = vec![address("InternalIP", "192.168.77.11")];
        let nodes = [first, second].into();
        let ranges = node_ranges(&nodes, &mut warnings);
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(ranges["a"].addresses, [parse("192.168.77.11"), parse("203.0.113.1")]);
        assert_eq!(ranges["a"].routers, [parse("192.168.77.1"), parse("fe80::9")]);
        assert!(ranges["b"].addresses.is_empty());
        assert_eq!(warnings.len(), 4, "{warnings:#?}");
        assert!(
            warnings[0].contains("status.addresses[4].address `127.0.0.1`: is a loopback address"),
            "{warnings:?}"
        );
        assert!(
            warnings[2].contains(crate::ROUTER_ADDRESSES) && warnings[2].contains("`nonsense`"),
            "{warnings:?}"
        );
    }
}
