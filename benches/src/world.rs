//! A node with two pods, and Services, policies and routes in any number.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use tables::{
    Backend, BackendState, Classifier, Endpoint, EndpointId, EndpointKind, Frontend, FrontendKey, Generation,
    GroupId, IdentityId, NetworkId, Peer, Policy, PortEntry, PortId, PortRole, RouteTarget, Rule,
    RuleVerdict, TableError, Tables,
};
use wire::{IpPrefix, MacAddr, protocol};

use crate::routes_v4;

/// The pods' network.
pub const PODS: NetworkId = NetworkId(0);
/// The port of the pod that asks.
pub const CLIENT: PortId = PortId(0);
/// The port of the pod that answers.
pub const SERVER: PortId = PortId(1);
/// Of every Service.
pub const SERVICE_PORT: u16 = 80;
/// What the first Service leads to; each has a port of its own, or flows through two of them could have the same answers.
const BACKEND_PORT: u16 = 8_080;
/// The server's addresses of each family, each a backend of every Service.
const BACKENDS: u8 = 4;
/// Rules of each policy; the last one allows what is sent here.
const RULES: u32 = 20;
/// Groups that each pod is in and no policy names.
const GROUPS: u32 = 7;

/// What fails in setting up stops the program.
pub type Failure = Box<dyn Error + Send + Sync>;

/// How many of each there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Of each family.
    pub services: u32,
    /// Two of them are the pods' own.
    pub policies: u32,
    /// To elsewhere.
    pub routes: usize,
}

impl Rules {
    /// What flows are known under.
    pub const FEW: Self = Self { services: 64, policies: 64, routes: 1_000 };
    /// What new flows are decided among.
    pub const MANY: Self = Self { services: 10_000, policies: 10_000, routes: 10_000 };
}

/// The MAC of the pod on a port.
#[must_use]
pub const fn pod_mac(port: PortId) -> MacAddr {
    let [high, low] = port.0.to_be_bytes();
    MacAddr([2, 0, 0, 1, high, low])
}

/// The MAC of the router's side of a port.
#[must_use]
pub const fn port_mac(port: PortId) -> MacAddr {
    let [high, low] = port.0.to_be_bytes();
    MacAddr([2, 0, 0, 2, high, low])
}

/// The pod's first address.
#[must_use]
pub const fn pod(port: PortId, v6: bool) -> IpAddr {
    address(port, 0, v6)
}

const fn address(port: PortId, number: u8, v6: bool) -> IpAddr {
    let [_, low] = port.0.to_be_bytes();
    let host = 16 + low * 16 + number;
    if v6 {
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, host as u16))
    } else {
        IpAddr::V4(Ipv4Addr::new(10, 244, 0, host))
    }
}

/// A Service's address.
#[must_use]
pub fn service(number: u32, v6: bool) -> IpAddr {
    if v6 {
        let base = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0).to_bits();
        IpAddr::V6(Ipv6Addr::from_bits(base + 1 + u128::from(number)))
    } else {
        IpAddr::V4(Ipv4Addr::from_bits(0x0a60_0001 + number))
    }
}

/// Where a Service's backends listen.
#[must_use]
pub fn backend_port(number: u32) -> u16 {
    u16::try_from(u32::from(BACKEND_PORT) + number).unwrap_or(u16::MAX)
}

/// All of it, as generation 1.
///
/// # Errors
/// Never, for these numbers.
pub fn load(rules: Rules) -> Result<Tables, TableError> {
    let mut tables = Tables::empty();
    for (number, port) in [CLIENT, SERVER].into_iter().enumerate() {
        let name = format!("pod-{number}");
        let (id, mac, mtu) = (port, port_mac(port), 1_500);
        tables.set_port(PortEntry { id, name: name.clone(), mac, mtu, role: PortRole::Idle })?;
        let addresses: Vec<_> = [false, true]
            .into_iter()
            .flat_map(|v6| (0..BACKENDS).map(move |n| address(port, n, v6)))
            .collect();
        for &addr in &addresses {
            tables.set_identity(PODS, IpPrefix::host(addr), IdentityId(1 + u32::from(port.0)))?;
        }
        // By its labels and its namespace's, and the group that policies are about.
        let others = (0..GROUPS).map(|n| GroupId(500_000 + 1_000 * u32::from(port.0) + n));
        let groups = others.chain([GroupId(1 + u32::from(port.0))]).collect();
        tables.set_membership(IdentityId(1 + u32::from(port.0)), groups)?;
        tables.set_endpoint(Endpoint {
            id: EndpointId::default(),
            name,
            network: PODS,
            port,
            mac: pod_mac(port),
            addresses,
            routes: vec![],
            kind: EndpointKind::Pod,
        })?;
    }
    for number in 0..rules.services {
        for (v6, protocol) in [(false, protocol::UDP), (true, protocol::TCP)] {
            tables.set_frontend(frontend(number, v6, protocol))?;
        }
    }
    for number in 0..rules.policies {
        tables.set_policy(&format!("pod-{number}"), policy(number))?;
    }
    let elsewhere = |prefix: &IpPrefix| !matches!(prefix.addr(), IpAddr::V4(addr) if addr.octets()[0] == 10);
    for prefix in routes_v4(rules.routes).into_iter().filter(elsewhere) {
        tables.set_route(PODS, prefix, RouteTarget::Blackhole)?;
    }
    tables.seal(Generation(1));
    Ok(tables)
}

/// A Service that all addresses of the server are behind.
fn frontend(number: u32, v6: bool, protocol: u8) -> Frontend {
    let (port, state) = (backend_port(number), BackendState::Serving);
    let backend = |n| Backend { addr: address(SERVER, n, v6), port, state };
    Frontend {
        key: FrontendKey { network: PODS, addr: service(number, v6), port: SERVICE_PORT, protocol },
        name: format!("default/service-{number}").into(),
        backends: (0..BACKENDS).map(backend).collect(),
        drops: false,
        sources: vec![],
        affinity: 0,
    }
}

/// Rules for other peers and ports, and then one for the pod on the other side.
fn policy(number: u32) -> Policy {
    let rule = |id: u32| {
        let others = (0..2).map(|k| GroupId(100 + (number * 7 + id * 10 + k) % 100_000)).collect();
        let last = id == RULES;
        Rule {
            id,
            name: format!("bench/policy-{number} ingress[{id}]").into(),
            says: "".into(),
            peer: Peer::Groups(if last { [GroupId(1), GroupId(2)].into() } else { others }),
            protocol: None,
            ports: (!last).then(|| u16::try_from(9_000 + id).map_or((0, 0), |port| (port, port))),
            verdict: RuleVerdict::Allow,
        }
    };
    let rules = || Some(Arc::new(Classifier::new((1..=RULES).map(rule).collect())));
    Policy { ingress: rules(), egress: rules() }
}
