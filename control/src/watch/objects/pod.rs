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
    metadata: Metadata<AllLabels, Annotations>,
    spec: Option<Spec>,
    status: Option<Status<S>>,
}

#[derive(Deserialize, Default)]
struct Annotations {
    #[serde(rename = "podrouter.io/port")]
    port: Option<Box<str>>,
    #[serde(rename = "podrouter.io/queue-pairs")]
    queue_pairs: Option<Box<str>>,
    /// A mirror pod's: the uid of the static pod behind it.
    #[serde(rename = "kubernetes.io/config.mirror")]
    mirrored: Option<Box<str>>,
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
        let own = object.metadata.annotations.unwrap_or_default();
        let uid = own.mirrored.as_deref().or(object.metadata.uid.as_deref()).unwrap_or_default();
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
            uid: desired::uid(uid),
            created,
            node: spec.node_name.unwrap_or_default().into(),
            pod_ips: plural(pod_ips, pod_ip).into(),
            host_network: spec.host_network.unwrap_or_default(),
            finished: matches!(phase.as_deref(), Some("Succeeded" | "Failed")),
            terminating: object.metadata.deletion_timestamp.is_some(),
            labels: labels(object.metadata.labels),
            named_ports: ports.flatten().filter_map(named).collect(),
            port: own.port,
            queue_pairs: own.queue_pairs,
        };
        (name, pod)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_used_is_read() {
        let json = r#"{"metadata": {"namespace": "shop", "name": "vm", "uid": "0000002a-0000-0000-0000-00000000000f",
                "creationTimestamp": "1970-01-01T00:01:00Z", "labels": {"app": "vm"},
                "annotations": {"podrouter.io/port": "net1=vhost-user", "podrouter.io/queue-pairs": "4", "other": "x"}},
            "spec": {"nodeName": "n1", "initContainers": [
                    {"ports": [{"name": "gone", "containerPort": 1}]},
                    {"restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 2, "protocol": "UDP"}]}],
                "containers": [{"ports": [{"containerPort": 3}, {"name": "web", "containerPort": 80}]}, {}]},
            "status": {"phase": "Failed", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}}"#;
        let named = |name: &str, protocol: &str, port| NamedPort {
            name: name.into(),
            protocol: protocol.into(),
            port,
        };
        let expected = Pod {
            uid: 0x2a_0000_0000_0000_0000_0000_000f,
            created: Some(60),
            node: "n1".into(),
            pod_ips: ["10.0.0.1".into(), "fd00::1".into()].into(),
            finished: true,
            labels: [("app", "vm")].into_iter().collect(),
            named_ports: [named("web", "TCP", 80), named("side", "UDP", 2)].into(),
            port: Some("net1=vhost-user".into()),
            queue_pairs: Some("4".into()),
            ..Pod::default()
        };
        assert_eq!(Pod::read(json), Ok(expected));
        let mirror = r#"{"metadata": {"name": "a", "uid": "1", "annotations": {"kubernetes.io/config.mirror": "c0ffee"}}}"#;
        assert_eq!(Pod::read(mirror).unwrap().uid, 0xc0ffee);
    }
}
