//! Clients that stay with their backend (`sessionAffinity: ClientIP`), by entries beside the flows.
//!
//! An entry is a record of the flow table, of a protocol that no packet has: from the client to a frontend, and as its answer from the backend.
//! So it is found, ended and kept as flows are, outlives the process, and counts against whoever made it. Where it is lost, the choice by the
//! client's address alone is most often the same.

use std::net::IpAddr;

use flow::{AFFINITY, Action, Binding, Seconds, Signal, State};
use tables::{Asker, Backend, Frontend};

use crate::connection::Ends;
use crate::tracker::{Known, Proposal, Tracker};

/// What is to be remembered of a choice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Affinity {
    entry: Ends,
    backend: (IpAddr, u16),
    seconds: u32,
    known: Option<Known>,
    /// The entry says so already.
    pub(crate) remembered: bool,
}

/// Answers that an entry may be told to have: their number tells apart the entries of one client and backend, of several frontends.
const TRIES: u16 = 64;

/// The backend that a client's entry names, if it takes this flow; and what to remember, which is `choose`'s where there is none.
pub(crate) fn stay<'t>(
    tracker: &Tracker,
    frontend: &'t Frontend,
    (ends, asker, now): (&Ends, Asker, Seconds),
    choose: impl FnOnce() -> Option<&'t Backend>,
) -> Option<(&'t Backend, Affinity)> {
    let entry = Ends { src_port: ends.protocol.into(), protocol: AFFINITY, ..*ends };
    let known = tracker.find(&entry).filter(|known| known.life.is_live());
    let named = known.filter(|known| now.0.saturating_sub(known.life.seen().0) <= frontend.affinity);
    let named = named.and_then(|known| {
        let Ends { dst, dst_port, .. } = tracker.becomes(known);
        frontend.backends.find(dst, dst_port).filter(|backend| backend.state.takes(asker))
    });
    let backend = named.or_else(choose)?;
    let seconds = frontend.affinity;
    let remembered = named.is_some();
    Some((backend, Affinity { entry, backend: (backend.addr, backend.port), seconds, known, remembered }))
}

impl Tracker {
    /// Has the client stay where it has just been sent. Where there is no room it stays as long as the choice is the same.
    pub(crate) fn remember(&mut self, affinity: &Affinity, owner: u16, now: Seconds) {
        let Affinity { entry, backend, seconds, known, remembered } = *affinity;
        let rules = [seconds, 0];
        if let Some(known) = known.filter(|_| remembered) {
            self.touch(known, Signal::Data, now);
            return self.set_rules(known, rules);
        }
        if let Some(known) = known {
            self.end(known);
        }
        let binding = Binding { owner, service: true, since: now, ..Binding::default() };
        let proposal = Proposal { forward: &entry, state: State::New, binding, action: Action::NONE, rules };
        let reply = Ends { src: backend.0, src_port: backend.1, dst: entry.src, dst_port: 0, ..entry };
        let first = entry.dst_port ^ entry.src_port.rotate_left(8);
        let numbers = (0..TRIES).map(|step| first.wrapping_add(step));
        let _at_best = self.make(&proposal, &reply, numbers, now);
    }
}
