//! The way to other nodes where this node's kernel is it: by its own networks, or in tunnels of a device of its (VXLAN, RFC 7348).
//!
//! A tunnel's device has ends of one family, IPv4 where this node has such an address. Pods reach other nodes' own addresses in the tunnel
//! too, so that what lies between sees no pod's address; nodes reach each other as they ever did.

use std::collections::BTreeSet;
use std::net::IpAddr;

use imbl::{OrdMap, OrdSet};
use wire::{IpPrefix, MacAddr};

use crate::build::{About, Desired, Prefixes, changed, everything};
use crate::nodes::oldest_first;
use crate::prefixes::NodeRanges;
use crate::remote::{tunnel_mac, unnamed};
use crate::view::{ClusterView, Local};
use crate::{HOST_PORT, ROUTER_ADDRESSES};

/// What this node's kernel is told of other nodes; empty where an uplink is the way. A copy costs nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ByKernel {
    /// The way to other nodes' podCIDRs.
    pub pods: OrdMap<IpPrefix, Way>,
    /// Other nodes' addresses that pods reach in the tunnel.
    pub stations: OrdMap<IpAddr, End>,
    /// Other nodes' ends of tunnels, and whose each is. Those of nodes that are reached without are among them: their networks may be
    /// narrower than this node's, so that they do not see it as a neighbour.
    pub ends: OrdMap<IpAddr, String>,
    /// What may come in the tunnel, by the end that it comes from: the ranges and addresses of its node.
    pub sources: OrdSet<(IpAddr, IpPrefix)>,
    /// All nodes' podCIDRs and addresses. Where packets of pods go with their own source are these and `outside`; all else leaves the node
    /// with the node's.
    pub cluster: Prefixes,
    pub outside: Prefixes,
    pub tunnel: Option<KernelTunnel>,
}

/// By what the kernel reaches another node's pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// A neighbour on a network of this node.
    Neighbour(IpAddr),
    Tunnel(End),
}

/// The other end of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct End {
    /// Where its datagrams go.
    pub address: IpAddr,
    /// Its MAC address inside.
    pub mac: MacAddr,
}

/// The kernel's device for tunnels, and this node's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelTunnel {
    pub end: End,
    pub vni: u32,
    pub udp_port: u16,
    /// Largest IP packet inside, in bytes.
    pub mtu: u16,
}

impl Desired {
    /// All other nodes, by the kernel.
    pub(crate) fn reach_all_by_kernel(&mut self, view: &ClusterView, local: &Local) {
        self.by_kernel.tunnel = self.own_end(local);
        for (name, _) in oldest_first(&view.nodes) {
            if *name != local.node {
                self.reach_by_kernel(name, local);
            }
        }
        self.by_kernel.cluster = self.nodes.all_prefixes().collect();
        self.by_kernel.outside = match &local.masquerade {
            Some(exclude) => exclude.iter().copied().collect(),
            None => [true, false].into_iter().filter_map(everything).collect(),
        };
    }

    fn own_end(&self, local: &Local) -> Option<KernelTunnel> {
        let (vxlan, host) = (local.vxlan?, local.host.as_ref()?);
        let own = &self.host_addresses;
        let &address = own.iter().find(|own| own.is_ipv4()).or(own.first())?;
        let end = End { address, mac: tunnel_mac(&local.node) };
        Some(KernelTunnel { end, vni: vxlan.vni, udp_port: vxlan.udp_port, mtu: host.mtu })
    }

