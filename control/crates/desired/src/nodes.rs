//! What is known of all nodes, and who has which range and address.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use wire::IpPrefix;

use crate::build::{About, Desired, changed};
use crate::objects::Node;
use crate::prefixes::{self, NodeRanges, overlap};
use crate::view::tunnels;

/// The nodes by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Nodes {
    ranges: OrdMap<String, Arc<NodeRanges>>,
    /// podCIDRs by their first address, none of which overlaps another: two that do not lie side by side, so that only
    /// those next to a new one need a look.
    cidrs: OrdMap<IpAddr, (IpPrefix, String)>,
    addresses: OrdMap<IpAddr, String>,
}

impl Nodes {
    pub(crate) fn get(&self, name: &str) -> Option<&Arc<NodeRanges>> {
        self.ranges.get(name)
    }

    /// Those that have something that they do not have there.
    pub(crate) fn different<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a str> {
        self.ranges.diff(&other.ranges).map(|item| changed(item).0.as_str())
    }

    pub(crate) fn len(&self) -> usize {
        self.ranges.len()
    }

    pub(crate) fn cidrs_of(&self, name: &str) -> BTreeSet<IpPrefix> {
        self.get(name).iter().flat_map(|node| &node.pod_cidrs).copied().collect()
    }

    pub(crate) fn owner_of(&self, address: IpAddr) -> Option<&str> {
        self.addresses.get(&address).map(String::as_str)
    }

    /// Whether it is a node's, or in a podCIDR.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        let before = self.cidrs.get_prev(&address);
        self.addresses.contains_key(&address) || before.is_some_and(|(_, (cidr, _))| cidr.contains(address))
    }

    pub(crate) fn remove(&mut self, name: &str) -> Option<Arc<NodeRanges>> {
        let node = self.ranges.remove(name)?;
        for prefix in &node.pod_cidrs {
            self.cidrs.remove(&prefix.addr());
        }
        for address in &node.addresses {
            self.addresses.remove(address);
        }
        Some(node)
    }

    /// podCIDRs and addresses of one of them.
    pub(crate) fn prefixes_of(&self, name: &str) -> Vec<IpPrefix> {
        let Some(node) = self.get(name) else { return Vec::new() };
        let addresses = node.addresses.iter().map(|address| IpPrefix::host(*address));
        node.pod_cidrs.iter().copied().chain(addresses).collect()
    }

    /// podCIDRs and addresses of all of them.
    pub(crate) fn all_prefixes(&self) -> impl Iterator<Item = IpPrefix> {
        let addresses = self.addresses.keys().map(|address| IpPrefix::host(*address));
        self.cidrs.values().map(|(prefix, _)| *prefix).chain(addresses)
    }

    /// A podCIDR that overlaps `prefix`, and its node.
    fn overlapped(&self, prefix: IpPrefix) -> Option<(IpPrefix, &str)> {
        let before = self.cidrs.range(..=prefix.addr()).next_back();
        let after = self.cidrs.range(prefix.addr()..).next();
        let found = before.into_iter().chain(after).find(|(_, (other, _))| overlap(prefix, *other));
        found.map(|(_, (other, owner))| (*other, owner.as_str()))
    }
}

/// In this order a node that joins with what another has never takes it away.
pub(crate) fn oldest_first(nodes: &OrdMap<String, Node>) -> Vec<(&String, &Node)> {
    let mut all: Vec<_> = nodes.iter().collect();
    all.sort_by_key(|(name, node)| (node.created.is_none(), &node.created, *name));
    all
}

impl Desired {
    /// Takes all nodes in.
    pub(crate) fn take_in(&mut self, nodes: &OrdMap<String, Node>) {
        for (name, node) in oldest_first(nodes) {
            self.judge(name, node);
        }
    }

