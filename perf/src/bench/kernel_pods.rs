//! Bench of kernel pods: TCP and small datagrams from one to another through podrouter, and through a plain veth pair.
//!
//! A contestant is two namespaces and whatever joins them; `iperf3` sends from one to the other in turn, while the data planes of others
//! are stopped. Nothing is pinned but poll workers: sender, receiver and kernel worker lie where the scheduler puts them, as on a node.

use std::fs;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use lab::artefacts::Artefacts;
use lab::iperf::{Load, Transferred, transfer};
use lab::netns::{Netns, veth};
use lab::node::{Node, Options};
use lab::pod::{Family, INTERFACE, Kind, Pod};
use lab::run::Run;
use lab::signals;
use rustix::process::Signal;

use super::Pace;
use super::contestant::Stage;
use super::report::{Aim, Figure, Report};

/// Of every device, so that segments on one side are as long as on the other.
const MTU: u16 = 1500;

/// Payload of a datagram in a frame of 64 bytes, FCS included: 14 for Ethernet, 20 for IPv4, 8 for UDP, 4 for FCS.
const PAYLOAD: u16 = 18;

/// Ticks a second in `/proc/stat` (proc(5), `USER_HZ`); the same on every architecture this is built for.
const USER_HZ: f64 = 100.0;

/// Two namespaces, joined.
struct Contestant {
    name: String,
    client: Netns,
    server: Netns,
    address: String,
    /// None for what the kernel does alone.
    node: Option<Node>,
    tcp: Vec<Turn>,
    udp: Vec<Turn>,
}

/// What came of one turn.
struct Turn {
    got: Transferred,
    /// Seconds that all processors of the machine were not idle.
    cpu: f64,
}

impl Turn {
    #[expect(clippy::cast_precision_loss, reason = "bytes of seconds")]
    fn cpu_a_gigabyte(&self) -> f64 {
        self.cpu / (self.got.bytes as f64 / 1e9)
    }

    #[expect(clippy::cast_precision_loss, reason = "packets of seconds")]
    fn delivered(&self) -> f64 {
        self.got.sent.saturating_sub(self.got.lost) as f64
    }

    /// Delivered, in thousands a second.
    fn kpps(&self) -> f64 {
        self.delivered() / self.got.seconds / 1e3
    }

    #[expect(clippy::cast_precision_loss, reason = "packets of seconds")]
    fn lost_percent(&self) -> f64 {
        self.got.lost as f64 / self.got.sent.max(1) as f64 * 100.0
    }
}

impl Contestant {
    /// The kernel's own way to join two namespaces.
    fn veth(run: &Arc<Run>) -> Result<Self> {
        let [client, server] = ["client", "server"].map(|name| Netns::create(run, name));
        let (client, server) = (client?, server?);
        veth(&client, INTERFACE, &server, INTERFACE)?;
        let address = "10.99.0.2".to_owned();
        for (netns, address) in [(&client, "10.99.0.1/24"), (&server, "10.99.0.2/24")] {
            netns.add_address(INTERFACE, address)?;
            netns.ip(&["link", "set", INTERFACE, "mtu", &MTU.to_string()])?;
        }
        Ok(Self {
            name: "veth".to_owned(),
            client,
            server,
            address,
            node: None,
            tcp: Vec::new(),
            udp: Vec::new(),
        })
    }

    /// Two kernel pods of a node, attached by the plug-in.
    fn podrouter(run: &Arc<Run>, artefacts: &Artefacts, name: &str) -> Result<Self> {
        let options = Options { pod_mtu: Some(MTU), ..Options::default() };
        let node = Node::start(run, artefacts, options)?;
        let [a, b] = ["a", "b"].map(|name| Pod::attach(&node, name, Kind::Kernel));
        let (a, b) = (a?, b?);
        let address = b.address(Family::V4);
        let this = Self {
            name: name.to_owned(),
            client: a.netns,
            server: b.netns,
            address,
            node: Some(node),
            tcp: Vec::new(),
            udp: Vec::new(),
        };
        this.signal(Signal::STOP)?;
        Ok(this)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        self.node.as_ref().map_or(Ok(()), |node| node.dataplane.signal(signal))
    }

