//! This node's own side: its uplink, its attachments, and the host.

use std::collections::BTreeSet;
use std::net::IpAddr;

use imbl::OrdMap;
use proto::dataplane::{Endpoint, EndpointKind, Interface, Masquerade, PortKind, PortRange, PortSpec};

use crate::build::{About, Desired};
use crate::objects::ObjectName;
use crate::prefixes::router_address;
use crate::remote::tunnel_mac;
use crate::view::{Attachment, Host, Local, Uplink, Vxlan, pod_mtu};
use crate::{HOST_PORT, ROUTER_MAC, TUNNEL_PORT, UPLINK_PORT};

/// Above the NodePorts (30000 to 32767), which the same address may serve.
const MASQUERADE_PORTS: PortRange = PortRange { first: 32_768, last: u16::MAX };

impl Desired {
    /// Ports, interfaces and endpoints, anew, by what is known of the nodes; gives the Services that are to be served again.
    pub(crate) fn local(&mut self, local: &Local) -> BTreeSet<ObjectName> {
        self.take_back(&About::Local);
        self.ports.clear();
        self.host_addresses.clear();
        (self.rows.interfaces, self.rows.endpoints) = (OrdMap::new(), OrdMap::new());
        self.rows.router = Some(local.router.clone());
        self.own_cidrs = self.nodes.get(&local.node).map(|own| own.pod_cidrs.clone()).unwrap_or_default();
        if self.nodes.get(&local.node).is_none() {
            let text = "is not among the nodes; no pod can be attached until it is (or correct --node)";
            self.warn(About::Local, format!("Node {}: {text}", local.node));
        }
        if let Some(uplink) = &local.uplink {
            self.uplink(uplink, local);
        }
        self.attachments(&local.attachments);
        if let Some(host) = &local.host {
            self.host(host, local);
        }
        self.name_router();
        self.masquerade(local);
        let again = self.open_host_ports(local);
        self.node_port_addresses = self.node_port_addresses(local);
        let others = self.nodes.len() - usize::from(self.nodes.get(&local.node).is_some());
        if local.uplink.is_none() && local.host.is_none() && others > 0 {
            let text = "other node(s) cannot be reached: there is neither an uplink nor a host interface; start with one";
            self.warn(About::Local, format!("{others} {text}"));
        }
        again
    }

    fn uplink(&mut self, uplink: &Uplink, local: &Local) {
        self.port(UPLINK_PORT, PortKind::Ethdev(uplink.device.clone()), None, uplink.mtu);
        let row = Interface { port: UPLINK_PORT.to_owned(), network: 0, addresses: uplink.addresses.clone() };
        self.rows.interfaces.insert(row.port.clone(), row);
        if let Some(Vxlan { vni, udp_port, .. }) = local.vxlan {
            let kind = PortKind::Vxlan { uplink: UPLINK_PORT.to_owned(), vni, udp_port };
            let mtu = pod_mtu(uplink.mtu, Some(uplink), local.vxlan);
            self.port(TUNNEL_PORT, kind, Some(tunnel_mac(&local.node)), mtu);
        }
    }

    /// The router's own address among its pods', one a family: what asks other nodes' endpoints for a Service's clients, so that they answer
    /// by us.
    fn name_router(&mut self) {
        self.router_addresses.clear();
        let taken: BTreeSet<IpAddr> = self.rows.addresses().collect();
        for address in self.own_cidrs.clone().into_iter().filter_map(router_address) {
            if self.router_addresses.iter().any(|own| own.is_ipv4() == address.is_ipv4()) {
                continue;
            }
            if taken.contains(&address) {
                let text = format!(
                    "address {address} is the router's own, and something on this node has it: clients from beyond this node do not reach \
                     Services' endpoints on others; have IPAM leave it out"
                );
                self.warn(About::Local, text);
                continue;
            }
            self.router_addresses.push(address);
        }
    }

