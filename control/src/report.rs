//! What this node tells the cluster: the Node's condition NetworkUnavailable, annotations with its router's addresses, by which other
//! nodes reach its pods, and with how it reaches theirs, and an Event for each thing that is not honoured.
//!
//! Owns no state of the node and decides nothing: should the API server be away, nobody is told, and nothing else is different.
//! What always holds: the condition is written when it is first known, when it changes, and every few minutes in case somebody
//! else wrote it; it never becomes true for a data plane that is gone for a moment.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use desired::{ObjectName, Subject, Uplink, router_way};
use futures_util::TryFutureExt;
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::watcher::DefaultBackoff;
use kube::{Api, Client, Config};
use serde_json::json;
use tokio::time::timeout;

use crate::store::{Store, Warner};

/// How long a data plane may be away before pods had better be scheduled elsewhere: its start takes seconds.
const GRACE: Duration = Duration::from_secs(10);

/// How often the condition is written though nothing changed.
const AGAIN: Duration = Duration::from_secs(300);

/// How often the state is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(30);

/// Longest note of an Event, in bytes (events.k8s.io/v1).
const NOTE: usize = 1024;

/// Who is told, and as whom.
pub(crate) struct Report {
    config: Config,
    node: String,
    /// The annotation's value; `None`: there is no uplink, and the kernel is the way.
    router: Option<String>,
    /// The other annotation's value.
    way: String,
}

/// The condition's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Condition {
    unavailable: bool,
    since: Timestamp,
}

impl Condition {
    /// With a reason in CamelCase and a sentence, as `kubectl describe node` shows them; and the annotations.
    fn json(self, router: Option<&str>, way: Option<&str>) -> serde_json::Value {
        let (status, reason, message) = match self.unavailable {
            false => ("False", "PodrouterIsReady", "podrouter forwards this node's pods"),
            true => {
                ("True", "PodrouterDataPlaneIsAway", "podrouter-dataplane does not run, or does not answer")
            }
        };
        let now = Timestamp::now();
        // A Node's annotations may be written with its status, as kubelet does. One of an uplink that is no more is taken away.
        let annotations = json!({desired::ROUTER_ADDRESSES: router, desired::ROUTER_WAY: way});
        json!({"metadata": {"annotations": annotations}, "status": {"conditions": [{
            "type": "NetworkUnavailable", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": self.since.to_string(), "lastHeartbeatTime": now.to_string(),
        }]}})
    }
}

impl Report {
    pub(crate) fn new(config: Config, node: String, own: &crate::args::Config) -> Self {
        let addresses = |own: &Uplink| own.addresses.iter().map(|own| own.address).collect::<Vec<_>>();
        let router = own.uplink.as_ref().map(|own| router_addresses(&addresses(own)));
        Self { config, node, router, way: router_way(own.uplink.as_ref(), own.vxlan, own.mtu) }
    }

    /// Follows the node's state for good, on the calling thread.
    pub(crate) fn follow(self, store: &Store) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let result = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
            runtime.block_on(async {
                let client = Client::try_from(self.config.clone()).map_err(|error| error.to_string())?;
                self.run(store, client).await;
                Ok(())
            })
        });
        if let Err(error) = result {
            tracing::error!("telling the cluster of this node: {error}; it is not told");
        }
    }

    async fn run(&self, store: &Store, client: Client) {
        let nodes: Api<Node> = Api::all(client.clone());
        let reporter = Reporter { controller: "podrouter".to_owned(), instance: Some(self.node.clone()) };
        let mut said = Said::default();
        let mut backoff = DefaultBackoff::default();
        loop {
            tokio::time::sleep(LOOK).await;
            let (is_ready, warnings) = store.standing();
            said.look(is_ready, Instant::now());
            let by_kernel = || store.plan().map(|plan| router_addresses(&plan.desired.host_addresses));
            let router = self.router.clone().or_else(by_kernel).filter(|text| !text.is_empty());
            // Who may not write the one may be allowed the other.
            let condition = said.tell_condition(&nodes, &self.node, router, &self.way).await;
            let events = said.tell_events((&client, &reporter), store, &self.node, &warnings).await;
            let troubles = condition.err().into_iter().chain(events.err());
            let troubles: Vec<_> = troubles.map(|error| format!("telling the cluster: {error}")).collect();
            let failed = !troubles.is_empty();
            store.warn(Warner::Report, troubles);
            if failed {
                tokio::time::sleep(backoff.next().unwrap_or(ANSWER)).await;
            } else {
                backoff = DefaultBackoff::default();
            }
        }
    }
}

/// What was said so far.
#[derive(Debug, Default)]
struct Said {
    condition: Option<Condition>,
    /// When the condition was written last, and with which routers.
    written: Option<Instant>,
    router: Option<String>,
    away_since: Option<Instant>,
    /// What Events were written for, as long as it lasts.
    events: BTreeSet<String>,
}

impl Said {
    /// Works out what the condition ought to be.
    fn look(&mut self, is_ready: bool, now: Instant) {
        self.away_since = if is_ready { None } else { self.away_since.or(Some(now)) };
        let unavailable = match self.away_since {
            None => false,
            // Until all was well once, another process's word stands.
            Some(since) if self.condition.is_some() && now - since >= GRACE => true,
            Some(_) => return,
        };
        if self.condition.is_none_or(|before| before.unavailable != unavailable) {
            self.condition = Some(Condition { unavailable, since: Timestamp::now() });
            self.written = None;
        }
    }

