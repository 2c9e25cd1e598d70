//! The way to other nodes, and to their pods.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::IpAddr;

use proto::dataplane::{RouteKey, RouteTarget, TunnelPeer, TunnelPeerKey};
use wire::{IpPrefix, MacAddr};

use crate::build::{About, Desired};
use crate::objects::{Address, ObjectName, Pod};
use crate::prefixes::{NodeRanges, station};
use crate::view::{ClusterView, Local, Uplink, Vxlan, vxlan_text};
use crate::{ROUTER_ADDRESSES, ROUTER_WAY, TUNNEL_PORT, UPLINK_PORT};

impl Desired {
    /// Routes to a node's podCIDRs and addresses. `own` has this node's addresses.
    pub(crate) fn reach(&mut self, name: &str, local: &Local, uplink: &Uplink, own: &BTreeSet<IpAddr>) {
        let Some(node) = self.nodes.get(name).cloned() else { return };
        let about = || About::Node(name.to_owned());
        let (hops, problems) = Hops::of(&node, uplink, local.vxlan);
        self.compare_ways(name, &node, local);
        for (address, problem) in &problems {
            let text = format!(
                "Node {name}: annotation {ROUTER_ADDRESSES} `{address}`: {problem}; left out, its pods of that \
                 family cannot be reached"
            );
            self.warn(about(), text);
        }
        let prefixes = node.pod_cidrs.iter().map(|&prefix| (prefix, "spec.podCIDRs"));
        let addresses = node.addresses.iter().map(|&address| (IpPrefix::host(address), "status.addresses"));
        let mut unreached = BTreeSet::new();
        for (prefix, field) in prefixes.chain(addresses) {
            let Some(hop) = hops.towards(prefix.addr()) else {
                unreached.insert(if prefix.addr().is_ipv4() { "IPv4" } else { "IPv6" });
                continue;
            };
            if prefix.is_host() && own.contains(&prefix.addr()) {
                self.contested = true;
                let text = format!(
                    "Node {name}: {field} `{}` belongs to this node ({}); left out: correct one of the two Nodes",
                    prefix.addr(),
                    local.node
                );
                self.warn(about(), text);
                continue;
            }
            if field == "spec.podCIDRs" {
                self.host_prefixes.insert(prefix);
            }
            if prefix != IpPrefix::host(hop.address) {
                self.route_by(prefix, hop, name);
            } else if let Some(way) = uplink.way_to(hop.address) {
                // A router that is the node itself: it is found on the link, and no datagram to it goes into a tunnel.
                self.route(prefix, next_hop(UPLINK_PORT, way));
            }
        }
        // A value that was there and left out has its own warning already; two would only say it twice.
        if problems.is_empty() {
            for family in unreached {
                self.warn(about(), unnamed(name, family));
            }
        }
    }

    /// A route by a node's next hop, which is made known where it is the end of a tunnel.
    fn route_by(&mut self, prefix: IpPrefix, hop: Hop, node: &str) {
        let Hop { address, tunnelled } = hop;
        let port = if tunnelled { TUNNEL_PORT } else { UPLINK_PORT };
        self.route(prefix, next_hop(port, address));
        if tunnelled {
            let key = peer_key(address);
            let row = TunnelPeer { key: key.clone(), mac: tunnel_mac(node) };
            let before = self.rows.tunnel_peers.insert(key, row.clone());
            // Two nodes that claim one address: who has it depends on both.
            self.contested |= before.is_some_and(|before| before != row);
        }
    }

    /// Two nodes have to have the same tunnels.
    pub(crate) fn compare_ways(&mut self, name: &str, node: &NodeRanges, local: &Local) {
        let own_way = vxlan_text(local.vxlan);
        if let Some(theirs) = node.tunnels.as_ref().filter(|theirs| **theirs != own_way) {
            let text = format!(
                "Node {name}: annotation {ROUTER_WAY} says `{theirs}`, and this node has `{own_way}`: what one sends is not what \
                 the other takes; start control with the same --vxlan, --vxlan-vni and --vxlan-port on both"
            );
            self.warn(About::Node(name.to_owned()), text);
        }
    }

    /// Undoes what [`Self::judge`] and [`Self::reach`] did for a node, where nothing is contested; gives its podCIDRs.
    pub(crate) fn forget(&mut self, name: &str) -> BTreeSet<IpPrefix> {
        self.take_back(&About::Node(name.to_owned()));
        let Some(node) = self.nodes.remove(name) else { return BTreeSet::new() };
        let addresses = node.addresses.iter().map(|&address| IpPrefix::host(address));
        for prefix in node.pod_cidrs.iter().copied().chain(addresses) {
            self.rows.routes.remove(&RouteKey { network: 0, prefix });
        }
        for prefix in &node.pod_cidrs {
            self.host_prefixes.remove(prefix);
        }
        for &address in &node.routers {
            self.rows.tunnel_peers.remove(&peer_key(address));
        }
        node.pod_cidrs.iter().copied().collect()
    }

