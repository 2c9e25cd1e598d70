//! What is followed of an API server, and what that makes together.
//!
//! Owns the tasks, one a resource, and decides when everything was read once. Other nodes' pods are most of what a cluster has, and are
//! followed only while a policy needs them ([`desired::NetworkPolicy::selects_pods`]). What always holds: a policy that needs
//! them is not told before they are known, for until then it would forbid what it is to allow.

use std::collections::BTreeSet;
use std::future::pending;
use std::ops::ControlFlow;
use std::sync::Arc;

use desired::{Change, EndpointSlice, Namespace, NetworkPolicy, Node, ObjectName, Pod, Service, ViewChange};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::Update;
use super::apiserver::ApiServer;
use super::follow::{Course, Said};
use super::objects::Trimmed;
use super::reach::Board;

/// Steps that are taken together at most: memory stays flat while a large cluster is listed.
const BATCH: usize = 1024;

/// Other nodes' pods, as they are told of.
const OTHER_PODS: &str = "pods of other nodes";

/// Slices of Services without a cluster address, and of those of another proxy, are of no use to a proxy (as kube-proxy has it).
const PROXIED: &str = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";

/// Everything that is followed.
pub(super) struct Gather<'a> {
    server: &'a ApiServer,
    board: Arc<Board>,
    say: mpsc::Sender<Said>,
    said: mpsc::Receiver<Said>,
    /// What was never read to its end yet.
    missing: BTreeSet<&'static str>,
    others: Others,
    /// Policies that need the pods of other nodes.
    needy: BTreeSet<ObjectName>,
    /// Steps of policies that wait for those pods.
    held: Vec<ViewChange>,
    complete: bool,
}

/// The namespace of a policy that is to be: until it is, nothing is known of what it forbids.
fn closed(change: &ViewChange) -> Option<Arc<str>> {
    match change {
        ViewChange::NetworkPolicy(Change::Set(name, _)) => Some(Arc::clone(&name.namespace)),
        _ => None,
    }
}

/// How the pods of other nodes are followed.
#[derive(Default)]
enum Others {
    #[default]
    Not,
    /// A channel of their own: what was said before they were let go of dies with it.
    Followed {
        said: mpsc::Receiver<Said>,
        task: AbortHandle,
        /// They were read to their end once.
        listed: bool,
        /// When nobody needs them for so long.
        until: Option<Instant>,
    },
}

impl Others {
    /// The next of what is said of them.
    async fn hear(&mut self, batch: &mut Vec<Said>) {
        match self {
            Self::Followed { said, .. } => drop(said.recv_many(batch, BATCH).await),
            Self::Not => pending().await,
        }
    }

    const fn are_listed(&self) -> bool {
        matches!(self, Self::Followed { listed: true, .. })
    }

    const fn until(&self) -> Option<Instant> {
        match self {
            Self::Followed { until, .. } => *until,
            Self::Not => None,
        }
    }
}

impl<'a> Gather<'a> {
    /// Begins to follow all but the pods of other nodes.
    pub(super) fn begin(server: &'a ApiServer) -> kube::Result<Self> {
        let (say, said) = mpsc::channel(BATCH);
        let mut gather = Self {
            server,
            board: Arc::default(),
            say,
            said,
            missing: BTreeSet::new(),
            others: Others::Not,
            needy: BTreeSet::new(),
            held: vec![],
            complete: false,
        };
        let own = Some(format!("spec.nodeName={}", server.node()));
        gather.follow(Course::<Node>::all())?;
        gather.follow(Course::<Pod> { fields: own, ..Course::all() })?;
        gather.follow(Course::<Namespace>::all())?;
        gather.follow(Course::<Service>::all())?;
        gather.follow(Course::<EndpointSlice> { labels: Some(PROXIED), ..Course::all() })?;
        gather.follow(Course::<NetworkPolicy>::all())?;
        Ok(gather)
    }

    fn follow<T: Trimmed>(&mut self, course: Course<T>) -> kube::Result<()> {
        self.missing.insert(course.title);
        self.server.follow(course, &self.board, &self.say)?;
        Ok(())
    }

