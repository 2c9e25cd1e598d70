//! What the node's kernel translates: its own connections to ports of the node that lead to pods, and those by a NIC of its
//! (`hostPort`) and Services (NodePorts); what of its goes to Services' external addresses, which it marks; and, where the kernel is the way out, the source of what pods send beyond the cluster, and who may use a tunnel.
//!
//! One nftables table of ours, written whole in one transaction. What always holds: no other table is touched; with nothing to translate there
//! is none of ours either; one that somebody changed or removed is written again.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use proto::dataplane::Router;
use wire::IpPrefix;

use crate::host::{LOOK, SHARE};
use crate::netlink::{self, NetlinkError, Nftables, SetChange};
use crate::store::{Store, Warner};
use crate::wanted::Wanted;

mod conntrack;
mod rules;
mod sets;

use rules::rules;
use sets::{Set, changes, whole};

/// Its family is `inet`: both families' rules are in it.
const TABLE: &str = "podrouter";

/// Least time between two writes of the table, while it cannot be written.
const PAUSE: Duration = Duration::from_secs(1);

/// Follows the desired state for good, on the calling thread. Beside the routes, since nft takes its time to write the table, or to list it: among
/// thousands of nodes that is half a second.
pub(crate) fn follow(store: &Store, name: &str, router: &Router) {
    let (mut seen, mut looked, mut rest) = (0, Instant::now(), LOOK);
    let mut refused = false;
    let mut nat = Nat { within: store.config.node_port_addresses.clone(), ..Nat::default() };
    loop {
        if refused {
            // Another plan may be one that the kernel takes; but a busy cluster has hundreds a second.
            thread::sleep(PAUSE.saturating_sub(looked.elapsed()));
        }
        let plan = store.next_plan(seen, rest.saturating_sub(looked.elapsed()));
        seen = plan.revision;
        let wanted = Wanted::of(&plan.desired);
        if looked.elapsed() < rest && nat.step(&wanted, router) && nat.forget(&wanted).is_ok() {
            continue;
        }
        let began = Instant::now();
        let failed = nat.keep(name, &wanted, router).err();
        let unforgotten = match failed {
            None => nat.forget(&wanted).err(),
            Some(_) => None,
        };
        (looked, refused) = (Instant::now(), failed.is_some());
        rest = if failed.is_none() { LOOK.max((looked - began) * SHARE) } else { LOOK };
        let tunnel = wanted.by_kernel.tunnel;
        // Where nft could not be run just now, what rules there were are there still.
        if !matches!(failed, Some(Failed::Io(_))) {
            store.hold_tunnel(tunnel.map(|tunnel| (tunnel, failed.is_none())));
        }
        let closed = tunnel.map_or(
            "",
            |_| "; until then there is no tunnel to other nodes, since anybody could send into it",
        );
        let text =
            |error| format!("host interface `{name}`: {error}; it is tried again every {LOOK:?}{closed}");
        let kept = unforgotten.map(|error| {
            format!(
                "the kernel's connection tracking: {error}; who sends datagrams to a port of the node's without a pause is led where that led when \
                 he began: load the module nf_conntrack_netlink; it is tried again every {LOOK:?}"
            )
        });
        store.warn(Warner::Nat, failed.map(text).into_iter().chain(kept).collect());
    }
}

/// The table as it is known to be.
#[derive(Debug, Default)]
struct Nat {
    /// In which of the node's addresses NodePorts are; empty: in all.
    within: Vec<IpPrefix>,
    written: Option<Written>,
    /// There is none, not even an earlier process'.
    absent: bool,
    /// For what flows of datagrams were looked through last.
    followed: Option<Wanted>,
}

/// What was written last.
#[derive(Debug)]
struct Written {
    wanted: Wanted,
    kernel: Nftables,
    /// What sets the table has.
    sets: BTreeSet<Set>,
    /// Of all that nftables has, when this was so; `None`: somebody else's transaction may have come between.
    generation: Option<u32>,
    /// How the kernel lists it.
    listed: String,
    /// Elements were changed by us since then.
    changed: bool,
}

impl Written {
    fn read(wanted: &Wanted, sets: BTreeSet<Set>) -> Result<Self, Failed> {
        let kernel = Nftables::open()?;
        let generation = kernel.generation().ok();
        Ok(Self { wanted: wanted.clone(), kernel, sets, generation, listed: list()?, changed: false })
    }

    /// Whether nobody else has changed it; whatever elements there are after ours were changed count as ours.
    fn stands(&mut self) -> bool {
        let generation = self.kernel.generation().ok();
        if generation.is_some() && generation == self.generation {
            return true;
        }
        let Ok(now) = list() else { return false };
        let stands = match self.changed {
            true => rules_of(&now).eq(rules_of(&self.listed)),
            false => now == self.listed,
        };
        (self.listed, self.changed, self.generation) = (now, false, generation);
        stands
    }

    fn change(&mut self, changes: &[SetChange]) -> Result<(), Failed> {
        self.kernel.change(TABLE, changes)?;
        self.changed = true;
        let next = self.generation.map(|before| before.wrapping_add(1));
        self.generation = self.kernel.generation().ok().filter(|now| Some(*now) == next);
        Ok(())
    }
}

