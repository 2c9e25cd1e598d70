//! The command line, and what it comes to.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use wire::MacAddr;

use crate::pacer::Rate;
use crate::template::{Ports, least_size};

const AFTER: &str = "\
Devices are DPDK's: `--vdev net_virtio_user0,path=/run/pod.sock,mac=02:00:00:00:00:05` for a pod's vhost-user socket, \
`net_ring0` (gives back what it is sent), `net_null0` (swallows all; nothing is received from it), \
`net_memif0,…`, `net_af_packet0,iface=…`. A capture can be replayed by --pcap (any port, at --rate) or by DPDK itself \
(`--vdev net_pcap0,rx_pcap=…,tx_pcap=…`).

Latency is the time of arrival less the time at which the packet was due, not less the time at which it was sent: a \
sender that is held up does not hide the delay. With `--rate max` it is the time in full queues; measure latency at a \
rate the path can carry. Packets that are lost have no latency, nor have those that were due and that the port did not \
take before the end: they are counted as \"not sent\".

Exit codes: 0 done; 1 it ran and failed (--min-received not reached, gateway silent); 2 command line; 3 configuration \
(files, addresses or sizes that do not fit together); 4 DPDK or permission.

Examples:
  pktgen --vdev net_ring0 --rate 100k --duration 5
  pktgen --vdev net_null0 --rate max --size 60 --json
  pktgen --vdev net_virtio_user0,path=/run/pod.sock --reflect --address 10.244.1.5 --address fd00:10:244:1::5
  pktgen --vdev net_virtio_user0,path=/run/pod.sock --address 10.244.1.6 --dst 10.244.1.5 --flows 1000 --rate 200k";

/// Sends and receives UDP over any DPDK port: packets per second, loss, order, latency.
#[derive(Parser, Debug)]
#[command(name = "pktgen", version, after_help = AFTER)]
pub(crate) struct Args {
    /// A virtual device, with its arguments as DPDK takes them. May be repeated.
    #[arg(long, value_name = "DEVICE[,ARG=VALUE…]", help_heading = "Devices")]
    pub(crate) vdev: Vec<String>,
    /// A PCI device to use. May be repeated; without it no NIC is touched.
    #[arg(long, value_name = "PCI[,ARG=VALUE…]", help_heading = "Devices")]
    pub(crate) allow: Vec<String>,
    /// A port to use, by its device's name. One: sends and receives on it. Two: sends on the first, receives on the
    /// second. [default: the devices there are, at most two]
    #[arg(long = "port", value_name = "NAME", help_heading = "Devices")]
    pub(crate) ports: Vec<String>,
    /// With two ports: send in both directions.
    #[arg(long, help_heading = "Devices")]
    pub(crate) both: bool,
    /// Hugepages: where there are enough, always, or never.
    #[arg(long, value_enum, default_value = "auto", help_heading = "Devices")]
    pub(crate) huge: HugeArg,
    /// Megabytes of memory for DPDK. [default: 256 without hugepages, what is needed with them]
    #[arg(long, value_name = "MB", help_heading = "Devices")]
    pub(crate) memory: Option<u32>,
    /// Packet buffers in all.
    #[arg(long, default_value_t = 16_383, value_parser = clap::value_parser!(u32).range(1023..), help_heading = "Devices")]
    pub(crate) mbufs: u32,
    /// DPDK's --file-prefix. [default: of this process alone]
    #[arg(long, value_name = "NAME", help_heading = "Devices")]
    pub(crate) file_prefix: Option<String>,
    /// DPDK's --log-level.
    #[arg(long, value_name = "LEVEL", help_heading = "Devices")]
    pub(crate) log_level: Option<String>,
    /// Another argument for DPDK, as it is. May be repeated.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true, help_heading = "Devices")]
    pub(crate) eal_arg: Vec<String>,
    /// The core that sends and receives. [default: any]
    #[arg(long, value_name = "CORE", help_heading = "Devices")]
    pub(crate) core: Option<usize>,
    /// What to do when there is nothing to do. [default: sleep below 100k and in --reflect, poll otherwise]
    #[arg(long, value_enum, help_heading = "Devices")]
    pub(crate) idle: Option<Idle>,

