//! Services and their endpoints, as kube-proxy reads them (Kubernetes API v1 and discovery.k8s.io/v1).

use std::sync::Arc;

use super::{Address, Protocol};

/// A Service object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Service {
    /// `spec.type`: `ClusterIP`, `NodePort`, `LoadBalancer`, `ExternalName`.
    pub kind: String,
    /// Its labels give it to another proxy, or say that it has none (`service.kubernetes.io/service-proxy-name`, `…/headless`).
    pub left_alone: bool,
    /// `spec.clusterIPs`, or `spec.clusterIP` alone; `None` where it is headless.
    pub cluster_ips: Vec<Box<str>>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<Box<str>>,
    /// `status.loadBalancer.ingress`, those with an address.
    pub load_balancer: Vec<LoadBalancerAddress>,
    /// `spec.loadBalancerSourceRanges`; empty: from anywhere.
    pub source_ranges: Vec<Box<str>>,
    pub ports: Vec<ServicePort>,
    /// `spec.sessionAffinity` is `ClientIP`: for so many seconds.
    pub affinity_seconds: Option<u32>,
    /// `spec.externalTrafficPolicy` is `Local`.
    pub external_local: bool,
    /// `spec.internalTrafficPolicy` is `Local`.
    pub internal_local: bool,
    /// `spec.healthCheckNodePort`; 0: none.
    pub health_check_node_port: u16,
    /// `spec.trafficDistribution`.
    pub distribution: Option<Box<str>>,
}

/// One of `spec.ports`. To which port of its endpoints it leads, their slices say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServicePort {
    /// Empty where there is only one.
    pub name: Box<str>,
    pub protocol: Protocol,
    pub port: u16,
    /// 0: none.
    pub node_port: u16,
}

/// One of `status.loadBalancer.ingress`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoadBalancerAddress {
    pub ip: Box<str>,
    /// `ipMode` is `Proxy`: the load balancer itself is to be asked, also from within.
    pub is_proxy: bool,
}

/// An `EndpointSlice` object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndpointSlice {
    /// The label `kubernetes.io/service-name`; the Service is in the slice's own namespace.
    pub service: Box<str>,
    /// `addressType`: `IPv4`, `IPv6`, `FQDN`.
    pub family: Box<str>,
    pub endpoints: Vec<SliceEndpoint>,
    pub ports: Vec<SlicePort>,
}

/// One of `endpoints`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SliceEndpoint {
    /// The first of `addresses`: the others never meant anything (v1: "consumers should only use the first").
    pub address: Address,
    /// `conditions.ready`; what is not said counts as true.
    pub ready: bool,
    /// `conditions.serving`; what is not said counts as `ready`.
    pub serving: bool,
    /// `conditions.terminating`; what is not said counts as false.
    pub terminating: bool,
    /// `nodeName`; empty: not said.
    pub node: Arc<str>,
    pub hints: Option<Box<Hints>>,
}

/// For which an endpoint is meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hints {
    /// `hints.forZones`.
    pub zones: Vec<Box<str>>,
    /// `hints.forNodes`.
    pub nodes: Vec<Box<str>>,
}

/// One of a slice's `ports`, all of which all of its endpoints have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SlicePort {
    /// That of the Service's port.
    pub name: Box<str>,
    pub protocol: Protocol,
    /// `None`: any, which a Service's slices never say.
    pub port: Option<u16>,
}
