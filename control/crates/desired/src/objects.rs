//! The cluster's objects, trimmed to what is used of them.
//!
//! Texts that spell addresses, prefixes and the like stay texts here, so that a warning can quote them. A cluster has a hundred thousand
//! pods, and they have little that is their own: what those of one template have in common is kept once ([`Pool`]).

use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

mod policy;
mod service;

pub use policy::{
    Expression, NetworkPolicy, Operator, PolicyPeer, PolicyPort, PolicyRule, PortMatch, Selector,
};
pub use service::{
    EndpointSlice, Hints, LoadBalancerAddress, Service, ServicePort, SliceEndpoint, SlicePort,
};

/// The labels of an object, by key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Arc<[(Box<str>, Box<str>)]>);

impl Default for Labels {
    fn default() -> Self {
        Self(Arc::from([]))
    }
}

impl Labels {
    /// A label's value.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(own, _)| (**own).cmp(key)).ok()?;
        self.0.get(at).map(|(_, value)| &**value)
    }

    /// All of them, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Into<Box<str>>, V: Into<Box<str>>> FromIterator<(K, V)> for Labels {
    /// Of two values of one key the later one counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let sorted: std::collections::BTreeMap<Box<str>, Box<str>> =
            pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        Self(sorted.into_iter().collect())
    }
}

/// The text of a field that is to be an address: as such, or as it came for a warning to quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Ip(IpAddr),
    Misspelt(Box<str>),
}

impl Default for Address {
    fn default() -> Self {
        Self::Misspelt(Box::default())
    }
}

impl From<&str> for Address {
    fn from(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Misspelt(text.into()), Self::Ip)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Misspelt(text) => f.write_str(text),
        }
    }
}

/// What was seen before, so that what is equal is kept once.
#[derive(Debug, Default)]
pub struct Pool {
    texts: HashSet<Arc<str>>,
    labels: HashSet<Labels>,
    ports: HashSet<Arc<[NamedPort]>>,
    /// At so many entries it is time to let go of those that nobody else has.
    limit: usize,
}

/// Entries that are kept without a look at whether anybody else has them.
const SMALL_POOL: usize = 1024;

impl Pool {
    /// Puts what is known already in the place of what is equal to it.
    pub fn pod(&mut self, pod: &mut Pod) {
        self.tidy();
        one_of(&mut self.labels, &mut pod.labels);
        one_of(&mut self.ports, &mut pod.named_ports);
        one_of(&mut self.texts, &mut pod.node);
    }

    /// As [`Self::pod`].
    pub fn slice(&mut self, slice: &mut EndpointSlice) {
        self.tidy();
        for endpoint in &mut slice.endpoints {
            one_of(&mut self.texts, &mut endpoint.node);
        }
    }

    /// As [`Self::pod`].
    pub fn name(&mut self, name: &mut ObjectName) {
        one_of(&mut self.texts, &mut name.namespace);
    }

    /// Lets go now and then of what nobody else has.
    fn tidy(&mut self) {
        let entries = |own: &Self| own.labels.len() + own.ports.len() + own.texts.len();
        if entries(self) >= self.limit {
            self.labels.retain(|own| Arc::strong_count(&own.0) > 1);
            self.ports.retain(|own| Arc::strong_count(own) > 1);
            self.texts.retain(|own| Arc::strong_count(own) > 1);
            self.limit = SMALL_POOL.max(2 * entries(self));
        }
    }
}

fn one_of<T: Clone + Eq + Hash>(known: &mut HashSet<T>, own: &mut T) {
    match known.get(own) {
        Some(same) => own.clone_from(same),
        None => drop(known.insert(own.clone())),
    }
}

/// A transport protocol as an object names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Protocol {
    /// Also where none is named.
    #[default]
    Tcp,
    Udp,
    Sctp,
    /// One that the API does not have yet.
    Other(Box<str>),
}

impl From<&str> for Protocol {
    fn from(text: &str) -> Self {
        match text {
            "TCP" | "" => Self::Tcp,
            "UDP" => Self::Udp,
            "SCTP" => Self::Sctp,
            other => Self::Other(other.into()),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
            Self::Other(text) => text,
        })
    }
}

impl Protocol {
    /// `None` for one that no packet's header is known to name.
    pub(crate) fn number(&self) -> Option<proto::dataplane::Protocol> {
        let number = match self {
            Self::Tcp => wire::protocol::TCP,
            Self::Udp => wire::protocol::UDP,
            Self::Sctp => wire::protocol::SCTP,
            Self::Other(_) => return None,
        };
        Some(proto::dataplane::Protocol(number))
    }
}

