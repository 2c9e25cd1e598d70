//! `EndpointSlices`.

use std::marker::PhantomData;
use std::net::IpAddr;

use desired::{
    Address, Change, EndpointSlice, Hints, ObjectName, Pool, SliceEndpoint, SlicePort, ViewChange,
};
use serde::Deserialize;

use super::Trimmed;
use super::spelling::{Metadata, Spelling};

impl Trimmed for EndpointSlice {
    const KIND: &'static str = "EndpointSlice";
    const PLURAL: &'static str = "endpointslices";
    const GROUP: &'static str = "discovery.k8s.io";
    type Key = ObjectName;
    type Fields<S: Spelling> = Fields<S>;

    fn change(change: Change<ObjectName, Self>) -> ViewChange {
        ViewChange::EndpointSlice(change)
    }

    fn share(&mut self, pool: &mut Pool) {
        pool.slice(self);
    }
}

#[derive(Deserialize)]
#[serde(bound = "S: Spelling", try_from = "RawFields")]
pub(crate) struct Fields<S> {
    raw: RawFields,
    spelling: PhantomData<S>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawFields {
    metadata: Metadata<Labels>,
    address_type: Option<Box<str>>,
    endpoints: Option<Vec<Endpoint>>,
    ports: Option<Vec<Port>>,
}

impl<S: Spelling> TryFrom<RawFields> for Fields<S> {
    type Error = String;

    /// What an address must spell, the slice's type says, which may come after it.
    fn try_from(raw: RawFields) -> Result<Self, String> {
        let right: fn(&IpAddr) -> bool = match raw.address_type.as_deref() {
            Some("IPv4") => IpAddr::is_ipv4,
            Some("IPv6") => IpAddr::is_ipv6,
            _ => return Ok(Self { raw, spelling: PhantomData }),
        };
        let endpoints = raw.endpoints.iter().flatten().filter(|_| S::CHECKED).enumerate();
        for (i, endpoint) in endpoints {
            for (j, address) in endpoint.addresses.iter().flatten().enumerate() {
                if !address.parse().is_ok_and(|address| right(&address)) {
                    let family = raw.address_type.as_deref().unwrap_or_default();
                    return Err(format!("endpoints[{i}].addresses[{j}]: `{address}` is no {family} address"));
                }
            }
        }
        Ok(Self { raw, spelling: PhantomData })
    }
}

#[derive(Deserialize)]
struct Labels {
    #[serde(rename = "kubernetes.io/service-name")]
    service: Option<Box<str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    addresses: Option<Vec<Box<str>>>,
    conditions: Option<Conditions>,
    node_name: Option<Box<str>>,
    hints: Option<RawHints>,
}

#[derive(Deserialize, Default)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawHints {
    for_zones: Option<Vec<Hint>>,
    for_nodes: Option<Vec<Hint>>,
}

#[derive(Deserialize)]
struct Hint {
    name: Box<str>,
}

#[derive(Deserialize)]
struct Port {
    name: Option<Box<str>>,
    protocol: Option<String>,
    port: Option<u16>,
}

impl<S> From<Fields<S>> for (ObjectName, EndpointSlice) {
    fn from(Fields { raw, .. }: Fields<S>) -> Self {
        let name = raw.metadata.name();
        let hinted = |hints: Option<Vec<Hint>>| hints.into_iter().flatten().map(|hint| hint.name).collect();
        let first = |all: Option<Vec<Box<str>>>| all.iter().flatten().next().map(|own| Address::from(&**own));
        let endpoint = |own: Endpoint| {
            let Conditions { ready, serving, terminating } = own.conditions.unwrap_or_default();
            let hints =
                own.hints.map(|own| Hints { zones: hinted(own.for_zones), nodes: hinted(own.for_nodes) });
            let ready = ready.unwrap_or(true);
            SliceEndpoint {
                address: first(own.addresses).unwrap_or_default(),
                ready,
                serving: serving.unwrap_or(ready),
                terminating: terminating.unwrap_or_default(),
                node: own.node_name.unwrap_or_default().into(),
                hints: hints.map(Box::new),
            }
        };
        let port = |own: Port| SlicePort {
            name: own.name.unwrap_or_default(),
            protocol: own.protocol.as_deref().unwrap_or_default().into(),
            port: own.port,
        };
        let slice = EndpointSlice {
            service: raw.metadata.labels.and_then(|own| own.service).unwrap_or_default(),
            family: raw.address_type.unwrap_or_default(),
            endpoints: fitting(raw.endpoints.unwrap_or_default(), endpoint),
            ports: fitting(raw.ports.unwrap_or_default(), port),
        };
        (name, slice)
    }
}

/// As many as there are, with room for no more: a cluster has them by the hundred thousand.
fn fitting<T, U>(from: Vec<T>, each: impl Fn(T) -> U) -> Vec<U> {
    let mut all = Vec::with_capacity(from.len());
    all.extend(from.into_iter().map(each));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use desired::Protocol;

    #[test]
    fn everything_that_a_proxy_reads_is_read() {
        let json = r#"{"metadata": {"namespace": "shop", "name": "front-x", "labels": {"kubernetes.io/service-name": "front"}},
            "addressType": "IPv4", "ports": [{"name": "", "protocol": "UDP", "port": 53}, {}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": false, "serving": true, "terminating": true},
                 "nodeName": "n1", "zone": "z1", "hints": {"forZones": [{"name": "z1"}, {"name": "z2"}], "forNodes": [{"name": "n1"}]}},
                {"addresses": ["10.0.0.2", "10.0.0.3"]}, {"addresses": ["10.0.0.4"], "conditions": {"ready": false}}]}"#;
        let endpoint = |address: &str, ready, serving| SliceEndpoint {
            address: address.into(),
            ready,
            serving,
            ..SliceEndpoint::default()
        };
        let expected = EndpointSlice {
            service: "front".into(),
            family: "IPv4".into(),
            endpoints: vec![
                SliceEndpoint {
                    terminating: true,
                    node: "n1".into(),
                    hints: Some(Box::new(Hints {
                        zones: vec!["z1".into(), "z2".into()],
                        nodes: vec!["n1".into()],
                    })),
                    ..endpoint("10.0.0.1", false, true)
                },
                endpoint("10.0.0.2", true, true),
                endpoint("10.0.0.4", false, false),
            ],
            ports: vec![
                SlicePort { name: "".into(), protocol: Protocol::Udp, port: Some(53) },
                SlicePort { name: "".into(), protocol: Protocol::Tcp, port: None },
            ],
        };
        assert_eq!(EndpointSlice::read(json), Ok(expected));
        let empty = r#"{"metadata": {"name": "a"}, "addressType": "IPv6", "endpoints": null, "ports": null}"#;
        assert!(EndpointSlice::read(empty).unwrap().endpoints.is_empty());
    }
}
