//! Our own data plane, programmed over its socket as control would.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lab::client::Client;
use lab::process::{Process, describe};
use proto::dataplane::{Endpoint, EndpointKind, Ethdev, Limits, Op, PortKind, PortSpec};

use super::contestant::{Contestant, Play, Source, Stage};
use super::traffic::{CLIENT, CLIENT_MAC, ROUTER_MAC, SERVER, SERVER_MAC};

/// Flows that need more than the usual table.
const MANY: u32 = 100_000;

/// What may be lost of the packets: none is refused by anybody, but a worker that is stopped may be amid a burst.
const LOSS: f64 = 0.001;

/// The port that receives, and the one that sends.
pub(crate) const IN: &str = "in";
pub(crate) const OUT: &str = "out";

/// A device of DPDK's, by its arguments.
pub(crate) fn ethdev(devargs: &str) -> PortKind {
    let device = devargs.split(',').next().unwrap_or_default();
    PortKind::Ethdev(Ethdev { devargs: Some(devargs.to_owned()), ..Ethdev::new(device) })
}

/// A data plane with one poll worker that forwards from its first port to its second.
pub(crate) struct Router {
    name: String,
    command: String,
    process: Process,
    pub(crate) client: Client,
    pub(crate) socket: PathBuf,
    dropped: u64,
    at_start: u64,
}

impl Router {
    /// Starts one that has buffers for `play`; no ports, and nothing in its tables.
    pub(crate) fn start(stage: &Stage, name: &str, source: Source, frames: u32) -> Result<Self> {
        let prefix = stage.run.name(&format!("router{}", stage.run.number()));
        let socket = stage.run.dir().join(format!("{prefix}.sock"));
        let mut command = Command::new(stage.artefacts.path("podrouter-dataplane"));
        command.arg("--socket").arg(&socket).args(["--file-prefix", &prefix, "--log", "warn"]);
        command.args(["--workers", &stage.core.to_string(), "--idle", "poll"]);
        // Room for all flows of a bench, as the other contestants have.
        if frames > MANY {
            command.args(["--flows", &(frames * 2).next_power_of_two().to_string()]);
        }
        command.args(["--mbufs", &source.mbufs(frames).to_string(), "--large-mbufs", "256"]);
        command.args(["--memory", &(source.memory_mb(frames) + 64).to_string()]);
        if !stage.hugepages {
            command.arg("--no-huge");
        }
        let mut process = Process::spawn(&stage.run, &prefix, &mut command)?;
        // Making a million buffers takes it seconds, in which it answers nobody, or ends.
        let client = Client::connect(&socket, || process.check()).with_context(|| process.tail(10))?;
        let name = format!("{name} ({})", source.name());
        let command = describe(&command);
        Ok(Self { name, command, process, client, socket, dropped: 0, at_start: 0 })
    }

    /// Gives it its ports, a pod behind each, and the packets. They flow when this returns, and what is dropped from
    /// now on counts.
    pub(crate) fn play(&mut self, play: &Play) -> Result<()> {
        let source = match play.source {
            Source::Pcap => ethdev(&format!("net_pcap0,rx_pcap={},infinite_rx=1", play.file.display())),
            Source::Templates => {
                PortKind::Memory { rx_pcap: Some(play.file.clone()), tx_pcap: None, repeat: true }
            }
        };
        self.add_ports([(OUT, ethdev(Play::SINK)), (IN, source)])?;
        self.forwards()
    }

    /// Gives it ports, and a pod behind each.
    pub(crate) fn add_ports(&mut self, ports: [(&str, PortKind); 2]) -> Result<()> {
        for (name, kind) in ports {
            let spec = PortSpec {
                name: name.to_owned(),
                kind,
                mac: Some(ROUTER_MAC),
                mtu: 1500,
                limits: Limits::default(),
            };
            self.client.add_port(spec).with_context(|| self.process.tail(10))?;
        }
        self.add_pods()
    }

    /// Waits until packets flow; what is dropped from now on counts.
    pub(crate) fn forwards(&mut self) -> Result<()> {
        self.client.wait_for_packets().with_context(|| self.process.tail(10))?;
        self.at_start = self.sent()?;
        self.dropped = self.drops()?;
        Ok(())
    }

    fn add_pods(&mut self) -> Result<()> {
        let pod = |name: &str, port: &str, mac, address| Endpoint {
            name: name.to_owned(),
            port: port.to_owned(),
            network: 0,
            mac,
            addresses: vec![address],
            routes: vec![],
            kind: EndpointKind::Pod,
        };
        self.client.commit(vec![Op::SetEndpoints {
            endpoints: vec![
                pod("bench/client", IN, CLIENT_MAC, CLIENT.into()),
                pod("bench/server", OUT, SERVER_MAC, SERVER.into()),
            ],
        }])
    }

    fn drops(&mut self) -> Result<u64> {
        Ok(self.client.drops()?.iter().map(|(_, packets)| packets).sum())
    }
}

impl Contestant for Router {
    fn name(&self) -> &str {
        &self.name
    }

    fn command(&self) -> &str {
        &self.command
    }

    fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    fn sent(&mut self) -> Result<u64> {
        Ok(self.client.workers()?.iter().map(|worker| worker.ledger.tx).sum())
    }

    fn verify(&mut self) -> Result<()> {
        let (sent, dropped) = (self.sent()? - self.at_start, self.drops()? - self.dropped);
        #[expect(clippy::cast_precision_loss, reason = "a share, to be compared with one per mille")]
        let lost = dropped as f64 > sent as f64 * LOSS;
        let name = &self.name;
        ensure!(!lost, "{name} sent {sent} packets and dropped {dropped}: {:?}", self.client.drops()?);
        Ok(())
    }
}
