//! What is true in one generation: ports, endpoints, interfaces, tunnels, routes, frontends, identities and their groups, policies, who knows names, and the
//! lookups that a packet needs.
//!
//! [`Tables`] is a value. A clone shares everything with the original, and a change copies only the path to what changed:
//! at most four levels of at most 4 KB for an IPv4 route. So a writer clones the current generation, applies a transaction to the
//! clone, and publishes it or throws it away; readers of the old one notice nothing.
//!
//! Knows nothing of packets, workers, sockets or time. Lookups do not allocate, and cannot fail or panic.

#![forbid(unsafe_code)]

mod backends;
mod by_network;
mod chunked;
mod classifier;
mod endpoints;
mod entry;
mod error;
mod frontend;
mod hash;
mod id;
mod identities;
mod interfaces;
pub mod lpm;
mod map;
mod masquerade;
mod memberships;
mod network;
mod policies;
mod ports;
mod prefixes;
mod resolver;
mod routes;
mod services;
mod stamp;
mod tables;
mod target;
mod tunnels;

pub use backends::{Asker, Backend, BackendState, Backends};
pub use classifier::{Classifier, Decision, Peer, Rule, RuleVerdict};
pub use entry::{Endpoint, EndpointKind, Interface, PortEntry, PortRole, Router};
pub use error::TableError;
pub use frontend::{Frontend, FrontendKey};
pub use id::{
    EndpointId, Generation, MAX_ENDPOINT_ROUTES, MAX_ENDPOINTS, MAX_NEXT_HOPS, MAX_PORTS, NetworkId, PortId,
};
pub use identities::IdentityId;
pub use masquerade::Masquerade;
pub use memberships::{GroupId, Groups};
pub use network::Origin;
pub use policies::Policy;
pub use resolver::Resolver;
pub use routes::Route;
pub use stamp::{Address, Rests};
pub use tables::Tables;
pub use target::{RouteTarget, Target};
pub use tunnels::{PeerNumber, Tunnel, TunnelPeer};
