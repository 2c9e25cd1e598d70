//! Services.

use std::net::IpAddr;

use desired::{Change, LoadBalancerAddress, ObjectName, Service, ServicePort, ViewChange};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Trimmed;
use super::spelling::{AddressOrNone, Field, Metadata, Prefix, Spelled, Spelling, plural, texts};

/// `sessionAffinityConfig.clientIP.timeoutSeconds` where it is not written: three hours (Kubernetes API v1).
const AFFINITY_SECONDS: u32 = 10_800;

impl Trimmed for Service {
    const KIND: &'static str = "Service";
    const PLURAL: &'static str = "services";
    type Key = ObjectName;
    type Fields<S: Spelling> = Fields<S>;

    fn change(change: Change<ObjectName, Self>) -> ViewChange {
        ViewChange::Service(change)
    }
}

#[derive(Deserialize)]
#[serde(bound = "S: Spelling")]
pub(crate) struct Fields<S> {
    metadata: Metadata<Labels>,
    spec: Option<Spec<S>>,
    status: Option<Status<S>>,
}

/// The labels by which a Service is not a proxy's, or not ours; their values do not matter.
#[derive(Deserialize)]
struct Labels {
    #[serde(rename = "service.kubernetes.io/service-proxy-name")]
    proxy: Option<IgnoredAny>,
    #[serde(rename = "service.kubernetes.io/headless")]
    headless: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(bound = "S: Spelling", rename_all = "camelCase")]
struct Spec<S> {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<Spelled<ClusterIp, S>>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<Spelled<ClusterIp, S>>>,
    #[serde(rename = "externalIPs")]
    external_ips: Option<Vec<Spelled<ExternalIp, S>>>,
    load_balancer_source_ranges: Option<Vec<Spelled<SourceRange, S>>>,
    ports: Option<Vec<Port>>,
    session_affinity: Option<String>,
    session_affinity_config: Option<AffinityConfig>,
    external_traffic_policy: Option<String>,
    internal_traffic_policy: Option<String>,
    health_check_node_port: Option<u16>,
    traffic_distribution: Option<Box<str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    name: Option<Box<str>>,
    protocol: Option<String>,
    port: u16,
    node_port: Option<u16>,
}

#[derive(Deserialize)]
struct AffinityConfig {
    #[serde(rename = "clientIP")]
    client_ip: Option<ClientIp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientIp {
    timeout_seconds: Option<u32>,
}

#[derive(Deserialize)]
#[serde(bound = "S: Spelling", rename_all = "camelCase")]
struct Status<S> {
    load_balancer: Option<LoadBalancer<S>>,
}

#[derive(Deserialize)]
#[serde(bound = "S: Spelling")]
struct LoadBalancer<S> {
    ingress: Option<Vec<Ingress<S>>>,
}

#[derive(Deserialize)]
#[serde(bound = "S: Spelling", rename_all = "camelCase")]
struct Ingress<S> {
    /// A load balancer that has only a name has none.
    ip: Option<Spelled<IngressIp, S>>,
    ip_mode: Option<String>,
}

/// `spec.clusterIPs`, and `spec.clusterIP` of older objects.
struct ClusterIp;

impl Field for ClusterIp {
    const NAME: &'static str = "clusterIPs";
    type Value = AddressOrNone;
}

/// `spec.externalIPs`.
struct ExternalIp;

impl Field for ExternalIp {
    const NAME: &'static str = "externalIPs";
    type Value = IpAddr;
}

/// `status.loadBalancer.ingress[].ip`.
struct IngressIp;

impl Field for IngressIp {
    const NAME: &'static str = "ip";
    type Value = IpAddr;
}

/// `spec.loadBalancerSourceRanges`. The API takes blanks around them.
struct SourceRange;

impl Field for SourceRange {
    const NAME: &'static str = "loadBalancerSourceRanges";
    type Value = Blank;
}

/// A prefix with blanks around it.
struct Blank;

impl std::str::FromStr for Blank {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.trim().parse::<Prefix>().map(|_| Self)
    }
}

