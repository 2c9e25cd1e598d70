//! The path of a packet alone, in memory: bursts of packets whose flows it knows, or does not.
//!
//! What is measured is [`Bench::measured_burst`] and nothing else; tables and packets are made outside of it, in the same way each time.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use flow::{AtomicU64, Flows, FlowsConfig, Local, Seat, Timeouts};
use pipeline::{
    Adjacencies, BURST, Buffer, FlowCounts, Offload, Packet, Router, RouterConfig, Tick, Tracking, Verdict,
};
use tables::{Generation, IdentityId, Masquerade, PortId, Tables};
use wire::{IpPrefix, MacAddr, Parsed};

use crate::frame::{Frame, Headers};
use crate::world::{
    CLIENT, Failure, PODS, Rules, SERVER, SERVICE_PORT, backend_port, load, pod, pod_mac, port_mac, service,
};

/// Client ports are counted from here, and the server's where no Service is asked.
const FIRST_PORT: u32 = 1_024;
const ROUTED_PORTS: u32 = 64;
const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;
/// Prime to powers of two: those in a burst are far from each other in the table.
const STRIDE: u64 = 0x9e37_79b1;

/// The packets of a burst.
pub type Burst = ArrayVec<Packet<Frame>, BURST>;

/// What they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Datagrams to a Service, IPv4, 64 bytes with their check sequence.
    Translated,
    /// The answers to those.
    Answered,
    /// Datagrams from pod to pod, IPv4, 64 bytes with their check sequence.
    Routed,
    /// TCP to a Service, IPv6.
    Tcp6,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Translated, Self::Answered, Self::Routed, Self::Tcp6];

    /// In results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Translated => "udp4-translated",
            Self::Answered => "udp4-answered",
            Self::Routed => "udp4-routed",
            Self::Tcp6 => "tcp6-translated",
        }
    }
}

/// A path with its tables, and packets for it.
pub struct Bench {
    tables: Tables,
    router: Router<Frame>,
    adjacencies: Arc<Adjacencies>,
    storage: &'static [AtomicU64],
    config: FlowsConfig,
    services: u32,
    flows: u32,
    /// Which backend each flow has, where answers are wanted.
    backends: Vec<IpAddr>,
    now: Tick,
    generation: u64,
}

impl Bench {
    /// With room for `flows` flows of each family, none of them known yet. The memory for flows is never given back.
    ///
    /// # Errors
    /// Tables that cannot be.
    pub fn new(rules: Rules, flows: u32) -> Result<Self, Failure> {
        let tables = load(rules)?;
        let adjacencies = Arc::new(Adjacencies::default());
        adjacencies.sync(&tables);
        // Room for some more: nothing is evicted here.
        let records = flows + flows / 8 + 4_096;
        let config = FlowsConfig {
            v4: records,
            v6: records,
            seats: 1,
            seeds: [0x1357_9bdf_0246_8ace, 0xfdb9_7531_eca8_6420, 0x0f1e_2d3c_4b5a_6978],
            timeouts: Timeouts::default(),
        };
        let words = (0..Flows::words(&config)).map(|_| AtomicU64::new(0)).collect();
        let storage: &'static [AtomicU64] = Vec::leak(words);
        Ok(Self {
            router: router(storage, &config, &adjacencies)?,
            tables,
            adjacencies,
            storage,
            config,
            services: rules.services,
            flows,
            backends: Vec::new(),
            now: Tick(1 << 40),
            generation: 1,
        })
    }

    /// Forgets all flows.
    ///
    /// # Errors
    /// Never: the sizes have not changed.
    pub fn forget(&mut self) -> Result<(), Failure> {
        self.backends.clear();
        self.storage.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        self.router = router(self.storage, &self.config, &self.adjacencies)?;
        Ok(())
    }

    /// Makes all flows of this kind known, by their packets and, where it is of them, by those of the other side.
    ///
    /// # Errors
    /// A packet that was not forwarded.
    pub fn open(&mut self, kind: Kind) -> Result<(), Failure> {
        for first in (0..self.flows).step_by(BURST) {
            let last = self.flows.min(first.saturating_add(32));
            let numbers = || first..last;
            let mut asked: Burst = numbers().map(|n| self.ask(kind, n, SYN)).collect();
            self.send(&mut asked)?;
            if matches!(kind, Kind::Answered | Kind::Tcp6) {
                for packet in &asked {
                    self.backends.push(destination(packet)?);
                }
                let mut answers: Burst = numbers().map(|n| self.answer(kind, n)).collect();
                self.send(&mut answers)?;
            }
            if kind == Kind::Tcp6 {
                let mut more: Burst = numbers().map(|n| self.ask(kind, n, ACK)).collect();
                self.send(&mut more)?;
            }
        }
        Ok(())
    }

    /// The packets of burst `number`, in the order of their flows: each flow's first, one after the other.
    #[must_use]
    pub fn fresh(&self, kind: Kind, number: u32) -> Burst {
        (0..32).map(|at| self.ask(kind, (number * 32 + at) % self.flows, SYN)).collect()
    }

    /// The packets of burst `number`, from all over the flows.
    #[must_use]
    pub fn known(&self, kind: Kind, number: u32) -> Burst {
        let place = |at: u32| {
            let far = (u64::from(number) * 32 + u64::from(at)).wrapping_mul(STRIDE) % u64::from(self.flows);
            // Below a 32-bit number.
            u32::try_from(far).unwrap_or(0)
        };
        let packet = |at| match kind {
            Kind::Answered => self.answer(kind, place(at)),
            _ => self.ask(kind, place(at), ACK),
        };
        (0..32).map(packet).collect()
    }

