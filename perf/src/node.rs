//! A node on this machine: a namespace with the router's two processes in it, and a network with an outside host on its uplink.
//!
//! ```text
//!  pod namespaces ── TAPs ──┐
//!  vhost-user pods ─ sockets┤ podrouter-dataplane ── af_packet on veth `uplink` ══ bridge `eth0` of the outside host
//!  node namespace ─ TAP ────┘        (node namespace)                            (192.168.78.1, fd00:78::1, …)
//! ```
//! Namespaces isolate everything, so that a node alone always has the same addresses. The outside host is router and a host of the
//! wider world, and where there is no other node, that node's router ([`OTHER_NODE`]) as well.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::artefacts::Artefacts;
use crate::lan::{self, Lan, PAIR, SHARED};
use crate::manifests::{Manifests, NODE, NodeObject, OTHER_NODE};
use crate::netns::Netns;
use crate::pod::Family;
use crate::process::{Process, finish_with_input, is_broken_pipe, succeed};
use crate::query::Query;
use crate::run::Run;
use crate::signals;
use crate::site::Site;
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
/// The other node's own addresses.
pub const OTHER_HOST: [&str; 2] = ["192.168.77.12", "fd00:77::12"];
/// The host's end of its own port.
pub const HOST_DEVICE: &str = "podrouter0";

/// How a node reaches others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Uplink {
    /// By a device of the data plane's own.
    Dedicated,
    /// By the node's kernel and its NIC.
    Kernel,
}

/// Which other nodes are reached by a tunnel, as control's `--vxlan` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Vxlan {
    /// None.
    Never,
    /// Those on no subnet of the uplink.
    AcrossSubnets,
    /// All.
    Always,
}

impl Vxlan {
    const fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::AcrossSubnets => "across-subnets",
            Self::Always => "always",
        }
    }
}

/// What may differ from one node to another.
#[derive(Debug, Clone)]
pub struct Options {
    /// `--workers` of the data plane; `None`: `auto`.
    pub workers: Option<String>,
    /// `--idle` of the data plane; `None`: its default.
    pub idle: Option<String>,
    /// Whose the network between nodes is.
    pub uplink: Uplink,
    /// What pods send beyond the cluster by a dedicated uplink has its address; by a kernel it always has the node's.
    pub masquerade: bool,
    /// How packets get from one node to another there.
    pub vxlan: Vxlan,
    /// Each node is on a network of its own, with a router between them that knows nodes alone, and lets nobody else's packets through.
    pub routed: bool,
    /// The only family that routers have addresses of on a dedicated uplink; `None`: both.
    pub underlay: Option<Family>,
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
            uplink: Uplink::Dedicated,
            masquerade: false,
            vxlan: Vxlan::Never,
            routed: false,
            underlay: None,
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
    pub site: Site,
    pub outside: Netns,
    pub host: Netns,
    pub manifests: Manifests,
    pub artefacts: Artefacts,
    pub options: Options,
    pub run: Arc<Run>,
}

impl Node {
    /// Builds a node alone, and waits until it forwards.
    ///
    /// # Errors
    /// When anything cannot be made or does not come up; the logs' ends are in the error.
    pub fn start(run: &Arc<Run>, artefacts: &Artefacts, options: Options) -> Result<Self> {
        let lan = Lan::create(run, &options)?;
        lan.play_other_node()?;
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
        Self::join(run, artefacts, options, &lan, &manifests, Site::FIRST)
    }

