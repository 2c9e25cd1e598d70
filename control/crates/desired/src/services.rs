//! Services: a frontend for each port of each cluster address, with the endpoints of the Service's slices behind it.
//!
//! A Service is made anew when it or a slice of it changes, whatever else there is. What always holds: a Service has the frontends that it alone
//! would have, less those that something else had before it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use imbl::{OrdMap, OrdSet};
use proto::dataplane::{Frontend, FrontendKey, Protocol};
use wire::IpPrefix;

use crate::build::{About, Desired, changed};
use crate::endpoints::{Place, backends};
use crate::objects::{EndpointSlice, ObjectName, Service, ServicePort};
use crate::prefixes::station;
use crate::view::{ClusterView, Local};

/// What belongs to Services. A copy costs nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Services {
    /// Slices of each Service that any says to be of.
    slices: OrdMap<ObjectName, OrdSet<ObjectName>>,
    /// Frontends of each.
    frontends: OrdMap<ObjectName, Vec<FrontendKey>>,
}

impl Desired {
    /// All of them.
    pub(crate) fn serve_all(&mut self, view: &ClusterView, local: &Local) {
        for (name, slice) in &view.endpoint_slices {
            self.add_slice(name, slice);
        }
        for name in view.services.keys() {
            self.serve(name, view, local);
        }
    }

    /// Those that are different from one view to the next.
    pub(crate) fn serve_changed(&mut self, old: &ClusterView, view: &ClusterView, local: &Local) {
        let mut different: BTreeSet<ObjectName> =
            old.services.diff(&view.services).map(|item| changed(item).0.clone()).collect();
        for (name, slice) in old.endpoint_slices.diff(&view.endpoint_slices).map(changed) {
            if let Some(before) = old.endpoint_slices.get(name) {
                different.extend(self.remove_slice(name, before));
            }
            different.extend(slice.and_then(|slice| self.add_slice(name, slice)));
        }
        for name in &different {
            self.serve(name, view, local);
        }
    }

    fn add_slice(&mut self, name: &ObjectName, slice: &EndpointSlice) -> Option<ObjectName> {
        let service = service_of(name, slice)?;
        self.services.slices.entry(service.clone()).or_default().insert(name.clone());
        Some(service)
    }

    fn remove_slice(&mut self, name: &ObjectName, slice: &EndpointSlice) -> Option<ObjectName> {
        let service = service_of(name, slice)?;
        let slices = self.services.slices.get_mut(&service)?;
        slices.remove(name);
        if slices.is_empty() {
            self.services.slices.remove(&service);
        }
        Some(service)
    }

    /// One, in place of what it was.
    fn serve(&mut self, name: &ObjectName, view: &ClusterView, local: &Local) {
        let about = About::Service(name.clone());
        self.take_back(&about);
        for key in self.services.frontends.remove(name).unwrap_or_default() {
            self.rows.frontends.remove(&key);
            let first = FrontendKey { port: 0, protocol: Protocol(0), ..key };
            let next = self.rows.frontends.range(first..).next();
            // Another may have the address, with other ports.
            if next.is_none_or(|(other, _)| (other.network, other.address) != (key.network, key.address)) {
                self.host_prefixes.remove(&IpPrefix::host(key.address));
            }
        }
        let Some(service) = view.services.get(name).filter(|own| is_ours(own)) else { return };
        let slices: Vec<&EndpointSlice> = self
            .services
            .slices
            .get(name)
            .into_iter()
            .flatten()
            .filter_map(|slice| view.endpoint_slices.get(slice))
            .collect();
        let zone = view.nodes.get(&local.node).map_or("", |own| &own.zone);
        let place = Place { node: &local.node, zone };
        let mut keys = Vec::new();
        for (i, text) in service.cluster_ips.iter().enumerate() {
            let address = match station(&text.as_ref().into()) {
                Ok(address) => address,
                Err(why) => {
                    self.warn(
                        about.clone(),
                        format!("Service {name}: spec.clusterIPs[{i}] `{text}`: {why}; left out"),
                    );
                    continue;
                }
            };
            for port in &service.ports {
                let Some(key) = key(address, port) else { continue };
                let named = (&*port.name, &port.protocol);
                let (backends, drops) = backends(service, named, address.is_ipv4(), &slices, place);
                if let Some(other) = self.rows.frontends.get(&key) {
                    self.contested = true;
                    let text = format!("Service {name}: {key} is the {} already; left out", other.name);
                    self.warn(about.clone(), text);
                    continue;
                }
                self.rows.frontends.insert(key, Frontend { key, name: title(name, port), backends, drops });
                keys.push(key);
            }
            // By its kernel, answers of other nodes' pods to the node itself would not come by us.
            if local.uplink.is_some() && keys.iter().any(|key: &FrontendKey| key.address == address) {
                self.host_prefixes.insert(IpPrefix::host(address));
            }
        }
        if !keys.is_empty() {
            self.services.frontends.insert(name.clone(), keys);
        }
        let unserved = unserved(service);
        if !unserved.is_empty() {
            let text = format!(
                "Service {name}: {} not honoured yet; its cluster addresses are served",
                unserved.join(", ")
            );
            self.warn(about, text);
        }
    }
}

/// The Service that a slice is of, in the slice's own namespace.
fn service_of(name: &ObjectName, slice: &EndpointSlice) -> Option<ObjectName> {
    let service = ObjectName { namespace: name.namespace.clone(), name: slice.service.as_ref().into() };
    (!slice.service.is_empty()).then_some(service)
}

/// Whether it is a proxy's, and this one's (Kubernetes, pkg/proxy/util, ShouldSkipService).
fn is_ours(service: &Service) -> bool {
    let headless = service.cluster_ips.first().is_none_or(|own| own.is_empty() || **own == *"None");
    !service.left_alone && !headless && service.kind != "ExternalName"
}

fn key(address: IpAddr, port: &ServicePort) -> Option<FrontendKey> {
    let protocol: Protocol = port.protocol.number()?;
    (port.port != 0).then_some(FrontendKey { network: 0, address, port: port.port, protocol })
}

/// As `namespace/service:port`.
fn title(name: &ObjectName, port: &ServicePort) -> String {
    if port.name.is_empty() { name.to_string() } else { format!("{name}:{}", port.name) }
}

/// What of a Service is asked for and not done.
fn unserved(service: &Service) -> Vec<&'static str> {
    let asked = [
        (service.ports.iter().any(|port| port.node_port != 0), "spec.ports[].nodePort"),
        (!service.external_ips.is_empty(), "spec.externalIPs"),
        (!service.load_balancer.is_empty(), "status.loadBalancer"),
        (service.affinity_seconds.is_some(), "spec.sessionAffinity"),
    ];
    asked.into_iter().filter(|(asked, _)| *asked).map(|(_, field)| field).collect()
}