impl<S: Spelling> From<Fields<S>> for (ObjectName, Service) {
    fn from(object: Fields<S>) -> Self {
        let name = object.metadata.name();
        let left_alone = object.metadata.labels.is_some_and(|own| own.proxy.or(own.headless).is_some());
        let Some(spec) = object.spec else { return (name, Service { left_alone, ..Service::default() }) };
        let local = |policy: Option<String>| policy.as_deref() == Some("Local");
        let ingress = object.status.and_then(|status| status.load_balancer).and_then(|own| own.ingress);
        let address = |own: Ingress<S>| {
            let ip: Box<str> = own.ip?.into();
            Some(LoadBalancerAddress { ip, is_proxy: own.ip_mode.as_deref() == Some("Proxy") })
        };
        let port = |own: Port| ServicePort {
            name: own.name.unwrap_or_default(),
            protocol: own.protocol.as_deref().unwrap_or_default().into(),
            port: own.port,
            node_port: own.node_port.unwrap_or_default(),
        };
        let seconds = spec.session_affinity_config.and_then(|own| own.client_ip?.timeout_seconds);
        let service = Service {
            kind: spec.kind.unwrap_or_else(|| "ClusterIP".to_owned()),
            left_alone,
            cluster_ips: plural(spec.cluster_ips, spec.cluster_ip),
            external_ips: texts(spec.external_ips),
            load_balancer: ingress.into_iter().flatten().filter_map(address).collect(),
            source_ranges: texts(spec.load_balancer_source_ranges),
            ports: spec.ports.into_iter().flatten().map(port).collect(),
            affinity_seconds: (spec.session_affinity.as_deref() == Some("ClientIP"))
                .then(|| seconds.unwrap_or(AFFINITY_SECONDS)),
            external_local: local(spec.external_traffic_policy),
            internal_local: local(spec.internal_traffic_policy),
            health_check_node_port: spec.health_check_node_port.unwrap_or_default(),
            distribution: spec.traffic_distribution,
        };
        (name, service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use desired::Protocol;

    #[test]
    fn everything_that_a_proxy_reads_is_read() {
        let json = r#"{"metadata": {"namespace": "shop", "name": "front", "labels": {"a": "b"}},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00:96::7"],
                "externalIPs": ["192.0.2.7"], "loadBalancerSourceRanges": ["198.51.100.0/24 "],
                "ports": [{"name": "http", "port": 80, "targetPort": "web", "nodePort": 30080}, {"protocol": "SCTP", "port": 9}],
                "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
                "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Cluster", "healthCheckNodePort": 31000,
                "trafficDistribution": "PreferSameZone"},
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.7", "ipMode": "Proxy"}, {"hostname": "lb.example"},
                {"ip": "203.0.113.8"}]}}}"#;
        let address = |ip: &str, is_proxy| LoadBalancerAddress { ip: ip.into(), is_proxy };
        let port = |name: &str, protocol, port, node_port| ServicePort {
            name: name.into(),
            protocol,
            port,
            node_port,
        };
        let expected = Service {
            kind: "LoadBalancer".into(),
            left_alone: false,
            cluster_ips: vec!["10.96.0.7".into(), "fd00:96::7".into()],
            external_ips: vec!["192.0.2.7".into()],
            load_balancer: vec![address("203.0.113.7", true), address("203.0.113.8", false)],
            source_ranges: vec!["198.51.100.0/24 ".into()],
            ports: vec![port("http", Protocol::Tcp, 80, 30080), port("", Protocol::Sctp, 9, 0)],
            affinity_seconds: Some(60),
            external_local: true,
            internal_local: false,
            health_check_node_port: 31000,
            distribution: Some("PreferSameZone".into()),
        };
        assert_eq!(Service::read(json), Ok(expected));
    }

    #[test]
    fn what_is_missing_has_the_apis_defaults() {
        let read = |spec: &str| {
            Service::read(&format!(r#"{{"metadata": {{"name": "a"}}, "spec": {spec}}}"#)).unwrap()
        };
        let least = read(r#"{"clusterIP": "None", "ports": null}"#);
        assert_eq!((least.kind.as_str(), least.cluster_ips), ("ClusterIP", vec!["None".into()]));
        assert_eq!(
            (least.affinity_seconds, least.external_local, least.internal_local),
            (None, false, false)
        );
        assert_eq!(read(r#"{"sessionAffinity": "ClientIP"}"#).affinity_seconds, Some(10_800));
        for label in ["service-proxy-name", "headless"] {
            let json = format!(
                r#"{{"metadata": {{"name": "a", "labels": {{"service.kubernetes.io/{label}": ""}}}}, "spec": {{}}}}"#
            );
            assert!(Service::read(&json).unwrap().left_alone, "{label}");
        }
    }
}
