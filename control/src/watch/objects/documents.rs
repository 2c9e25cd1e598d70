//! Objects out of YAML and JSON texts, for a directory of manifests.
//!
//! A text may hold one object, several documents, or lists (`kind: List`, `NodeList`, …); kinds that are not used are passed over
//! without a look at their fields. What always holds: a text is read whole or not at all, and an error names line, field
//! and value.

use std::fmt;

use desired::{Change, EndpointSlice, Namespace, NetworkPolicy, Node, Pod, Service, ViewChange};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Trimmed;
use super::spelling::Strict;

/// An object of a text's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Object {
    /// Kind and name, as `Pod shop/front`.
    pub(crate) title: String,
    /// The step that sets it.
    pub(crate) change: ViewChange,
}

/// Reads a JSON text.
///
/// # Errors
/// A sentence with line, field and value.
pub(crate) fn from_json(text: &str) -> Result<Vec<Object>, String> {
    let mut objects = Vec::new();
    let outline: Outline = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut reader, &mut track);
    let read = Document { outline: &outline, objects: &mut objects }.deserialize(tracked);
    read.map_err(|error| format!("{}: {error}", track.path()))?;
    Ok(objects)
}

/// Reads a YAML text of any number of documents.
///
/// # Errors
/// A sentence with the document's number (after the first), field, value and line. A text without any document is one:
/// a file is empty between its opening and its writing, and says nothing then, least of all that objects are gone.
pub(crate) fn from_yaml(text: &str) -> Result<Vec<Object>, String> {
    let mut objects = Vec::new();
    // Both go on for ever after a syntax error: the first one ends the loop.
    let outlines = serde_norway::Deserializer::from_str(text);
    let readers = serde_norway::Deserializer::from_str(text);
    let mut empty = true;
    for (i, (first, second)) in outlines.zip(readers).enumerate() {
        let named = |error: serde_norway::Error| {
            if i > 0 { format!("document {}: {error}", i + 1) } else { error.to_string() }
        };
        // An empty document, as between two `---`, is null.
        let Some(outline) = Option::<Outline>::deserialize(first).map_err(named)? else { continue };
        empty = false;
        Document { outline: &outline, objects: &mut objects }.deserialize(second).map_err(named)?;
    }
    if empty {
        return Err(
            "is empty, as a file is that is just being written; remove the file, or write `kind: List`, if it is to \
             hold nothing"
                .to_owned(),
        );
    }
    Ok(objects)
}

/// The kinds alone, read first: `kubectl` prints a list's kind after its items.
#[derive(Deserialize)]
struct Outline {
    kind: String,
    #[serde(default)]
    items: Option<Vec<OutlineItem>>,
}

#[derive(Deserialize)]
struct OutlineItem {
    kind: Option<String>,
}

struct Document<'a> {
    outline: &'a Outline,
    objects: &'a mut Vec<Object>,
}

impl<'de> DeserializeSeed<'de> for Document<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        let kind = self.outline.kind.as_str();
        if kind == "List" || self.outline.items.is_some() && kind.ends_with("List") {
            from.deserialize_map(self)
        } else {
            read(self.objects, kind, from)
        }
    }
}

impl<'de> Visitor<'de> for Document<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "items" && self.outline.items.is_some() {
                map.next_value_seed(Items(&mut self))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

struct Items<'a, 'b>(&'a mut Document<'b>);

impl<'de> DeserializeSeed<'de> for Items<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Items<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let list = self.0.outline;
        for item in list.items.iter().flatten() {
            // The items of an API server's own lists (`NodeList`) do not repeat their kind.
            let kind = item.kind.as_deref().or(list.kind.strip_suffix("List")).unwrap_or_default();
            items.next_element_seed(Item { kind, objects: self.0.objects })?;
        }
        match items.next_element::<IgnoredAny>()? {
            None => Ok(()),
            Some(_) => Err(A::Error::custom("the list changed while it was read")),
        }
    }
}

struct Item<'a> {
    kind: &'a str,
    objects: &'a mut Vec<Object>,
}

