//! From view and local side to ports and rows.
//!
//! The order of the steps is the order of precedence: what is this node's own comes before what other nodes say, so
//! that no object of another node can take a local pod's traffic away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proto::dataplane::{Endpoint, EndpointKind, Interface, PortKind, PortSpec, Route, RouteKey, RouteTarget};
use wire::IpPrefix;

use crate::prefixes::{NodeRanges, node_ranges, station};
use crate::rows::Rows;
use crate::view::{ClusterView, Local, ObjectName, Pod, Uplink};
use crate::{HOST_PORT, ROUTER_ADDRESSES, ROUTER_MAC, UPLINK_PORT};

/// What the data plane and the node's kernel ought to hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Desired {
    /// By name.
    pub ports: BTreeMap<String, PortSpec>,
    pub rows: Rows,
    /// This node's own podCIDRs: where its pods' addresses come from.
    pub own_cidrs: Vec<IpPrefix>,
    /// What the node's kernel routes to the host port: all podCIDRs that lead somewhere.
    pub host_prefixes: Vec<IpPrefix>,
    /// This node's addresses that its kernel holds, InternalIP first: sources of what it sends to pods.
    pub host_addresses: Vec<IpAddr>,
    /// What was left out, each naming object, field and value.
    pub warnings: Vec<String>,
}

impl Desired {
    /// Works it out. Total: what cannot be honoured is left out and named in `warnings`.
    #[must_use]
    pub fn build(view: &ClusterView, local: &Local) -> Self {
        let mut desired = Self::default();
        let mut nodes = node_ranges(&view.nodes, &mut desired.warnings);
        let own = nodes.remove(local.node.as_str());
        if own.is_none() {
            desired.warnings.push(format!(
                "Node {}: is not among the nodes; no pod can be attached until it is (or correct --node)",
                local.node
            ));
        }
        let own = own.unwrap_or_default();

        desired.rows.router = Some(local.router.clone());
        desired.uplink(local.uplink.as_ref());
        desired.attachments(local);
        desired.host(local, &own);
        for &prefix in &own.pod_cidrs {
            // A pod that is not there is told so at once; those that are have longer prefixes of their own.
            desired.route(prefix, RouteTarget::Unreachable);
        }
        desired.host_prefixes.extend(&own.pod_cidrs);
        desired.own_cidrs = own.pod_cidrs;
        match &local.uplink {
            Some(uplink) => desired.remote(view, local, uplink, &nodes),
            None if !nodes.is_empty() => desired.warnings.push(format!(
                "{} other node(s) cannot be reached: there is no uplink; start with --uplink",
                nodes.len()
            )),
            None => {}
        }
        desired
    }

    fn uplink(&mut self, uplink: Option<&Uplink>) {
        let Some(uplink) = uplink else { return };
        let kind = PortKind::Ethdev(uplink.device.clone());
        self.port(UPLINK_PORT, kind, None, uplink.mtu);
        let row = Interface { port: UPLINK_PORT.to_owned(), network: 0, addresses: uplink.addresses.clone() };
        self.rows.interfaces.insert(row.port.clone(), row);
        for &address in &uplink.gateways {
            let all: IpAddr =
                if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            if let Some(prefix) = IpPrefix::containing(all, 0) {
                self.route(prefix, RouteTarget::NextHop { port: UPLINK_PORT.to_owned(), address });
            }
        }
    }

    fn attachments(&mut self, local: &Local) {
        let mut taken = self.owned();
        for attachment in &local.attachments {
            let mut addresses = attachment.addresses.clone();
            addresses.retain(|address| {
                let free = taken.insert(*address);
                if !free {
                    self.warnings.push(format!(
                        "attachment {} ({}): address {address} belongs to something else on this node; left \
                         out: delete the pod, so that it is attached anew",
                        attachment.endpoint, attachment.port
                    ));
                }
                free
            });
            self.port(&attachment.port, attachment.kind.clone(), Some(ROUTER_MAC), attachment.mtu);
            let row = Endpoint {
                name: attachment.endpoint.clone(),
                port: attachment.port.clone(),
                network: 0,
                mac: attachment.mac,
                addresses,
                kind: EndpointKind::Pod,
            };
            if !row.addresses.is_empty() {
                self.rows.endpoints.insert(row.name.clone(), row);
            }
        }
    }

    /// The kernel answers for the node's addresses, save those that the uplink has taken over.
    fn host(&mut self, local: &Local, own: &NodeRanges) {
        let Some(host) = &local.host else { return };
        self.port(HOST_PORT, PortKind::Tap, Some(ROUTER_MAC), host.mtu);
        let taken = self.owned();
        let uplink: Vec<IpAddr> =
            local.uplink.iter().flat_map(|uplink| &uplink.addresses).map(|own| own.address).collect();
        for &address in &own.addresses {
            if uplink.contains(&address) {
                continue;
            }
            if taken.contains(&address) {
                self.warnings.push(format!(
                    "Node {}: address `{address}` belongs to an attachment on this node; left out: delete that \
                     pod, or correct the Node's status.addresses",
                    local.node
                ));
                continue;
            }
            self.host_addresses.push(address);
        }
        if !self.host_addresses.is_empty() {
            let row = Endpoint {
                name: HOST_PORT.to_owned(),
                port: HOST_PORT.to_owned(),
                network: 0,
                mac: host.mac,
                addresses: self.host_addresses.clone(),
                kind: EndpointKind::Host,
            };
            self.rows.endpoints.insert(row.name.clone(), row);
        }
    }