    /// Source MAC. [default: the port's own]
    #[arg(long, value_name = "MAC", help_heading = "Packets")]
    pub(crate) src_mac: Option<MacAddr>,
    /// Destination MAC; `gateway` asks the gateway for its own by ARP or neighbour discovery. [default: `gateway`
    /// with --address, else 02:00:00:00:00:02]
    #[arg(long, value_name = "MAC|gateway", help_heading = "Packets")]
    pub(crate) dst_mac: Option<DstMac>,
    /// Source address. [default: the --address of that family, else 198.18.0.1 or 2001:2::1]
    #[arg(long, value_name = "IP", help_heading = "Packets")]
    pub(crate) src: Option<IpAddr>,
    /// Destination address. [default: 198.18.0.2 or 2001:2::2]
    #[arg(long, value_name = "IP", help_heading = "Packets")]
    pub(crate) dst: Option<IpAddr>,
    /// UDP source port, or a range of them for several flows.
    #[arg(long, value_name = "PORT[-PORT]", default_value = "10000", help_heading = "Packets")]
    pub(crate) sport: PortRange,
    /// UDP destination port, or a range of them for several flows.
    #[arg(long, value_name = "PORT[-PORT]", default_value = "20000", help_heading = "Packets")]
    pub(crate) dport: PortRange,
    /// Flows, in turn, each with ports of its own out of the ranges. A single --sport is taken as where a range
    /// begins. [default: as many as the ranges give, at most 65536]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536), help_heading = "Packets")]
    pub(crate) flows: Option<u32>,
    /// Bytes of a frame without its FCS: at least 60 for IPv4, 80 for IPv6. [default: those]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(60..=9600), help_heading = "Packets")]
    pub(crate) size: Option<u16>,
    /// Send a capture's frames (classic pcap) over and over instead. They carry no stamp: no order, no latency.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["reflect", "flows", "size"], help_heading = "Packets")]
    pub(crate) pcap: Option<PathBuf>,

    /// Packets a second and direction: 2500, 100k, 1.5M, or `max`.
    #[arg(long, value_name = "PPS", default_value = "100k", help_heading = "Run")]
    pub(crate) rate: Rate,
    /// How long to send: 10, 0.5, 500ms. [default: 10; for ever with --count or --reflect]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = "Run")]
    pub(crate) duration: Option<Duration>,
    /// How many packets to send, in each direction.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Run")]
    pub(crate) count: Option<u64>,
    /// Send for so long before counting begins.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "0", help_heading = "Run")]
    pub(crate) warmup: Duration,
    /// Also tell the 99th percentile of a stretch of so long, in the median of all stretches: 10ms, 0.1. What holds the whole
    /// machine up now and then is in few of them.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, conflicts_with = "pcap", help_heading = "Run")]
    pub(crate) window: Option<Duration>,
    /// How long to wait for stragglers after the last packet that came.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "0.3", help_heading = "Run")]
    pub(crate) drain: Duration,
    /// End as soon as so many packets were received (or reflected); fail if they were not.
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub(crate) min_received: Option<u64>,

    /// Send nothing, but send UDP back to where it came from: an echo peer.
    #[arg(long, help_heading = "Station")]
    pub(crate) reflect: bool,
    /// An address of its own: answers ARP, neighbour discovery and ping for it (so it does for --src). May be
    /// repeated, for both families.
    #[arg(long = "address", value_name = "IP", help_heading = "Station")]
    pub(crate) addresses: Vec<IpAddr>,
    /// The gateway, one of each family.
    #[arg(long = "gateway", value_name = "IP", default_values = ["169.254.1.1", "fe80::1"], help_heading = "Station")]
    pub(crate) gateways: Vec<IpAddr>,
    /// How long to ask for the gateway's MAC.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "5", help_heading = "Station")]
    pub(crate) resolve_timeout: Duration,

    /// One JSON object on stdout instead of the table.
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
    /// A line a second on stderr. [default: when stderr is a terminal]
    #[arg(long, help_heading = "Output")]
    pub(crate) progress: bool,
    /// Make this file once the ports run (`ready` is written to stderr then, too).
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) ready_file: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum HugeArg {
    Auto,
    Yes,
    No,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Idle {
    /// Never rest: the least latency, a whole core.
    Poll,
    /// Rest some tens of microseconds at a time, which latencies then include.
    Sleep,
}

/// Where packets go on the link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DstMac {
    Gateway,
    Mac(MacAddr),
}

impl FromStr for DstMac {
    type Err = wire::AddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "gateway" { Ok(Self::Gateway) } else { text.parse().map(Self::Mac) }
    }
}