    fn turn(&mut self, run: &Arc<Run>, load: Load, seconds: u32) -> Result<Turn> {
        self.signal(Signal::CONT)?;
        let before = busy_seconds()?;
        let got = transfer(run, &self.server, &self.client, &self.address, load, seconds);
        let cpu = busy_seconds()? - before;
        self.signal(Signal::STOP)?;
        Ok(Turn { got: got.with_context(|| self.name.clone())?, cpu })
    }

    /// One turn with each load.
    fn turns(&mut self, run: &Arc<Run>, pace: Pace) -> Result<()> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0.1 s and an hour"
        )]
        let seconds = pace.turn.as_secs_f64().ceil() as u32;
        let tcp = self.turn(run, Load::Tcp, seconds)?;
        let udp = self.turn(run, Load::Flood { bytes: PAYLOAD }, seconds)?;
        eprintln!(
            "{:<12} {:>6.2} Gbit/s {:>5.2} CPU s/GB {:>6.0} kpps {:>5.1} % lost",
            self.name,
            tcp.got.megabits_per_second / 1e3,
            tcp.cpu_a_gigabyte(),
            udp.kpps(),
            udp.lost_percent(),
        );
        self.tcp.push(tcp);
        self.udp.push(udp);
        Ok(())
    }

    /// Whether every packet is accounted for.
    fn verify(&self) -> Result<()> {
        self.signal(Signal::CONT)?;
        let ledger = self.node.as_ref().map_or(Ok(()), |node| node.query().ledger().map(drop));
        ledger.with_context(|| self.name.clone())
    }

    fn of_turns(turns: &[Turn], value: impl Fn(&Turn) -> f64) -> Vec<f64> {
        turns.iter().map(value).collect()
    }

    fn figures(&self, figures: &mut Vec<Figure>) {
        let mut add = |what: &str, unit, values| {
            figures.push(Figure::new(format!("{what}, {}", self.name), unit, values, None));
        };
        add("TCP", "Gbit/s", Self::of_turns(&self.tcp, |turn| turn.got.megabits_per_second / 1e3));
        add("TCP: processors", "s a GB", Self::of_turns(&self.tcp, Turn::cpu_a_gigabyte));
        add("64-byte UDP delivered", "kpps", Self::of_turns(&self.udp, Turn::kpps));
        add("64-byte UDP lost", "%", Self::of_turns(&self.udp, Turn::lost_percent));
        let cpu = Self::of_turns(&self.udp, |turn| turn.cpu / turn.delivered().max(1.0) * 1e6);
        add("64-byte UDP: processors", "µs a packet", cpu);
    }

    /// How this one compares with `peer`, round by round.
    fn ratios(&self, peer: &Self, aim: Option<Aim>, figures: &mut Vec<Figure>) {
        let ratio = |ours: &[Turn], theirs: &[Turn], value: fn(&Turn) -> f64| -> Vec<f64> {
            ours.iter().zip(theirs).map(|(a, b)| value(a) / value(b)).collect()
        };
        let name = |what: &str| format!("{what}, {} / {}", self.name, peer.name);
        let tcp = ratio(&self.tcp, &peer.tcp, |turn| turn.got.megabits_per_second);
        figures.push(Figure::new(name("TCP"), "×", tcp, aim));
        let cpu = ratio(&self.tcp, &peer.tcp, Turn::cpu_a_gigabyte);
        figures.push(Figure::new(name("TCP: processors a GB"), "×", cpu, None));
        let udp = ratio(&self.udp, &peer.udp, Turn::kpps);
        figures.push(Figure::new(name("64-byte UDP"), "×", udp, None));
    }
}