    /// Builds a node on a network, of a cluster that these manifests tell of, and waits until it forwards.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn join(
        run: &Arc<Run>,
        artefacts: &Artefacts,
        options: Options,
        lan: &Lan,
        manifests: &Manifests,
        site: Site,
    ) -> Result<Self> {
        let host = Netns::create(run, &site.name())?;
        lan.connect(&host, site)?;
        std::fs::create_dir_all(dir(run, site))?;
        let dataplane = spawn_dataplane(run, artefacts, &host, site, &options)?;
        let control = spawn_control(run, artefacts, &host, site, manifests, &options)?;
        let mut node = Self {
            control,
            dataplane,
            site,
            outside: lan.outside.clone(),
            host,
            manifests: manifests.clone(),
            artefacts: artefacts.clone(),
            options,
            run: Arc::clone(run),
        };
        node.settle()?;
        if node.options.uplink == Uplink::Dedicated {
            node.route_host()?;
        }
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
            dataplane: dataplane_socket(&self.run, self.site),
            control: control_socket(&self.run, self.site),
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
        control_socket(&self.run, self.site)
    }

    fn spawn_control(&self) -> Result<Process> {
        spawn_control(&self.run, &self.artefacts, &self.host, self.site, &self.manifests, &self.options)
    }

    fn spawn_dataplane(&self) -> Result<Process> {
        spawn_dataplane(&self.run, &self.artefacts, &self.host, self.site, &self.options)
    }

    /// Kills control as a crash would, and starts it again.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart_control(&mut self) -> Result<()> {
        self.control.kill()?;
        self.control = self.spawn_control()?;
        self.settle()
    }

    /// Ends both processes and takes off the node what they keep on it.
    ///
    /// # Errors
    /// As `podrouter uninstall`.
    pub fn uninstall(&mut self) -> Result<()> {
        self.control.stop()?;
        self.dataplane.stop()?;
        let (query, dir) = (self.query(), dir(&self.run, self.site));
        let mut command = self.host.command(&query.program);
        command.arg("--dataplane").arg(&query.dataplane).arg("--control").arg(&query.control);
        command.args(["uninstall", "--force"]);
        for (flag, name) in [("bin", "bin"), ("conf", "net.d"), ("state", "state"), ("run", "run")] {
            command.arg(format!("--{flag}-dir")).arg(dir.join(name));
        }
        succeed(&mut command, PATIENCE).map(drop)
    }

    /// Kills control as a crash would, starts it again, and lets it be for a while, whatever it is at then.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn crash_control(&mut self, then: Duration) -> Result<()> {
        self.control.kill()?;
        self.control = self.spawn_control()?;
        std::thread::sleep(then);
        Ok(())
    }

    /// Kills the data plane as a crash would, and starts it again.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart_dataplane(&mut self) -> Result<()> {
        self.dataplane.kill()?;
        self.dataplane = self.spawn_dataplane()?;
        self.settle()
    }

    /// Kills both at once, as a machine's worst moment would, and starts them again, control first.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart_both(&mut self) -> Result<()> {
        self.dataplane.kill()?;
        self.control.kill()?;
        self.control = self.spawn_control()?;
        self.dataplane = self.spawn_dataplane()?;
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
        for (gateway, source) in GATEWAY.iter().zip(&self.site.host()) {
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

/// Where its sockets and its journal are.
fn dir(run: &Run, site: Site) -> PathBuf {
    run.dir().join(site.name())
}

fn dataplane_socket(run: &Run, site: Site) -> PathBuf {
    dir(run, site).join("dataplane.sock")
}

fn control_socket(run: &Run, site: Site) -> PathBuf {
    dir(run, site).join("control.sock")
}

fn spawn_dataplane(
    run: &Arc<Run>,
    artefacts: &Artefacts,
    host: &Netns,
    site: Site,
    options: &Options,
) -> Result<Process> {
    let mut command: Command = host.command(artefacts.path("podrouter-dataplane"));
    command.arg("--socket").arg(dataplane_socket(run, site));
    if options.uplink == Uplink::Dedicated {
        command.args(["--vdev", "net_af_packet0,iface=uplink"]);
    }
    command.args(["--file-prefix", &run.name(&format!("dp{}", site.number()))]);
    for (flag, value) in [("--workers", &options.workers), ("--idle", &options.idle)] {
        if let Some(value) = value {
            command.args([flag, value]);
        }
    }
    command.args(&options.dataplane);
    Process::spawn(run, &format!("{}-dataplane", site.name()), &mut command)
}

fn spawn_control(
    run: &Arc<Run>,
    artefacts: &Artefacts,
    host: &Netns,
    site: Site,
    manifests: &Manifests,
    options: &Options,
) -> Result<Process> {
    let mut command: Command = host.command(artefacts.path("podrouter-control"));
    command.args(["--node", &site.name()]);
    match &options.kubeconfig {
        Some(path) => command.arg("--kubeconfig").arg(path),
        None => command.arg("--manifests").arg(manifests.dir()),
    };
    command.arg("--socket").arg(control_socket(run, site));
    command.arg("--dataplane").arg(dataplane_socket(run, site));
    let dir = dir(run, site);
    command.arg("--state-dir").arg(dir.join("state")).arg("--vhost-dir").arg(dir.join("vhost"));
    command.args(["--uplink-mtu", &options.uplink_mtu.to_string()]);
    if options.uplink == Uplink::Dedicated {
        command.args(["--uplink", "net_af_packet0"]);
        if !options.masquerade {
            command.arg("--no-masquerade");
        }
    }
    command.args(["--vxlan", options.vxlan.name()]);
    let lengths = if options.routed { PAIR } else { SHARED };
    for ((address, length), family) in site.router().iter().zip(lengths).zip(Family::BOTH) {
        if options.uplink == Uplink::Kernel {
            break;
        }
        if options.underlay.is_some_and(|only| only != family) {
            continue;
        }
        let gateway = if options.routed { lan::across(address)? } else { family.of(OUTSIDE).to_owned() };
        command.args(["--uplink-address", &format!("{address}/{length}"), "--uplink-gateway", &gateway]);
    }
    command.args(["--host-interface", HOST_DEVICE]);
    command.args(["--cluster-dns", "10.96.0.10", "--cluster-dns", "fd00:96::10"]);
    command.args(["--cluster-domain", "cluster.local"]);
    Process::spawn(run, &format!("{}-control", site.name()), &mut command)
}
