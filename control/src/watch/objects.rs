//! Nodes and Pods out of YAML and JSON, trimmed at the edge to what routing needs.
//!
//! A file's text may hold one object, several documents, or lists (`kind: List`, `NodeList`, `PodList`); other kinds are
//! passed over without a look at their fields. What always holds: a text is read whole or not at all, and an error
//! names line, field and value. An API server's objects come one by one ([`Trimmed`]); there a value that is misspelt
//! is no error: who uses it leaves it out alone, and quotes it.

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::str::FromStr;

use desired::{Change, Node, NodeAddress, ObjectName, Pod, ViewChange};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use wire::IpPrefix;

/// What a text held, in its order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Objects {
    pub(crate) nodes: Vec<(String, Node)>,
    pub(crate) pods: Vec<(ObjectName, Pod)>,
}

/// An object of an API server's, read by way of a type that has only the fields that are used.
pub(crate) trait Trimmed: Sized {
    /// As the API spells it: `Node`.
    const KIND: &'static str;
    /// As paths spell it: `nodes`.
    const PLURAL: &'static str;
    /// What tells one from another in a [`desired::ClusterView`].
    type Key: Ord + Clone + fmt::Display + Send;

    fn key(name: ObjectName) -> Self::Key;

    /// Reads one.
    ///
    /// # Errors
    /// A sentence that names the field.
    fn read(json: &str) -> Result<Self, String>;

    /// As a step of the view's.
    fn change(change: Change<Self::Key, Self>) -> ViewChange;
}

impl Trimmed for Node {
    const KIND: &'static str = "Node";
    const PLURAL: &'static str = "nodes";
    type Key = String;

    fn key(name: ObjectName) -> String {
        name.name
    }

    fn read(json: &str) -> Result<Self, String> {
        one::<NodeObject<Lenient>>(json).map(|object| <(String, Self)>::from(object).1)
    }

    fn change(change: Change<String, Self>) -> ViewChange {
        ViewChange::Node(change)
    }
}

impl Trimmed for Pod {
    const KIND: &'static str = "Pod";
    const PLURAL: &'static str = "pods";
    type Key = ObjectName;

    fn key(name: ObjectName) -> ObjectName {
        name
    }

    fn read(json: &str) -> Result<Self, String> {
        one::<PodObject<Lenient>>(json).map(|object| <(ObjectName, Self)>::from(object).1)
    }

    fn change(change: Change<ObjectName, Self>) -> ViewChange {
        ViewChange::Pod(change)
    }
}

/// Reads a text that holds one object.
fn one<'de, T: Deserialize<'de>>(json: &'de str) -> Result<T, String> {
    serde_json::from_str(json).or_else(|_| {
        // Read again only to say where: following the path costs, and objects come by the hundred thousand.
        let mut reader = serde_json::Deserializer::from_str(json);
        serde_path_to_error::deserialize(&mut reader).map_err(|error| error.to_string())
    })
}

/// Reads a JSON text.
///
/// # Errors
/// A sentence with line, field and value.
pub(crate) fn from_json(text: &str) -> Result<Objects, String> {
    let mut objects = Objects::default();
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
pub(crate) fn from_yaml(text: &str) -> Result<Objects, String> {
    let mut objects = Objects::default();
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
    objects: &'a mut Objects,
}

impl<'de> DeserializeSeed<'de> for Document<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        let kind = self.outline.kind.as_str();
        if kind == "List" || self.outline.items.is_some() && kind.ends_with("List") {
            from.deserialize_map(self)
        } else {
            self.objects.read(kind, from)
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
    objects: &'a mut Objects,
}

impl<'de> DeserializeSeed<'de> for Item<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        self.objects.read(self.kind, from)
    }
}

impl Objects {
    fn read<'de, D: Deserializer<'de>>(&mut self, kind: &str, from: D) -> Result<(), D::Error> {
        match kind {
            "Node" => self.nodes.push(NodeObject::<Strict>::deserialize(from)?.into()),
            "Pod" => self.pods.push(PodObject::<Strict>::deserialize(from)?.into()),
            _ => {
                IgnoredAny::deserialize(from)?;
            }
        }
        Ok(())
    }
}

