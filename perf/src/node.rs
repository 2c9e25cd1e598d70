//! A node on this machine: a namespace with the router's two processes in it, and an outside host on its uplink.
//!
//! ```text
//!  pod namespaces ── TAPs ──┐
//!  vhost-user pods ─ sockets┤ podrouter-dataplane ── af_packet on veth `uplink` ══ `eth0` outside host
//!  node namespace ─ TAP ────┘        (node namespace)                            (192.168.78.1, fd00:78::1, …)
//! ```
//! Namespaces isolate everything, so every node has the same addresses. The outside host is router, another node's
//! router ([`OTHER_NODE`]) and a host of the wider world at once.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::artefacts::Artefacts;
use crate::manifests::{Manifests, NODE, NodeObject, OTHER_NODE};
use crate::netns::{Netns, veth};
use crate::process::{Process, finish_with_input, is_broken_pipe};
use crate::query::Query;
use crate::run::Run;
use crate::signals;
use crate::wait::{PATIENCE, wait_until};

/// The node's own addresses, those of kubelet and the host's agents.
pub const HOST: [&str; 2] = ["192.168.77.11", "fd00:77::11"];
/// Where its pods get theirs.
pub const POD_CIDRS: [&str; 2] = ["10.244.1.0/24", "fd00:10:244:1::/64"];
/// The router's addresses on the uplink.
pub const ROUTER: [&str; 2] = ["192.168.78.11", "fd00:78::11"];
/// The outside host's addresses on the uplink.
pub const OUTSIDE: [&str; 2] = ["192.168.78.1", "fd00:78::1"];
/// An address behind the outside host, reached through the uplink's gateway (RFC 5737, RFC 3849).
pub const WORLD: [&str; 2] = ["203.0.113.9", "2001:db8::9"];
/// A pod on the other node, whose router the outside host is.
pub const OTHER_POD: [&str; 2] = ["10.244.2.7", "fd00:10:244:2::7"];
/// The gateway that each pod sees.
pub const GATEWAY: [&str; 2] = ["169.254.1.1", "fe80::1"];

const OTHER_POD_CIDRS: [&str; 2] = ["10.244.2.0/24", "fd00:10:244:2::/64"];
const OTHER_HOST: [&str; 2] = ["192.168.77.12", "fd00:77::12"];
/// The host's end of its own port.
pub const HOST_DEVICE: &str = "podrouter0";

/// What may differ from one node to another.
#[derive(Debug, Clone)]
pub struct Options {
    /// `--workers` of the data plane; `None`: `auto`.
    pub workers: Option<String>,
    /// `--idle` of the data plane; `None`: its default.
    pub idle: Option<String>,
    /// MTU of the uplink.
    pub uplink_mtu: u16,
    /// MTU that the CNI configuration asks for pods; `None`: what the uplink allows.
    pub pod_mtu: Option<u16>,
    /// What leads to an API server that control is to follow; `None`: it follows the manifests.
    pub kubeconfig: Option<PathBuf>,
    /// More arguments of the data plane.
    pub dataplane: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: None,
            idle: None,
            uplink_mtu: 1500,
            pod_mtu: None,
            kubeconfig: None,
            dataplane: Vec::new(),
        }
    }
}

/// A node that runs. Dropping it ends its processes and removes its namespaces.
#[derive(Debug)]
pub struct Node {
    // Dropped in this order: control first, so that it does not see the data plane go and complain.
    pub control: Process,
    pub dataplane: Process,
    pub outside: Netns,
    pub host: Netns,
    pub manifests: Manifests,
    pub artefacts: Artefacts,
    pub options: Options,
    pub run: Arc<Run>,
}

impl Node {
    /// Builds the node and waits until it forwards.
    ///
    /// # Errors
    /// When anything cannot be made or does not come up; the logs' ends are in the error.
    pub fn start(run: &Arc<Run>, artefacts: &Artefacts, options: Options) -> Result<Self> {
        let host = Netns::create(run, "node")?;
        let outside = Netns::create(run, "outside")?;
        connect(&host, &outside, options.uplink_mtu)?;
        let manifests = Manifests::create(&run.dir().join("manifests"))?;
        let at = OUTSIDE.join(",");
        manifests.write_nodes(&[
            NodeObject { name: NODE, pod_cidrs: POD_CIDRS, addresses: HOST, router_addresses: None },
            NodeObject {
                name: OTHER_NODE,
                pod_cidrs: OTHER_POD_CIDRS,
                addresses: OTHER_HOST,
                router_addresses: Some(&at),
            },
        ])?;
        let dataplane = spawn_dataplane(run, artefacts, &host, &options)?;
        let control = spawn_control(run, artefacts, &host, &manifests, &options)?;
        let mut node = Self {
            control,
            dataplane,
            outside,
            host,
            manifests,
            artefacts: artefacts.clone(),
            options,
            run: Arc::clone(run),
        };
        node.settle()?;
        node.route_host()?;
        Ok(node)
    }

