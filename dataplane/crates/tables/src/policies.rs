//! Changes to policies. A policy is a row of its own, by the name of its endpoint: it may come first and stay longer, so that the endpoint
//! is never without it.

use std::sync::Arc;

use crate::chunked::Chunked;
use crate::classifier::Classifier;
use crate::error::TableError;
use crate::id::EndpointId;
use crate::map::Map;
use crate::memberships::GroupId;
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
    /// Which of these endpoints' rules name a group, by group.
    naming: Map<GroupId, Map<EndpointId, ()>>,
}

impl Policy {
    /// The groups that its rules name; one may come twice.
    fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        [&self.ingress, &self.egress].into_iter().flatten().flat_map(|rules| rules.groups())
    }
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
            self.policies.change(id, Some(policy.clone()));
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
            self.policies.change(id, None);
            self.touch_endpoint(id);
        }
        Ok(())
    }
}

impl Policies {
    /// An endpoint has come.
    pub(crate) fn bind(&mut self, name: &str, id: EndpointId) {
        if let Some(policy) = self.by_name.get(name).cloned() {
            self.change(id, Some(policy));
        }
    }

    /// An endpoint has gone; its policy stays, in case it comes again.
    pub(crate) fn unbind(&mut self, id: EndpointId) {
        self.change(id, None);
    }

    /// The endpoints whose rules name a group.
    pub(crate) fn naming(&self, group: GroupId) -> impl Iterator<Item = EndpointId> + '_ {
        self.naming.get(&group).into_iter().flat_map(|endpoints| endpoints.iter().map(|(&id, ())| id))
    }

    /// Gives an endpoint that there is another policy, or none.
    fn change(&mut self, id: EndpointId, policy: Option<Policy>) {
        // A policy is cheap to clone, and its groups are to be read while the index changes.
        if let Some(old) = self.by_endpoint.get(id.0).cloned() {
            for group in old.groups() {
                self.rename(group, |endpoints| {
                    endpoints.remove(&id);
                });
            }
        }
        let Some(policy) = policy else {
            self.by_endpoint.remove(id.0);
            return;
        };
        for group in policy.groups() {
            self.rename(group, |endpoints| endpoints.insert(id, ()));
        }
        self.by_endpoint.set(id.0, policy);
    }

    /// Changes which endpoints name a group; one that none names is let go.
    fn rename(&mut self, group: GroupId, change: impl FnOnce(&mut Map<EndpointId, ()>)) {
        let mut endpoints = self.naming.get(&group).cloned().unwrap_or_default();
        change(&mut endpoints);
        if endpoints.is_empty() {
            self.naming.remove(&group);
        } else {
            self.naming.insert(group, endpoints);
        }
    }
}
