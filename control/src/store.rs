//! What the threads of the process share: cluster view, attachments, descriptors, and how far the data plane has come.
//!
//! Each change makes a new revision; a [`Plan`] is what one revision asks for. The source's thread writes the view, the
//! CNI threads attachments, the session what was applied; whoever waits is woken by each. No lock is held over I/O save
//! the journal's own.

mod cluster;
mod plan;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use desired::{ClusterView, KernelTunnel};
use proto::control::AttachAddresses;
use rustix::event::EventfdFlags;
use tap::Tap;
use wire::IpPrefix;

use crate::args::Config;
use crate::ipam::{Ipam, IpamError};
use crate::journal::{Attachment, History, Journal, JournalError, Key, Record};
use crate::sandbox::NetnsId;
use crate::watch::{Ask, Update};

pub(crate) use plan::Plan;
use plan::Planned;

/// Longest wait for nftables, which among 5,000 nodes takes a second or two for the whole.
const RULES: Duration = Duration::from_secs(30);

/// How the session stands.
#[derive(Debug, Default)]
pub(crate) struct Session {
    pub(crate) connected: bool,
    /// Why it is not connected.
    pub(crate) trouble: String,
    /// Last generation committed.
    pub(crate) committed: u64,
    /// Last revision that was carried out, save what the next two name.
    pub(crate) applied: u64,
    /// Why the data plane refused the rows of `applied`.
    pub(crate) refused: Option<String>,
    /// Ports that could not be made or taken away, and why.
    pub(crate) failed_ports: BTreeMap<String, String>,
}

/// A duplicate of a TAP's descriptor: it holds the carrier while a data plane starts again.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) tap: Arc<Tap>,
    /// The instance of the data plane whose port is this very device. A port of the same name may still be on a
    /// device that was deleted since.
    pub(crate) given: Option<String>,
}

/// Why a revision is not in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unapplied {
    #[error("{0}")]
    Refused(String),
    #[error("the data plane did not commit it within {0:?}")]
    Late(Duration),
}

#[derive(Debug)]
struct State {
    revision: u64,
    /// The source has read everything once.
    complete: bool,
    /// Namespaces in which it has NetworkPolicies that wait for what they speak of.
    policies_wait: BTreeSet<Arc<str>>,
    attachments: BTreeMap<Key, Attachment>,
    /// Keys that somebody is at work on, and the endpoint's name that is kept for each, if it has one already.
    busy: BTreeMap<Key, Option<String>>,
    /// The networks that the node's kernel is on, where it is asked.
    subnets: Vec<IpPrefix>,
    /// The kernel's tunnel that nftables was told of last, and whether it has the rules for it.
    tunnel: Option<(KernelTunnel, bool)>,
    /// By network.
    ipam: BTreeMap<u16, Ipam>,
    /// By port.
    taps: BTreeMap<String, Held>,
    /// Which namespace a kernel pod's path led to while the pod was known to be there.
    sandboxes: BTreeMap<Key, NetnsId>,
    session: Session,
    warnings: BTreeMap<Warner, Vec<String>>,
    counted: Counted,
}

/// Who has something to warn of, in the order in which it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Warner {
    Journal,
    Source,
    Host,
    Nat,
    Report,
    Health,
    Checks,
}

/// What happened since the start.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counted {
    pub(crate) attached: u64,
    pub(crate) detached: u64,
    /// ADDs that failed.
    pub(crate) failed: u64,
    /// Changes of the cluster that were told.
    pub(crate) events: u64,
}

/// The shared state.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) config: Config,
    source: String,
    /// Knows pods that the view does not have yet.
    ask: Option<Ask>,
    state: Mutex<State>,
    view: Mutex<ClusterView>,
    changed: Condvar,
    /// Readable when there may be a new revision, for the session, which also waits for its socket.
    wake: OwnedFd,
    planned: Mutex<Option<Planned>>,
    journal: Mutex<Journal>,
}

/// A key that nobody else works on until this is dropped.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    store: &'a Store,
    key: Key,
}

