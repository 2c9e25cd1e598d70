//! Open vSwitch on DPDK, with connection tracking and NAT by OpenFlow: the nearest thing that does the same for pods.
//!
//! It is the run's own: database, sockets, logs and files of process ids are in the run's folder, and the bridge's kernel
//! device is in a namespace of its own. The system's service, if there is one, is not touched.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use lab::netns::Netns;
use lab::process::{Process, describe, succeed};
use lab::wait::{PATIENCE, wait_until};
use serde_json::{Value, json};

use super::contestant::{Contestant, Play, Source, Stage};
use super::traffic::{BACKEND_PORT, ROUTER_MAC, SERVER, SERVER_MAC, SERVICE_PORT};

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
const VSWITCHD: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
const DATABASE: &str = "/usr/sbin/ovsdb-server";

/// A switch with one poll thread.
pub(crate) struct Ovs {
    // Dropped in this order: the switch before its database.
    switch: Process,
    _database: Process,
    _netns: Netns,
    control: PathBuf,
    command: String,
    flows: u32,
}

impl Ovs {
    /// Starts one; packets flow when this returns.
    pub(crate) fn start(stage: &Stage, play: &Play) -> Result<Self> {
        ensure!(play.source == Source::Pcap, "OVS is given its packets by net_pcap alone");
        let dir = stage.run.dir().join("ovs");
        std::fs::create_dir_all(&dir)?;
        let netns = Netns::create(&stage.run, "ovs")?;
        let tools = Tools { dir: dir.clone() };
        let file = |name: &str| dir.join(name).display().to_string();

        succeed(tools.command("ovsdb-tool").args(["create", &file("conf.db"), SCHEMA]), PATIENCE)?;
        let mut server = tools.inside(&netns, DATABASE);
        server.arg(file("conf.db")).arg(format!("--remote=punix:{}", file("db.sock")));
        server.arg(format!("--unixctl={}", file("db.ctl"))).arg("--no-chdir");
        let mut database = Process::spawn(&stage.run, "ovsdb", &mut server)?;
        wait_until("ovsdb-server listens", PATIENCE, || {
            database.check()?;
            tools.vsctl(&["--no-wait", "init"])
        })?;

        let mut extra = format!("--no-pci --file-prefix={}", stage.run.name("ovs"));
        if !stage.hugepages {
            // Without hugepages DPDK refuses the mode that OVS asks for by default, --in-memory.
            extra += &format!(" --no-huge --legacy-mem -m {}", play.source.memory_mb(play.frames) + 1024);
        }
        let set = |key: &str, value: &str| format!("other_config:{key}={value}");
        let (core, other) = (1_u64 << stage.core, 1_u64 << stage.other);
        let mut options = vec![
            set("dpdk-init", "true"),
            set("dpdk-extra", &format!("\"{extra}\"")),
            set("dpdk-lcore-mask", &format!("0x{other:x}")),
            set("pmd-cpu-mask", &format!("0x{core:x}")),
        ];
        if stage.hugepages {
            options.push(set("dpdk-socket-mem", "\"1024\""));
        }
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        tools.vsctl(&[&["--no-wait", "set", "Open_vSwitch", "."], options.as_slice()].concat())?;

        let control = dir.join("switch.ctl");
        let mut command = tools.inside(&netns, VSWITCHD);
        command.arg(format!("unix:{}", file("db.sock")));
        command.arg(format!("--unixctl={}", control.display())).args(["--no-chdir", "--pidfile"]);
        let shown = describe(&command);
        let mut switch = Process::spawn(&stage.run, "ovs-vswitchd", &mut command)?;
        wait_until("ovs-vswitchd is ready", 2 * PATIENCE, || {
            switch.check()?;
            ask(&control, "version", &[]).map(drop)
        })?;
        tools.configure(play)?;
        let flows = play.frames;
        let mut this = Self { switch, _database: database, _netns: netns, control, command: shown, flows };
        wait_until("packets leave OVS", PATIENCE, || {
            this.switch.check()?;
            ensure!(this.sent()? > 0, "none so far:\n{}", this.switch.tail(15));
            Ok(())
        })?;
        Ok(this)
    }
}

impl Contestant for Ovs {
    fn name(&self) -> &str {
        "ovs-dpdk (pcap)"
    }

    fn command(&self) -> &str {
        &self.command
    }

    fn process(&mut self) -> &mut Process {
        &mut self.switch
    }

    fn sent(&mut self) -> Result<u64> {
        // Statistics in its database are seconds old; these are asked of the device.
        let answer = ask(&self.control, "dpctl/show", &["-s"])?;
        sent_by(&answer, "out").with_context(|| format!("dpctl/show printed: {answer}"))
    }

    fn verify(&mut self) -> Result<()> {
        let tracked: u32 = ask(&self.control, "dpctl/ct-get-nconns", &[])?.trim().parse()?;
        ensure!(tracked >= self.flows, "OVS tracks {tracked} connections of {}", self.flows);
        Ok(())
    }
}

