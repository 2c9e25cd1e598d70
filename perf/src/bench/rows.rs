//! Rows in bulk: Services, policies, routes.
//!
//! Rows that not every data plane has yet are sent as JSON, as they are on the wire; one that does not know them says so,
//! and the bench goes on without and notes it.

use std::net::Ipv4Addr;

use anyhow::Result;
use lab::client::Client;
use proto::dataplane::{Op, Route, RouteKey, RouteTarget};
use serde_json::{Value, json};
use wire::IpPrefix;

use super::traffic::{BACKEND_PORT, CLIENT, SERVER, SERVICE_PORT, service};

/// Rows of one transaction: a frame of the protocol holds a million routes, and not much more.
const A_TRANSACTION: u32 = 200_000;

/// How many of each there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) services: u32,
    pub(crate) policies: u32,
    pub(crate) routes: u32,
}

impl Rules {
    pub(crate) const NONE: Self = Self { services: 0, policies: 0, routes: 0 };
}

/// What a data plane has taken of what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) services: bool,
    pub(crate) policies: bool,
}

impl Taken {
    /// What was wanted and is not there.
    pub(crate) fn missing(self, rules: Rules) -> Vec<&'static str> {
        let wanted = [
            (rules.services > 0 && !self.services, "Services"),
            (rules.policies > 0 && !self.policies, "policies"),
        ];
        wanted.into_iter().filter(|(missing, _)| *missing).map(|(_, what)| what).collect()
    }
}

/// Sets them all. The pods of the bench are behind the first policies, and what they say is allowed.
pub(crate) fn set(client: &mut Client, rules: Rules) -> Result<Taken> {
    for numbers in chunks(rules.routes) {
        let routes = numbers.map(|number| route(number, RouteTarget::Blackhole)).collect();
        client.commit(vec![Op::SetRoutes { routes }])?;
    }
    let mut taken = Taken { services: rules.services > 0, policies: rules.policies > 0 };
    for numbers in chunks(rules.services) {
        let frontends: Vec<Value> = numbers.map(frontend).collect();
        taken.services &= client.try_commit(&[json!({ "op": "set-frontends", "frontends": frontends })])?;
        if !taken.services {
            break;
        }
    }
    if rules.policies > 0 {
        let identities = [(CLIENT, 1), (SERVER, 2)];
        let identities = identities.map(|(address, identity)| {
            json!({ "network": 0, "prefix": format!("{address}/32"), "identity": identity })
        });
        let memberships = [1, 2].map(|number| json!({ "identity": number, "groups": [number] }));
        taken.policies = client.try_commit(&[
            json!({ "op": "set-identities", "identities": identities }),
            json!({ "op": "set-memberships", "memberships": memberships }),
        ])?;
        if taken.policies {
            for numbers in chunks(rules.policies) {
                let policies: Vec<Value> = numbers.map(policy).collect();
                client.try_commit(&[json!({ "op": "set-policies", "policies": policies })])?;
            }
        }
    }
    Ok(taken)
}

fn chunks(all: u32) -> impl Iterator<Item = std::ops::Range<u32>> {
    (0..all.div_ceil(A_TRANSACTION)).map(move |chunk| {
        let first = chunk * A_TRANSACTION;
        first..all.min(first + A_TRANSACTION)
    })
}

/// A prefix of 24 bits that no flow of a bench goes to, from 16.0.0.0/24 on.
pub(crate) fn prefix(number: u32) -> IpPrefix {
    let address = Ipv4Addr::from_bits(Ipv4Addr::new(16, 0, 0, 0).to_bits() + (number << 8));
    // 24 is a length that IPv4 has.
    IpPrefix::containing(address.into(), 24).unwrap_or(IpPrefix::host(address.into()))
}

pub(crate) fn route(number: u32, target: RouteTarget) -> Route {
    Route { key: RouteKey { network: 0, prefix: prefix(number) }, target }
}

/// A Service with one backend, the server of the bench on a port of the Service's own: between one client and one port of one server
/// there are no more connections than source ports, whatever the Services.
fn frontend(number: u32) -> Value {
    let port = u32::from(BACKEND_PORT) + number % 50_000;
    json!({
        "network": 0, "address": service(number), "port": SERVICE_PORT, "protocol": "udp",
        "name": format!("bench/service{number}"),
        "backends": [{ "address": SERVER, "port": port, "state": "serving" }],
    })
}

/// A policy both ways; the first two are those of the bench's pods, the others of pods that are not here.
fn policy(number: u32) -> Value {
    let endpoint = match number {
        0 => "bench/server".to_owned(),
        1 => "bench/client".to_owned(),
        number => format!("bench/other{number}"),
    };
    let rule = |peer: u32| {
        json!({
            "id": 1, "peer": { "is": "groups", "groups": [peer] }, "protocol": "udp",
            "ports": { "first": 1, "last": 65_535 }, "verdict": "allow",
        })
    };
    let (ingress, egress) = match number {
        0 => (json!([rule(1)]), Value::Null),
        1 => (Value::Null, json!([rule(2)])),
        number => (json!([rule(number)]), json!([rule(number)])),
    };
    json!({ "endpoint": endpoint, "ingress": ingress, "egress": egress })
}