impl Nat {
    /// Has the kernel translate as wanted, on the host's device `name`.
    ///
    /// # Errors
    /// `nft` is not installed, or the kernel refuses.
    fn keep(&mut self, name: &str, wanted: &Wanted, router: &Router) -> Result<(), Failed> {
        if !needs_table(wanted) {
            if !self.absent {
                self.written = None;
                match nft(&format!("add table inet {TABLE}\ndelete table inet {TABLE}\n")) {
                    // Without the program there never was a table.
                    Err(Failed::Absent) => {}
                    other => other.map(drop)?,
                }
                netlink::sysctl(&format!("net/ipv4/conf/{name}/route_localnet"), "0");
                self.absent = true;
            }
            return Ok(());
        }
        self.absent = false;
        // From 127.0.0.1 to a pod, and the answers back: else such addresses never leave the loopback (ip-sysctl, route_localnet). A
        // device that was made anew has it not.
        let localnet = if has_ports(wanted) { "1" } else { "0" };
        netlink::sysctl(&format!("net/ipv4/conf/{name}/route_localnet"), localnet);
        if let Some(written) = &mut self.written
            && written.wanted == *wanted
            && written.stands()
        {
            return Ok(());
        }
        self.written = None;
        let sets = whole(wanted, router);
        nft(&rules(name, wanted, &sets, &self.within))?;
        self.written = Some(Written::read(wanted, sets.into_keys().collect())?);
        Ok(())
    }

    /// Has flows of datagrams follow what the table says now.
    fn forget(&mut self, wanted: &Wanted) -> io::Result<()> {
        let is_other = |before: &Wanted| conntrack::concerns_datagrams(before, wanted);
        if self.followed.as_ref().is_none_or(is_other) {
            match conntrack::forget(wanted, &self.within) {
                Ok(0) => {}
                Ok(forgotten) => {
                    tracing::debug!(
                        "{forgotten} flows of datagrams begin anew: their port leads elsewhere now"
                    );
                }
                // Where nothing is translated, there may well be no connection tracking.
                Err(_) if !has_ports(wanted) => {}
                Err(error) => return Err(error),
            }
        }
        self.followed = Some(wanted.clone());
        Ok(())
    }

    /// Has it know of nodes that came and went since it was kept, and counts on; whether that was all that was to do, and is done.
    fn step(&mut self, wanted: &Wanted, router: &Router) -> bool {
        let Some(written) = &mut self.written else { return self.absent && !needs_table(wanted) };
        if written.wanted == *wanted {
            return true;
        }
        let Some(difference) = wanted.since(&written.wanted, router) else { return false };
        let (sets, changes) = changes(&difference);
        // Rules have to name a set for it to be of use.
        if sets.iter().any(|set| !written.sets.contains(set)) {
            return false;
        }
        if !changes.is_empty() && written.change(&changes).is_err() {
            self.written = None;
            return false;
        }
        written.wanted = wanted.clone();
        true
    }
}

fn needs_table(wanted: &Wanted) -> bool {
    has_ports(wanted) || !wanted.by_kernel.cluster.is_empty()
}

/// Whether ports of the node, or of addresses that it may have, lead to pods.
fn has_ports(wanted: &Wanted) -> bool {
    !wanted.ports.is_empty() || !wanted.node_ports.is_empty() || !wanted.externals.is_empty()
}

/// Why there is no such table.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(
        "the program nft is not here, so that the node cannot be told of hostPorts, nor pods reach beyond the cluster by it: install nftables"
    )]
    Absent,
    #[error("nft: {0}")]
    Io(io::Error),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error("nft refuses: {0}")]
    Refused(String),
}

fn list() -> Result<String, Failed> {
    run(Command::new("nft").args(["--stateless", "list", "table", "inet", TABLE]), "")
}

/// All lines but those of sets' elements.
fn rules_of(listed: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    listed.lines().filter(move |line| {
        let is_element = inside || line.trim_start().starts_with("elements = {");
        inside = is_element && !line.ends_with('}');
        !is_element
    })
}

/// All of it in one transaction.
fn nft(script: &str) -> Result<String, Failed> {
    run(Command::new("nft").args(["-f", "-"]), script)
}

fn run(command: &mut Command, input: &str) -> Result<String, Failed> {
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failed::Absent,
        _ => Failed::Io(error),
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends without reading says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(Failed::Io)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failed::Refused(said.lines().next().unwrap_or("it says nothing").to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_list_all_is_a_rule_but_elements() {
        let set =
            |elements: &str| format!("\tset s {{\n\t\ttype ipv4_addr\n{elements}\t}}\n\tchain c {{\n\t}}\n");
        let rules = |text: &str| rules_of(text).collect::<String>();
        let empty = set("");
        assert_eq!(rules(&empty), empty.replace('\n', ""));
        for elements in [
            "{ 10.0.0.1 }",
            "{ 10.0.0.1, 10.0.0.2,\n\t\t\t     10.0.0.3 }",
            "{ 10.0.0.1,\n10.0.0.2,\n10.0.0.3 }",
        ] {
            assert_eq!(rules(&set(&format!("\t\telements = {elements}\n"))), rules(&empty), "{elements}");
        }
        assert_ne!(rules(&empty), rules(&set("\t\tflags timeout\n")));
    }
}