    /// Takes a node in, less what nodes before it have already. Each value is judged alone: a bad one costs itself and
    /// nothing beside it.
    pub(crate) fn judge(&mut self, name: &str, node: &Node) {
        let mut range = NodeRanges::default();
        let mut problems = Vec::new();
        for (i, text) in node.pod_cidrs.iter().enumerate() {
            let judged = prefixes::pod_cidr(text).and_then(|prefix| match self.nodes.overlapped(prefix) {
                Some((other, owner)) => {
                    self.contested = true;
                    Err(format!("overlaps {other} of the older Node {owner}"))
                }
                None => Ok(prefix),
            });
            match judged {
                Ok(prefix) => {
                    self.nodes.cidrs.insert(prefix.addr(), (prefix, name.to_owned()));
                    range.pod_cidrs.push(prefix);
                }
                Err(why) => problems.push(format!("spec.podCIDRs[{i}] `{text}`: {why}")),
            }
        }
        for kind in ["InternalIP", "ExternalIP"] {
            for (i, own) in node.addresses.iter().enumerate().filter(|(_, own)| own.kind == kind) {
                let text = &own.address;
                let judged = prefixes::station(&text.as_str().into()).and_then(|address| {
                    match self.nodes.owner_of(address) {
                        // The same address as InternalIP and ExternalIP is common and no fault.
                        Some(owner) if owner == name => Ok(None),
                        Some(owner) => {
                            self.contested = true;
                            Err(format!("is an address of the older Node {owner} too"))
                        }
                        None => Ok(Some(address)),
                    }
                });
                match judged {
                    Ok(Some(address)) => {
                        self.nodes.addresses.insert(address, name.to_owned());
                        range.addresses.push(address);
                    }
                    Ok(None) => {}
                    Err(why) => problems.push(format!("status.addresses[{i}].address `{text}`: {why}")),
                }
            }
        }
        range.routers =
            prefixes::routers(node.router_addresses.as_deref().unwrap_or_default(), &mut problems);
        range.tunnels = node.router_way.as_deref().and_then(tunnels).map(str::to_owned);
        self.nodes.ranges.insert(name.to_owned(), Arc::new(range));
        for problem in problems {
            self.warn(About::Node(name.to_owned()), format!("Node {name}: {problem}; left out"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClusterView;
    use crate::objects::NodeAddress;
    use proptest::prelude::*;

    fn node(name: &str, created: Option<i64>, cidrs: &[&str]) -> (String, Node) {
        let node =
            Node { created, pod_cidrs: cidrs.iter().map(|text| (*text).into()).collect(), ..Node::default() };
        (name.into(), node)
    }

    /// What is known of the nodes, and what is said of them.
    fn judged<const N: usize>(nodes: [(String, Node); N]) -> (Nodes, Vec<String>) {
        let view = ClusterView { nodes: nodes.into_iter().collect(), ..ClusterView::default() };
        let mut desired = Desired::default();
        desired.take_in(&view.nodes);
        let warnings = desired.warnings().map(str::to_owned).collect();
        (desired.nodes, warnings)
    }

    #[test]
    fn a_bad_value_costs_itself_alone_and_is_quoted() {
        let bad = ["fd00::/200", "10.1.0.1/24", "x", "0.0.0.0/0", "fe80::/64", "10.1.0.0/24"];
        let (nodes, warnings) = judged([node("n", Some(1), &bad)]);
        assert_eq!(nodes.get("n").unwrap().pod_cidrs, ["10.1.0.0/24".parse().unwrap()]);
        assert_eq!(warnings.len(), 5, "{warnings:#?}");
        assert!(warnings[0].starts_with("Node n: spec.podCIDRs[0] `fd00::/200`: "), "{}", warnings[0]);
        assert!(warnings[1].contains("did you mean 10.1.0.0/24"), "{}", warnings[1]);
        assert!(warnings[3].contains("this network"), "{}", warnings[3]);
    }

    #[test]
    fn the_older_node_keeps_its_range() {
        let young = node("a", Some(2), &["10.1.0.0/16", "10.9.0.0/24"]);
        let old = node("b", Some(1), &["10.1.1.0/24"]);
        let ageless = node("c", None, &["10.9.0.0/25"]);
        let (nodes, warnings) = judged([ageless, young, old]);
        assert_eq!(nodes.get("b").unwrap().pod_cidrs.len(), 1);
        assert_eq!(nodes.get("a").unwrap().pod_cidrs, ["10.9.0.0/24".parse().unwrap()]);
        assert!(nodes.get("c").unwrap().pod_cidrs.is_empty());
        assert!(
            warnings[0].contains("Node a") && warnings[0].contains("10.1.1.0/24 of the older Node b"),
            "{warnings:?}"
        );
    }

    #[test]
    fn addresses_and_routers_are_judged_one_by_one() {
        let address = |kind: &str, address: &str| NodeAddress { kind: kind.into(), address: address.into() };
        let mut first = node("a", None, &[]);
        first.1.addresses = vec![
            address("Hostname", "a"),
            address("ExternalIP", "203.0.113.1"),
            address("InternalIP", "192.168.77.11"),
            address("ExternalIP", "192.168.77.11"),
            address("InternalIP", "127.0.0.1"),
        ];
        first.1.router_addresses = Some("192.168.77.1, fe80::9,10.0.0.1,nonsense".into());
        let mut second = node("b", None, &[]);
        second.1.addresses = vec![address("InternalIP", "192.168.77.11")];
        let (nodes, warnings) = judged([first, second]);
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = nodes.get("a").unwrap();
        assert_eq!(first.addresses, [parse("192.168.77.11"), parse("203.0.113.1")]);
        assert_eq!(first.routers, [parse("192.168.77.1"), parse("fe80::9")]);
        assert!(nodes.get("b").unwrap().addresses.is_empty());
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

    proptest! {
        /// Only neighbours are looked at; a naive search looks at all.
        #[test]
        fn overlaps_are_found_among_many(
            texts in proptest::collection::vec("(10\\.[0-3]|fd00)", 1..24),
            lens in proptest::collection::vec(8u8..26, 24),
        ) {
            let mut nodes = Nodes::default();
            let mut all: Vec<IpPrefix> = vec![];
            for (i, (text, len)) in texts.iter().zip(lens).enumerate() {
                let text = if text == "fd00" { format!("fd00:{i}::") } else { format!("{text}.{}.0", i * 11) };
                let prefix = IpPrefix::containing(text.parse().unwrap(), len).unwrap();
                let expected = all.iter().any(|other| overlap(prefix, *other));
                prop_assert_eq!(nodes.overlapped(prefix).is_some(), expected);
                if !expected {
                    nodes.cidrs.insert(prefix.addr(), (prefix, "a".to_owned()));
                    all.push(prefix);
                }
            }
        }
    }
}