/// What becomes of a text that does not spell what its field is for.
trait Spelling {
    const CHECKED: bool;
}

/// It is an error here, which has file and line, so that the file's last good content stays in force.
struct Strict;

impl Spelling for Strict {
    const CHECKED: bool = true;
}

/// It is kept for whoever uses it to quote: an object of an API server's has no other content to fall back on after a
/// start, and its other fields are not to be lost for it.
struct Lenient;

impl Spelling for Lenient {
    const CHECKED: bool = false;
}

#[derive(Deserialize)]
#[serde(bound = "S: Spelling", rename_all = "camelCase")]
struct Metadata<S> {
    name: String,
    namespace: Option<String>,
    uid: Option<String>,
    creation_timestamp: Option<String>,
    deletion_timestamp: Option<String>,
    annotations: Option<Annotations<S>>,
}

/// The one annotation that is read.
#[derive(Deserialize)]
#[serde(bound = "S: Spelling")]
struct Annotations<S> {
    #[serde(rename = "podrouter.io/router-addresses")]
    router_addresses: Option<Spelled<RouterAddresses, S>>,
}

#[derive(Deserialize)]
#[serde(bound = "S: Spelling")]
struct NodeObject<S> {
    metadata: Metadata<S>,
    spec: Option<NodeSpec<S>>,
    status: Option<NodeStatus<S>>,
}

#[derive(Deserialize)]
#[serde(bound = "S: Spelling")]
struct NodeSpec<S> {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<Spelled<PodCidr, S>>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<Spelled<PodCidr, S>>>,
}

#[derive(Deserialize)]
#[serde(bound = "S: Spelling")]
struct NodeStatus<S> {
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

/// A field whose text must spell something.
trait Field {
    /// As errors name it: not every reader's path leads to the last name.
    const NAME: &'static str;
    type Value: FromStr<Err: fmt::Display>;
}

/// `spec.podCIDRs`, and `spec.podCIDR` of older objects.
struct PodCidr;

impl Field for PodCidr {
    const NAME: &'static str = "podCIDRs";
    type Value = IpPrefix;
}

/// `status.podIPs`, and `status.podIP` of older objects.
struct PodAddress;

impl Field for PodAddress {
    const NAME: &'static str = "podIPs";
    type Value = IpAddr;
}

/// The annotation that names a node's routers.
struct RouterAddresses;

impl Field for RouterAddresses {
    const NAME: &'static str = desired::ROUTER_ADDRESSES;
    type Value = AddressList;
}

/// The text of a field that spells what it should, or nothing at all, as where it is not filled in yet.
struct Spelled<F, S> {
    text: String,
    field: PhantomData<(F, S)>,
}

impl<'de, F: Field, S: Spelling> Deserialize<'de> for Spelled<F, S> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        if S::CHECKED
            && !text.is_empty()
            && let Err(error) = text.parse::<F::Value>()
        {
            return Err(D::Error::custom(format!("{}: `{text}`: {error}", F::NAME)));
        }
        Ok(Self { text, field: PhantomData })
    }
}