/// UDP ports, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PortRange {
    first: u16,
    last: u16,
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(format!("`{text}` is no UDP port (0 to 65535) and no range of them, as in 1000-1999")),
        }
    }
}

impl PortRange {
    fn len(self) -> u32 {
        u32::from(self.last - self.first) + 1
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let (number, scale) = match text.strip_suffix("ms") {
        Some(rest) => (rest, 0.001),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    let bad = || format!("`{text}` is no duration: write seconds, as in 10 or 0.5, or 500ms");
    let number: f64 = number.parse().map_err(|_| bad())?;
    Duration::try_from_secs_f64(number * scale).map_err(|_| bad())
}

/// Options that are each right, but not together.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    #[error("--src {src} and --dst {dst} are of different families: give both as IPv4 or both as IPv6")]
    Families { src: IpAddr, dst: IpAddr },
    #[error("--size {size}: {family} frames with a stamp have at least {least} bytes")]
    Size { size: u16, family: &'static str, least: u16 },
    #[error("--flows {flows}: --sport and --dport give only {most}; give wider ranges")]
    Flows { flows: u32, most: u64 },
    #[error("--both needs two ports: give --port twice")]
    Both,
    #[error("--port was given {0} times: one or two can be used")]
    Ports(usize),
    #[error("--duration must be longer than 0")]
    Duration,
    #[error("no device: give --vdev (net_ring0 to try it) or --allow")]
    NoDevice,
}

/// What to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Traffic {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) ports: Vec<Ports>,
    pub(crate) size: u16,
}

impl Args {
    /// Whether idle time is slept away.
    pub(crate) fn sleeps(&self) -> bool {
        match (self.idle, self.rate) {
            (Some(idle), _) => idle == Idle::Sleep,
            (None, _) if self.reflect => true,
            (None, Rate::Max) => false,
            (None, Rate::Milli(milli)) => milli < 100_000_000,
        }
    }

    /// How long to send; none for ever.
    pub(crate) fn time_limit(&self) -> Option<Duration> {
        let unlimited = self.reflect || self.count.is_some();
        self.duration.or((!unlimited).then_some(Duration::from_secs(10)))
    }

    pub(crate) fn dst_mac(&self) -> DstMac {
        let given = self.dst_mac;
        let default = if self.addresses.is_empty() {
            DstMac::Mac(MacAddr([2, 0, 0, 0, 0, 2]))
        } else {
            DstMac::Gateway
        };
        given.unwrap_or(default)
    }

    /// Checks what does not depend on DPDK.
    pub(crate) fn check(&self) -> Result<(), PlanError> {
        if self.ports.len() > 2 {
            return Err(PlanError::Ports(self.ports.len()));
        }
        if self.both && self.ports.len() == 1 {
            return Err(PlanError::Both);
        }
        if self.duration.is_some_and(|duration| duration.is_zero()) {
            return Err(PlanError::Duration);
        }
        if self.vdev.is_empty() && self.allow.is_empty() {
            return Err(PlanError::NoDevice);
        }
        Ok(())
    }

    /// The UDP packets to send.
    pub(crate) fn traffic(&self) -> Result<Traffic, PlanError> {
        let ipv4 = match (self.dst, self.src, self.addresses.first()) {
            (Some(ip), ..) | (None, Some(ip), _) => ip.is_ipv4(),
            (None, None, Some(ip)) => ip.is_ipv4(),
            (None, None, None) => true,
        };
        let default = |host: u8| -> IpAddr {
            // The networks set aside for benchmarks (RFC 2544, appendix C.2.2; RFC 5180, section 8).
            if ipv4 { [198, 18, 0, host].into() } else { [0x2001, 2, 0, 0, 0, 0, 0, u16::from(host)].into() }
        };
        let own = self.addresses.iter().copied().find(|own| own.is_ipv4() == ipv4);
        let src = self.src.or(own).unwrap_or_else(|| default(1));
        let dst = self.dst.unwrap_or_else(|| default(2));
        if src.is_ipv4() != dst.is_ipv4() {
            return Err(PlanError::Families { src, dst });
        }
        let least = least_size(ipv4);
        let size = self.size.unwrap_or(least);
        if size < least {
            return Err(PlanError::Size { size, family: if ipv4 { "IPv4" } else { "IPv6" }, least });
        }
        Ok(Traffic { src, dst, ports: self.flow_ports()?, size })
    }

