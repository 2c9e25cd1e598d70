//! Changes to policies. A policy is a row of its own, by the name of its endpoint: it may come first and stay longer, so that the endpoint
//! is never without it.

use std::sync::Arc;

use crate::chunked::Chunked;
use crate::classifier::Classifier;
use crate::error::TableError;
use crate::id::EndpointId;
use crate::map::Map;
use crate::tables::Tables;

/// What may reach an endpoint, and what it may reach.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// What may come in; [`None`]: anything.
    pub ingress: Option<Arc<Classifier>>,
    /// What may go out; [`None`]: anything.
    pub egress: Option<Arc<Classifier>>,
}

#[derive(Clone, Default)]
pub(crate) struct Policies {
    by_name: Map<Arc<str>, Policy>,
    /// Of the endpoints there are, by number: for packets.
    by_endpoint: Chunked<Policy>,
}

impl Tables {
    /// The policy of this endpoint; [`None`] if nothing restricts it.
    #[inline]
    #[must_use]
    pub fn policy(&self, id: EndpointId) -> Option<&Policy> {
        self.policies.by_endpoint.get(id.0)
    }

    /// All policies by the name of their endpoint, there or not; in no order that means anything.
    pub fn policies(&self) -> impl Iterator<Item = (&str, &Policy)> + '_ {
        self.policies.by_name.iter().map(|(name, policy)| (&**name, policy))
    }

    /// Sets the policy of the endpoint of this name, which need not be there yet.
    ///
    /// # Errors
    /// An empty name.
    pub fn set_policy(&mut self, endpoint: &str, policy: Policy) -> Result<(), TableError> {
        if endpoint.is_empty() {
            return Err(TableError::EmptyName { item: "policy of an endpoint".to_owned() });
        }
        if self.policies.by_name.get(endpoint) == Some(&policy) {
            return Ok(());
        }
        if let Some(id) = self.endpoint_by_name(endpoint).map(|row| row.id) {
            self.policies.by_endpoint.set(id.0, policy.clone());
            self.touch_endpoint(id);
        }
        self.policies.by_name.insert(Arc::from(endpoint), policy);
        Ok(())
    }

    /// Removes the policy of the endpoint of this name.
    ///
    /// # Errors
    /// It has none.
    pub fn remove_policy(&mut self, endpoint: &str) -> Result<(), TableError> {
        if !self.policies.by_name.remove(endpoint) {
            return Err(TableError::UnknownPolicy { endpoint: endpoint.to_owned() });
        }
        if let Some(id) = self.endpoint_by_name(endpoint).map(|row| row.id) {
            self.policies.by_endpoint.remove(id.0);
            self.touch_endpoint(id);
        }
        Ok(())
    }
}

impl Policies {
    /// An endpoint has come.
    pub(crate) fn bind(&mut self, name: &str, id: EndpointId) {
        if let Some(policy) = self.by_name.get(name) {
            self.by_endpoint.set(id.0, policy.clone());
        }
    }

    /// An endpoint has gone; its policy stays, in case it comes again.
    pub(crate) fn unbind(&mut self, id: EndpointId) {
        self.by_endpoint.remove(id.0);
    }
}