    /// What is measured. Nothing else has this name, by which it is found from outside.
    #[inline(never)]
    pub fn measured_burst(&mut self, packets: &mut Burst, verdicts: &mut ArrayVec<Verdict, BURST>) {
        let Some(in_port) = packets.first().map(|first| first.in_port) else { return };
        // As a worker does with frames that have nothing left to finish, which most bursts are of.
        let replayed = self.router.replay(&self.tables, self.now, in_port, packets, |packet, _| {
            let len = packet.buffer.frame_len();
            Some((packet.buffer.head_mut(), len, ()))
        });
        self.router.decide(&self.tables, self.now, packets, &replayed, verdicts);
    }

    /// Another generation of tables, in which something has changed that no flow here rests on.
    ///
    /// # Errors
    /// Never.
    pub fn advance(&mut self) -> Result<(), Failure> {
        self.generation += 1;
        let other = IpPrefix::host(IpAddr::from([192, 0, 2, 1]));
        let identity = u32::try_from(self.generation & 0xffff)?;
        self.tables.set_identity(PODS, other, IdentityId(1_000 + identity))?;
        self.tables.seal(Generation(self.generation));
        Ok(())
    }

    /// The same, but all flows rest on what has changed.
    ///
    /// # Errors
    /// Never.
    pub fn disturb(&mut self) -> Result<(), Failure> {
        self.generation += 1;
        // How packets leave, which none of these do, is what each decision rests on.
        let first = u16::try_from(40_000 + self.generation % 1_000)?;
        let masquerade = Masquerade { ports: (first, 60_000), ..Masquerade::default() };
        self.tables.set_masquerade(PODS, Some(masquerade))?;
        self.tables.seal(Generation(self.generation));
        Ok(())
    }

    /// What became of packets so far.
    #[must_use]
    pub const fn counts(&self) -> FlowCounts {
        self.router.flow_counts()
    }

    fn send(&mut self, packets: &mut Burst) -> Result<(), Failure> {
        let mut verdicts = ArrayVec::new();
        self.router.run(&self.tables, self.now, packets, &mut verdicts);
        match verdicts.iter().find(|verdict| !matches!(verdict, Verdict::Forward(_))) {
            None => Ok(()),
            Some(verdict) => Err(format!("a packet was not forwarded: {verdict:?}").into()),
        }
    }

    /// The client's packet of a flow.
    fn ask(&self, kind: Kind, flow: u32, flags: u8) -> Packet<Frame> {
        let (dst, ports) = self.asked(kind, flow);
        let v6 = kind == Kind::Tcp6;
        packet(
            CLIENT,
            Headers { macs: macs(CLIENT), src: pod(CLIENT, v6), dst, ports, tcp: v6.then_some(flags) },
        )
    }

    /// The server's packet of a flow to a Service.
    fn answer(&self, kind: Kind, flow: u32) -> Packet<Frame> {
        let (_, [port, _]) = self.asked(kind, flow);
        let v6 = kind == Kind::Tcp6;
        let src = self.backends.get(flow as usize).copied().unwrap_or(pod(SERVER, v6));
        let ports = [backend_port(flow % self.services), port];
        packet(
            SERVER,
            Headers { macs: macs(SERVER), src, dst: pod(CLIENT, v6), ports, tcp: v6.then_some(SYN_ACK) },
        )
    }

    /// Where a flow's packets are sent, and their ports.
    fn asked(&self, kind: Kind, flow: u32) -> (IpAddr, [u16; 2]) {
        let port = |number: u32| u16::try_from(FIRST_PORT + number).unwrap_or(u16::MAX);
        match kind {
            Kind::Routed => (pod(SERVER, false), [port(flow / ROUTED_PORTS), port(flow % ROUTED_PORTS)]),
            _ => {
                let addr = service(flow % self.services, kind == Kind::Tcp6);
                (addr, [port(flow / self.services), SERVICE_PORT])
            }
        }
    }
}

fn router(
    storage: &'static [AtomicU64],
    config: &FlowsConfig,
    adjacencies: &Arc<Adjacencies>,
) -> Result<Router<Frame>, Failure> {
    let (flows, _) = Flows::adopt(storage, config)?;
    let tracking =
        Tracking { flows: Arc::new(flows), adjacencies: Arc::clone(adjacencies), local: Local::new(Seat(0)) };
    Ok(Router::new(RouterConfig::default(), tracking))
}

/// Of the pod on a port, and of the port.
const fn macs(port: PortId) -> [MacAddr; 2] {
    [pod_mac(port), port_mac(port)]
}

fn packet(in_port: PortId, headers: Headers) -> Packet<Frame> {
    Packet { buffer: headers.frame(), in_port, offload: Offload::Done }
}

fn destination(packet: &Packet<Frame>) -> Result<IpAddr, Failure> {
    let Parsed { addrs, .. } = wire::parse(packet.buffer.head(), packet.buffer.frame_len())
        .map_err(|error| format!("what was forwarded is malformed: {error:?}"))?;
    match addrs {
        wire::Addrs::V4 { dst, .. } => Ok(dst.into()),
        wire::Addrs::V6 { dst, .. } => Ok(dst.into()),
        wire::Addrs::None => Err("what was forwarded is not IP".into()),
    }
}
