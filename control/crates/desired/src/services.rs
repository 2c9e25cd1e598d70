//! Services: a frontend for each port of each of its addresses, with the endpoints of the Service's slices behind it.
//!
//! A Service is made anew when it or a slice of it changes, whatever else there is. What always holds: a Service has the frontends that it alone
//! would have, less those that something else had before it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU32;

use imbl::{OrdMap, OrdSet};
use proto::dataplane::{Backend, BackendState, Frontend, FrontendKey, Protocol};
use wire::{AddrError, IpPrefix};

use crate::build::{About, Desired, changed};
use crate::endpoints::{Place, Reach, backends, local_endpoints};
use crate::objects::{EndpointSlice, ObjectName, Service, ServicePort};
use crate::prefixes::station;
use crate::view::{ClusterView, Local};

/// What belongs to Services. A copy costs nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Services {
    /// Slices of each Service that any says to be of.
    slices: OrdMap<ObjectName, OrdSet<ObjectName>>,
    held: OrdMap<ObjectName, Held>,
    /// How many Services have each cluster address that the node's kernel routes to us.
    routed: OrdMap<IpAddr, u32>,
}

/// What is there for one Service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Held {
    frontends: Vec<FrontendKey>,
    /// Cluster addresses that the node's kernel routes to us.
    routed: Vec<IpAddr>,
    health_check: Option<u16>,
}

/// A Service's port on the node's addresses, in one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodePort {
    pub v4: bool,
    pub protocol: Protocol,
    pub port: u16,
}

/// What a load balancer is to know of a Service on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    pub service: ObjectName,
    /// Those that are ready.
    pub local_endpoints: u32,
}

/// An address of a Service.
#[derive(Debug, Clone, Copy)]
struct Door {
    address: IpAddr,
    kind: DoorKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DoorKind {
    /// `spec.clusterIPs`.
    Cluster,
    /// `status.loadBalancer.ingress`, which `spec.loadBalancerSourceRanges` guard.
    LoadBalancer,
    /// `spec.externalIPs`.
    External,
    /// The node's own, with `spec.ports[].nodePort`.
    Node,
}

impl Desired {
    /// All of them.
    pub(crate) fn serve_all(&mut self, view: &ClusterView, local: &Local) {
        for (name, slice) in &view.endpoint_slices {
            self.add_slice(name, slice);
        }
        for kinds in DOORS {
            for name in view.services.keys() {
                self.open(name, kinds, view, local);
            }
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
        self.take_back(&About::Service(name.clone()));
        self.withdraw(name);
        for kinds in DOORS {
            self.open(name, kinds, view, local);
        }
    }

    /// Its addresses of these kinds, beside those that it has.
    fn open(&mut self, name: &ObjectName, kinds: &[DoorKind], view: &ClusterView, local: &Local) {
        let Some(service) = view.services.get(name).filter(|own| is_ours(own)) else { return };
        let mut problems = Vec::new();
        let mut doors = doors(service, kinds, &self.node_port_addresses, &mut problems);
        let mut ranges = Vec::new();
        if kinds.contains(&DoorKind::LoadBalancer) {
            ranges = source_ranges(service, &mut problems);
            if ranges.is_empty() && !service.source_ranges.is_empty() {
                doors.retain(|door| door.kind != DoorKind::LoadBalancer);
            }
        }
        let checked =
            kinds.contains(&DoorKind::Node) && service.external_local && service.health_check_node_port != 0;
        if doors.is_empty() && problems.is_empty() && !checked {
            return;
        }
        let about = About::Service(name.clone());
        let slices: Vec<&EndpointSlice> = self.slices_of(name, view).collect();
        let zone = view.nodes.get(&local.node).map_or("", |own| &own.zone);
        let place = Place { node: &local.node, zone };
        let mut held = self.services.held.remove(name).unwrap_or_default();
        for port in &service.ports {
            let named = (&*port.name, &port.protocol);
            for v4 in [true, false] {
                let behind = |reach| backends(service, reach, named, v4, &slices, place);
                let (mut cluster, mut world) = (None, None);
                for door in doors.iter().filter(|door| door.address.is_ipv4() == v4) {
                    let Some(key) = door.key(port) else { continue };
                    let (backends, drops) = match door.kind {
                        DoorKind::Cluster => cluster.get_or_insert_with(|| behind(Reach::Cluster)),
                        _ => world.get_or_insert_with(|| behind(Reach::World)),
                    }
                    .clone();
                    let sources =
                        if door.kind == DoorKind::LoadBalancer { ranges.clone() } else { Vec::new() };
                    let affinity_seconds = service.affinity_seconds.and_then(NonZeroU32::new);
                    let row =
                        Frontend { key, name: title(name, port), backends, drops, sources, affinity_seconds };
                    match self.rows.frontends.get(&key) {
                        None => drop(self.rows.frontends.insert(key, row)),
                        // Its own, by another field.
                        Some(_) if held.frontends.contains(&key) => continue,
                        Some(other) => {
                            problems.push(format!("{key} is the {} already; left out", other.name));
                            self.contested = true;
                            continue;
                        }
                    }
                    held.frontends.push(key);
                    match door.kind {
                        DoorKind::Node if self.router_addresses.contains(&key.address) => {
                            self.node_ports.insert(NodePort { v4, protocol: key.protocol, port: key.port });
                        }
                        DoorKind::LoadBalancer | DoorKind::External if !local.kept.contains(&key.address) => {
                            self.externals.insert(key);
                        }
                        _ => {}
                    }
                }
            }
        }
        let mut own_addresses: Vec<Door> = Vec::new();
        for door in doors.into_iter().filter(|door| door.kind != DoorKind::Node) {
            let is_served = held.frontends.iter().any(|key| key.address == door.address);
            if is_served && !own_addresses.iter().any(|own| own.address == door.address) {
                own_addresses.push(door);
            }
        }
        for Door { address, kind } in own_addresses {
            if kind == DoorKind::Cluster {
                // All ports of an address take the kernel's one route.
                if !self.nodes.has(address) && !local.kept.contains(&address) {
                    self.host_prefixes.insert(IpPrefix::host(address));
                    *self.services.routed.entry(address).or_default() += 1;
                    held.routed.push(address);
                }
            } else if local.kept.contains(&address) {
                // Whoever says so would cut off the way to what he says.
                let text =
                    "is the API server's; the node itself, and who comes by its kernel, are not served there";
                problems.push(format!("address {address} {text}"));
            }
        }
        if checked {
            self.answer_checks(name, service, &slices, place, &mut held, &mut problems);
        }
        if held != Held::default() {
            self.services.held.insert(name.clone(), held);
        }
        for problem in problems {
            self.warn(about.clone(), format!("Service {name}: {problem}"));
        }
    }

    pub(crate) fn slices_of<'a>(
        &self,
        name: &ObjectName,
        view: &'a ClusterView,
    ) -> impl Iterator<Item = &'a EndpointSlice> {
        let slices = self.services.slices.get(name).into_iter().flatten();
        slices.filter_map(|slice| view.endpoint_slices.get(slice))
    }

