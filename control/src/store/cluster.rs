//! What is told of the cluster and of this node's standing in it.

use std::sync::Arc;
use std::time::Instant;

use desired::{Change, ClusterView, ObjectName, Pod, Subject, ViewChange};
use proto::control::{EndpointUse, PodName, Status};

use super::{Plan, Store, locked};
use crate::journal::{Attachment, Record, Traits};

/// Whether a pod of the name that a runtime says is the one that it means.
fn is_meant(name: &PodName, pod: &Pod) -> bool {
    name.uid.as_deref().is_none_or(|uid| pod.uid == 0 || desired::uid(uid) == pod.uid)
}

fn known_as<'a>(name: &PodName, view: &'a ClusterView) -> Option<&'a Arc<Pod>> {
    view.pods.get(&object_name(name)).filter(|own| is_meant(name, own))
}

fn is_of(name: &PodName, own: &ObjectName) -> bool {
    *own.namespace == *name.namespace && *own.name == *name.name
}

fn object_name(name: &PodName) -> ObjectName {
    ObjectName { namespace: name.namespace.as_str().into(), name: name.name.as_str().into() }
}

/// Whether the pod may not be there any more after a change.
fn loses(name: &PodName, change: &ViewChange) -> bool {
    let is = |own: &ObjectName| is_of(name, own);
    match change {
        ViewChange::Pod(Change::Remove(own)) => is(own),
        ViewChange::Pod(Change::Set(own, pod)) => is(own) && !is_meant(name, pod),
        ViewChange::Pod(Change::Only(all)) => !all.contains(&object_name(name)),
        ViewChange::All(view) => known_as(name, view).is_none(),
        _ => false,
    }
}

impl Store {
    /// Whether pods can be attached and their traffic is forwarded, and what the cluster is to be told that is not honoured.
    pub(crate) fn standing(&self) -> (bool, Vec<(Subject, String)>) {
        let plan = self.plan();
        let told = |plan: &Plan| {
            plan.desired.told(&self.config.node).map(|(subject, text)| (subject, text.to_owned())).collect()
        };
        let mut warnings: Vec<(Subject, String)> = plan.as_ref().map(told).unwrap_or_default();
        let state = self.lock();
        let session = &state.session;
        let failed = session.failed_ports.iter();
        warnings.extend(failed.map(|(port, why)| (Subject::Node, format!("port {port}: {why}"))));
        (session.connected && state.complete, warnings)
    }

    /// Whether it is this node that speaks for all of what they all see of an object: that whose name goes with its name best.
    pub(crate) fn speaks_for(&self, object: &ObjectName) -> bool {
        let view = locked(&self.view);
        let weight = |node: &&String| {
            let words = [node.as_str(), &object.namespace, &object.name];
            proto::fnv1a(words.iter().flat_map(|word| word.bytes().chain([0xff])))
        };
        view.nodes.keys().min_by_key(weight).is_none_or(|node| *node == self.config.node)
    }

    /// What each endpoint of a Service is used for, and why; `None`: there is no such Service, or nothing was read yet.
    pub(crate) fn explain(&self, namespace: &str, service: &str) -> Option<(Vec<String>, Vec<EndpointUse>)> {
        let name = ObjectName { namespace: namespace.into(), name: service.into() };
        let plan = self.plan()?;
        let view = locked(&self.view).clone();
        plan.desired.explain(&name, &view, &self.config.node)
    }

    /// The pod that a runtime speaks of, as the cluster has it; `None`: it has none. Where the watch is late, or has one of that name from
    /// before, the API server is asked.
    ///
    /// # Errors
    /// Why the server did not say.
    pub(crate) fn pod(&self, name: &PodName) -> Result<Option<Pod>, String> {
        let known = known_as(name, &locked(&self.view)).map(|own| Pod::clone(own));
        match (known, &self.ask) {
            (Some(pod), _) => Ok(Some(pod)),
            (None, Some(ask)) => Ok(ask.pod(&name.namespace, &name.name)?.filter(|own| is_meant(name, own))),
            (None, None) => Ok(None),
        }
    }

