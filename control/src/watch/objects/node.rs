//! Nodes.

use std::marker::PhantomData;
use std::net::IpAddr;
use std::str::FromStr;

use desired::{Change, Node, NodeAddress, ObjectName, ViewChange};
use serde::Deserialize;
use wire::IpPrefix;

use super::Trimmed;
use super::spelling::{Field, Metadata, Spelled, Spelling, plural};

impl Trimmed for Node {
    const KIND: &'static str = "Node";
    const PLURAL: &'static str = "nodes";
    type Key = String;
    type Fields<S: Spelling> = Fields<S>;

    fn change(change: Change<String, Self>) -> ViewChange {
        ViewChange::Node(change)
    }
}

#[derive(Deserialize)]
#[serde(bound = "S: Spelling")]
pub(crate) struct Fields<S> {
    metadata: Metadata<Labels, Annotations<S>>,
    spec: Option<Spec<S>>,
    status: Option<Status<S>>,
}

/// The label that is read.
#[derive(Deserialize)]
struct Labels {
    #[serde(rename = "topology.kubernetes.io/zone")]
    zone: Option<String>,
}

/// The annotations that are read.
#[derive(Deserialize)]
#[serde(bound = "S: Spelling")]
struct Annotations<S> {
    #[serde(rename = "podrouter.io/router-addresses")]
    router_addresses: Option<Spelled<RouterAddresses, S>>,
    #[serde(rename = "podrouter.io/router-way")]
    router_way: Option<String>,
}

#[derive(Deserialize)]
#[serde(bound = "S: Spelling")]
struct Spec<S> {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<Spelled<PodCidr, S>>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<Spelled<PodCidr, S>>>,
}

#[derive(Deserialize)]
#[serde(bound = "S: Spelling")]
struct Status<S> {
    addresses: Option<Vec<Address<S>>>,
}

#[derive(Deserialize)]
#[serde(bound = "S: Spelling", try_from = "RawAddress")]
struct Address<S> {
    address: String,
    kind: String,
    spelling: PhantomData<S>,
}

#[derive(Deserialize)]
struct RawAddress {
    address: String,
    #[serde(rename = "type")]
    kind: String,
}

impl<S: Spelling> TryFrom<RawAddress> for Address<S> {
    type Error = String;

    /// Host names and DNS names are no addresses, and are not meant to be.
    fn try_from(RawAddress { address, kind }: RawAddress) -> Result<Self, String> {
        let meant = matches!(kind.as_str(), "InternalIP" | "ExternalIP");
        if S::CHECKED && meant && address.parse::<IpAddr>().is_err() {
            return Err(format!("address: `{address}`, of type {kind}, is no IP address"));
        }
        Ok(Self { address, kind, spelling: PhantomData })
    }
}

/// `spec.podCIDRs`, and `spec.podCIDR` of older objects.
struct PodCidr;

impl Field for PodCidr {
    const NAME: &'static str = "podCIDRs";
    type Value = IpPrefix;
}

/// The annotation that names a node's routers.
struct RouterAddresses;

impl Field for RouterAddresses {
    const NAME: &'static str = desired::ROUTER_ADDRESSES;
    type Value = AddressList;
}

/// Addresses with commas between.
struct AddressList;

impl FromStr for AddressList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            part.parse::<IpAddr>().map_err(|_| format!("`{part}` is no IP address"))?;
        }
        Ok(Self)
    }
}

impl<S> From<Fields<S>> for (ObjectName, Node) {
    fn from(object: Fields<S>) -> Self {
        let (name, created) = (object.metadata.name(), object.metadata.created());
        let (pod_cidrs, pod_cidr) = object.spec.map_or((None, None), |spec| (spec.pod_cidrs, spec.pod_cidr));
        let addresses = object.status.and_then(|status| status.addresses).unwrap_or_default();
        let (router_addresses, router_way) =
            object.metadata.annotations.map_or((None, None), |own| (own.router_addresses, own.router_way));
        let node = Node {
            created,
            pod_cidrs: plural(pod_cidrs, pod_cidr),
            addresses: addresses
                .into_iter()
                .map(|Address { address, kind, .. }| NodeAddress { kind, address })
                .collect(),
            router_addresses: router_addresses.map(String::from),
            router_way,
            zone: object.metadata.labels.and_then(|own| own.zone).unwrap_or_default().into(),
        };
        (name, node)
    }
}
