//! System tests: whole nodes in network namespaces, with the binaries that are shipped. They need root.
//!
//! Each test ends by asking whether every packet is accounted for. Run them with `cargo lab test --only system`.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

mod addresses;
mod bandwidth;
mod errors;
mod externals;
mod host_ports;
mod kernel_tunnels;
mod lifecycle;
mod networks;
mod node_ports;
mod nodes;
mod older_flows;
mod pings;
mod policies;
mod policy_changes;
mod policy_nodes;
mod policy_probes;
mod restarts;
mod service_changes;
mod service_clients;
mod services;
mod simulation;
mod spoofing;
mod topology;
mod transfers;
mod tunnels;
mod vhost;
mod vm;

use std::sync::OnceLock;

use lab::artefacts::Artefacts;
use lab::netns::Netns;
use lab::node::{Node, Options};
use lab::ping::reaches;
use lab::pod::{Family, Kind, Pod};
use lab::run::Run;

/// A node, and two kernel pods on it.
struct Bed {
    a: Pod,
    b: Pod,
    node: Node,
}

impl Bed {
    fn new(options: Options) -> Self {
        let node = node(options);
        let [a, b] = ["a", "b"].map(|name| Pod::attach(&node, name, Kind::Kernel).unwrap());
        Self { a, b, node }
    }

    /// Both pods reach each other in both families.
    fn talk(&self) {
        for family in Family::BOTH {
            for (from, to) in [(&self.a, &self.b), (&self.b, &self.a)] {
                reach(&self.node, &from.netns, &to.address(family));
            }
        }
    }
}

fn node(options: Options) -> Node {
    static BUILT: OnceLock<Artefacts> = OnceLock::new();
    let built = BUILT.get_or_init(|| Artefacts::find().unwrap());
    Node::start(&Run::start().unwrap(), built, options).unwrap()
}

/// Three pings, each answered once; a failure quotes what was dropped.
fn reach(node: &Node, from: &Netns, to: &str) {
    let drops =
        |error: anyhow::Error| error.context(node.query().text(&["show", "drops"]).unwrap_or_default());
    reaches(from, to).map_err(drops).unwrap();
}