    /// Has load balancers answered; those that come by an uplink of ours by what it passes on to the node.
    fn answer_checks(
        &mut self,
        name: &ObjectName,
        service: &Service,
        slices: &[&EndpointSlice],
        place: Place<'_>,
        held: &mut Held,
        problems: &mut Vec<String>,
    ) {
        let port = service.health_check_node_port;
        if let Some(other) = self.health_checks.get(&port) {
            problems.push(format!(
                "spec.healthCheckNodePort {port} is Service {}'s already; left out",
                other.service
            ));
            self.contested = true;
            return;
        }
        let check = HealthCheck { service: name.clone(), local_endpoints: local_endpoints(slices, place) };
        self.health_checks.insert(port, check);
        held.health_check = Some(port);
        let passed_on =
            |own: &&IpAddr| !self.host_addresses.contains(own) && !self.router_addresses.contains(own);
        for address in self.node_port_addresses.clone().iter().filter(passed_on).copied().collect::<Vec<_>>()
        {
            let key = FrontendKey { network: 0, address, port, protocol: Protocol(wire::protocol::TCP) };
            let host = self.host_addresses.iter().find(|own| own.is_ipv4() == address.is_ipv4());
            let Some(&host) = host else { continue };
            if let Some(other) = self.rows.frontends.get(&key) {
                problems.push(format!("{key} is the {} already; left out", other.name));
                self.contested = true;
                continue;
            }
            let backends = vec![Backend { address: host, port, state: BackendState::Serving }];
            let name = format!("{name}: health check");
            let row = Frontend { key, name, backends, drops: false, sources: vec![], affinity_seconds: None };
            self.rows.frontends.insert(key, row);
            held.frontends.push(key);
        }
    }

    /// Undoes what [`Self::serve`] did for a Service.
    fn withdraw(&mut self, name: &ObjectName) {
        let Held { frontends, routed, health_check } = self.services.held.remove(name).unwrap_or_default();
        if let Some(port) = health_check {
            self.health_checks.remove(&port);
        }
        for key in frontends {
            self.rows.frontends.remove(&key);
            self.externals.remove(&key);
            if self.router_addresses.contains(&key.address) {
                let FrontendKey { address, protocol, port, .. } = key;
                self.node_ports.remove(&NodePort { v4: address.is_ipv4(), protocol, port });
            }
        }
        for address in routed {
            // Another may have the address, with other ports.
            match self.services.routed.get_mut(&address) {
                Some(others) if *others > 1 => *others -= 1,
                _ => {
                    self.services.routed.remove(&address);
                    self.host_prefixes.remove(&IpPrefix::host(address));
                }
            }
        }
    }

