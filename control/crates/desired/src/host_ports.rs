//! Ports of the node that lead to pods (`hostPort`): a frontend each, on every address of the node that is meant.
//!
//! Whoever sends to them by the data plane is served so: pods, other nodes, and what comes by the uplink. What only the node's kernel
//! sees, its own connections and those by a NIC of its, the kernel is told of by the same list.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use proto::control::PortMapping;
use proto::dataplane::{Backend, BackendState, Frontend, FrontendKey};

use crate::build::{About, Desired};
use crate::objects::ObjectName;
use crate::view::Local;

/// A port of the node, and where it leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    pub mapping: PortMapping,
    /// The pod's, one a family.
    pub addresses: Vec<IpAddr>,
    /// Whose it is, for people.
    pub endpoint: String,
}

impl HostPort {
    /// Where it leads, for this family.
    #[must_use]
    pub fn backend(&self, v4: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|own| own.is_ipv4() == v4)
    }

    fn is_for_any(&self) -> bool {
        self.mapping.host.is_none_or(|host| host.is_unspecified())
    }
}

impl Desired {
    /// Anew, by what is known of this node's addresses and endpoints; gives the Services that this takes something from or gives it to.
    pub(crate) fn open_host_ports(&mut self, local: &Local) -> BTreeSet<ObjectName> {
        let mut again = BTreeSet::new();
        for key in std::mem::take(&mut self.host_frontends) {
            self.rows.frontends.remove(&key);
            again.extend(self.who_waits(&key));
        }
        self.host_ports.clear();
        for attachment in local.attachments.iter().filter(|own| !own.host_ports.is_empty()) {
            let Some(row) = self.rows.endpoints.get(&attachment.endpoint) else { continue };
            let to =
                |&mapping| HostPort { mapping, addresses: row.addresses.clone(), endpoint: row.name.clone() };
            self.host_ports.extend(attachment.host_ports.iter().map(to));
        }
        // Who names an address comes before who means any.
        self.host_ports.sort_by_key(|own| (own.is_for_any(), own.clone()));
        let mut node = self.nodes.get(&local.node).map(|own| own.addresses.clone()).unwrap_or_default();
        node.extend(local.uplink.iter().flat_map(|uplink| &uplink.addresses).map(|own| own.address));
        for own in self.host_ports.clone() {
            for &address in node.iter().filter(|address| own.mapping.is_for(**address)) {
                again.extend(self.open_host_port(&own, address));
            }
        }
        again
    }

    fn open_host_port(&mut self, own: &HostPort, address: IpAddr) -> BTreeSet<ObjectName> {
        let Some(pod) = own.backend(address.is_ipv4()) else { return BTreeSet::new() };
        let PortMapping { host_port: port, container_port, protocol, .. } = own.mapping;
        let key = FrontendKey { network: 0, address, port, protocol };
        let name: Arc<str> = format!("hostPort of {}", own.endpoint).into();
        let again = self.take_from_service(&key);
        match self.rows.frontends.get(&key) {
            None => {
                let backend = Backend { address: pod, port: container_port, state: BackendState::Serving };
                self.rows.frontends.insert(
                    key,
                    Arc::new(Frontend {
                        key,
                        name,
                        backends: Arc::from([backend]),
                        drops: false,
                        sources: vec![],
                        affinity_seconds: None,
                    }),
                );
                self.host_frontends.push(key);
            }
            Some(other) if other.name == name => {}
            Some(other) => {
                let text = format!(
                    "attachment {}: port {key} of the node is the {}; left out: delete one of the two pods",
                    own.endpoint, other.name
                );
                self.warn(About::Local, text);
            }
        }
        again
    }
}
