//! Where the cluster's state comes from.
//!
//! A source reads everything there is and then follows it, and says both as steps from one view to the next. It owns no
//! state of the node and commits nothing; whether everything was read once is the source's to say, and nothing reaches the
//! data plane before that.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use desired::ViewChange;

mod apiserver;
mod ask;
mod follow;
mod gather;
mod manifests;
mod objects;
mod reach;
mod watched;

pub(crate) use apiserver::ApiServer;
pub(crate) use ask::Ask;
pub(crate) use manifests::Manifests;
pub(crate) use reach::told;

/// What a source has come to know since it spoke last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Update {
    pub(crate) changes: Vec<ViewChange>,
    /// Everything was read once, now or before.
    pub(crate) complete: bool,
    /// All that could not be read, each naming what and where, field and value.
    pub(crate) warnings: Vec<String>,
    /// Namespaces with NetworkPolicies that it does not tell of yet, for what they speak of is not known.
    pub(crate) policies_wait: BTreeSet<Arc<str>>,
}

/// A source of cluster state.
pub(crate) trait Source: Send {
    /// In words, for `podrouter status`.
    fn describe(&self) -> String;

    /// Follows it for good, on the calling thread; ends only when `give` says that nobody listens.
    fn follow(self: Box<Self>, give: &mut dyn FnMut(Update) -> ControlFlow<()>);
}
