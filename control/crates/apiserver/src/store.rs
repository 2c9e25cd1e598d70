//! The objects, and what became of them: an event for each change, until it is forgotten.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

/// What is served: path before the plural name, plural name, kind.
const SERVED: [(&str, &str, &str); 7] = [
    ("/api/v1", "nodes", "Node"),
    ("/api/v1", "pods", "Pod"),
    ("/api/v1", "namespaces", "Namespace"),
    ("/api/v1", "services", "Service"),
    ("/apis/events.k8s.io/v1", "events", "Event"),
    ("/apis/discovery.k8s.io/v1", "endpointslices", "EndpointSlice"),
    ("/apis/networking.k8s.io/v1", "networkpolicies", "NetworkPolicy"),
];

/// A kind that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind(usize);

impl Kind {
    /// The one whose objects a path lists, of all namespaces or of one.
    pub(crate) fn at(path: &str) -> Option<Self> {
        let (prefix, plural) = path.rsplit_once('/')?;
        let prefix = prefix.split_once("/namespaces/").map_or(prefix, |(prefix, _)| prefix);
        SERVED.iter().position(|own| own.0 == prefix && own.1 == plural).map(Self)
    }

    fn named(kind: &str) -> Self {
        let found = SERVED.iter().position(|own| own.2 == kind);
        #[expect(clippy::expect_used, reason = "a test that names another kind is wrong itself")]
        Self(found.expect("a kind that is served"))
    }

    /// The one that a path names, with namespace and name.
    pub(crate) fn of_one(path: &str) -> Option<(Self, Key)> {
        let (list, name) = path.strip_suffix("/status").unwrap_or(path).rsplit_once('/')?;
        Some((Self::at(list)?, (namespace_of(list).unwrap_or_default().to_owned(), name.to_owned())))
    }

    pub(crate) fn name(self) -> &'static str {
        SERVED[self.0].2
    }

    pub(crate) fn api_version(self) -> &'static str {
        SERVED[self.0].0.trim_start_matches("/apis/").trim_start_matches("/api/")
    }
}

/// The namespace that a path leads into.
pub(crate) fn namespace_of(path: &str) -> Option<&str> {
    path.split_once("/namespaces/").and_then(|(_, rest)| rest.split('/').next())
}

/// Namespace and name.
pub(crate) type Key = (String, String);

/// An object, never changed.
pub(crate) type Object = Arc<Stored>;

/// An object and its text: made once, however often it is listed and watched.
#[derive(Debug)]
pub(crate) struct Stored {
    value: Value,
    pub(crate) text: String,
}

impl Stored {
    fn new(value: Value) -> Object {
        Arc::new(Self { text: value.to_string(), value })
    }
}

impl Deref for Stored {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.value
    }
}

/// What happened to an object.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) version: u64,
    pub(crate) kind: Kind,
    pub(crate) before: Option<Object>,
    /// As it is now; as it was last, with a new version, where it is gone.
    pub(crate) object: Object,
    pub(crate) deleted: bool,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) version: u64,
    pub(crate) objects: BTreeMap<(Kind, Key), Object>,
    pub(crate) events: Vec<Event>,
    /// The version of the newest event that was forgotten.
    pub(crate) forgotten: u64,
    /// Lists that somebody reads in chunks, by token: what is left of each, and its version.
    pub(crate) chunks: BTreeMap<String, (u64, Vec<Object>)>,
    /// Bookmarks that were asked for.
    pub(crate) bookmarks: u64,
}

#[derive(Debug)]
pub(crate) struct Store {
    state: Mutex<State>,
    changed: Condvar,
}

impl Store {
    pub(crate) fn begin(version: u64) -> Self {
        let state = State { version, forgotten: version, ..State::default() };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change, for a while.
    pub(crate) fn wait<'a>(&'a self, state: MutexGuard<'a, State>, limit: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner).0
    }

    pub(crate) fn wake(&self) {
        drop(self.lock());
        self.changed.notify_all();
    }

    pub(crate) fn set(&self, mut object: Value) -> u64 {
        let kind = Kind::named(object["kind"].as_str().unwrap_or_default());
        let mut state = self.lock();
        state.version += 1;
        let version = state.version;
        let metadata = &mut object["metadata"];
        metadata["resourceVersion"] = json!(version.to_string());
        if metadata["uid"].is_null() {
            metadata["uid"] = json!(format!("00000000-0000-4000-8000-{version:012x}"));
        }
        let (key, object) = ((kind, key(metadata)), Stored::new(object));
        let before = state.objects.insert(key, Arc::clone(&object));
        state.events.push(Event { version, kind, before, object, deleted: false });
        drop(state);
        self.changed.notify_all();
        version
    }