    /// What pods send beyond the cluster leaves by the uplink with its address; what would be answered by another way, with the router's.
    fn masquerade(&mut self, local: &Local) {
        let (mut source4, mut source6) = (None, None);
        let uplink = local.uplink.iter().filter(|_| local.masquerade.is_some());
        for own in uplink.flat_map(|uplink| &uplink.addresses) {
            match own.address {
                IpAddr::V4(own) => source4 = source4.or(Some(own)),
                IpAddr::V6(own) if own.is_unicast_link_local() => {}
                IpAddr::V6(own) => source6 = source6.or(Some(own)),
            }
        }
        let (mut service4, mut service6) = (None, None);
        for own in &self.router_addresses {
            match *own {
                IpAddr::V4(own) => service4 = Some(own),
                IpAddr::V6(own) => service6 = Some(own),
            }
        }
        let row = Masquerade {
            network: 0,
            source4,
            source6,
            exclude: local.masquerade.clone().unwrap_or_default(),
            link_local: false,
            service4,
            service6,
            ports: MASQUERADE_PORTS,
        };
        if source4.or(service4).is_some() || source6.or(service6).is_some() {
            self.rows.masquerades.insert(0, row);
        } else {
            self.rows.masquerades.remove(&0);
        }
    }

    /// Where a NodePort is: the addresses that others know of this node, and the one that its kernel passes on to us.
    fn node_port_addresses(&self, local: &Local) -> Vec<IpAddr> {
        let configured = &local.node_port_addresses;
        let mut found = self.nodes.get(&local.node).map(|own| own.addresses.clone()).unwrap_or_default();
        found.extend(local.uplink.iter().flat_map(|uplink| &uplink.addresses).map(|own| own.address));
        found.retain(|own| configured.is_empty() || configured.iter().any(|prefix| prefix.contains(*own)));
        found.retain(|own| !matches!(own, IpAddr::V6(own) if own.is_unicast_link_local()));
        found.extend(&self.router_addresses);
        found.sort_unstable();
        found.dedup();
        found
    }

    fn attachments(&mut self, attachments: &[Attachment]) {
        let mut taken: BTreeSet<(u16, IpAddr)> = self.rows.all_addresses().collect();
        for attachment in attachments {
            let mut addresses = attachment.addresses.clone();
            addresses.retain(|address| {
                let free = taken.insert((attachment.network, *address));
                if !free {
                    let text = format!(
                        "attachment {} ({}): address {address} belongs to something else on this node; left \
                         out: delete the pod, so that it is attached anew",
                        attachment.endpoint, attachment.port
                    );
                    self.warn(About::Local, text);
                }
                free
            });
            self.limited_port(PortSpec {
                name: attachment.port.clone(),
                kind: attachment.kind.clone(),
                mac: Some(ROUTER_MAC),
                mtu: attachment.mtu,
                limits: attachment.limits,
            });
            let row = Endpoint {
                name: attachment.endpoint.clone(),
                port: attachment.port.clone(),
                network: attachment.network,
                mac: attachment.mac,
                addresses,
                routes: attachment.routes.clone(),
                kind: EndpointKind::Pod,
            };
            if !row.addresses.is_empty() {
                self.rows.endpoints.insert(row.name.clone(), row);
            }
        }
    }

    /// The kernel answers for the node's addresses, save those that the uplink has taken over.
    fn host(&mut self, host: &Host, local: &Local) {
        self.port(HOST_PORT, PortKind::Tap, Some(ROUTER_MAC), host.mtu);
        let taken: BTreeSet<IpAddr> = self.rows.addresses().collect();
        let uplink: Vec<IpAddr> =
            local.uplink.iter().flat_map(|uplink| &uplink.addresses).map(|own| own.address).collect();
        let own = self.nodes.get(&local.node).map(|own| own.addresses.clone()).unwrap_or_default();
        for address in own.into_iter().filter(|address| !uplink.contains(address)) {
            if taken.contains(&address) {
                let text = format!(
                    "Node {}: address `{address}` belongs to an attachment on this node; left out: delete that \
                     pod, or correct the Node's status.addresses",
                    local.node
                );
                self.warn(About::Local, text);
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
                routes: Vec::new(),
                kind: EndpointKind::Host,
            };
            self.rows.endpoints.insert(row.name.clone(), row);
        }
    }
}
