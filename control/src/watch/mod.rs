//! Where the cluster's state comes from.
//!
//! A source reads everything there is, gives it as one [`Update`], and then another one after each change. It owns no
//! state of the node and commits nothing; whether an update is complete is the source's to say, and nothing reaches the
//! data plane before the first complete one.

use desired::ClusterView;

mod manifests;
mod objects;

pub(crate) use manifests::Manifests;

/// All that a source knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Update {
    /// `None` until everything was read once.
    pub(crate) view: Option<ClusterView>,
    /// What could not be read, each naming file, line, field and value.
    pub(crate) warnings: Vec<String>,
}

/// A source of cluster state.
pub(crate) trait Source: Send {
    /// In words, for `podrouter status`.
    fn describe(&self) -> String;

    /// Follows it for good, on the calling thread; ends only when `give` says that nobody listens.
    fn follow(self: Box<Self>, give: &mut dyn FnMut(Update) -> std::ops::ControlFlow<()>);
}