    /// Routes of the kernel's to a node's pods; as they are, to podCIDRs alone: it has its own ways to other nodes' addresses.
    fn reach_by_kernel(&mut self, name: &str, local: &Local) {
        let Some(node) = self.nodes.get(name).cloned() else { return };
        self.compare_ways(name, &node, local);
        let about = || About::Node(name.to_owned());
        if let (Some(vxlan), Some(tunnel)) = (local.vxlan, self.by_kernel.tunnel) {
            let Some(address) = self.end_of(&node) else {
                let family = if tunnel.end.address.is_ipv4() { "IPv4" } else { "IPv6" };
                let text = format!(
                    "Node {name}: annotation {ROUTER_ADDRESSES} names no {family} address, as this node's end of the tunnel is; its \
                     pods cannot be reached: give all nodes an {family} address"
                );
                return self.warn(about(), text);
            };
            let other = self.by_kernel.ends.get(&address).map(|owner| format!("the older Node {owner}"));
            let own = || format!("this node ({})", local.node);
            if let Some(owner) = other.or_else(|| self.host_addresses.contains(&address).then(own)) {
                self.contested = true;
                let text = format!(
                    "Node {name}: annotation {ROUTER_ADDRESSES} `{address}`: is an end of {owner} too; left out, its pods cannot be reached: \
                     correct one of the two Nodes, or delete the one whose machine is no more"
                );
                return self.warn(about(), text);
            }
            self.by_kernel.ends.insert(address, name.to_owned());
            self.by_kernel.sources.extend(node.sources().map(|source| (address, source)));
            if !(vxlan.across_subnets && local.subnets.iter().any(|net| net.contains(address))) {
                let end = End { address, mac: tunnel_mac(name) };
                self.by_kernel.pods.extend(node.pod_cidrs.iter().map(|&prefix| (prefix, Way::Tunnel(end))));
                self.by_kernel.stations.extend(node.addresses.iter().map(|&address| (address, end)));
                return;
            }
        }
        let mut unreached = BTreeSet::new();
        for &prefix in &node.pod_cidrs {
            let v4 = prefix.addr().is_ipv4();
            match node.routers.iter().find(|own| own.is_ipv4() == v4) {
                Some(&address) => drop(self.by_kernel.pods.insert(prefix, Way::Neighbour(address))),
                None => drop(unreached.insert(if v4 { "IPv4" } else { "IPv6" })),
            }
        }
        for family in unreached {
            self.warn(about(), unnamed(name, family));
        }
    }

    /// Undoes what [`Self::reach_by_kernel`] did for a node.
    fn forget_by_kernel(&mut self, name: &str) {
        let Some(node) = self.nodes.get(name).cloned() else { return };
        for prefix in self.nodes.prefixes_of(name) {
            self.by_kernel.cluster.remove(&prefix);
            self.by_kernel.pods.remove(&prefix);
            self.by_kernel.stations.remove(&prefix.addr());
        }
        if let Some(end) = self.end_of(&node) {
            self.by_kernel.ends.remove(&end);
            for source in node.sources() {
                self.by_kernel.sources.remove(&(end, source));
            }
        }
    }

    /// Where datagrams to a node go, and come from: of the family of this node's own end.
    fn end_of(&self, node: &NodeRanges) -> Option<IpAddr> {
        let own = self.by_kernel.tunnel?.end.address;
        node.routers.iter().copied().find(|address| address.is_ipv4() == own.is_ipv4())
    }

    /// As [`Self::next`], where other nodes' pods are no rows.
    pub(crate) fn advanced_by_kernel(
        &self,
        (old_view, old_local): (&ClusterView, &Local),
        view: &ClusterView,
        local: &Local,
    ) -> Option<Self> {
        local.host.as_ref()?;
        let mut next = self.clone();
        let mut again = BTreeSet::new();
        if old_local.attachments != local.attachments {
            again = next.local(local);
            if next.node_port_addresses != self.node_port_addresses {
                return None;
            }
        }
        for (name, node) in old_view.nodes.diff(&view.nodes).map(changed) {
            if *name == local.node {
                return None;
            }
            if next.is_served_at(name) {
                return None;
            }
            next.forget_by_kernel(name);
            next.forget(name);
            if let Some(node) = node {
                next.judge(name, node);
                if next.is_served_at(name) {
                    return None;
                }
                next.reach_by_kernel(name, local);
                next.by_kernel.cluster.extend(next.nodes.prefixes_of(name));
            }
        }
        if next.contested != self.contested {
            return None;
        }
        next.serve_changed(old_view, view, local, again);
        // What default routes and this node's end rest on.
        let has_host = |desired: &Self| desired.rows.endpoints.contains_key(HOST_PORT);
        let same = has_host(&next) == has_host(self) && next.host_addresses == self.host_addresses;
        same.then_some(next)
    }
}