    async fn tell_condition(
        &mut self,
        nodes: &Api<Node>,
        node: &str,
        router: Option<String>,
        way: &str,
    ) -> Result<(), String> {
        let Some(condition) = self.condition else { return Ok(()) };
        if self.written.is_some_and(|at| at.elapsed() < AGAIN) && self.router == router {
            return Ok(());
        }
        let patch = Patch::Strategic(condition.json(router.as_deref(), router.as_ref().map(|_| way)));
        let parameters = PatchParams::default();
        let patched = within(nodes.patch_status(node, &parameters, &patch).map_ok(drop)).await;
        patched.map_err(|error| format!("the condition of Node {node}: {error}"))?;
        self.written = Some(Instant::now());
        self.router = router;
        Ok(())
    }

    async fn tell_events(
        &mut self,
        (client, reporter): (&Client, &Reporter),
        store: &Store,
        node: &str,
        warnings: &[(Subject, String)],
    ) -> Result<(), String> {
        self.events.retain(|text| warnings.iter().any(|(_, own)| own == text));
        for (subject, text) in warnings {
            if self.events.contains(text) {
                continue;
            }
            if let Subject::Service(name) = subject
                && !store.speaks_for(name)
            {
                self.events.insert(text.clone());
                continue;
            }
            let regarding = reference(subject, node);
            let event = Event {
                type_: EventType::Warning,
                reason: "PodrouterLeftOut".to_owned(),
                note: Some(cut(text).to_owned()),
                action: "Configure".to_owned(),
                secondary: None,
            };
            // A recorder that lasts would take the next thing about the same object for the same one again.
            let recorder = Recorder::new(client.clone(), reporter.clone());
            within(recorder.publish(&event, &regarding))
                .await
                .map_err(|error| format!("an Event: {error}"))?;
            self.events.insert(text.clone());
        }
        Ok(())
    }
}

fn reference(subject: &Subject, node: &str) -> ObjectReference {
    let of = |version: &str, kind: &str, name: &str| ObjectReference {
        api_version: Some(version.to_owned()),
        kind: Some(kind.to_owned()),
        name: Some(name.to_owned()),
        ..ObjectReference::default()
    };
    let within = |own: &ObjectName, reference| ObjectReference {
        namespace: Some(own.namespace.to_string()),
        ..reference
    };
    match subject {
        // As kubelet's own Events of a node: its name stands for the uid.
        Subject::Node => ObjectReference { uid: Some(node.to_owned()), ..of("v1", "Node", node) },
        Subject::Service(own) => within(own, of("v1", "Service", &own.name)),
        Subject::NetworkPolicy(own) => within(own, of("networking.k8s.io/v1", "NetworkPolicy", &own.name)),
    }
}

/// An address of each family, of more than the link's scope if there is one: where other nodes send what is for this one's pods.
fn router_addresses(addresses: &[IpAddr]) -> String {
    let of = |v4: bool| {
        let all = || addresses.iter().copied().filter(|own| own.is_ipv4() == v4);
        let is_local = |own: &IpAddr| matches!(own, IpAddr::V6(own) if own.is_unicast_link_local());
        all().find(|own| !is_local(own)).or_else(|| all().next())
    };
    let addresses = [of(true), of(false)].into_iter().flatten();
    addresses.map(|own| own.to_string()).collect::<Vec<_>>().join(",")
}

async fn within(request: impl Future<Output = kube::Result<()>>) -> Result<(), String> {
    match timeout(ANSWER, request).await {
        Ok(result) => result.map_err(|error| crate::watch::told(&error)),
        Err(_) => Err(format!("no answer for {ANSWER:?}")),
    }
}

/// As many whole characters as a note may have bytes.
fn cut(text: &str) -> &str {
    let end = (0..=NOTE.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_plane_that_is_gone_for_a_moment_is_no_reason() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut said = Said::default();
        let mut look = |is_ready, seconds| {
            said.look(is_ready, at(seconds));
            said.condition.map(|condition| condition.unavailable)
        };
        // A process that starts beside a data plane that is away has nothing to say yet, however long that lasts.
        assert_eq!([look(false, 0), look(false, 100)], [None, None]);
        assert_eq!([look(true, 101), look(false, 102), look(false, 111)], [Some(false); 3]);
        assert_eq!([look(false, 112), look(false, 500)], [Some(true); 2]);
        assert_eq!([look(true, 501), look(false, 502), look(true, 503), look(false, 511)], [Some(false); 4]);
    }

    #[test]
    fn an_address_of_each_family_that_others_can_use() {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        for (own, told) in [
            (["fe80::1", "fd00::1", "10.0.0.1", "10.0.0.2"].as_slice(), "10.0.0.1,fd00::1"),
            (&["fe80::1"], "fe80::1"),
            (&["10.0.0.1"], "10.0.0.1"),
        ] {
            assert_eq!(router_addresses(&parse(own)), told);
        }
    }

    #[test]
    fn a_note_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = "é".repeat(600);
        assert_eq!(cut(&long).len(), 1024);
        assert_eq!(cut(&format!("a{long}")).len(), 1023);
    }
}
