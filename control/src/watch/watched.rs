//! An object as a list or a watch brings it: its name and version, and what it says or why that cannot be read.
//!
//! kube-rs gives up a whole list, or loses an event, for one object that it cannot read. This type reads whatever has a
//! name; the rest is cut out of the text and read by its own trimmed type, so that nothing else is ever stored.

use std::borrow::Cow;
use std::fmt;

use desired::ObjectName;
use k8s_openapi::ClusterResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
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

impl<'de, T: Trimmed> Deserialize<'de> for Watched<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // Of text that is there whole, so that it is not copied.
        let text = <&RawValue>::deserialize(from)?.get();
        Ok(Self { metadata: metadata(text).map_err(D::Error::custom)?, object: T::read(text) })
    }
}

/// Name, namespace and version of an object. They come before most of it, which is read but once, as what it is.
fn metadata(json: &str) -> serde_json::Result<ObjectMeta> {
    let mut found = Found::default();
    let ended = serde_json::Deserializer::from_str(json).deserialize_map(Object(&mut found));
    if found.enough { Ok(found.metadata) } else { ended.map(|()| found.metadata) }
}

#[derive(Default)]
struct Found {
    metadata: ObjectMeta,
    /// Nothing more is asked for. To stop, serde is told of an error.
    enough: bool,
}

struct Object<'a>(&'a mut Found);

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            if key == "metadata" {
                map.next_value_seed(Metadata(self.0))?;
                self.0.enough = true;
                return Err(A::Error::custom("enough"));
            }
            map.next_value::<IgnoredAny>()?;
        }
        Err(A::Error::missing_field("metadata"))
    }
}

struct Metadata<'a>(&'a mut Found);

impl<'de> DeserializeSeed<'de> for Metadata<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Metadata<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object's metadata")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Found { metadata, enough } = self.0;
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            match &*key {
                "name" => metadata.name = map.next_value()?,
                "namespace" => metadata.namespace = map.next_value()?,
                "resourceVersion" => metadata.resource_version = map.next_value()?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
            // Those that are in no namespace are few.
            *enough = metadata.name.is_some()
                && metadata.namespace.is_some()
                && metadata.resource_version.is_some();
            if *enough {
                return Err(A::Error::custom("enough"));
            }
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, namespace and version.
    fn read(json: &str) -> Result<[Option<String>; 3], String> {
        let found = metadata(json).map_err(|error| error.to_string())?;
        Ok([found.name, found.namespace, found.resource_version])
    }

    #[test]
    fn metadata_are_found_wherever_they_are() {
        let text = |text: &str| Some(text.to_owned());
        let whole = Ok([text("a"), text("b"), text("7")]);
        for json in [
            r#"{"kind": "Pod", "metadata": {"name": "a", "namespace": "b", "resourceVersion": "7", "labels": {}}, "spec": {}}"#,
            r#"{"spec": {"metadata": {"name": "x"}}, "metadata": {"resourceVersion": "7", "labels": {"name": "x"}, "namespace": "b", "name": "a"}}"#,
            // What is behind is not ours to judge: whoever reads the object does.
            r#"{"metadata": {"name": "a", "namespace": "b", "resourceVersion": "7", "labels": 1}, "spec": nonsense"#,
        ] {
            assert_eq!(read(json), whole, "{json}");
        }
        assert_eq!(read(r#"{"metadata": {"name": "n1"}, "spec": {}}"#), Ok([text("n1"), None, None]));
        assert_eq!(read(r#"{"metadata": {"name": null}}"#), Ok([None, None, None]));
        assert!(read(r#"{"spec": {}}"#).unwrap_err().contains("metadata"));
        assert!(read(r#"{"metadata": {"name": 1}}"#).unwrap_err().contains("invalid type"));
        assert!(read("[]").is_err());
    }
}
