//! Which podCIDRs and addresses of the nodes are good for use.
//!
//! Each is judged alone: a bad value costs itself and nothing beside it. Nodes are judged oldest first, so that a node
//! that joins with another's range never takes it away.

use std::collections::BTreeMap;
use std::net::IpAddr;

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

/// The nodes' ranges by name; of two nodes of one name, the older counts.
pub(crate) fn node_ranges<'a>(
    nodes: &'a [Node],
    warnings: &mut Vec<String>,
) -> BTreeMap<&'a str, NodeRanges> {
    let mut oldest_first: Vec<&Node> = nodes.iter().collect();
    oldest_first.sort_by_key(|node| (node.created.is_none(), &node.created, &node.name));

    let mut ranges: BTreeMap<&str, NodeRanges> = BTreeMap::new();
    let mut cidrs: Vec<(IpPrefix, &str)> = Vec::new();
    let mut owners: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for node in oldest_first {
        let name = node.name.as_str();
        if ranges.contains_key(name) {
            warnings.push(format!("Node {name}: there are two objects of this name; the older counts"));
            continue;
        }
        let mut range = NodeRanges::default();
        for (i, text) in node.pod_cidrs.iter().enumerate() {
            match pod_cidr(text, &cidrs) {
                Ok(prefix) => {
                    cidrs.push((prefix, name));
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
        range.routers = routers(node, warnings);
        ranges.insert(name, range);
    }
    ranges
}

fn pod_cidr(text: &str, taken: &[(IpPrefix, &str)]) -> Result<IpPrefix, String> {
    let prefix: IpPrefix = text.parse().map_err(|error: wire::AddrError| error.to_string())?;
    if let Some(special) =
        SPECIAL.iter().find(|(special, _)| special.parse().is_ok_and(|special| overlap(prefix, special)))
    {
        return Err(format!("overlaps {} ({}), where no pod can be", special.0, special.1));
    }
    match taken.iter().find(|(other, _)| overlap(prefix, *other)) {
        Some((other, owner)) => Err(format!("overlaps {other} of the older Node {owner}")),
        None => Ok(prefix),
    }
}

/// Ranges that are never routed (RFC 6890).
const SPECIAL: [(&str, &str); 8] = [
    ("0.0.0.0/8", "this network"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("224.0.0.0/3", "multicast and reserved"),
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "multicast"),
];

pub(crate) fn overlap(a: IpPrefix, b: IpPrefix) -> bool {
    a.contains(b.addr()) || b.contains(a.addr())
}

/// An address that one station can have, beyond its own link.
pub(crate) fn station(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| "is no IP address".to_owned())?;
    let special = SPECIAL
        .iter()
        .find(|(special, _)| special.parse::<IpPrefix>().is_ok_and(|special| special.contains(address)));
    match special {
        Some((_, what)) => Err(format!("is a {what} address")),
        None => Ok(address),
    }
}

/// A next hop: link-local will do for IPv6, as in any router's advertisement (RFC 4861, section 4.2).
fn routers(node: &Node, warnings: &mut Vec<String>) -> Vec<IpAddr> {
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
        warnings.push(format!("Node {}: annotation {annotation} `{text}`: {problem}; left out", node.name));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::NodeAddress;

    fn node(name: &str, created: &str, cidrs: &[&str]) -> Node {
        Node {
            name: name.into(),
            created: (!created.is_empty()).then(|| created.into()),
            pod_cidrs: cidrs.iter().map(|text| (*text).into()).collect(),
            ..Node::default()
        }
    }

    #[test]
    fn a_bad_value_costs_itself_alone_and_is_quoted() {
        let mut warnings = vec![];
        let bad = ["fd00::/200", "10.1.0.1/24", "x", "0.0.0.0/0", "fe80::/64", "10.1.0.0/24"];
        let nodes = [node("n", "2026-01-01T00:00:00Z", &bad)];
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
        let nodes = [ageless, young, old];
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
        first.addresses = vec![
            address("Hostname", "a"),
            address("ExternalIP", "203.0.113.1"),
            address("InternalIP", "192.168.77.11"),
            address("ExternalIP", "192.168.77.11"),
            address("InternalIP", "127.0.0.1"),
        ];
        first.router_addresses = Some("192.168.77.1, fe80::9,10.0.0.1,nonsense".into());
        let mut second = node("b", "", &[]);
        second.addresses = vec![address("InternalIP", "192.168.77.11")];
        let nodes = [first, second];
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