    fn flow_ports(&self) -> Result<Vec<Ports>, PlanError> {
        let mut sport = self.sport;
        if let Some(flows) = self.flows
            && sport.len() == 1
        {
            let wanted = u64::from(flows).div_ceil(self.dport.len().into());
            let last = u64::from(sport.first) + wanted - 1;
            sport.last = u16::try_from(last).unwrap_or(u16::MAX);
        }
        let most = u64::from(sport.len()) * u64::from(self.dport.len());
        let flows = self.flows.unwrap_or(u32::try_from(most.min(65_536)).unwrap_or(65_536));
        if u64::from(flows) > most {
            return Err(PlanError::Flows { flows, most });
        }
        let pairs = (self.dport.first..=self.dport.last)
            .flat_map(|dst| (sport.first..=sport.last).map(move |src| (src, dst)));
        Ok(pairs.take(usize::try_from(flows).unwrap_or(0)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn args(line: &str) -> Args {
        Args::try_parse_from(std::iter::once("pktgen").chain(line.split_whitespace())).unwrap()
    }

    #[test]
    fn the_command_is_sound() {
        Args::command().debug_assert();
        let help = Args::command().render_long_help().to_string();
        for part in ["Exit codes: 0", "--reflect", "--rate", "net_virtio_user0"] {
            assert!(help.contains(part), "{part}");
        }
    }

    #[test]
    fn flows_take_ports_in_turn() {
        let ports = |line: &str| args(line).traffic().map(|traffic| traffic.ports);
        assert_eq!(ports("").unwrap(), [(10_000, 20_000)]);
        assert_eq!(ports("--flows 2").unwrap(), [(10_000, 20_000), (10_001, 20_000)]);
        assert_eq!(ports("--sport 1-2 --dport 8-9").unwrap(), [(1, 8), (2, 8), (1, 9), (2, 9)]);
        assert_eq!(ports("--sport 1-2 --dport 8-9 --flows 3").unwrap(), [(1, 8), (2, 8), (1, 9)]);
        assert!(matches!(ports("--sport 1-2 --flows 3"), Err(PlanError::Flows { flows: 3, most: 2 })));
        assert!(matches!(ports("--sport 65000 --flows 1000"), Err(PlanError::Flows { most: 536, .. })));
        assert_eq!(ports("--sport 0-65535 --dport 0-65535").unwrap().len(), 65_536);
    }

    #[test]
    fn addresses_agree() {
        let ends = |line: &str| args(line).traffic().map(|t| (t.src.to_string(), t.dst.to_string(), t.size));
        assert_eq!(ends("").unwrap(), ("198.18.0.1".into(), "198.18.0.2".into(), 60));
        assert_eq!(ends("--dst fd00::1").unwrap(), ("2001:2::1".into(), "fd00::1".into(), 80));
        let two = "--address 10.0.0.1 --address fd00::9 --dst fd00::1 --size 100";
        assert_eq!(ends(two).unwrap(), ("fd00::9".into(), "fd00::1".into(), 100));
        assert!(matches!(ends("--src 10.0.0.1 --dst fd00::1"), Err(PlanError::Families { .. })));
        assert!(matches!(ends("--dst fd00::1 --size 79"), Err(PlanError::Size { least: 80, .. })));
    }

    #[test]
    fn defaults_depend() {
        assert!(args("--reflect").sleeps() && args("--rate 99k").sleeps());
        assert!(
            !args("").sleeps() && !args("--rate max").sleeps() && !args("--reflect --idle poll").sleeps()
        );
        assert_eq!(args("").time_limit(), Some(Duration::from_secs(10)));
        assert_eq!((args("--reflect").time_limit(), args("--count 5").time_limit()), (None, None));
        assert_eq!(args("--count 5 --duration 500ms").time_limit(), Some(Duration::from_millis(500)));
        assert_eq!(args("--address 10.0.0.1").dst_mac(), DstMac::Gateway);
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "--rate fast",
            "--sport 9-8",
            "--size 59",
            "--dst 10.0.0",
            "--duration -1",
            "--duration nan",
            "--flows 0",
        ] {
            let words = std::iter::once("pktgen").chain(line.split_whitespace());
            assert_eq!(Args::try_parse_from(words).unwrap_err().exit_code(), 2, "{line}");
        }
        assert!(matches!(args("--vdev a --port x --both").check(), Err(PlanError::Both)));
        assert!(matches!(args("").check(), Err(PlanError::NoDevice)));
        assert!(matches!(args("--vdev a --duration 0").check(), Err(PlanError::Duration)));
    }
}
