//! An object as a list or a watch brings it: its name and version, and what it says or why that cannot be read.
//!
//! kube-rs gives up a whole list, or loses an event, for one object that it cannot read. This type reads whatever has a
//! name; the rest is cut out of the text and read by its own trimmed type, so that nothing else is ever stored.

use std::borrow::Cow;

use desired::ObjectName;
use k8s_openapi::ClusterResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use serde_json::value::RawValue;

use super::objects::Trimmed;

/// An object of a resource's.
#[derive(Debug, Clone)]
pub(crate) struct Watched<T> {
    /// Name, namespace and version alone.
    metadata: ObjectMeta,
    pub(crate) object: Result<T, String>,
}

impl<T> Watched<T> {
    /// `None` from a server that names nothing.
    pub(crate) fn name(&self) -> Option<ObjectName> {
        let namespace = self.metadata.namespace.as_deref().unwrap_or_default();
        Some(ObjectName { namespace: namespace.into(), name: self.metadata.name.as_deref()?.into() })
    }
}

#[derive(Deserialize)]
struct Head {
    metadata: HeadMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadMetadata {
    name: Option<String>,
    namespace: Option<String>,
    resource_version: Option<String>,
}

impl<'de, T: Trimmed> Deserialize<'de> for Watched<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = <Box<RawValue>>::deserialize(from)?;
        let Head { metadata } = serde_json::from_str(text.get()).map_err(D::Error::custom)?;
        let metadata = ObjectMeta {
            name: metadata.name,
            namespace: metadata.namespace,
            resource_version: metadata.resource_version,
            ..ObjectMeta::default()
        };
        Ok(Self { metadata, object: T::read(text.get()) })
    }
}

/// Watched across the whole cluster, so that a namespace is never part of the path.
impl<T: Trimmed> Resource for Watched<T> {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind(&(): &()) -> Cow<'_, str> {
        T::KIND.into()
    }

    fn group(&(): &()) -> Cow<'_, str> {
        T::GROUP.into()
    }

    fn version(&(): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural(&(): &()) -> Cow<'_, str> {
        T::PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