    /// Pods of other nodes whose addresses their node's podCIDRs do not cover.
    pub(crate) fn stray_pods(
        &mut self,
        view: &ClusterView,
        local: &Local,
        uplink: &Uplink,
        own: &BTreeSet<IpAddr>,
    ) {
        let mut pods: Vec<(&ObjectName, &Pod)> =
            view.all_pods().filter(|(_, pod)| self.is_stray(pod, local)).collect();
        self.has_strays = !pods.is_empty();
        // Of two that claim one address, one that is going leaves it to one that stays, and an older one to a newer one, which
        // would not have it if the older one had not given it up.
        pods.sort_by_key(|(name, pod)| (pod.terminating, Reverse(&pod.created), *name));
        for (name, pod) in pods {
            for (i, address) in pod.pod_ips.iter().enumerate() {
                let problem = match self.stray(pod, address, (uplink, local.vxlan), own) {
                    Ok(()) => continue,
                    Err(problem) => problem,
                };
                self.warn(
                    About::Pods,
                    format!("Pod {name}: status.podIPs[{i}].ip `{address}`: {problem}; left out"),
                );
            }
        }
    }

    fn stray(
        &mut self,
        pod: &Pod,
        address: &Address,
        (uplink, vxlan): (&Uplink, Option<Vxlan>),
        own: &BTreeSet<IpAddr>,
    ) -> Result<(), String> {
        let address = station(address)?;
        let node = self.nodes.get(&pod.node).cloned();
        let node = node.ok_or_else(|| format!("its node `{}` is not among the nodes", pod.node))?;
        if node.covers(address) {
            return Ok(());
        }
        let prefix = IpPrefix::host(address);
        if own.contains(&address) || self.has_route(prefix) {
            self.contested = true;
            return Err("belongs to something else already (of two pods, delete one)".to_owned());
        }
        if let Some(hop) = Hops::of(&node, uplink, vxlan).0.towards(address) {
            self.route_by(prefix, hop, &pod.node);
            self.host_prefixes.insert(prefix);
        }
        Ok(())
    }

    /// Whether a pod of another node has an address that its node's podCIDRs do not cover.
    pub(crate) fn is_stray(&self, pod: &Pod, local: &Local) -> bool {
        let is_there = !pod.host_network && !pod.finished;
        let is_remote = !pod.node.is_empty() && *pod.node != *local.node;
        let node = self.nodes.get(&pod.node);
        let covered =
            |own: &Address| node.is_some_and(|node| station(own).is_ok_and(|address| node.covers(address)));
        is_there && is_remote && !pod.pod_ips.iter().all(covered)
    }
}

/// To another node.
fn next_hop(port: &str, address: IpAddr) -> RouteTarget {
    RouteTarget::NextHop { port: port.to_owned(), address, inside: true }
}

pub(crate) fn unnamed(name: &str, family: &str) -> String {
    format!(
        "Node {name}: annotation {ROUTER_ADDRESSES} names no {family} address; its {family} pods and addresses cannot be \
         reached: add that of its uplink (--uplink-address there)"
    )
}

/// The station of a node's end of the tunnel, which its name alone says: locally administered (IEEE 802, section 8.2).
pub(crate) fn tunnel_mac(node: &str) -> MacAddr {
    let [a, b, c, d, e, ..] = proto::fnv1a(node.bytes()).to_le_bytes();
    MacAddr([0x02, a, b, c, d, e])
}

fn peer_key(address: IpAddr) -> TunnelPeerKey {
    TunnelPeerKey { port: TUNNEL_PORT.to_owned(), address }
}

/// A node's next hops, at most one a family.
struct Hops(Vec<Hop>);

/// One of them.
#[derive(Clone, Copy)]
struct Hop {
    address: IpAddr,
    tunnelled: bool,
}

impl Hops {
    /// Those that the uplink can reach; and those that it cannot, and why.
    fn of(node: &NodeRanges, uplink: &Uplink, vxlan: Option<Vxlan>) -> (Self, Vec<(IpAddr, &'static str)>) {
        let (mut hops, mut problems) = (Vec::new(), Vec::new());
        for &address in &node.routers {
            let link_local = matches!(address, IpAddr::V6(own) if own.is_unicast_link_local());
            let on_link = uplink.is_on_link(address);
            let tunnelled = vxlan.is_some_and(|vxlan| !(vxlan.across_subnets && on_link));
            if uplink.addresses.iter().any(|own| own.address == address) {
                problems.push((address, "is this node's own uplink address"));
            } else if tunnelled && link_local {
                problems.push((address, "is link-local, and no end of a tunnel (--vxlan)"));
            } else if tunnelled && uplink.way_to(address).is_none() {
                let problem = "is in no subnet of the uplink, and no gateway leads there (--uplink-gateway)";
                problems.push((address, problem));
            } else if !tunnelled && !on_link && !link_local {
                problems.push((address, "is in no subnet of the uplink (--uplink-address)"));
            } else {
                hops.push(Hop { address, tunnelled });
            }
        }
        (Self(hops), problems)
    }

    /// A tunnel's families inside and outside have nothing to do with each other.
    fn towards(&self, destination: IpAddr) -> Option<Hop> {
        let same = self.0.iter().find(|hop| hop.address.is_ipv4() == destination.is_ipv4());
        same.or_else(|| self.0.iter().find(|hop| hop.tunnelled)).copied()
    }
}