impl State {
    /// Logs what is new.
    fn warn(&mut self, who: Warner, warnings: Vec<String>) {
        let known = self.warnings.entry(who).or_default();
        for warning in warnings.iter().filter(|warning| !known.contains(warning)) {
            tracing::warn!("{warning}");
        }
        *known = warnings;
    }
}

impl State {
    fn ipam(&mut self, network_id: u16) -> &mut Ipam {
        self.ipam.entry(network_id).or_default()
    }
}

impl Claim<'_> {
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.store.lock().busy.remove(&self.key);
        self.store.changed.notify_all();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every write leaves the state whole, so that a thread's panic takes nothing from the others.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Begins where the journal ended.
    ///
    /// # Errors
    /// Out of file descriptors.
    pub(crate) fn new(
        config: Config,
        source: String,
        ask: Option<Ask>,
        journal: Journal,
        history: History,
    ) -> std::io::Result<Self> {
        let now = Instant::now();
        let past = history.networks().map(|(network_id, last, held)| {
            let held = held.map(|(address, left)| (address, now + left)).collect();
            let own = history.attachments.iter().filter(|own| own.network_id() == network_id);
            let used = own.flat_map(|own| own.attached.addresses.clone());
            (network_id, Ipam::new(used, last.to_vec(), held))
        });
        let ipam = past.collect();
        let state = State {
            revision: 1,
            complete: false,
            policies_wait: BTreeSet::new(),
            attachments: history.attachments.into_iter().map(|own| (own.key(), own)).collect(),
            busy: BTreeMap::new(),
            subnets: Vec::new(),
            tunnel: None,
            ipam,
            taps: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            session: Session { trouble: "not connected yet".to_owned(), ..Session::default() },
            warnings: [(Warner::Journal, history.problems)].into(),
            counted: Counted::default(),
        };
        Ok(Self {
            config,
            source,
            ask,
            state: Mutex::new(state),
            view: Mutex::default(),
            changed: Condvar::new(),
            wake: rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            planned: Mutex::new(None),
            journal: Mutex::new(journal),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    fn touch(&self, state: &mut State) -> u64 {
        state.revision += 1;
        // A counter at its most is readable as it is.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        self.changed.notify_all();
        state.revision
    }

    /// Waits until `done` gives something; `None` after `timeout`.
    fn wait<T>(&self, timeout: Duration, mut done: impl FnMut(&mut State) -> Option<T>) -> Option<T> {
        let limit = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            if let Some(result) = done(&mut state) {
                return Some(result);
            }
            let left = limit.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Written by the host's thread, and before the first plan.
    pub(crate) fn know_subnets(&self, subnets: Vec<IpPrefix>) {
        let mut state = self.lock();
        if state.subnets != subnets {
            state.subnets = subnets;
            self.touch(&mut state);
        }
    }

    /// Written by nftables' thread.
    pub(crate) fn hold_tunnel(&self, tunnel: Option<(KernelTunnel, bool)>) {
        let mut state = self.lock();
        if state.tunnel != tunnel {
            state.tunnel = tunnel;
            self.touch(&mut state);
        }
    }

    /// Whether nftables has the rules for this tunnel, once it was told of it: none may be without.
    pub(crate) fn holds_tunnel(&self, tunnel: &KernelTunnel) -> bool {
        let told = |state: &mut State| state.tunnel.filter(|(own, _)| own == tunnel).map(|(_, holds)| holds);
        self.wait(RULES, told).unwrap_or(false)
    }

    // Written by the source's thread.

    pub(crate) fn take(&self, update: Update) {
        // In place, one step after the other: a copy of a large cluster for each of its changes would be all that we do.
        let mut different = false;
        let events = update.changes.len() as u64;
        self.remember_pods(&update.changes);
        if !update.changes.is_empty() {
            let mut view = locked(&self.view);
            for change in update.changes {
                different |= view.apply(change);
            }
        }
        let mut state = self.lock();
        state.warn(Warner::Source, update.warnings);
        state.counted.events += events;
        state.policies_wait = update.policies_wait;
        different |= update.complete && !state.complete;
        state.complete |= update.complete;
        if different && state.complete {
            self.touch(&mut state);
        }
    }

    // Read by the session and the host's thread.

    /// Readable when there may be a new revision.
    pub(crate) fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Makes [`Self::wake`] unreadable again; call it before [`Self::plan`].
    pub(crate) fn rest(&self) {
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    pub(crate) fn tap(&self, port: &str) -> Option<Held> {
        self.lock().taps.get(port).cloned()
    }

    /// Keeps a descriptor; `given`: the data plane that it was duplicated from.
    pub(crate) fn keep_tap(&self, port: &str, tap: Tap, given: Option<&str>) {
        let held = Held { tap: Arc::new(tap), given: given.map(str::to_owned) };
        self.lock().taps.insert(port.to_owned(), held);
    }

    /// Keeps the descriptor of a device that was made anew, and has the session hand it over.
    pub(crate) fn renew_tap(&self, port: &str, tap: Tap) {
        self.keep_tap(port, tap, None);
        self.touch(&mut self.lock());
    }

    /// Notes that a data plane has this very device.
    pub(crate) fn mark_given(&self, port: &str, tap: &Arc<Tap>, instance: &str) {
        if let Some(held) = self.lock().taps.get_mut(port).filter(|held| Arc::ptr_eq(&held.tap, tap)) {
            held.given = Some(instance.to_owned());
        }
    }

    pub(crate) fn attachment_of(&self, port: &str) -> Option<Attachment> {
        self.lock().attachments.values().find(|own| own.port == port).cloned()
    }

    pub(crate) fn set_session(&self, change: impl FnOnce(&mut Session)) {
        change(&mut self.lock().session);
        self.changed.notify_all();
    }

    /// Says what is wrong now, in place of what was said before.
    pub(crate) fn warn(&self, who: Warner, warnings: Vec<String>) {
        self.lock().warn(who, warnings);
    }

    pub(crate) fn counted(&self) -> Counted {
        self.lock().counted
    }

    pub(crate) fn count(&self, count: impl FnOnce(&mut Counted)) {
        count(&mut self.lock().counted);
    }

    // Used by the CNI threads.

    /// Keeps others from a key; `None` if it stays busy for `timeout`.
    pub(crate) fn claim(&self, key: &Key, timeout: Duration) -> Option<Claim<'_>> {
        let take = |state: &mut State| match state.busy.entry(key.clone()) {
            Entry::Vacant(place) => {
                place.insert(None);
                Some(())
            }
            Entry::Occupied(_) => None,
        };
        self.wait(timeout, take).map(|()| Claim { store: self, key: key.clone() })
    }

    pub(crate) fn attachment(&self, key: &Key) -> Option<Attachment> {
        self.lock().attachments.get(key).cloned()
    }

    pub(crate) fn attachments(&self) -> Vec<Attachment> {
        self.lock().attachments.values().cloned().collect()
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.lock().session.connected
    }

    /// The newest revision.
    pub(crate) fn revision(&self) -> u64 {
        self.lock().revision
    }

    /// Why nothing can be attached for want of a data plane or of what the cluster says.
    pub(crate) fn trouble(&self) -> Option<String> {
        let state = self.lock();
        if !state.session.connected {
            Some(format!("the data plane is away: {}", state.session.trouble))
        } else if !state.complete {
            let first = state.warnings.get(&Warner::Source).and_then(|all| all.first());
            let first = first.map(|text| format!(": {text}")).unwrap_or_default();
            Some(format!("{} was not read yet{first}", self.source))
        } else {
            None
        }
    }

    pub(crate) fn allocate(
        &self,
        network_id: u16,
        wanted: &[IpAddr],
        cidrs: &[IpPrefix],
        reserved: &[IpAddr],
    ) -> Result<Vec<IpAddr>, IpamError> {
        self.lock().ipam(network_id).allocate(wanted, cidrs, reserved, Instant::now())
    }

    /// Takes addresses that a delegated plug-in gave.
    pub(crate) fn take_addresses(&self, network_id: u16, addresses: &[IpAddr]) -> Result<(), IpamError> {
        self.lock().ipam(network_id).take(addresses)
    }

    /// Gives back what somebody may have heard of. An address of a delegated plug-in's is for that to hold back.
    pub(crate) fn release(&self, attachment: &Attachment) {
        let mut state = self.lock();
        let ipam = state.ipam(attachment.network_id());
        match attachment.request.addresses {
            AttachAddresses::Given { .. } => ipam.free(&attachment.attached.addresses),
            _ => ipam.release(&attachment.attached.addresses, Instant::now()),
        }
    }

    /// Gives back what nobody ever had.
    pub(crate) fn free(&self, network_id: u16, addresses: &[IpAddr]) {
        self.lock().ipam(network_id).free(addresses);
    }

    /// The first of `names` that no other endpoint has or is about to get; it is kept for the claim's key.
    pub(crate) fn name_endpoint(&self, claim: &Claim<'_>, names: &[String]) -> Option<String> {
        let mut state = self.lock();
        let taken = |name: &String| {
            state.attachments.values().any(|own| own.endpoint == *name)
                || state.busy.iter().any(|(key, kept)| *key != claim.key && kept.as_ref() == Some(name))
        };
        let name = names.iter().find(|name| !taken(name)).cloned();
        state.busy.insert(claim.key.clone(), name.clone());
        name
    }

    /// Notes which namespace a kernel pod's path leads to.
    pub(crate) fn watch_sandbox(&self, key: &Key, netns: NetnsId) {
        self.lock().sandboxes.insert(key.clone(), netns);
    }

    /// The kernel pods whose path led to their namespace, with that namespace.
    pub(crate) fn sandboxes(&self) -> Vec<(Attachment, NetnsId)> {
        let state = self.lock();
        let known = state.sandboxes.iter();
        known.filter_map(|(key, netns)| Some((state.attachments.get(key)?.clone(), *netns))).collect()
    }

    pub(crate) fn write(&self, record: &Record) -> Result<(), JournalError> {
        locked(&self.journal).append(record)
    }

    /// Writes what could not be written before.
    pub(crate) fn settle(&self) -> Result<(), JournalError> {
        locked(&self.journal).settle()
    }

    pub(crate) fn write_later(&self, record: Record) {
        locked(&self.journal).defer(record);
    }

    /// Adds an attachment; gives the revision that has it.
    pub(crate) fn insert(&self, attachment: Attachment, tap: Option<Tap>) -> u64 {
        let mut state = self.lock();
        if let Some(tap) = tap {
            state.taps.insert(attachment.port.clone(), Held { tap: Arc::new(tap), given: None });
        }
        state.attachments.insert(attachment.key(), attachment);
        self.touch(&mut state)
    }

    /// Takes an attachment out; gives the revision that lacks it. Its descriptor stays until [`Self::let_go`].
    pub(crate) fn remove(&self, key: &Key) -> u64 {
        let mut state = self.lock();
        state.attachments.remove(key);
        state.sandboxes.remove(key);
        self.touch(&mut state)
    }

    pub(crate) fn let_go(&self, port: &str) -> Option<Arc<Tap>> {
        self.lock().taps.remove(port).map(|held| held.tap)
    }

    /// Waits until the data plane has a revision, and `port`, if one is named, with it.
    ///
    /// # Errors
    /// Why it has not.
    pub(crate) fn wait_applied(
        &self,
        revision: u64,
        port: Option<&str>,
        timeout: Duration,
    ) -> Result<(), Unapplied> {
        let done = self.wait(timeout, |state| {
            let session = &state.session;
            if session.applied < revision {
                return None;
            }
            if let Some(reason) = &session.refused {
                return Some(Err(Unapplied::Refused(format!("the data plane refused it: {reason}"))));
            }
            let failed = port.and_then(|port| session.failed_ports.get(port));
            Some(failed.map_or(Ok(()), |reason| Err(Unapplied::Refused(reason.clone()))))
        });
        done.unwrap_or(Err(Unapplied::Late(timeout)))
    }

    /// This node's addresses that no pod may have, whatever its podCIDRs are.
    pub(crate) fn reserved(&self, plan: &Plan) -> Vec<IpAddr> {
        let uplink = self.config.uplink.iter();
        let uplink =
            uplink.flat_map(|own| own.addresses.iter().map(|own| own.address).chain(own.gateways.clone()));
        plan.desired.host_addresses.iter().copied().chain(uplink).collect()
    }
}