    /// Waits until control has brought the data plane to its state.
    ///
    /// # Errors
    /// When a process has ended, or it takes too long.
    pub fn settle(&mut self) -> Result<()> {
        let settled = wait_until("the node is in sync", PATIENCE, || {
            self.dataplane.check()?;
            self.control.check()?;
            self.query().in_sync()
        });
        self.explain(settled)
    }

    /// Asks the router's processes.
    #[must_use]
    pub fn query(&self) -> Query {
        Query {
            program: self.artefacts.path("podrouter"),
            dataplane: dataplane_socket(&self.run),
            control: control_socket(&self.run),
        }
    }

    /// Runs the CNI plug-in on the node, as a container runtime does; returns its exit status and what it printed.
    ///
    /// # Errors
    /// When it cannot be started or does not end.
    pub fn cni(&self, environment: &[(&str, &str)], configuration: &str) -> Result<crate::process::Finished> {
        let mut command = self.host.command(self.artefacts.path("podrouter-cni"));
        command.env("CNI_PATH", self.artefacts.dir());
        for (key, value) in environment {
            command.env(key, value);
        }
        finish_with_input(&mut command, configuration, PATIENCE)
    }

    /// Control's socket, as a CNI configuration names it.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        control_socket(&self.run)
    }

    /// Kills control as a crash would, and starts it again.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart_control(&mut self) -> Result<()> {
        self.control.kill()?;
        self.control = spawn_control(&self.run, &self.artefacts, &self.host, &self.manifests, &self.options)?;
        self.settle()
    }

    /// Kills control as a crash would, starts it again, and lets it be for a while, whatever it is at then.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn crash_control(&mut self, then: Duration) -> Result<()> {
        self.control.kill()?;
        self.control = spawn_control(&self.run, &self.artefacts, &self.host, &self.manifests, &self.options)?;
        std::thread::sleep(then);
        Ok(())
    }

    /// Kills the data plane as a crash would, and starts it again.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart_dataplane(&mut self) -> Result<()> {
        self.dataplane.kill()?;
        self.dataplane = spawn_dataplane(&self.run, &self.artefacts, &self.host, &self.options)?;
        self.settle()
    }

    /// Kills both at once, as a machine's worst moment would, and starts them again, control first.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart_both(&mut self) -> Result<()> {
        self.dataplane.kill()?;
        self.control.kill()?;
        self.control = spawn_control(&self.run, &self.artefacts, &self.host, &self.manifests, &self.options)?;
        self.dataplane = spawn_dataplane(&self.run, &self.artefacts, &self.host, &self.options)?;
        self.settle()
    }

    /// Adds the ends of both logs to an error, unless it is only that somebody has left or wants to.
    ///
    /// # Errors
    /// That of `result`.
    pub fn explain<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| match signals::interrupted() || is_broken_pipe(&error) {
            true => error,
            false => anyhow!("{error:#}\n{}", self.logs(15)),
        })
    }

    /// The ends of both logs.
    #[must_use]
    pub fn logs(&self, lines: usize) -> String {
        let (dataplane, control) = (self.dataplane.tail(lines), self.control.tail(lines));
        format!("  podrouter-dataplane's log ends:\n{dataplane}\n  podrouter-control's log ends:\n{control}")
    }

    /// Gives the node's kernel its way out: like a node without a NIC of its own, by the router.
    fn route_host(&self) -> Result<()> {
        let there = wait_until("the host's port is there", PATIENCE, || {
            match self.host.ip(&["link", "show", "dev", HOST_DEVICE, "up"])?.as_str() {
                "" => Err(anyhow!("{HOST_DEVICE} is down")),
                _ => Ok(()),
            }
        });
        self.explain(there)?;
        for (gateway, source) in GATEWAY.iter().zip(HOST) {
            let family = if gateway.contains(':') { "-6" } else { "-4" };
            let route = ["default", "via", gateway, "dev", HOST_DEVICE, "onlink", "src", source];
            self.host.ip(&[[family, "route", "replace"].as_slice(), &route].concat())?;
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs(40));
        }
    }
}