impl<'de> DeserializeSeed<'de> for Item<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        read(self.objects, self.kind, from)
    }
}

fn read<'de, D: Deserializer<'de>>(objects: &mut Vec<Object>, kind: &str, from: D) -> Result<(), D::Error> {
    let object = match kind {
        Node::KIND => object::<Node, D>(from)?,
        Pod::KIND => object::<Pod, D>(from)?,
        Namespace::KIND => object::<Namespace, D>(from)?,
        Service::KIND => object::<Service, D>(from)?,
        EndpointSlice::KIND => object::<EndpointSlice, D>(from)?,
        NetworkPolicy::KIND => object::<NetworkPolicy, D>(from)?,
        _ => {
            IgnoredAny::deserialize(from)?;
            return Ok(());
        }
    };
    objects.push(object);
    Ok(())
}

fn object<'de, T: Trimmed, D: Deserializer<'de>>(from: D) -> Result<Object, D::Error> {
    let (name, object) = T::Fields::<Strict>::deserialize(from)?.into();
    let key = T::Key::from(name);
    Ok(Object { title: format!("{} {key}", T::KIND), change: T::change(Change::Set(key, object)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use desired::{ClusterView, ObjectName};

    const RECORDED: &str = include_str!("../../../tests/data/cluster.yaml");

    /// What a text comes to.
    fn view(objects: &[Object]) -> ClusterView {
        let mut view = ClusterView::default();
        for own in objects {
            assert!(view.apply(own.change.clone()), "{}", own.title);
        }
        view
    }

    fn name(namespace: &str, name: &str) -> ObjectName {
        ObjectName { namespace: namespace.into(), name: name.into() }
    }

    #[test]
    fn a_recorded_cluster_is_read() {
        let view = view(&from_yaml(RECORDED).unwrap());
        assert_eq!(view.nodes.keys().collect::<Vec<_>>(), ["knode1", "knode2"]);
        assert_eq!(view.nodes["knode1"].pod_cidrs, ["10.244.1.0/24", "fd00:10:244:1::/64"]);
        assert_eq!(view.nodes["knode2"].addresses.len(), 3);
        assert_eq!(view.nodes["knode2"].created, Some(1_795_425_493));
        assert_eq!(view.pods.len(), 5);
        let front = &view.pods[&name("shop", "front-fbd7bbb66-5vgjk")];
        assert_eq!((&*front.node, front.finished), ("knode2", false));
        assert_eq!(*front.pod_ips, ["10.244.2.2".into(), "fd00:10:244:2::2".into()]);
        assert!(!front.host_network && !front.terminating);
        assert_eq!(front.labels.get("app"), Some("front"));
        assert_eq!((view.services.len(), view.policies.len(), view.namespaces.len()), (1, 1, 1));
    }

    #[test]
    fn json_lists_and_documents_are_read() {
        let json = r#"{"kind":"NodeList","apiVersion":"v1","items":[
            {"metadata":{"name":"a","annotations":{"podrouter.io/router-addresses":"10.0.0.1"}},"spec":{"podCIDR":"10.1.0.0/24"}}]}"#;
        let node = &view(&from_json(json).unwrap()).nodes["a"];
        assert_eq!((node.pod_cidrs.len(), node.router_addresses.as_deref()), (1, Some("10.0.0.1")));
        let yaml = "---\n---\nkind: Node\nmetadata: {name: a}\n---\nkind: Secret\nmetadata: 7\nspec: x\n---\n\
                    kind: Pod\nmetadata: {name: p, deletionTimestamp: \"2026-01-01T00:00:00Z\"}\nspec: {hostNetwork: true}\n";
        let objects = from_yaml(yaml).unwrap();
        assert_eq!(
            objects.iter().map(|own| own.title.as_str()).collect::<Vec<_>>(),
            ["Node a", "Pod default/p"]
        );
        let pod = &view(&objects).pods[&name("default", "p")];
        assert!(pod.terminating && pod.host_network);
        assert_eq!(from_yaml("kind: List\n").unwrap(), []);
        for empty in ["", "# nothing\n", "---\n---\n"] {
            assert!(from_yaml(empty).unwrap_err().contains("is empty"));
        }
    }

    #[test]
    fn an_api_servers_object_loses_nothing_for_one_bad_value() {
        let json = r#"{"metadata":{"name":"a","annotations":{"podrouter.io/router-addresses":"x"}},
            "spec":{"podCIDRs":["10.1.0.0/99","10.1.0.0/24"]},"status":{"addresses":[{"type":"InternalIP","address":"y"}]}}"#;
        let node = Node::read(json).unwrap();
        assert_eq!((node.pod_cidrs.len(), node.router_addresses.as_deref()), (2, Some("x")));
        assert_eq!(node.addresses[0].address, "y");
        assert_eq!(Node::read(r#"{"metadata":{"name":"a"}}"#), Ok(Node::default()));
        assert_eq!(
            Pod::read(r#"{"metadata":{"name":"a"},"status":{"podIP":"x"}}"#).unwrap().pod_ips,
            ["x".into()].into()
        );
        let message = Pod::read(r#"{"metadata":{"name":"a"},"spec":{"hostNetwork":7}}"#).unwrap_err();
        assert!(message.contains("spec.hostNetwork"), "{message}");
    }

    #[test]
    fn errors_name_line_field_and_value() {
        let yaml = "kind: Secret\n---\nkind: List\nitems:\n- kind: Node\n  metadata: {name: a}\n  spec:\n    podCIDRs: 7\n";
        let message = from_yaml(yaml).unwrap_err();
        for part in ["document 2", "items[0].spec.podCIDRs", "`7`", "line 8"] {
            assert!(message.contains(part), "{part}: {message}");
        }
        let node = |spec: &str, status: &str, annotation: &str| {
            format!(
                "kind: Node\nmetadata: {{name: a, annotations: {{other: x, podrouter.io/router-addresses: \"{annotation}\"}}}}\n\
                 spec: {{podCIDRs: [10.1.0.0/24, \"{spec}\"]}}\n\
                 status: {{addresses: [{{type: Hostname, address: a}}, {{type: InternalIP, address: \"{status}\"}}]}}\n"
            )
        };
        assert!(from_yaml(&node("fd00::/64", "10.0.0.1", "10.0.0.9, fd00::9")).is_ok());
        assert!(from_yaml(&node("", "10.0.0.1", "")).is_ok(), "not filled in yet");
        for (text, parts) in [
            (node("10.2.0.0/99", "10.0.0.1", ""), ["spec.podCIDRs", "10.2.0.0/99", "line 3"]),
            (node("10.2.0.1/24", "10.0.0.1", ""), ["spec.podCIDRs", "10.2.0.0/24", "line 3"]),
            (node("", "10.0.0.", ""), ["status.addresses", "`10.0.0.`", "InternalIP"]),
            (node("", "10.0.0.1", "10.0.0.9,x"), ["metadata.annotations", "router-addresses", "`x`"]),
            // As kubectl prints it, where the reader's path ends before the field.
            (
                "kind: Node\nmetadata:\n  name: a\nspec:\n  podCIDRs:\n  - 10.2.0.0/99\n".to_owned(),
                ["spec", "podCIDRs", "`10.2.0.0/99`"],
            ),
        ] {
            let message = from_yaml(&text).unwrap_err();
            assert!(parts.iter().all(|part| message.contains(part)), "{parts:?}: {message}");
        }
        let message = from_yaml("kind: Pod\nmetadata:\n  name: [x\n").unwrap_err();
        assert!(message.contains("line"), "{message}");
        let message = from_yaml("kind: Pod\nspec: {}\n").unwrap_err();
        assert!(message.contains("metadata"), "{message}");
        assert!(from_yaml("- a\n").is_err());
        assert!(from_yaml("metadata: {}\n").unwrap_err().contains("kind"));
        let json =
            "{\"kind\":\"Pod\",\n\"metadata\":{\"name\":\"p\"},\n\"spec\":{\"hostNetwork\":\"maybe\"}}";
        let message = from_json(json).unwrap_err();
        for part in ["spec.hostNetwork", "maybe", "line 3"] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
}
