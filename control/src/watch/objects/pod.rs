//! Pods.

use std::net::IpAddr;

use desired::{Change, NamedPort, ObjectName, Pod, Pool, ViewChange};
use serde::Deserialize;

use super::Trimmed;
use super::spelling::{AllLabels, Field, Metadata, Spelled, Spelling, labels, plural};

impl Trimmed for Pod {
    const KIND: &'static str = "Pod";
    const PLURAL: &'static str = "pods";
    type Key = ObjectName;
    type Fields<S: Spelling> = Fields<S>;

    fn key(name: ObjectName) -> ObjectName {
        name
    }

    fn change(change: Change<ObjectName, Self>) -> ViewChange {
        ViewChange::Pod(change)
    }

    fn share(&mut self, pool: &mut Pool) {
        pool.pod(self);
    }
}

#[derive(Deserialize)]
#[serde(bound = "S: Spelling")]
pub(crate) struct Fields<S> {
    metadata: Metadata<AllLabels>,
    spec: Option<Spec>,
    status: Option<Status<S>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
    host_network: Option<bool>,
    containers: Option<Vec<Container>>,
    init_containers: Option<Vec<Container>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    ports: Option<Vec<Port>>,
    /// An init container's that stays while the pod runs is `Always`.
    restart_policy: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    name: Option<Box<str>>,
    protocol: Option<String>,
    container_port: u16,
}

#[derive(Deserialize)]
#[serde(bound = "S: Spelling")]
struct Status<S> {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<Spelled<PodAddress, S>>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp<S>>>,
}

#[derive(Deserialize)]
#[serde(bound = "S: Spelling")]
struct PodIp<S> {
    ip: Spelled<PodAddress, S>,
}

/// `status.podIPs`, and `status.podIP` of older objects.
struct PodAddress;

impl Field for PodAddress {
    const NAME: &'static str = "podIPs";
    type Value = IpAddr;
}

impl<S> From<Fields<S>> for (ObjectName, Pod) {
    fn from(object: Fields<S>) -> Self {
        let (name, created) = (object.metadata.name(), object.metadata.created());
        let spec = object.spec.unwrap_or_default();
        let (phase, pod_ips, pod_ip) =
            object.status.map_or((None, None, None), |status| (status.phase, status.pod_ips, status.pod_ip));
        let pod_ips = pod_ips.map(|many| many.into_iter().map(|one| one.ip).collect());
        let stays = |own: &Container| own.restart_policy.as_deref() == Some("Always");
        let sidecars = spec.init_containers.into_iter().flatten().filter(stays);
        let ports = spec.containers.into_iter().flatten().chain(sidecars).flat_map(|own| own.ports);
        let named = |own: Port| {
            let name = own.name.filter(|name| !name.is_empty())?;
            let protocol = own.protocol.as_deref().unwrap_or_default().into();
            Some(NamedPort { name, protocol, port: own.container_port })
        };
        let pod = Pod {
            created,
            node: spec.node_name.unwrap_or_default().into(),
            pod_ips: plural(pod_ips, pod_ip).into(),
            host_network: spec.host_network.unwrap_or_default(),
            finished: matches!(phase.as_deref(), Some("Succeeded" | "Failed")),
            terminating: object.metadata.deletion_timestamp.is_some(),
            labels: labels(object.metadata.labels),
            named_ports: ports.flatten().filter_map(named).collect(),
        };
        (name, pod)
    }
}