    fn is_served_in(&self, prefix: IpPrefix) -> bool {
        let first = FrontendKey { network: 0, address: prefix.addr(), port: 0, protocol: Protocol(0) };
        let next = self.rows.frontends.range(first..).next();
        next.is_some_and(|(key, _)| key.network == 0 && prefix.contains(key.address))
    }

    /// Whether a Service has an address of a node's, or of its pods: what is done about it depends on both.
    pub(crate) fn is_served_at(&self, node: &str) -> bool {
        self.nodes.prefixes_of(node).into_iter().any(|prefix| self.is_served_in(prefix))
    }
}

impl Door {
    fn key(&self, port: &ServicePort) -> Option<FrontendKey> {
        let protocol: Protocol = port.protocol.number()?;
        let number = if self.kind == DoorKind::Node { port.node_port } else { port.port };
        (number != 0).then_some(FrontendKey { network: 0, address: self.address, port: number, protocol })
    }
}

/// In which order addresses are given away: nobody takes another Service's own by calling it an external one.
const DOORS: [&[DoorKind]; 2] =
    [&[DoorKind::Cluster, DoorKind::Node], &[DoorKind::LoadBalancer, DoorKind::External]];

/// Where a Service is asked, in the families that it has.
fn doors(service: &Service, kinds: &[DoorKind], node: &[IpAddr], problems: &mut Vec<String>) -> Vec<Door> {
    let mut found = Vec::new();
    let balanced = service.load_balancer.iter().enumerate().filter(|(_, own)| !own.is_proxy);
    let texts = [
        ("spec.clusterIPs", DoorKind::Cluster, service.cluster_ips.iter().enumerate().collect()),
        // Before the other external ones: the same address may be among them, and is guarded here.
        (
            "status.loadBalancer.ingress",
            DoorKind::LoadBalancer,
            balanced.map(|(i, own)| (i, &own.ip)).collect(),
        ),
        ("spec.externalIPs", DoorKind::External, service.external_ips.iter().enumerate().collect::<Vec<_>>()),
    ];
    for (field, kind, addresses) in texts.into_iter().filter(|(_, kind, _)| kinds.contains(kind)) {
        for (i, text) in addresses {
            match station(&text.as_ref().into()) {
                Ok(address) => found.push(Door { address, kind }),
                Err(why) => problems.push(format!("{field}[{i}] `{text}`: {why}; left out")),
            }
        }
    }
    if kinds.contains(&DoorKind::Node) && service.ports.iter().any(|port| port.node_port != 0) {
        found.extend(node.iter().map(|&address| Door { address, kind: DoorKind::Node }));
    }
    let own = service.cluster_ips.iter().filter_map(|text| station(&text.as_ref().into()).ok());
    let own: Vec<bool> = own.map(|address| address.is_ipv4()).collect();
    let has = |v4| own.contains(&v4);
    let families = [has(false), has(true)];
    found.retain(|door| families[usize::from(door.address.is_ipv4())]);
    found
}

/// From where load balancers' addresses may be asked.
fn source_ranges(service: &Service, problems: &mut Vec<String>) -> Vec<IpPrefix> {
    let mut found = Vec::new();
    for (i, text) in service.source_ranges.iter().enumerate() {
        match text.trim().parse() {
            Ok(prefix) | Err(AddrError::HostBits(_, prefix)) => found.push(prefix),
            Err(why) => problems.push(format!("spec.loadBalancerSourceRanges[{i}]: {why}; left out")),
        }
    }
    found
}

/// The Service that a slice is of, in the slice's own namespace.
fn service_of(name: &ObjectName, slice: &EndpointSlice) -> Option<ObjectName> {
    let service = ObjectName { namespace: name.namespace.clone(), name: slice.service.as_ref().into() };
    (!slice.service.is_empty()).then_some(service)
}

/// Whether it is a proxy's, and this one's (Kubernetes, pkg/proxy/util, ShouldSkipService).
pub(crate) fn is_ours(service: &Service) -> bool {
    let headless = service.cluster_ips.first().is_none_or(|own| own.is_empty() || **own == *"None");
    !service.left_alone && !headless && service.kind != "ExternalName"
}

/// As `namespace/service:port`.
fn title(name: &ObjectName, port: &ServicePort) -> String {
    if port.name.is_empty() { name.to_string() } else { format!("{name}:{}", port.name) }
}
