//! Service step: a packet to a frontend goes to one of its backends instead.

use std::net::IpAddr;

use tables::{BackendState, Frontend, FrontendKey, NetworkId, Tables};
use wire::protocol;

use crate::connection::Ends;
use crate::witness::{Outcome, Witness};

/// What the tables say of a packet's destination.
#[derive(Clone, Copy)]
pub(crate) enum Choice {
    /// No frontend: it goes where it says.
    Plain,
    /// To this backend, address and port.
    Backend(IpAddr, u16),
    /// There is a frontend, and nobody behind it.
    NoBackend,
}

/// Chooses by the client's and the frontend's address and port alone, so that every node, and every process after another, chooses the
/// same.
pub(crate) fn choose(tables: &Tables, ends: &Ends, witness: &mut impl Witness) -> Choice {
    let Some(frontend) = frontend(tables, ends) else {
        witness.note("service", || Outcome::NoFrontend {
            address: tables.has_frontends(NetworkId(ends.network), ends.dst),
        });
        return Choice::Plain;
    };
    let chosen = frontend.choose(hash(ends));
    witness.note("service", || Outcome::chosen(frontend, chosen));
    match chosen {
        Some(backend) => Choice::Backend(backend.addr, backend.port),
        None => Choice::NoBackend,
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
/// be draining or gone; a datagram flow only while its backend serves (Kubernetes, pkg/proxy/conntrack).
pub(crate) fn keeps(tables: &Tables, forward: &Ends, went: &Ends) -> bool {
    if forward.protocol != protocol::UDP {
        return true;
    }
    let bound = (forward.dst, forward.dst_port) != (went.dst, went.dst_port);
    match frontend(tables, forward) {
        Some(frontend) => frontend
            .backend(went.dst, went.dst_port)
            .is_some_and(|backend| bound && backend.state == BackendState::Serving),
        None => !bound,
    }
}

/// The same on every node: no seed. FNV-1a (Fowler, Noll, Vo), whose quality `Frontend::choose` does not rest on.
fn hash(ends: &Ends) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for &byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    match ends.src {
        IpAddr::V4(addr) => add(&addr.octets()),
        IpAddr::V6(addr) => add(&addr.octets()),
    }
    add(&ends.src_port.to_be_bytes());
    match ends.dst {
        IpAddr::V4(addr) => add(&addr.octets()),
        IpAddr::V6(addr) => add(&addr.octets()),
    }
    add(&ends.dst_port.to_be_bytes());
    add(&[ends.protocol]);
    hash
}
