//! The flow table as the path sees it: either family by one name.

use std::net::IpAddr;
use std::sync::Arc;

use flow::{
    Action, Binding, Direction, Family, Flows, Handle, Inserted, Key4, Key6, Life, Local, NewFlow, Record,
    Seconds, Signal, State, Table, Tuple, V4, V6,
};
use tables::{NetworkId, Rests, Tables};

use crate::connection::Ends;

/// What a worker tracks connections with.
#[derive(Debug)]
pub(crate) struct Tracker {
    pub(crate) flows: Arc<Flows>,
    pub(crate) local: Local,
}

/// A flow that a packet was found to be of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    v6: bool,
    pub(crate) handle: Handle,
    pub(crate) life: Life,
}

impl Known {
    pub(crate) const fn direction(self) -> Direction {
        self.handle.direction()
    }
}

/// The key of ends that are of IPv4.
#[inline]
fn key4(ends: &Ends) -> Option<Key4> {
    let &Tuple { src, dst, src_port, dst_port, network, protocol } = ends;
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            Some(V4::key(&Tuple { src, dst, src_port, dst_port, network, protocol }))
        }
        _ => None,
    }
}

/// The key of ends that are of IPv6.
#[inline]
fn key6(ends: &Ends) -> Option<Key6> {
    let &Tuple { src, dst, src_port, dst_port, network, protocol } = ends;
    match (src, dst) {
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            Some(V6::key(&Tuple { src, dst, src_port, dst_port, network, protocol }))
        }
        _ => None,
    }
}

pub(crate) fn widen<A: Into<IpAddr>>(tuple: Tuple<A>) -> Ends {
    let Tuple { src, dst, src_port, dst_port, network, protocol } = tuple;
    Tuple { src: src.into(), dst: dst.into(), src_port, dst_port, network, protocol }
}

/// The same expression for either table.
macro_rules! on {
    ($self:ident, $known:expr, $table:ident => $body:expr) => {
        if $known.v6 {
            let $table = &$self.flows.v6;
            $body
        } else {
            let $table = &$self.flows.v4;
            $body
        }
    };
}

/// What is to be a flow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Proposal<'p> {
    pub(crate) forward: &'p Ends,
    pub(crate) state: State,
    pub(crate) binding: Binding,
    pub(crate) action: Action,
    pub(crate) rules: [u32; 2],
}

/// How that ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Made {
    New(Known),
    Exists(Known),
    ReplyTaken,
    Contended,
    Full,
}

impl Tracker {
    /// Hashes, and asks for the bucket.
    #[inline]
    pub(crate) fn prefetch(&self, ends: &Ends) -> u64 {
        fn prefetched<F: Family>(table: &Table<F>, key: &F::Key) -> u64 {
            let hash = table.hash(key);
            table.prefetch(hash);
            hash
        }
        match key4(ends) {
            Some(key) => prefetched(&self.flows.v4, &key),
            None => key6(ends).map_or(0, |key| prefetched(&self.flows.v6, &key)),
        }
    }

    /// Asks for the record that is most likely the one. False if there is none.
    #[inline]
    pub(crate) fn prefetch_record(&self, ends: &Ends, hash: u64) -> bool {
        fn prefetched<F: Family>(table: &Table<F>, hash: u64) -> bool {
            let handle = table.first(hash);
            handle.into_iter().for_each(|handle| table.prefetch_record(handle));
            handle.is_some()
        }
        if ends.src.is_ipv4() { prefetched(&self.flows.v4, hash) } else { prefetched(&self.flows.v6, hash) }
    }

    /// The flow of packets with these ends.
    pub(crate) fn find(&self, ends: &Ends) -> Option<Known> {
        self.find_hashed(ends, self.prefetch(ends))
    }

    /// The flow of a packet whose hash is known.
    #[inline]
    pub(crate) fn find_hashed(&self, ends: &Ends, hash: u64) -> Option<Known> {
        let (v6, found) = match key4(ends) {
            Some(key) => (false, self.flows.v4.find(hash, &key)?),
            None => (true, self.flows.v6.find(hash, &key6(ends)?)?),
        };
        Some(Known { v6, handle: found.handle, life: found.life })
    }

    pub(crate) fn decided(&self, known: Known) -> Action {
        on!(self, known, table => table.decided(known.handle))
    }

    pub(crate) fn decide(&self, known: Known, old: Action, new: Action) {
        on!(self, known, table => table.decide(known.handle, old, new));
    }