/// The name of an object that is in a namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ObjectName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl From<ObjectName> for String {
    /// The name of an object that is in no namespace.
    fn from(name: ObjectName) -> Self {
        name.name.as_ref().to_owned()
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A Node object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// `metadata.creationTimestamp`, in seconds since 1970; `None` counts as the youngest.
    pub created: Option<i64>,
    /// `spec.podCIDRs`, or `spec.podCIDR` alone.
    pub pod_cidrs: Vec<String>,
    /// `status.addresses`.
    pub addresses: Vec<NodeAddress>,
    /// The value of the annotation [`crate::ROUTER_ADDRESSES`].
    pub router_addresses: Option<String>,
    /// The value of the annotation [`crate::ROUTER_WAY`].
    pub router_way: Option<String>,
    /// The value of the label `topology.kubernetes.io/zone`; empty: not said.
    pub zone: Box<str>,
}

/// One of `status.addresses`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddress {
    /// `InternalIP`, `ExternalIP`; names (`Hostname`, `InternalDNS`, …) are not used.
    pub kind: String,
    pub address: String,
}

/// A Pod object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pod {
    /// `metadata.uid`, by [`uid`]; of a mirror pod that of the static pod behind it, which is what the kubelet calls it.
    pub uid: u128,
    /// `metadata.creationTimestamp`, in seconds since 1970; `None` counts as the oldest.
    pub created: Option<i64>,
    /// `spec.nodeName`; empty while it is not scheduled.
    pub node: Arc<str>,
    /// `status.podIPs`, or `status.podIP` alone.
    pub pod_ips: Box<[Address]>,
    pub host_network: bool,
    /// `status.phase` is Succeeded or Failed: its addresses may be others' by now.
    pub finished: bool,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    pub labels: Labels,
    /// The ports of its containers that have a name, those of init containers that stay (`restartPolicy: Always`) among them.
    pub named_ports: Arc<[NamedPort]>,
    /// The annotation [`crate::PORT`].
    pub port: Option<Box<str>>,
    /// The annotation [`crate::QUEUE_PAIRS`].
    pub queue_pairs: Option<Box<str>>,
}

/// The digits of a uid as a number, so that a hundred thousand of them are small; 0 of what is none.
#[must_use]
pub fn uid(text: &str) -> u128 {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    u128::from_str_radix(&digits, 16).unwrap_or(0)
}

/// One of `spec.containers[].ports` that has a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    pub name: Box<str>,
    pub protocol: Protocol,
    pub port: u16,
}

/// A Namespace object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Namespace {
    pub labels: Labels,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(app: &str) -> Pod {
        let ports = [NamedPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }];
        Pod { labels: [("app", app)].into_iter().collect(), named_ports: Arc::from(ports), ..Pod::default() }
    }

    #[test]
    fn labels_are_found_by_their_keys() {
        let labels: Labels = [("b", "2"), ("a", "1"), ("b", "3")].into_iter().collect();
        assert_eq!((labels.get("a"), labels.get("b"), labels.get("c")), (Some("1"), Some("3"), None));
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("a", "1"), ("b", "3")]);
        assert!(!labels.is_empty() && Labels::default().is_empty());
    }

    #[test]
    fn what_pods_have_in_common_is_kept_once_and_no_longer_than_they_are() {
        let mut pool = Pool::default();
        let mut pods: Vec<Pod> = (0..5000).map(|n| pod(&format!("app-{}", n / 10))).collect();
        pods.iter_mut().for_each(|pod| pool.pod(pod));
        assert!(Arc::ptr_eq(&pods[0].labels.0, &pods[9].labels.0));
        assert!(!Arc::ptr_eq(&pods[0].labels.0, &pods[10].labels.0));
        assert!(Arc::ptr_eq(&pods[0].named_ports, &pods[4999].named_ports));
        assert_eq!(pods[77], pod("app-7"));
        assert_eq!((pool.labels.len(), pool.ports.len()), (500, 1));
        pods.clear();
        // They come and go; what is gone does not stay.
        for n in 0..20_000 {
            pool.pod(&mut pod(&format!("app-{n}")));
        }
        assert!(pool.labels.len() <= SMALL_POOL, "{}", pool.labels.len());
    }
}
