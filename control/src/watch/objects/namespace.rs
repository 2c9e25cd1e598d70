//! Namespaces: their labels.

use desired::{Change, Namespace, ObjectName, ViewChange};
use serde::Deserialize;

use super::Trimmed;
use super::spelling::{AllLabels, Metadata, Spelling, labels};

impl Trimmed for Namespace {
    const KIND: &'static str = "Namespace";
    const PLURAL: &'static str = "namespaces";
    type Key = String;
    type Fields<S: Spelling> = Fields;

    fn change(change: Change<String, Self>) -> ViewChange {
        ViewChange::Namespace(change)
    }
}

#[derive(Deserialize)]
pub(crate) struct Fields {
    metadata: Metadata<AllLabels>,
}

impl From<Fields> for (ObjectName, Namespace) {
    fn from(Fields { metadata }: Fields) -> Self {
        (metadata.name(), Namespace { labels: labels(metadata.labels) })
    }
}