    pub(crate) fn set_rules(&self, known: Known, rules: [u32; 2]) {
        on!(self, known, table => table.set_rules(known.handle, rules));
    }

    /// What a packet of the direction by which the flow was found becomes.
    pub(crate) fn becomes(&self, known: Known) -> Ends {
        on!(self, known, table => widen(table.becomes(known.handle)))
    }

    /// The flow's first packet as it came, and as it went on.
    pub(crate) fn origin(&self, known: Known) -> (Ends, Ends) {
        let mine: Ends = on!(self, known, table => widen(tuple(table, known.handle)));
        let other = self.becomes(known).reversed();
        match known.direction() {
            Direction::Forward => (mine, other.reversed()),
            Direction::Reply => (other, mine.reversed()),
        }
    }

    /// Whether nothing has changed since that a decision about this flow rests on.
    pub(crate) fn unchanged(&self, known: Known, tables: &Tables, since: u32) -> bool {
        on!(self, known, table => table
            .record(known.handle)
            .is_some_and(|record| tables.unchanged(since, &rests(record))))
    }

    /// A decision was found to hold in the generation that it says now.
    pub(crate) fn confirm(&self, known: Known, action: Action) {
        on!(self, known, table => table.confirm(known.handle, action));
    }

    pub(crate) fn binding(&self, known: Known) -> Binding {
        on!(self, known, table => table.binding(known.handle))
    }

    pub(crate) fn touch(&self, known: Known, signal: Signal, now: Seconds) {
        on!(self, known, table => table.touch(known.handle, known.life, signal, now));
    }

    /// The flow whose packets would be taken for the answers to another one's, if that is closed, and the other opens a connection: it may end
    /// before its time.
    pub(crate) fn closed(&self, reply: &Ends, signal: Signal) -> Option<Known> {
        let known = self.find(reply).filter(|known| known.life.is_live() && signal == Signal::Open)?;
        matches!(known.life.state(), State::Finished | State::Reset).then_some(known)
    }

    /// Ends a flow, if it has not ended already.
    pub(crate) fn end(&mut self, known: Known) {
        let Self { flows, local } = self;
        if known.v6 {
            flows.v6.end(&mut local.v6, &flows.epochs, known.handle);
        } else {
            flows.v4.end(&mut local.v4, &flows.epochs, known.handle);
        }
    }

    /// Makes a flow whose answers have the ends `reply`, but for the first of `ports` that is free as their destination port.
    pub(crate) fn make(
        &mut self,
        proposal: &Proposal<'_>,
        reply: &Ends,
        ports: impl Iterator<Item = u16>,
        now: Seconds,
    ) -> Made {
        let Self { flows, local } = self;
        let &Proposal { forward, state, binding, action, rules } = proposal;
        let actions = [action, Action::NONE];
        let (v6, made) = if let (Some(key), Some(reply)) = (key4(forward), key4(reply)) {
            let new = NewFlow { key, state, binding, actions, rules };
            let replies = ports.map(|port| V4::to_port(&reply, port));
            (false, flows.v4.insert(&mut local.v4, &flows.epochs, &new, replies, now))
        } else if let (Some(key), Some(reply)) = (key6(forward), key6(reply)) {
            let new = NewFlow { key, state, binding, actions, rules };
            let replies = ports.map(|port| V6::to_port(&reply, port));
            (true, flows.v6.insert(&mut local.v6, &flows.epochs, &new, replies, now))
        } else {
            return Made::Full;
        };
        match made {
            Inserted::New(handle) => Made::New(Known { v6, handle, life: Life::live(state, now) }),
            Inserted::Exists(found) => Made::Exists(Known { v6, handle: found.handle, life: found.life }),
            Inserted::ReplyTaken => Made::ReplyTaken,
            Inserted::Contended => Made::Contended,
            Inserted::Full => Made::Full,
        }
    }
}

/// What a flow's decisions rest on: its first packet as it came, and where that went.
#[inline]
pub(crate) fn rests<F: Family>(record: Record<'_, F>) -> Rests<F::Addr> {
    let (mine, other) = (F::tuple(&record.key()), F::tuple(&record.other_key()));
    let (first, reply) = match record.direction() {
        Direction::Forward => (mine, other),
        Direction::Reply => (other, mine),
    };
    Rests {
        network: NetworkId(first.network),
        src: first.src,
        dst: first.dst,
        to: reply.src,
        dst_port: first.dst_port,
        protocol: first.protocol,
    }
}

fn tuple<F: Family>(table: &Table<F>, handle: Handle) -> Tuple<F::Addr> {
    F::tuple(&table.key(handle))
}
