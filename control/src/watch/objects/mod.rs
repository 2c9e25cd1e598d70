//! The objects that are watched, trimmed at the edge to what is used of them.
//!
//! An API server's come one by one ([`Trimmed::read`]), a file's in documents and lists ([`from_yaml`], [`from_json`]); both go by the
//! same types, a file for each kind. They differ in what becomes of a text that does not spell what its field is for
//! ([`spelling`]).

use std::fmt;

use desired::{Change, ObjectName, Pool, ViewChange};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use spelling::{Lenient, Spelling};

mod documents;
mod namespace;
mod node;
mod pod;
mod policy;
mod service;
mod slice;
mod spelling;

pub(crate) use documents::{Object, from_json, from_yaml};

/// A kind of object that is watched.
pub(crate) trait Trimmed: Sized + Clone + fmt::Debug + Send + 'static {
    /// As the API spells it: `Node`.
    const KIND: &'static str;
    /// As paths spell it: `nodes`.
    const PLURAL: &'static str;
    /// The API's group; empty for the oldest one. The version is v1 for all.
    const GROUP: &'static str = "";
    /// What tells one from another in a [`desired::ClusterView`].
    type Key: From<ObjectName> + Ord + Clone + fmt::Display + Send;
    /// The fields that are read.
    type Fields<S: Spelling>: DeserializeOwned + Into<(ObjectName, Self)>;

    /// As a step of the view's.
    fn change(change: Change<Self::Key, Self>) -> ViewChange;

    /// Has it keep once what others have as well.
    fn share(&mut self, _: &mut Pool) {}

    /// Reads one of an API server's.
    ///
    /// # Errors
    /// A sentence that names the field.
    fn read(json: &str) -> Result<Self, String> {
        one::<Self::Fields<Lenient>>(json).map(|fields| fields.into().1)
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
