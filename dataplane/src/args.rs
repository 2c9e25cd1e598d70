//! The command line. One definition drives parser, help and checks.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Parser, ValueEnum};
use flow::Timeouts;

const AFTER_HELP: &str = "\
Devices are DPDK's, by its own arguments: --vdev net_af_packet0,iface=eth1 or --allow 0000:3b:00.0. Naming one here makes \
it known; it becomes a port when control asks for it.

Exit codes: 0 ok, 1 failure, 2 usage, 3 configuration, 4 DPDK or permission.";

/// The data plane of podrouter: switches packets between pods, the host and the uplink until it is told to end.
#[derive(Parser, Debug)]
#[command(name = "podrouter-dataplane", version, after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// Unix socket to listen on for control and the command line
    #[arg(long, default_value = proto::DATAPLANE_SOCKET, value_name = "PATH")]
    pub(crate) socket: PathBuf,

    /// A virtual DPDK device, as in net_ring0 or net_pcap0,rx_pcap=FILE (repeatable)
    #[arg(long, value_name = "ARGS")]
    pub(crate) vdev: Vec<String>,

    /// A PCI device for DPDK to take, as in 0000:3b:00.0; without any, PCI is left alone (repeatable)
    #[arg(long, value_name = "DEVICE")]
    pub(crate) allow: Vec<String>,

    /// DPDK's file prefix, unique among the processes on this machine [default: podrouter-<pid>]
    #[arg(long, value_name = "NAME")]
    pub(crate) file_prefix: Option<String>,

    /// Do without hugepages even where there are some
    #[arg(long)]
    pub(crate) no_huge: bool,

    /// Memory for DPDK, in MiB [default: what the packet buffers need]
    #[arg(long, value_name = "MB")]
    pub(crate) memory: Option<u32>,

    /// Cores of the poll workers: `auto` (every core this process may use), `none`, or a list as in 2,3 or 2-5
    #[arg(long, default_value = "auto", value_name = "CORES")]
    pub(crate) workers: Cores,

    /// Kernel workers, which serve TAPs and sleep when there is nothing to do
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) kernel_workers: u8,

    /// What a poll worker does when there is nothing to do
    #[arg(long, default_value = "adaptive")]
    pub(crate) idle: Idle,

    /// Packet buffers of 2 KiB for NICs and vhost-user ports
    #[arg(long, default_value_t = 16_384, value_name = "N", value_parser = clap::value_parser!(u32).range(1_024..=4_194_304))]
    pub(crate) mbufs: u32,

    /// Packet buffers of 16 KiB for TAPs; each queue that a NIC sends by may keep 512 of them
    #[arg(long, default_value_t = 4_096, value_name = "N", value_parser = clap::value_parser!(u32).range(256..=262_144))]
    pub(crate) large_mbufs: u32,

    /// Connections of IPv4 that are kept at most: 112 bytes each
    #[arg(long, default_value_t = 262_144, value_name = "N", value_parser = clap::value_parser!(u32).range(64..=1_073_741_824))]
    pub(crate) flows: u32,

    /// Connections of IPv6 that are kept at most: 176 bytes each
    #[arg(long, default_value_t = 131_072, value_name = "N", value_parser = clap::value_parser!(u32).range(64..=1_073_741_824))]
    pub(crate) flows6: u32,

    /// File that keeps connections while the data plane starts again; on a tmpfs, as /dev/shm is. Without one they end with it
    #[arg(long, value_name = "PATH")]
    pub(crate) flow_file: Option<PathBuf>,

    /// How long a connection is kept without a packet, as in udp=30 (repeatable; names and defaults are in the README)
    #[arg(long = "timeout", value_name = "NAME=SECONDS")]
    pub(crate) timeout: Vec<String>,

    /// What to log, as in info or podrouter_dataplane=debug
    #[arg(long, default_value = "info", env = "PODROUTER_LOG", value_name = "FILTER")]
    pub(crate) log: String,
}

impl Args {
    /// The defaults, and what was said otherwise.
    pub(crate) fn timeouts(&self) -> Result<Timeouts, BadTimeout> {
        let mut timeouts = Timeouts::default();
        for text in &self.timeout {
            let bad = || BadTimeout {
                text: text.clone(),
                names: Timeouts::default().named().map(|(name, _)| name).join(", "),
            };
            let (name, seconds) = text.split_once('=').ok_or_else(bad)?;
            let seconds = seconds.parse().ok().filter(|s| (1..=MOST_SECONDS).contains(s)).ok_or_else(bad)?;
            let mut named = timeouts.named();
            let (_, field) = named.iter_mut().find(|(known, _)| *known == name).ok_or_else(bad)?;
            **field = seconds;
        }
        Ok(timeouts)
    }
}

/// A decision's generation must not come round within a flow's life: 2^31 of them at a thousand a second.
const MOST_SECONDS: u32 = 20 * 86_400;

/// A time-out that is none.
#[derive(Debug, thiserror::Error)]
#[error("--timeout {text}: write NAME=SECONDS, with 1 to {MOST_SECONDS} seconds; names are {names}")]
pub(crate) struct BadTimeout {
    text: String,
    names: String,
}

/// Idle policies of poll workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Idle {
    /// Never back off: lowest latency, a whole core each
    Poll,
    /// Back off by steps: pause, short sleeps, then longer ones, woken at once by other workers
    Adaptive,
}

/// Which cores poll workers are pinned to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cores {
    /// Every core of the process's cpuset.
    Auto,
    /// These, in this order; none at all is possible where all ports are TAPs.
    List(Vec<usize>),
}

impl FromStr for Cores {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        if text == "none" {
            return Ok(Self::List(Vec::new()));
        }
        let bad =
            |part: &str| format!("`{part}` is no core: write `auto`, `none`, or a list as in 2,3 or 2-5");
        let core =
            |part: &str| part.trim().parse::<usize>().ok().filter(|&c| c < 1024).ok_or_else(|| bad(part));
        let mut cores = Vec::new();
        for part in text.split(',') {
            let range = match part.split_once('-') {
                Some((first, last)) => core(first)?..=core(last)?,
                None => core(part)?..=core(part)?,
            };
            if range.is_empty() {
                return Err(bad(part));
            }
            for core in range {
                if cores.contains(&core) {
                    return Err(format!("core {core} is named twice"));
                }
                cores.push(core);
            }
        }
        Ok(Self::List(cores))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_holds() {
        Args::command().debug_assert();
    }

    #[test]
    fn timeouts_are_read_and_misspelt_ones_named() {
        let args = |text: &str| Args::parse_from(["podrouter-dataplane", "--timeout", text]).timeouts();
        assert_eq!(args("udp=7").unwrap(), Timeouts { udp: 7, ..Timeouts::default() });
        for bad in ["udp", "udp=", "udp=0", "udp=-1", "upd=7", "tcp-established=99999999"] {
            let error = args(bad).unwrap_err().to_string();
            assert!(error.contains(bad) && error.contains("udp-stream"), "{error}");
        }
    }

    #[test]
    fn cores_are_read_as_lists_and_ranges() {
        assert_eq!("auto".parse(), Ok(Cores::Auto));
        assert_eq!("none".parse(), Ok(Cores::List(vec![])));
        assert_eq!("2,4-6".parse(), Ok(Cores::List(vec![2, 4, 5, 6])));
        for bad in ["", "a", "3-2", "1,1", "-1", "1,,2", "99999"] {
            assert!(bad.parse::<Cores>().is_err(), "{bad}");
        }
    }
}
