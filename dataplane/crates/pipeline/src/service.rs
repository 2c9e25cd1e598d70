//! Service step: a packet to a frontend goes to one of its backends instead.

use std::net::IpAddr;

use flow::Seconds;
use tables::{Asker, Frontend, FrontendKey, NetworkId, Tables};
use wire::protocol;

use crate::affinity::{self, Affinity};
use crate::connection::Ends;
use crate::tracker::Tracker;
use crate::witness::{Outcome, Witness};

/// What the tables say of a packet's destination.
#[derive(Clone, Copy)]
pub(crate) enum Choice {
    /// No frontend: it goes where it says.
    Plain,
    /// To this backend, address and port; and what is to be remembered of that.
    Backend(IpAddr, u16, Option<Affinity>),
    /// There is a frontend, and nobody behind it: which is refused, or dropped.
    NoBackend { drops: bool },
    /// There is a frontend, and this client may not ask there.
    Denied,
}

/// Chooses by the client's and the frontend's address and port alone, so that every node, and every process after another, chooses the
/// same; without the client's port where a client is to stay, and then first of all what it had before. The frontend may have been found
/// already.
pub(crate) fn choose(
    (tables, tracker, now): (&Tables, &Tracker, Seconds),
    ends: &Ends,
    asker: Asker,
    found: Option<Option<&Frontend>>,
    witness: &mut impl Witness,
) -> Choice {
    let Some(frontend) = found.unwrap_or_else(|| frontend(tables, ends)) else {
        witness.note("service", || Outcome::NoFrontend {
            address: tables.has_frontends(NetworkId(ends.network), ends.dst),
        });
        return Choice::Plain;
    };
    if !frontend.admits(ends.src) {
        witness.note("service", || Outcome::NotAdmitted { service: frontend.name.to_string() });
        return Choice::Denied;
    }
    let chosen = if frontend.affinity == 0 {
        frontend.backends.choose(hash(ends), asker).map(|backend| (backend, None))
    } else {
        let client = || frontend.backends.choose(hash(&Ends { src_port: 0, ..*ends }), asker);
        affinity::stay(tracker, frontend, (ends, asker, now), client).map(|(own, entry)| (own, Some(entry)))
    };
    let stays = chosen.is_some_and(|(_, entry)| entry.is_some_and(|entry| entry.remembered));
    witness.note("service", || Outcome::chosen(frontend, asker, chosen.map(|(own, _)| own), stays));
    match chosen {
        Some((backend, entry)) => Choice::Backend(backend.addr, backend.port, entry),
        None => Choice::NoBackend { drops: frontend.drops },
    }
}

/// The frontend that a packet is sent to.
#[inline]
pub(crate) fn frontend<'t>(tables: &'t Tables, ends: &Ends) -> Option<&'t Frontend> {
    let &Ends { dst: addr, dst_port: port, network, protocol, .. } = ends;
    if !matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP) {
        return None;
    }
    tables.frontend(&FrontendKey { network: NetworkId(network), addr, port, protocol })
}

/// Whether a flow may keep what was chosen for it. A connection that is opened and closed keeps it to its end, though the backend
/// be gone; a datagram flow only while its backend serves, if not for new flows (Kubernetes, pkg/proxy/conntrack).
pub(crate) fn keeps(tables: &Tables, forward: &Ends, went: &Ends) -> bool {
    if forward.protocol != protocol::UDP {
        return true;
    }
    let bound = (forward.dst, forward.dst_port) != (went.dst, went.dst_port);
    match frontend(tables, forward) {
        Some(frontend) => bound && frontend.backends.find(went.dst, went.dst_port).is_some(),
        None => !bound,
    }
}

/// The same on every node, and in each release: no seed, and nothing of the machine's. What it is mixed with, `Backends::choose` mixes
/// again.
fn hash(ends: &Ends) -> u64 {
    let word = |addr: IpAddr| match addr {
        IpAddr::V4(addr) => u64::from(addr.to_bits()),
        IpAddr::V6(addr) => {
            let bits = addr.to_bits();
            fold(
                u64::try_from(bits >> 64).unwrap_or(0),
                u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(0),
            )
        }
    };
    let ports = u64::from(ends.src_port) << 32 | u64::from(ends.dst_port) << 8 | u64::from(ends.protocol);
    fold(fold(word(ends.src), word(ends.dst)), ports)
}

/// Both halves of a product of the operands, each changed by a constant so that zeros count too (wyhash's mixing step).
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ 0xa076_1d64_78bd_642f) * u128::from(b ^ 0xe703_7ed1_a0b4_28db);
    let halves = product ^ product >> 64;
    u64::try_from(halves & u128::from(u64::MAX)).unwrap_or(0)
}