    /// Gives what is said, until nobody listens.
    pub(super) async fn run(mut self, give: &mut dyn FnMut(Update) -> ControlFlow<()>) -> kube::Result<()> {
        let (mut batch, mut of_others) = (Vec::with_capacity(BATCH), Vec::new());
        let mut last = Vec::new();
        loop {
            let board = Arc::clone(&self.board);
            let until = self.others.until();
            tokio::select! {
                _ = self.said.recv_many(&mut batch, BATCH) => {}
                () = self.others.hear(&mut of_others) => {}
                () = board.changed.notified() => {}
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
            }
            let mut update = Update::default();
            for said in batch.drain(..).chain(of_others.drain(..)) {
                self.take(said, &mut update.changes)?;
            }
            self.let_go(&mut update.changes);
            self.complete |= self.missing.is_empty() && (self.needy.is_empty() || self.others.are_listed());
            update.complete = self.complete;
            update.warnings = self.warnings();
            update.policies_wait = self.held.iter().filter_map(closed).collect();
            if update.changes.is_empty() && update.warnings == last && !update.complete {
                continue;
            }
            last.clone_from(&update.warnings);
            if give(update).is_break() {
                return Ok(());
            }
        }
    }

    fn take(&mut self, said: Said, changes: &mut Vec<ViewChange>) -> kube::Result<()> {
        match said {
            Said::Listed(OTHER_PODS) => {
                if let Others::Followed { listed, .. } = &mut self.others {
                    *listed = true;
                }
                changes.append(&mut self.held);
            }
            Said::Listed(resource) => drop(self.missing.remove(resource)),
            Said::Changed(ViewChange::NetworkPolicy(change)) => {
                match &change {
                    Change::Set(name, policy) if policy.selects_pods() => {
                        self.needy.insert(name.clone());
                    }
                    Change::Set(name, _) | Change::Remove(name) => drop(self.needy.remove(name)),
                    Change::Only(names) => self.needy.retain(|name| names.contains(name)),
                }
                self.weigh()?;
                // At the start nothing of all this is in force before everything is known.
                let listed = self.needy.is_empty() || self.others.are_listed();
                if listed || !self.complete {
                    changes.append(&mut self.held);
                }
                // One that needs nothing does not wait for those that do, unless it is one of them as it was.
                let waits = self.complete && !listed && (self.is_needy(&change) || self.is_held(&change));
                (if waits { &mut self.held } else { changes }).push(ViewChange::NetworkPolicy(change));
            }
            Said::Changed(change) => changes.push(change),
        }
        Ok(())
    }

    fn is_needy(&self, change: &Change<ObjectName, NetworkPolicy>) -> bool {
        matches!(change, Change::Set(name, _) if self.needy.contains(name))
    }

    /// Whether a change of the same policy waits.
    fn is_held(&self, change: &Change<ObjectName, NetworkPolicy>) -> bool {
        let names = |held: &ViewChange| match (held, change) {
            (
                ViewChange::NetworkPolicy(Change::Set(held, _) | Change::Remove(held)),
                Change::Set(name, _) | Change::Remove(name),
            ) => held == name,
            // All others are gone: in its order.
            _ => true,
        };
        self.held.iter().any(names)
    }

    /// Follows other nodes' pods from the first need on, and sets a time for letting go of them from the last.
    fn weigh(&mut self) -> kube::Result<()> {
        let (is_needed, linger) = (!self.needy.is_empty(), self.server.linger());
        match &mut self.others {
            Others::Not if is_needed => {
                let (say, said) = mpsc::channel(BATCH);
                let course = Course::<Pod> {
                    title: OTHER_PODS,
                    fields: Some(format!("spec.nodeName!={}", self.server.node())),
                    labels: None,
                    change: ViewChange::OtherPod,
                };
                let task = self.server.follow(course, &self.board, &say)?;
                self.others = Others::Followed { said, task, listed: false, until: None };
            }
            Others::Not => {}
            Others::Followed { until, .. } if is_needed => *until = None,
            Others::Followed { until, .. } => {
                until.get_or_insert_with(|| Instant::now() + linger);
            }
        }
        Ok(())
    }

    /// Lets go of other nodes' pods when their time has come.
    fn let_go(&mut self, changes: &mut Vec<ViewChange>) {
        if let Others::Followed { task, until: Some(until), .. } = &self.others
            && *until <= Instant::now()
        {
            task.abort();
            self.others = Others::Not;
            self.board.forget(OTHER_PODS);
            changes.push(ViewChange::OtherPod(Change::Only(BTreeSet::new())));
        }
    }

    fn warnings(&self) -> Vec<String> {
        let source = self.server.title();
        let mut warnings = self.board.warnings(&source);
        if !self.complete {
            let mut missing: Vec<_> = self.missing.iter().copied().collect();
            if !self.needy.is_empty() && !self.others.are_listed() {
                missing.push(OTHER_PODS);
            }
            let missing = missing.join(", ");
            warnings.insert(
                0,
                format!("{source}: nothing is changed until these have been listed once: {missing}"),
            );
        }
        if !self.held.is_empty() {
            let text =
                format!("{source}: changes of NetworkPolicies wait until {OTHER_PODS} have been listed");
            warnings.insert(0, text);
        }
        warnings
    }
}