/// Packets that a port has sent, as `dpctl/show -s` prints it.
fn sent_by(shown: &str, port: &str) -> Result<u64> {
    let mut lines = shown.lines().skip_while(|line| {
        let mut words = line.split_whitespace();
        (words.next(), words.nth(1)) != (Some("port"), Some(port))
    });
    let line = lines.find_map(|line| line.trim().strip_prefix("TX packets:"));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|digits| digits.parse().ok()).ok_or_else(|| anyhow!("no counter of port {port}"))
}

/// Asks a daemon of OVS by its control socket, as `ovs-appctl` does: JSON-RPC 1.0.
fn ask(socket: &Path, method: &str, arguments: &[&str]) -> Result<String> {
    let mut stream = UnixStream::connect(socket).context("ovs-vswitchd does not listen")?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(json!({ "id": 0, "method": method, "params": arguments }).to_string().as_bytes())?;
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    // Nothing marks the end of an answer but that it is whole.
    let answer = loop {
        let read = stream.read(&mut piece)?;
        ensure!(read > 0, "ovs-vswitchd hung up");
        bytes.extend_from_slice(&piece[..read]);
        if let Ok(answer) = serde_json::from_slice::<Value>(&bytes) {
            break answer;
        }
    };
    match answer["result"].as_str() {
        Some(text) => Ok(text.to_owned()),
        None => bail!("ovs-vswitchd refused {method}: {}", answer["error"]),
    }
}

/// Its command-line tools, told where this run's files are.
struct Tools {
    dir: PathBuf,
}

impl Tools {
    fn environment<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        for name in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR"] {
            command.env(name, &self.dir);
        }
        command
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        self.environment(&mut command);
        command
    }

    fn inside(&self, netns: &Netns, program: &str) -> Command {
        let mut command = netns.command(program);
        self.environment(&mut command);
        command
    }

    fn vsctl(&self, arguments: &[&str]) -> Result<()> {
        let database = format!("--db=unix:{}", self.dir.join("db.sock").display());
        succeed(self.command("ovs-vsctl").arg(database).arg("--timeout=60").args(arguments), 3 * PATIENCE)?;
        Ok(())
    }

    /// A bridge with two ports, and the rules of one router: track, translate, decide the first packet, remember.
    fn configure(&self, play: &Play) -> Result<()> {
        self.vsctl(&["add-br", "bench", "--", "set", "bridge", "bench", "datapath_type=netdev"])?;
        self.vsctl(&["set-fail-mode", "bench", "secure"])?;
        let source = format!("net_pcap0,rx_pcap={},infinite_rx=1", play.file.display());
        for (name, devargs, number) in [("out", Play::SINK, 2), ("in", source.as_str(), 1)] {
            let devargs = format!("options:dpdk-devargs=\"{devargs}\"");
            let number = format!("ofport_request={number}");
            let port = ["add-port", "bench", name, "--", "set", "Interface", name, "type=dpdk"];
            self.vsctl(&[port.as_slice(), &[&devargs, &number]].concat())?;
        }
        let flows = self.dir.join("flows.txt");
        let nat = format!("ct(commit,zone=1,nat(dst={SERVER}:{BACKEND_PORT}),table=2)");
        let onward =
            format!("set_field:{ROUTER_MAC}->eth_src,set_field:{SERVER_MAC}->eth_dst,dec_ttl,output:2");
        let rules = [
            "table=0,priority=1,in_port=1,ip,actions=ct(table=1,zone=1,nat)".to_owned(),
            format!(
                "table=1,priority=3,ct_state=+new+trk,udp,nw_dst=10.96.0.0/12,tp_dst={SERVICE_PORT},actions={nat}"
            ),
            "table=1,priority=2,ct_state=+new+trk,ip,actions=ct(commit,zone=1,table=2)".to_owned(),
            "table=1,priority=2,ct_state=+est+trk,ip,actions=resubmit(,2)".to_owned(),
            format!("table=2,priority=1,ip,actions={onward}"),
        ];
        std::fs::write(&flows, rules.join("\n"))?;
        let mut command = self.command("ovs-ofctl");
        command.args(["-O", "OpenFlow13", "replace-flows"]);
        command.arg(format!("unix:{}", self.dir.join("bench.mgmt").display())).arg(&flows);
        self.vsctl(&["set", "bridge", "bench", "protocols=OpenFlow13"])?;
        succeed(&mut command, PATIENCE).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_port() {
        let shown = "netdev@ovs-netdev:\n  lookups: hit:1 missed:2 lost:0\n  port 0: ovs-netdev (tap)\n    RX packets:0 \
                     errors:0\n    TX packets:1 errors:0\n  port 1: out (dpdk: configured_n_rxq=1)\n    RX packets:0\n    \
                     TX packets:4711 errors:0 dropped:? aborted:?\n";
        assert_eq!(sent_by(shown, "out").unwrap(), 4711);
        assert!(sent_by(shown, "in").is_err());
    }
}