impl<F, S> From<Spelled<F, S>> for String {
    fn from(spelled: Spelled<F, S>) -> Self {
        spelled.text
    }
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

#[derive(Deserialize)]
#[serde(bound = "S: Spelling")]
struct PodObject<S> {
    metadata: Metadata<S>,
    spec: Option<PodSpec>,
    status: Option<PodStatus<S>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    node_name: Option<String>,
    host_network: Option<bool>,
}

#[derive(Deserialize)]
#[serde(bound = "S: Spelling")]
struct PodStatus<S> {
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

/// The plural field counts; the singular one, which it repeats, only where an old object lacks it.
fn plural<F, S>(many: Option<Vec<Spelled<F, S>>>, one: Option<Spelled<F, S>>) -> Vec<String> {
    let many = many.map(|many| many.into_iter().map(String::from).collect::<Vec<_>>());
    let one = one.map(String::from);
    many.filter(|many| !many.is_empty())
        .unwrap_or_else(|| one.into_iter().filter(|text| !text.is_empty()).collect())
}

impl<S> From<NodeObject<S>> for (String, Node) {
    fn from(object: NodeObject<S>) -> Self {
        let (pod_cidrs, pod_cidr) = object.spec.map_or((None, None), |spec| (spec.pod_cidrs, spec.pod_cidr));
        let addresses = object.status.and_then(|status| status.addresses).unwrap_or_default();
        let router_addresses = object.metadata.annotations.and_then(|own| own.router_addresses);
        let node = Node {
            created: object.metadata.creation_timestamp,
            pod_cidrs: plural(pod_cidrs, pod_cidr),
            addresses: addresses
                .into_iter()
                .map(|Address { address, kind, .. }| NodeAddress { kind, address })
                .collect(),
            router_addresses: router_addresses.map(String::from),
        };
        (object.metadata.name, node)
    }
}

impl<S> From<PodObject<S>> for (ObjectName, Pod) {
    fn from(object: PodObject<S>) -> Self {
        let spec = object.spec.unwrap_or_default();
        let (phase, pod_ips, pod_ip) =
            object.status.map_or((None, None, None), |status| (status.phase, status.pod_ips, status.pod_ip));
        let pod_ips = pod_ips.map(|many| many.into_iter().map(|one| one.ip).collect());
        let pod = Pod {
            uid: object.metadata.uid.unwrap_or_default(),
            created: object.metadata.creation_timestamp,
            node: spec.node_name.unwrap_or_default(),
            pod_ips: plural(pod_ips, pod_ip),
            host_network: spec.host_network.unwrap_or_default(),
            phase: phase.unwrap_or_default(),
            terminating: object.metadata.deletion_timestamp.is_some(),
        };
        let namespace = object.metadata.namespace.unwrap_or_else(|| "default".to_owned());
        (ObjectName { namespace, name: object.metadata.name }, pod)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDED: &str = include_str!("../../tests/data/cluster.yaml");

    #[test]
    fn a_recorded_cluster_is_read() {
        let objects = from_yaml(RECORDED).unwrap();
        let names: Vec<_> = objects.nodes.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["knode1", "knode2"]);
        assert_eq!(objects.nodes[0].1.pod_cidrs, ["10.244.1.0/24", "fd00:10:244:1::/64"]);
        assert_eq!(objects.nodes[1].1.addresses.len(), 3);
        assert_eq!(objects.nodes[1].1.created.as_deref(), Some("2026-11-23T09:18:13Z"));
        assert_eq!(objects.pods.len(), 5);
        let front = objects.pods.iter().find(|(name, _)| name.name == "front-fbd7bbb66-5vgjk").unwrap();
        let front = &front.1;
        assert_eq!((front.node.as_str(), front.phase.as_str()), ("knode2", "Running"));
        assert_eq!(front.pod_ips, ["10.244.2.2", "fd00:10:244:2::2"]);
        assert!(!front.host_network && !front.terminating && !front.uid.is_empty());
    }

    #[test]
    fn json_lists_and_documents_are_read() {
        let json = r#"{"kind":"NodeList","apiVersion":"v1","items":[
            {"metadata":{"name":"a","annotations":{"podrouter.io/router-addresses":"10.0.0.1"}},"spec":{"podCIDR":"10.1.0.0/24"}}]}"#;
        let node = &from_json(json).unwrap().nodes[0].1;
        assert_eq!((node.pod_cidrs.len(), node.router_addresses.as_deref()), (1, Some("10.0.0.1")));
        let yaml = "---\n---\nkind: Node\nmetadata: {name: a}\n---\nkind: Secret\nmetadata: 7\nspec: x\n---\n\
                    kind: Pod\nmetadata: {name: p, deletionTimestamp: \"2026-01-01T00:00:00Z\"}\nspec: {hostNetwork: true}\n";
        let objects = from_yaml(yaml).unwrap();
        assert_eq!((objects.nodes.len(), objects.pods.len()), (1, 1));
        assert!(objects.pods[0].1.terminating && objects.pods[0].1.host_network);
        assert_eq!(objects.pods[0].0.to_string(), "default/p");
        assert_eq!(from_yaml("kind: List\n").unwrap(), Objects::default());
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
        assert_eq!(Pod::read(r#"{"metadata":{"name":"a"},"status":{"podIP":"x"}}"#).unwrap().pod_ips, ["x"]);
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
