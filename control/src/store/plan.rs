//! What a revision asks of the data plane, and how the next plan goes on from the one before.

use std::sync::Arc;
use std::time::Duration;

use desired::{AttachedPod, ClusterView, Desired, Host, Local, NamedPort, ObjectName};
use proto::control::AttachPort;
use proto::dataplane::PortKind;

use super::{Store, locked};
use crate::bandwidth;
use crate::host;
use crate::journal::Attachment;

/// What one revision asks for.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) revision: u64,
    pub(crate) desired: Arc<Desired>,
}

/// A plan, and what it was made from: the next one goes on from there.
#[derive(Debug)]
pub(super) struct Planned {
    plan: Plan,
    view: ClusterView,
    local: Local,
}

impl Store {
    /// What the newest revision asks for; `None` until the source has read everything once.
    pub(crate) fn plan(&self) -> Option<Plan> {
        let mut planned = locked(&self.planned);
        let (revision, subnets, attachments) = {
            let state = self.lock();
            if let Some(planned) = planned.as_ref().filter(|own| own.plan.revision == state.revision) {
                return Some(planned.plan.clone());
            }
            if !state.complete {
                return None;
            }
            let subnets = state.subnets.clone();
            (state.revision, subnets, state.attachments.values().map(desired_attachment).collect())
        };
        let local = Local {
            node: self.config.node.clone(),
            router: self.config.router.clone(),
            uplink: self.config.uplink.clone(),
            host: self.config.host.is_some().then_some(Host { mac: host::MAC, mtu: self.config.mtu }),
            vxlan: self.config.vxlan,
            subnets,
            masquerade: self.config.masquerade.clone(),
            node_port_addresses: self.config.node_port_addresses.clone(),
            kept: self.config.kept.clone(),
            attachments,
        };
        // It may be newer than the revision; then there is another one for it.
        let view = locked(&self.view).clone();
        let desired = match &*planned {
            Some(before) => before.plan.desired.next((&before.view, &before.local), &view, &local),
            None => Desired::build(&view, &local),
        };
        let before = planned.as_ref().map(|own| Arc::clone(&own.plan.desired)).unwrap_or_default();
        for warning in desired.warnings_since(&before) {
            tracing::warn!("{warning}");
        }
        let plan = Plan { revision, desired: Arc::new(desired) };
        *planned = Some(Planned { plan: plan.clone(), view, local });
        Some(plan)
    }

    /// The first plan newer than `seen`; after `limit`, the newest one all the same.
    pub(crate) fn next_plan(&self, seen: u64, limit: Duration) -> Plan {
        loop {
            self.wait(limit, |state| (state.revision > seen && state.complete).then_some(()));
            if let Some(plan) = self.plan() {
                return plan;
            }
        }
    }
}

fn desired_attachment(own: &Attachment) -> desired::Attachment {
    let kind = match (own.request.port, &own.attached.socket) {
        (AttachPort::VhostUser, Some(path)) => PortKind::Vhost {
            path: path.clone(),
            server: true,
            queue_pairs: own.request.queue_pairs.unwrap_or(1),
        },
        _ => PortKind::Tap,
    };
    let pod = own.request.pod.as_ref().map(|pod| AttachedPod {
        name: ObjectName { namespace: pod.namespace.as_str().into(), name: pod.name.as_str().into() },
        uid: pod.uid.as_deref().map_or(0, desired::uid),
        labels: own.traits.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
        named_ports: own.traits.ports.iter().map(named_port).collect(),
    });
    desired::Attachment {
        port: own.port.clone(),
        endpoint: own.endpoint.clone(),
        pod,
        kind,
        mac: own.attached.mac,
        mtu: own.attached.mtu,
        network: own.network_id(),
        addresses: own.attached.addresses.clone(),
        routes: own.request.secondary.iter().flat_map(|network| network.subnets.clone()).collect(),
        host_ports: own.request.port_mappings.clone(),
        limits: bandwidth::limits(own.request.bandwidth),
    }
}

fn named_port((name, protocol, port): &(String, String, u16)) -> NamedPort {
    NamedPort { name: name.as_str().into(), protocol: protocol.as_str().into(), port: *port }
}