    /// Before the cluster loses pods that are attached here: what they were like at last, for NetworkPolicies to go by until they end.
    pub(super) fn remember_pods(&self, changes: &[ViewChange]) {
        if !changes.iter().any(|change| matches!(change, ViewChange::Pod(_) | ViewChange::All(_))) {
            return;
        }
        let own = |own: &Attachment| Some((own.key(), own.request.pod.clone()?, own.traits.clone()));
        let attached: Vec<_> = self.lock().attachments.values().filter_map(own).collect();
        let mut lost = Vec::new();
        {
            let view = locked(&self.view);
            for (key, name, before) in attached {
                let mut last = known_as(&name, &view).map(|own| &**own);
                let mut is_lost = false;
                for change in changes {
                    match change {
                        ViewChange::Pod(Change::Set(own, pod))
                            if is_of(&name, own) && is_meant(&name, pod) =>
                        {
                            (last, is_lost) = (Some(pod), false);
                        }
                        _ => is_lost |= loses(&name, change),
                    }
                }
                lost.extend(
                    last.filter(|_| is_lost)
                        .map(Traits::from)
                        .filter(|own| *own != before)
                        .map(|own| (key, own)),
                );
            }
        }
        for (key, traits) in lost {
            let record = Record::Traits { key: key.clone(), traits: traits.clone() };
            if let Err(error) = self.write(&record) {
                tracing::warn!("{key}: {error}");
                self.write_later(record);
            }
            if let Some(own) = self.lock().attachments.get_mut(&key) {
                own.traits = traits;
            }
        }
    }

    /// Whether a pod of the namespace that nobody knows may be one that a NetworkPolicy is for. Of a directory of manifests all is known that
    /// there is.
    pub(crate) fn may_be_policed(&self, namespace: &str) -> bool {
        let has = |view: &ClusterView| view.policies.keys().any(|name| *name.namespace == *namespace);
        self.ask.is_some() && (self.policies_wait(namespace) || has(&locked(&self.view)))
    }

    /// Whether the namespace has NetworkPolicies that cannot be in force yet.
    pub(crate) fn policies_wait(&self, namespace: &str) -> bool {
        self.lock().policies_wait.contains(namespace)
    }

    /// Why no pod can be attached now.
    fn unready(&self, plan: Option<&Plan>) -> Option<String> {
        if let Some(trouble) = self.trouble() {
            return Some(trouble);
        }
        let plan = plan?;
        let cidrs = &plan.desired.own_cidrs;
        if cidrs.is_empty() {
            return Some(format!("Node {} has no usable spec.podCIDRs", self.config.node));
        }
        let reserved = self.reserved(plan);
        self.lock().ipam(0).exhausted(cidrs, &reserved, Instant::now()).map(|error| error.to_string())
    }

    /// Control's half of `podrouter status`.
    pub(crate) fn status(&self) -> Status {
        let plan = self.plan();
        // Until everything is known, parts of it would only mislead.
        let view = plan.as_ref().map(|_| locked(&self.view).clone()).unwrap_or_default();
        let unready = self.unready(plan.as_ref());
        let state = self.lock();
        let session = &state.session;
        let mut warnings: Vec<String> = state.warnings.values().flatten().cloned().collect();
        warnings.extend(plan.iter().flat_map(|plan| plan.desired.warnings().map(str::to_owned)));
        if !session.connected {
            warnings.push(format!(
                "the data plane is away: {}; nothing can be attached or changed until it is back: is \
                 podrouter-dataplane running, and is --dataplane its --socket?",
                session.trouble
            ));
        }
        warnings.extend(
            session.refused.iter().map(|why| format!("the data plane refused the newest rows: {why}")),
        );
        warnings.extend(session.failed_ports.iter().map(|(port, why)| format!("port {port}: {why}")));
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            node: self.config.node.clone(),
            source: self.source.clone(),
            synced: state.complete,
            connected: session.connected,
            unready,
            committed: session.committed,
            nodes: count(view.nodes.len()),
            pods: count(view.pods.len() + view.other_pods.len()),
            namespaces: count(view.namespaces.len()),
            services: count(view.services.len()),
            endpoint_slices: count(view.endpoint_slices.len()),
            policies: count(view.policies.len()),
            attachments: count(state.attachments.len()),
            warnings,
        }
    }
}