    pub(crate) fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = (Kind::named(kind), (namespace.to_owned(), name.to_owned()));
        self.lock().objects.get(&key).map(|object| Value::clone(object))
    }

    pub(crate) fn all(&self, kind: &str) -> Vec<Value> {
        let kind = Kind::named(kind);
        let state = self.lock();
        let own = state.objects.iter().filter(|((other, _), _)| *other == kind);
        own.map(|(_, object)| Value::clone(object)).collect()
    }

    pub(crate) fn delete(&self, kind: &str, namespace: &str, name: &str) {
        let kind = Kind::named(kind);
        let mut state = self.lock();
        let Some(before) = state.objects.remove(&(kind, (namespace.to_owned(), name.to_owned()))) else {
            return;
        };
        state.version += 1;
        let version = state.version;
        let mut last = Value::clone(&before);
        last["metadata"]["resourceVersion"] = json!(version.to_string());
        let (before, object) = (Some(before), Stored::new(last));
        state.events.push(Event { version, kind, before, object, deleted: true });
        drop(state);
        self.changed.notify_all();
    }

    pub(crate) fn bookmark(&self) {
        self.lock().bookmarks += 1;
        self.changed.notify_all();
    }

    pub(crate) fn forget(&self) {
        let mut state = self.lock();
        state.forgotten = state.version;
        state.events.clear();
        state.chunks.clear();
        drop(state);
        self.changed.notify_all();
    }
}

/// Merges a patch into an object (RFC 7386); with `strategic`, a list of objects that have a `type` by that, as the API server
/// does with conditions.
pub(crate) fn merge(object: &mut Value, patch: &Value, strategic: bool) {
    match (object, patch) {
        (Value::Object(object), Value::Object(patch)) => {
            for (name, value) in patch {
                if value.is_null() {
                    object.remove(name);
                } else {
                    merge(object.entry(name.clone()).or_insert(Value::Null), value, strategic);
                }
            }
        }
        (Value::Array(list), Value::Array(patch))
            if strategic && patch.iter().all(|own| own["type"].is_string()) =>
        {
            for own in patch {
                match list.iter_mut().find(|there| there["type"] == own["type"]) {
                    Some(there) => merge(there, own, strategic),
                    None => list.push(own.clone()),
                }
            }
        }
        (object, patch) => *object = patch.clone(),
    }
}

fn key(metadata: &Value) -> Key {
    let text = |name: &str| metadata[name].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

/// What of a resource's objects is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Selection<'a> {
    /// `a.b=c,d!=e`. A field that is missing is empty.
    pub(crate) fields: &'a str,
    /// `a,!b`: labels that are there, and that are not; no other terms are understood here.
    pub(crate) labels: &'a str,
}

impl Selection<'_> {
    pub(crate) fn takes(self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        let mut terms = self.labels.split(',').filter(|term| !term.is_empty());
        let labelled = terms.all(|term| match term.strip_prefix('!') {
            Some(key) => labels[key].is_null(),
            None => !labels[term].is_null(),
        });
        labelled && has_fields(object, self.fields)
    }
}

fn has_fields(object: &Value, selector: &str) -> bool {
    selector.split(',').filter(|term| !term.is_empty()).all(|term| {
        let (path, wanted, equal) = match term.split_once("!=") {
            Some((path, wanted)) => (path, wanted, false),
            None => {
                let (path, wanted) = term.split_once('=').unwrap_or((term, ""));
                (path, wanted.trim_start_matches('='), true)
            }
        };
        let field = path.split('.').fold(object, |value, name| &value[name]);
        (field.as_str().unwrap_or_default() == wanted) == equal
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_are_merged() {
        let mut node = json!({"a": {"b": 1, "c": 2}, "conditions": [{"type": "Ready", "status": "True"}]});
        let patch = json!({"a": {"b": null, "d": 3}, "conditions": [{"type": "Ready", "reason": "R"}, {"type": "N"}]});
        merge(&mut node, &patch, true);
        let conditions = json!([{"type": "Ready", "status": "True", "reason": "R"}, {"type": "N"}]);
        assert_eq!(node, json!({"a": {"c": 2, "d": 3}, "conditions": conditions}));
        merge(&mut node, &json!({"conditions": []}), false);
        assert_eq!(node["conditions"], json!([]));
    }

    #[test]
    fn selectors_read_fields_and_labels() {
        let pod = json!({"metadata": {"name": "a", "labels": {"x": ""}}, "spec": {"nodeName": "n"}});
        for (fields, labels, is) in [
            ("", "", true),
            ("spec.nodeName=n", "x,!y/z", true),
            ("spec.nodeName==n,metadata.name=a", "", true),
            ("spec.nodeName!=n", "", false),
            ("status.phase=", "", true),
            ("metadata.name=b", "", false),
            ("", "y", false),
            ("", "!y,!x", false),
        ] {
            assert_eq!(Selection { fields, labels }.takes(&pod), is, "{fields} {labels}");
        }
        assert!(Selection { fields: "", labels: "!x" }.takes(&json!({})));
    }
}