/// Seconds that the machine's processors have spent on anything, since it began: all but idle and waiting, and none that its own
/// host took (proc(5), `/proc/stat`). Packets are worked on in interrupts as well, which no process is charged with.
fn busy_seconds() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat").context("/proc/stat cannot be read")?;
    busy(&text).context("/proc/stat has no line `cpu` as proc(5) describes it")
}

fn busy(text: &str) -> Option<f64> {
    let fields: Vec<f64> =
        text.strip_prefix("cpu ")?.lines().next()?.split_whitespace().map_while(|n| n.parse().ok()).collect();
    let &[user, nice, system, _idle, _iowait, irq, softirq, ..] = fields.as_slice() else { return None };
    Some((user + nice + system + irq + softirq) / USER_HZ)
}

/// Two kernel pods against a veth pair, and against those of another build, where there is one.
pub(crate) fn kernel_pods(stage: &Stage, cores: usize) -> Result<Report> {
    let pace = stage.pace;
    // A node has namespaces and sockets named after its run, so each has one of its own.
    let run = Run::start()?;
    let mut contestants =
        vec![Contestant::podrouter(&run, &stage.artefacts, "podrouter")?, Contestant::veth(&run)?];
    let other = stage.beside.as_ref().map(|_| Run::start()).transpose()?;
    if let (Some(artefacts), Some(run)) = (&stage.beside, &other) {
        contestants.push(Contestant::podrouter(run, artefacts, "beside")?);
    }
    for round in 0..pace.rounds {
        eprintln!("  round {} of {}", round + 1, pace.rounds);
        // Nobody is always the first of a round.
        let first = usize::try_from(round)? % contestants.len();
        for at in 0..contestants.len() {
            signals::check()?;
            let at = (first + at) % contestants.len();
            contestants[at].turns(&run, pace)?;
        }
    }
    let mut report = Report::of("iperf3 between two namespaces");
    for contestant in &contestants {
        contestant.verify()?;
        contestant.figures(&mut report.figures);
    }
    let [ours, veth, rest @ ..] = contestants.as_slice() else { return Ok(report) };
    ensure!(!veth.tcp.is_empty(), "no round was run");
    // Of two kernel pods beside a veth pair: where sender, receiver and worker have a core each, and on two.
    let aim = if cores >= 3 { 0.9 } else { 0.75 };
    ours.ratios(veth, Some(Aim::AtLeast(aim)), &mut report.figures);
    for other in rest {
        ours.ratios(other, None, &mut report.figures);
    }
    report.note(&format!(
        "{cores} cores: the aim for TCP is {aim} (0.9 where sender, receiver and worker have a core each, 0.75 on two)."
    ));
    report.note(
        "Processors: what all of the machine's spent in a turn, in processes and interrupts alike; nothing else may run.",
    );
    if let Some(node) = &ours.node {
        report.note(&format!(
            "MTU {MTU}; one kernel worker, poll workers on all cores, adaptive (the defaults)."
        ));
        let drops = node.query().drops_by_reason()?;
        report.note(&format!("Dropped by podrouter, all turns: {drops:?}."));
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_all_but_idle_waiting_and_stolen() {
        let text = "cpu  100 20 300 9000 9000 4 50 9000 0 0\ncpu0 1 1 1 1\n";
        assert_eq!(busy(text), Some(4.74));
        assert_eq!(busy("cpu0 1 2 3"), None);
        assert_eq!(busy("cpu  1 2 3"), None);
    }

    #[test]
    fn loss_and_rates_are_of_what_was_sent_and_arrived() {
        let got =
            Transferred { bytes: 2_000_000_000, megabits_per_second: 8e3, seconds: 2.0, lost: 50, sent: 250 };
        let turn = Turn { got, cpu: 3.0 };
        assert_eq!(turn.cpu_a_gigabyte(), 1.5);
        assert_eq!(turn.kpps(), 0.1);
        assert_eq!(turn.lost_percent(), 20.0);
    }
}