fn dataplane_socket(run: &Run) -> PathBuf {
    run.dir().join("dataplane.sock")
}

fn control_socket(run: &Run) -> PathBuf {
    run.dir().join("control.sock")
}

/// The uplink: a veth pair. Its node end belongs to the data plane's packet socket alone; the node's kernel, which
/// sees the same frames, drops them, as it would not see those of a NIC that is DPDK's.
fn connect(host: &Netns, outside: &Netns, mtu: u16) -> Result<()> {
    veth(host, "uplink", outside, "eth0")?;
    host.sysctl("net.ipv6.conf.uplink.disable_ipv6", "1")?;
    let deaf = "add table netdev lab; add chain netdev lab deaf \
                { type filter hook ingress device \"uplink\" priority 0; policy drop; }";
    host.succeed("nft", &[deaf])?;
    outside.disable_offloads("eth0")?;
    let mtu = mtu.to_string();
    host.ip(&["link", "set", "uplink", "mtu", &mtu])?;
    outside.ip(&["link", "set", "eth0", "mtu", &mtu])?;

    let add = |netns: &Netns, device: &str, addresses: [&str; 2], lengths: [u8; 2]| -> Result<()> {
        for (address, length) in addresses.iter().zip(lengths) {
            netns.add_address(device, &format!("{address}/{length}"))?;
        }
        Ok(())
    };
    add(host, "lo", HOST, [32, 128])?;
    add(outside, "eth0", OUTSIDE, [24, 64])?;
    for there in [WORLD, OTHER_POD, OTHER_HOST] {
        add(outside, "lo", there, [32, 128])?;
    }
    for to in [POD_CIDRS, HOST] {
        for (prefix, router) in to.iter().zip(ROUTER) {
            outside.ip(&["route", "add", prefix, "via", router, "dev", "eth0"])?;
        }
    }
    Ok(())
}

fn spawn_dataplane(
    run: &Arc<Run>,
    artefacts: &Artefacts,
    host: &Netns,
    options: &Options,
) -> Result<Process> {
    let mut command: Command = host.command(artefacts.path("podrouter-dataplane"));
    command.arg("--socket").arg(dataplane_socket(run));
    command.args(["--vdev", "net_af_packet0,iface=uplink"]);
    command.args(["--file-prefix", &run.name("dp")]);
    for (flag, value) in [("--workers", &options.workers), ("--idle", &options.idle)] {
        if let Some(value) = value {
            command.args([flag, value]);
        }
    }
    command.args(&options.dataplane);
    Process::spawn(run, "dataplane", &mut command)
}

fn spawn_control(
    run: &Arc<Run>,
    artefacts: &Artefacts,
    host: &Netns,
    manifests: &Manifests,
    options: &Options,
) -> Result<Process> {
    let mut command: Command = host.command(artefacts.path("podrouter-control"));
    command.args(["--node", NODE]);
    match &options.kubeconfig {
        Some(path) => command.arg("--kubeconfig").arg(path),
        None => command.arg("--manifests").arg(manifests.dir()),
    };
    command.arg("--socket").arg(control_socket(run)).arg("--dataplane").arg(dataplane_socket(run));
    command.arg("--state-dir").arg(run.dir().join("state")).arg("--vhost-dir").arg(run.dir().join("vhost"));
    command.args(["--uplink", "net_af_packet0", "--uplink-mtu", &options.uplink_mtu.to_string()]);
    for ((address, gateway), length) in ROUTER.iter().zip(OUTSIDE).zip([24, 64]) {
        command.args(["--uplink-address", &format!("{address}/{length}"), "--uplink-gateway", gateway]);
    }
    command.args(["--host-interface", HOST_DEVICE]);
    command.args(["--cluster-dns", "10.96.0.10", "--cluster-dns", "fd00:96::10"]);
    command.args(["--cluster-domain", "cluster.local"]);
    Process::spawn(run, "control", &mut command)
}