    fn remote(
        &mut self,
        view: &ClusterView,
        local: &Local,
        uplink: &Uplink,
        nodes: &BTreeMap<&str, NodeRanges>,
    ) {
        let own = self.owned();
        let mut hops: BTreeMap<&str, Hops> = BTreeMap::new();
        for (&name, node) in nodes {
            let hop = self.hops(name, node, uplink);
            let prefixes = node.pod_cidrs.iter().map(|&prefix| (prefix, "spec.podCIDRs"));
            let addresses =
                node.addresses.iter().map(|&address| (IpPrefix::host(address), "status.addresses"));
            let mut unreached = BTreeSet::new();
            for (prefix, field) in prefixes.chain(addresses) {
                let Some(address) = hop.of(prefix.addr()) else {
                    unreached.insert(if prefix.addr().is_ipv4() { "IPv4" } else { "IPv6" });
                    continue;
                };
                if prefix.is_host() && own.contains(&prefix.addr()) {
                    self.warnings.push(format!(
                        "Node {name}: {field} `{}` belongs to this node ({}); left out: correct one of the two Nodes",
                        prefix.addr(),
                        local.node
                    ));
                    continue;
                }
                if field == "spec.podCIDRs" {
                    self.host_prefixes.push(prefix);
                }
                // A router that is the node itself is found on the link, without a route.
                if prefix != IpPrefix::host(address) {
                    self.route(prefix, RouteTarget::NextHop { port: UPLINK_PORT.to_owned(), address });
                }
            }
            // A value that was there and left out has its own warning already; two would only say it twice.
            if !hop.left_out {
                for family in unreached {
                    self.warnings.push(format!(
                        "Node {name}: annotation {ROUTER_ADDRESSES} names no {family} address; its {family} pods and \
                         addresses cannot be reached: add that of its uplink (--uplink-address there)"
                    ));
                }
            }
            hops.insert(name, hop);
        }
        self.stray_pods(view, local, nodes, &hops, &own);
    }

    /// The next hops of a node, less those that the uplink cannot reach.
    fn hops(&mut self, name: &str, node: &NodeRanges, uplink: &Uplink) -> Hops {
        let mut hops = Hops::default();
        for &address in &node.routers {
            let link_local = matches!(address, IpAddr::V6(own) if own.is_unicast_link_local());
            let on_link = uplink.addresses.iter().any(|own| {
                IpPrefix::containing(own.address, own.prefix_len).is_some_and(|net| net.contains(address))
            });
            let problem = if uplink.addresses.iter().any(|own| own.address == address) {
                "is this node's own uplink address"
            } else if !on_link && !link_local {
                "is in no subnet of the uplink (--uplink-address)"
            } else {
                hops.addresses.push(address);
                continue;
            };
            hops.left_out = true;
            self.warnings.push(format!(
                "Node {name}: annotation {ROUTER_ADDRESSES} `{address}`: {problem}; left out, its pods of that \
                 family cannot be reached"
            ));
        }
        hops
    }

    /// Pods of other nodes whose addresses their node's podCIDRs do not cover.
    fn stray_pods(
        &mut self,
        view: &ClusterView,
        local: &Local,
        nodes: &BTreeMap<&str, NodeRanges>,
        hops: &BTreeMap<&str, Hops>,
        own: &BTreeSet<IpAddr>,
    ) {
        let mut pods: Vec<(&ObjectName, &Pod)> = view
            .pods
            .iter()
            .filter(|(_, pod)| !pod.host_network && !matches!(pod.phase.as_str(), "Succeeded" | "Failed"))
            .filter(|(_, pod)| !pod.node.is_empty() && pod.node != local.node)
            .collect();
        // One that is going leaves its address to one that stays.
        pods.sort_by_key(|(name, pod)| (pod.terminating, *name));
        for (name, pod) in pods {
            for (i, text) in pod.pod_ips.iter().enumerate() {
                let field = format!("Pod {name}: status.podIPs[{i}].ip `{text}`");
                let address = match station(text) {
                    Ok(address) => address,
                    Err(why) => {
                        self.warnings.push(format!("{field}: {why}; left out"));
                        continue;
                    }
                };
                let Some(node) = nodes.get(pod.node.as_str()) else {
                    self.warnings
                        .push(format!("{field}: its node `{}` is not among the nodes; left out", pod.node));
                    continue;
                };
                if node.pod_cidrs.iter().any(|prefix| prefix.contains(address)) {
                    continue;
                }
                let prefix = IpPrefix::host(address);
                let known = self.rows.routes.contains_key(&RouteKey { network: 0, prefix });
                if own.contains(&address) || known {
                    let why = "belongs to something else already (of two pods, delete one)";
                    self.warnings.push(format!("{field}: {why}; left out"));
                } else if let Some(address) = hops.get(pod.node.as_str()).and_then(|hop| hop.of(address)) {
                    self.route(prefix, RouteTarget::NextHop { port: UPLINK_PORT.to_owned(), address });
                    self.host_prefixes.push(prefix);
                }
            }
        }
    }

    fn port(&mut self, name: &str, kind: PortKind, mac: Option<wire::MacAddr>, mtu: u16) {
        let spec = PortSpec { name: name.to_owned(), kind, mac, mtu };
        self.ports.insert(spec.name.clone(), spec);
    }

    fn route(&mut self, prefix: IpPrefix, target: RouteTarget) {
        let Route { key, target } = Route { key: RouteKey { network: 0, prefix }, target };
        self.rows.routes.insert(key, target);
    }

    fn owned(&self) -> BTreeSet<IpAddr> {
        self.rows.addresses().collect()
    }
}

/// A node's next hops, at most one a family.
#[derive(Debug, Default)]
struct Hops {
    addresses: Vec<IpAddr>,
    /// The annotation named one that cannot be used.
    left_out: bool,
}

impl Hops {
    fn of(&self, destination: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv4() == destination.is_ipv4())
    }
}
