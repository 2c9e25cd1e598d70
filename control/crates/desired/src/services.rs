//! Services: a frontend for each port of each of its addresses, with the endpoints of the Service's slices behind it.
//!
//! A Service is made anew when it or a slice of it changes, and with it those that want what it has. What always holds: a Service has the
//! frontends that it alone would have, less those that something else had before it; and who wanted those is known.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

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
    slices: OrdMap<ObjectName, Arc<[ObjectName]>>,
    held: OrdMap<ObjectName, Held>,
    /// How many Services have each cluster address that the node's kernel routes to us.
    routed: OrdMap<IpAddr, u32>,
    /// Who has each frontend, less those that are no Service's.
    holders: OrdMap<FrontendKey, Arc<Claim>>,
    /// Who would have a frontend that another one has, or the port of a health check.
    waiting: OrdMap<FrontendKey, OrdSet<ObjectName>>,
    waiting_checks: OrdMap<u16, OrdSet<ObjectName>>,
}

/// In this order of [`DOORS`] and names a frontend is given away.
type Claim = (usize, ObjectName);

/// What is there for one Service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Held {
    frontends: Vec<FrontendKey>,
    /// Those of others that it would have.
    missed: Vec<FrontendKey>,
    /// Cluster addresses that the node's kernel routes to us.
    routed: Vec<IpAddr>,
    health_check: Option<u16>,
    missed_check: Option<u16>,
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
        for order in 0..DOORS.len() {
            for name in view.services.keys() {
                let overtaken = self.open(name, order, view, local);
                debug_assert!(overtaken.is_empty(), "{name} comes after whoever has anything already");
            }
        }
    }

    /// Those that are different from one view to the next, and those of `again`.
    pub(crate) fn serve_changed(
        &mut self,
        old: &ClusterView,
        view: &ClusterView,
        local: &Local,
        again: BTreeSet<ObjectName>,
    ) {
        let mut different = again;
        different.extend(old.services.diff(&view.services).map(|item| changed(item).0.clone()));
        for (name, slice) in old.endpoint_slices.diff(&view.endpoint_slices).map(changed) {
            if let Some(before) = old.endpoint_slices.get(name) {
                different.extend(self.remove_slice(name, before));
            }
            different.extend(slice.and_then(|slice| self.add_slice(name, slice)));
        }
        self.serve(different, view, local);
    }

    fn add_slice(&mut self, name: &ObjectName, slice: &EndpointSlice) -> Option<ObjectName> {
        let service = service_of(name, slice)?;
        let own = self.services.slices.entry(service.clone()).or_default();
        if let Err(at) = own.binary_search(name) {
            let (before, behind) = own.split_at(at);
            *own = before.iter().chain([name]).chain(behind).cloned().collect();
        }
        Some(service)
    }

    fn remove_slice(&mut self, name: &ObjectName, slice: &EndpointSlice) -> Option<ObjectName> {
        let service = service_of(name, slice)?;
        let slices = self.services.slices.get_mut(&service)?;
        *slices = slices.iter().filter(|own| *own != name).cloned().collect();
        if slices.is_empty() {
            self.services.slices.remove(&service);
        }
        Some(service)
    }

    /// These, in place of what they were; and with them those that something is taken from or given to so.
    fn serve(&mut self, mut names: BTreeSet<ObjectName>, view: &ClusterView, local: &Local) {
        loop {
            let mut left: Vec<ObjectName> = names.iter().cloned().collect();
            while let Some(name) = left.pop() {
                let waiting = self.withdraw(&name);
                left.extend(waiting.into_iter().filter(|other| names.insert(other.clone())));
            }
            let mut overtaken = BTreeSet::new();
            for order in 0..DOORS.len() {
                for name in &names {
                    overtaken.extend(self.open(name, order, view, local));
                }
            }
            if overtaken.is_empty() {
                return;
            }
            names.extend(overtaken);
        }
    }

    /// Its addresses of the kinds whose turn it is, beside those that it has; gives those who have something that would be its own, had all
    /// come in their order.
    fn open(
        &mut self,
        name: &ObjectName,
        order: usize,
        view: &ClusterView,
        local: &Local,
    ) -> Vec<ObjectName> {
        let mut overtaken = Vec::new();
        let kinds = DOORS[order];
        let Some(service) = view.services.get(name).filter(|own| is_ours(own)) else { return overtaken };
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
            return overtaken;
        }
        let claim = Arc::new((order, name.clone()));
        let about = About::Service(name.clone());
        let slices: Vec<&EndpointSlice> = self.slices_of(name, view).collect();
        let zone = view.nodes.get(&local.node).map_or("", |own| &own.zone);
        let place = Place { node: &local.node, zone };
        let mut held = self.services.held.remove(name).unwrap_or_default();
        for port in &service.ports {
            let named = (&*port.name, &port.protocol);
            let title: Arc<str> = title(name, port).into();
            for v4 in [true, false] {
                let behind = |reach| {
                    let (all, drops) = backends(service, reach, named, v4, &slices, place);
                    (Arc::<[Backend]>::from(all), drops)
                };
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
                    let row = Frontend {
                        key,
                        name: Arc::clone(&title),
                        backends,
                        drops,
                        sources,
                        affinity_seconds,
                    };
                    match self.rows.frontends.get(&key) {
                        None => drop(self.rows.frontends.insert(key, Arc::new(row))),
                        // Its own, by another field.
                        Some(_) if held.frontends.contains(&key) => continue,
                        Some(_) => {
                            self.miss(key, &claim, &mut held, &mut problems, &mut overtaken);
                            continue;
                        }
                    }
                    held.frontends.push(key);
                    self.services.holders.insert(key, Arc::clone(&claim));
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
            let asked = Asked { service, slices: &slices, place };
            self.answer_checks(&claim, &asked, &mut held, &mut problems, &mut overtaken);
        }
        if held != Held::default() {
            self.services.held.insert(name.clone(), held);
        }
        for problem in problems {
            self.warn(about.clone(), format!("Service {name}: {problem}"));
        }
        overtaken
    }

    /// Something else has the frontend.
    fn miss(
        &mut self,
        key: FrontendKey,
        claim: &Arc<Claim>,
        held: &mut Held,
        problems: &mut Vec<String>,
        overtaken: &mut Vec<ObjectName>,
    ) {
        if let Some(other) = self.rows.frontends.get(&key) {
            problems.push(format!("{key} is the {} already; left out", other.name));
        }
        if let Some(holder) = self.services.holders.get(&key).filter(|holder| **holder > *claim) {
            overtaken.push(holder.1.clone());
        }
        self.services.waiting.entry(key).or_default().insert(claim.1.clone());
        held.missed.push(key);
    }

    /// Those that would have a frontend.
    pub(crate) fn who_waits(&self, key: &FrontendKey) -> impl Iterator<Item = ObjectName> {
        self.services.waiting.get(key).into_iter().flatten().cloned()
    }

    /// Takes a frontend of a Service's for something that comes before all Services; gives whom it was taken from.
    pub(crate) fn take_from_service(&mut self, key: &FrontendKey) -> BTreeSet<ObjectName> {
        let Some(holder) = self.services.holders.get(key).map(|own| own.1.clone()) else {
            return BTreeSet::new();
        };
        let mut again = self.withdraw(&holder);
        again.insert(holder);
        again
    }

    /// Has all of them be as they are with `other`, whose nodes are not these.
    pub(crate) fn keep_services_of(&mut self, other: &Self) {
        self.rows.frontends.clone_from(&other.rows.frontends);
        self.host_frontends.clone_from(&other.host_frontends);
        self.services.clone_from(&other.services);
        self.node_ports.clone_from(&other.node_ports);
        self.externals.clone_from(&other.externals);
        self.health_checks.clone_from(&other.health_checks);
        // Those are many, and nodes' and pods' few.
        self.host_prefixes.clone_from(&other.host_prefixes);
        let of_routes = other.rows.routes.keys().filter(|key| key.network == 0).map(|key| key.prefix);
        for prefix in other.nodes.all_prefixes().chain(of_routes) {
            if !(prefix.is_host() && self.services.routed.contains_key(&prefix.addr())) {
                self.host_prefixes.remove(&prefix);
            }
        }
    }

    pub(crate) fn slices_of<'a>(
        &self,
        name: &ObjectName,
        view: &'a ClusterView,
    ) -> impl Iterator<Item = &'a EndpointSlice> {
        let slices = self.services.slices.get(name).into_iter().flat_map(|own| own.iter());
        slices.filter_map(|slice| view.endpoint_slices.get(slice))
    }

    /// Has load balancers answered; those that come by an uplink of ours by what it passes on to the node.
    fn answer_checks(
        &mut self,
        claim: &Arc<Claim>,
        &Asked { service, slices, place }: &Asked<'_>,
        held: &mut Held,
        problems: &mut Vec<String>,
        overtaken: &mut Vec<ObjectName>,
    ) {
        let name = &claim.1;
        let port = service.health_check_node_port;
        if let Some(HealthCheck { service: other, .. }) = self.health_checks.get(&port) {
            problems.push(format!("spec.healthCheckNodePort {port} is Service {other}'s already; left out"));
            overtaken.extend(Some(other).filter(|other| *other > name).cloned());
            self.services.waiting_checks.entry(port).or_default().insert(name.clone());
            held.missed_check = Some(port);
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
            if self.rows.frontends.contains_key(&key) {
                self.miss(key, claim, held, problems, overtaken);
                continue;
            }
            let backends = Arc::from([Backend { address: host, port, state: BackendState::Serving }]);
            let name = format!("{name}: health check").into();
            let row = Frontend { key, name, backends, drops: false, sources: vec![], affinity_seconds: None };
            self.rows.frontends.insert(key, Arc::new(row));
            self.services.holders.insert(key, Arc::clone(claim));
            held.frontends.push(key);
        }
    }

    /// Undoes what [`Self::open`] did for a Service; gives those that would have what it had.
    fn withdraw(&mut self, name: &ObjectName) -> BTreeSet<ObjectName> {
        self.take_back(&About::Service(name.clone()));
        let Some(held) = self.services.held.remove(name) else { return BTreeSet::new() };
        let Held { frontends, missed, routed, health_check, missed_check } = held;
        for key in missed {
            wait_no_more(&mut self.services.waiting, &key, name);
        }
        if let Some(port) = missed_check {
            wait_no_more(&mut self.services.waiting_checks, &port, name);
        }
        let mut waiting = BTreeSet::new();
        if let Some(port) = health_check {
            self.health_checks.remove(&port);
            waiting.extend(self.services.waiting_checks.get(&port).into_iter().flatten().cloned());
        }
        for key in frontends {
            waiting.extend(self.who_waits(&key));
            self.services.holders.remove(&key);
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
        waiting
    }

    /// Whether a Service has a cluster address in it: one that is routed if it is no node's.
    fn is_served_in(&self, prefix: IpPrefix) -> bool {
        let first = FrontendKey { network: 0, address: prefix.addr(), port: 0, protocol: Protocol(0) };
        let here = self.services.holders.range(first..).take_while(|(key, _)| prefix.contains(key.address));
        here.into_iter().any(|(_, claim)| claim.0 == 0)
    }

    /// Whether a Service has an address of a node's, or of its pods: what is done about it depends on both.
    pub(crate) fn is_served_at(&self, node: &str) -> bool {
        self.nodes.prefixes_of(node).into_iter().any(|prefix| self.is_served_in(prefix))
    }
}

fn wait_no_more<K: Ord + Clone>(waiting: &mut OrdMap<K, OrdSet<ObjectName>>, what: &K, name: &ObjectName) {
    let Some(others) = waiting.get_mut(what) else { return };
    others.remove(name);
    if others.is_empty() {
        waiting.remove(what);
    }
}

/// What load balancers ask about.
struct Asked<'a> {
    service: &'a Service,
    slices: &'a [&'a EndpointSlice],
    place: Place<'a>,
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
