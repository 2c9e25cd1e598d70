//! Which endpoints a Service's port uses on this node, as kube-proxy decides it (Kubernetes, pkg/proxy/topology.go).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proto::dataplane::{Backend, BackendState};

use crate::objects::{Address, EndpointSlice, Protocol, Service, SliceEndpoint};

/// Where a proxy is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) node: &'a str,
    /// Empty: not known.
    pub(crate) zone: &'a str,
}

/// Endpoints by address and port.
pub(crate) type Endpoints<'a> = BTreeMap<(IpAddr, u16), &'a SliceEndpoint>;

/// What hints have this node use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topology {
    Any,
    SameZone,
    SameNode,
}

/// Who may know an address of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The cluster alone (`internalTrafficPolicy`).
    Cluster,
    /// The world (`externalTrafficPolicy`); this node's own pods, and the node itself, are served there as in the cluster.
    World,
}

/// The backends of a port of this name and protocol: those that take new flows, and those that serve and keep what they have; and whether
/// there are some for new flows, but none for this node, so that what comes is dropped.
pub(crate) fn backends(
    service: &Service,
    reach: Reach,
    (name, protocol): (&str, &Protocol),
    v4: bool,
    slices: &[&EndpointSlice],
    place: Place<'_>,
) -> (Vec<Backend>, bool) {
    let all = endpoints(name, protocol, v4, slices, place);
    let (own, others) = match reach {
        Reach::Cluster if service.internal_local => (on_this_node(&all, place), None),
        Reach::World if service.external_local => (anywhere(&all, place), Some(on_this_node(&all, place))),
        Reach::Cluster | Reach::World => (anywhere(&all, place), None),
    };
    let others = others.as_ref().unwrap_or(&own);
    let backend = |(key, endpoint): (&(IpAddr, u16), &&SliceEndpoint)| {
        let state = match (own.contains_key(key), others.contains_key(key)) {
            (true, true) => BackendState::Serving,
            (true, false) => BackendState::ServingOwn,
            (false, true) => BackendState::ServingOthers,
            (false, false) if endpoint.serving => BackendState::Draining,
            (false, false) => return None,
        };
        Some(Backend { address: key.0, port: key.1, state })
    };
    let usable = |own: &&SliceEndpoint| own.ready || own.serving && own.terminating;
    let drops = others.is_empty() && all.values().any(usable);
    (all.iter().filter_map(backend).collect(), drops)
}

/// Those on this node that are ready: as many as pods, where each has an address a family.
pub(crate) fn local_endpoints(slices: &[&EndpointSlice], place: Place<'_>) -> u32 {
    let of = |family: &str| {
        let slices = slices.iter().filter(|slice| *slice.family == *family);
        let endpoints = slices.flat_map(|slice| &slice.endpoints);
        let here = endpoints.filter(|own| own.ready && *own.node == *place.node);
        here.map(|own| own.address.to_string()).collect::<BTreeSet<_>>().len()
    };
    u32::try_from(of("IPv4").max(of("IPv6"))).unwrap_or(u32::MAX)
}

/// Those of all slices. One may be in several: one that says that it is on this node comes before the others.
pub(crate) fn endpoints<'a>(
    name: &str,
    protocol: &Protocol,
    v4: bool,
    slices: &[&'a EndpointSlice],
    place: Place<'_>,
) -> Endpoints<'a> {
    let mut all = Endpoints::new();
    let family = if v4 { "IPv4" } else { "IPv6" };
    for slice in slices.iter().filter(|slice| *slice.family == *family) {
        let ports = slice.ports.iter().filter(|port| *port.name == *name && port.protocol == *protocol);
        for port in ports.filter_map(|port| port.port) {
            for endpoint in &slice.endpoints {
                let Address::Ip(address) = endpoint.address else { continue };
                if address.is_ipv4() != v4 || port == 0 {
                    continue;
                }
                if *endpoint.node == *place.node || !all.contains_key(&(address, port)) {
                    all.insert((address, port), endpoint);
                }
            }
        }
    }
    all
}

/// Those that are ready, as hints have it; with none ready anywhere, those that still serve while they terminate.
pub(crate) fn anywhere<'a>(all: &Endpoints<'a>, place: Place<'_>) -> Endpoints<'a> {
    let topology = topology(all, place);
    let has = |hints: &[Box<str>], own: &str| hints.iter().any(|hint| **hint == *own);
    let meant = |endpoint: &SliceEndpoint| match (topology, &endpoint.hints) {
        (Topology::Any, _) => true,
        (Topology::SameNode, Some(hints)) => has(&hints.nodes, place.node),
        (Topology::SameZone, Some(hints)) => has(&hints.zones, place.zone),
        (_, None) => false,
    };
    first_that_has_some([
        select(all, |endpoint| endpoint.ready && meant(endpoint)),
        select(all, |endpoint| endpoint.serving && endpoint.terminating),
    ])
}

/// Those here that are ready; with none of them, those here that still serve while they terminate.
fn on_this_node<'a>(all: &Endpoints<'a>, place: Place<'_>) -> Endpoints<'a> {
    let here = |endpoint: &SliceEndpoint| *endpoint.node == *place.node;
    first_that_has_some([
        select(all, |endpoint| here(endpoint) && endpoint.ready),
        select(all, |endpoint| here(endpoint) && !endpoint.ready && endpoint.serving && endpoint.terminating),
    ])
}

fn select<'a>(all: &Endpoints<'a>, is_it: impl Fn(&SliceEndpoint) -> bool) -> Endpoints<'a> {
    all.iter().filter(|(_, endpoint)| is_it(endpoint)).map(|(key, endpoint)| (*key, *endpoint)).collect()
}

fn first_that_has_some<'a>(of: [Endpoints<'a>; 2]) -> Endpoints<'a> {
    of.into_iter().find(|some| !some.is_empty()).unwrap_or_default()
}

/// Hints count only where every ready endpoint has some, and one is meant for here.
pub(crate) fn topology(all: &Endpoints<'_>, place: Place<'_>) -> Topology {
    let (mut any, mut nodes, mut zones) = (false, true, true);
    let (mut for_node, mut for_zone) = (false, false);
    for endpoint in all.values().filter(|endpoint| endpoint.ready) {
        any = true;
        let (of_nodes, of_zones): (&[_], &[_]) =
            endpoint.hints.as_ref().map_or((&[], &[]), |hints| (&hints.nodes, &hints.zones));
        nodes &= !of_nodes.is_empty();
        zones &= !of_zones.is_empty();
        for_node |= of_nodes.iter().any(|own| **own == *place.node);
        for_zone |= of_zones.iter().any(|own| **own == *place.zone);
    }
    match (any && nodes && for_node, any && zones && for_zone) {
        (true, _) => Topology::SameNode,
        (false, true) => Topology::SameZone,
        (false, false) => Topology::Any,
    }
}
