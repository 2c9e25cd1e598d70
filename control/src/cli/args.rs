//! The command line: what can be asked, and its help.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Parser, Subcommand};
use proto::dataplane::Protocol;
use wire::IpPrefix;

/// Looks into podrouter on this node, and puts its CNI plug-in there.
///
/// It asks the data plane, and for `status` control too, on their Unix sockets, and changes nothing, but for `install` and `uninstall`. On a terminal numbers
/// are shortened (12.3M); elsewhere they are whole, and with --json the answer is one JSON document with the fields of
/// the protocol.
#[derive(Debug, Parser)]
#[command(name = "podrouter", version, arg_required_else_help = true, after_help = CODES, after_long_help = LONG)]
pub(crate) struct Args {
    /// Where podrouter-dataplane listens.
    #[arg(long, global = true, value_name = "PATH", default_value = proto::DATAPLANE_SOCKET)]
    pub(crate) dataplane: PathBuf,

    /// Where podrouter-control listens.
    #[arg(long, global = true, value_name = "PATH", default_value = proto::CONTROL_SOCKET)]
    pub(crate) control: PathBuf,

    /// Print one JSON document.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

const CODES: &str = "\
Exit codes:
  0  done; also when the reader of the output went away
  1  failed: a process is away, or what was named is not there; the message says why
  2  the command line is wrong
  4  a permission is missing";

const LONG: &str = "\
Exit codes:
  0  done; also when the reader of the output went away
  1  failed: a process is away, or what was named is not there; the message says why.
     `status` prints the half that answered all the same; with --json, `show` prints an object with `error`
  2  the command line is wrong
  4  a permission is missing: the sockets are root's

Colour is used on a terminal alone, and not if NO_COLOR is set.

Examples:
  podrouter status                       is all well? warnings come first
  podrouter show ports                   every port with its counters
  podrouter show routes 10.244.1.7       which routes match an address, the one that is used first
  podrouter show routes 10.244.0.0/16    the routes inside a prefix
  podrouter show services 10.96.0.10     who serves an address, or whom a backend serves
  podrouter show policies shop/front     what may reach an endpoint, and what it may reach
  podrouter show drops                   why packets were dropped
  podrouter top                          what each worker and port does, second by second
  podrouter show flows --pod shop/front  the connections of a pod, and what was decided for them
  podrouter trace 10.244.1.7 10.96.0.10 tcp 80
                                         what would become of such a packet, step by step, and why
  podrouter --json show workers | jq '.workers[].ledger'
  podrouter doctor                       what does this node lack?
  podrouter install                      have kubelet attach pods by podrouter";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Versions, generations and sizes of both processes, and what needs attention.
    ///
    /// With --json: {"dataplane": …, "control": …, "errors": […]}; a half that is away is null and its error is listed.
    Status,
    /// Tables and counters of the data plane.
    #[command(subcommand, arg_required_else_help = true)]
    Show(Show),
    /// Rates of workers and ports, again and again: packets, bits and drops a second, cycles a packet, sizes of bursts.
    ///
    /// On a terminal each picture takes the place of the last, until Ctrl-C. Elsewhere they follow each other; with --json each
    /// is a line of its own.
    Top(Top),
    /// What would become of a packet, step by step, and why.
    ///
    /// The packet is one that opens a connection (a TCP SYN, an SCTP INIT, a datagram) or a ping. It is decided by the code that decides
    /// packets, and nothing is sent or changed. What a backend or a translated source port would be depends on the source
    /// port: name the one in question.
    Trace(Trace),
    /// Checks that this node has what podrouter needs, and says what to do about what is missing.
    ///
    /// It exits with 1 if anything is missing that is needed. With --json: a list of {"verdict", "about", "found", "remedy"}.
    Doctor(Doctor),
    /// Installs the CNI plug-in and, once the data plane is ready, the network configuration that names it.
    ///
    /// Both are put in place by a rename, so that kubelet never sees half a file. It may be run again at any time, as after an
    /// upgrade. With --json: {"installed": […], "removed": […], "kept": […]}.
    Install(Install),
    /// Removes what `install` has put there and, once both processes have ended, all that they keep: state, sockets and the
    /// host's interface with its routes.
    Uninstall(Uninstall),
}

/// Where container runtimes look.
#[derive(Debug, clap::Args)]
pub(crate) struct Places {
    /// Where container runtimes look for plug-ins.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub(crate) bin_dir: PathBuf,
    /// Where container runtimes look for network configurations.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub(crate) conf_dir: PathBuf,
}

/// The file that `install` writes and `uninstall` removes.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfName {
    /// The network configuration's file; runtimes take the first by name.
    #[arg(long, value_name = "FILE", default_value = "10-podrouter.conflist", value_parser = conf_name)]
    pub(crate) conf_name: String,
}

/// What podrouter-control keeps on the node.
#[derive(Debug, clap::Args)]
pub(crate) struct Kept {
    /// podrouter-control's --state-dir.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/podrouter")]
    pub(crate) state_dir: PathBuf,
    /// podrouter-control's --host-interface.
    #[arg(long, value_name = "NAME", default_value = "podrouter0")]
    pub(crate) host_interface: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) places: Places,
    #[command(flatten)]
    pub(crate) kept: Kept,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Install {
    #[command(flatten)]
    pub(crate) places: Places,
    #[command(flatten)]
    pub(crate) file: ConfName,
    /// The network's name.
    #[arg(long, value_name = "NAME", default_value = "podrouter")]
    pub(crate) network: String,
    /// The plug-in to install. [default: podrouter-cni beside this program]
    #[arg(long, value_name = "FILE")]
    pub(crate) plugin: Option<PathBuf>,
    /// Where DELs are left while podrouter-control is away: `detached` in its --state-dir.
    #[arg(long, value_name = "DIR", default_value = proto::SPOOL)]
    pub(crate) spool: PathBuf,
    /// Longest wait for the data plane.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub(crate) timeout: u64,
    /// Stay, and put back what somebody changes or removes, until a signal ends it.
    #[arg(long)]
    pub(crate) stay: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Uninstall {
    #[command(flatten)]
    pub(crate) places: Places,
    #[command(flatten)]
    pub(crate) file: ConfName,
    #[command(flatten)]
    pub(crate) kept: Kept,
    /// Where sockets are.
    #[arg(long, value_name = "DIR", default_value = "/run/podrouter")]
    pub(crate) run_dir: PathBuf,
    /// podrouter-dataplane's --flow-file, if it has one.
    #[arg(long, value_name = "PATH")]
    pub(crate) flow_file: Option<PathBuf>,
    /// Also while pods are attached.
    #[arg(long)]
    pub(crate) force: bool,
}

fn conf_name(text: &str) -> Result<String, String> {
    if text.ends_with(".conflist") && !text.contains('/') && !text.starts_with('.') {
        Ok(text.to_owned())
    } else {
        Err("write a file's name that ends in .conflist, as in 10-podrouter.conflist".to_owned())
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Top {
    /// How long each interval is.
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) interval: f64,
    /// How many pictures to show. [default: until Ctrl-C]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: Option<u32>,
}

fn seconds(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("`{text}` is no number of seconds"))?;
    if (0.1..=3_600.0).contains(&number) { Ok(number) } else { Err("from 0.1 to 3600".to_owned()) }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Trace {
    /// The address that it comes from.
    #[arg(value_name = "SRC")]
    pub(crate) source: IpAddr,
    /// The address that it is sent to, of the same family.
    #[arg(value_name = "DST")]
    pub(crate) destination: IpAddr,
    /// tcp, udp, sctp, icmp or a number.
    #[arg(value_name = "PROTO")]
    pub(crate) protocol: Protocol,
    /// The port that it is sent to; of icmp, the identifier of the ping.
    #[arg(value_name = "PORT", default_value_t = 0)]
    pub(crate) port: u16,
    /// The port that it comes from.
    #[arg(long, value_name = "N", default_value_t = 40_000)]
    pub(crate) source_port: u16,
    /// The network that both addresses are in.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) network: u16,
    /// The router's port that it comes in by, if not the one that leads to SRC, or else an uplink.
    #[arg(long, value_name = "NAME")]
    pub(crate) input: Option<String>,
    /// Bytes of the whole IP packet, to see what an MTU does.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub(crate) length: u16,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Show {
    /// Ports, their state and counters.
    #[command(visible_alias = "port")]
    Ports {
        /// Only the port of this name; it is a failure if there is none.
        name: Option<String>,
    },
    /// Routes, set ones and those that follow from endpoints and interfaces.
    #[command(visible_alias = "route")]
    Routes {
        /// An address: the routes that match it, the one used first; a prefix: the routes inside it.
        #[arg(value_name = "PREFIX-OR-ADDRESS")]
        filter: Option<RouteFilter>,
    },
    /// Services: addresses that stand for several backends, a line each backend.
    ///
    /// A backend that is draining keeps the connections that it has and gets no new ones.
    #[command(visible_alias = "service")]
    Services {
        /// Only those with this address as their own or a backend's, or of this name; it is a failure if there is none.
        #[arg(value_name = "NAME-OR-ADDRESS")]
        filter: Option<String>,
    },
    /// A Service's endpoints: what each is used for on this node, and why.
    ///
    /// CLUSTER is for those who ask at its cluster addresses, WORLD for those who ask at NodePorts, load balancers' and external ones, and
    /// are not this node's own.
    #[command(visible_alias = "endpoint")]
    Endpoints {
        /// The Service; it is a failure if there is none.
        #[arg(value_name = "NAMESPACE/NAME", value_parser = service)]
        service: (String, String),
    },
    /// Policies: how many rules each endpoint has in each direction, and how many packets they have denied; of one endpoint, the rules.
    ///
    /// The first rule that matches decides, and where none does the packet is dropped: by the port that it came by, as policy-ingress or
    /// policy-egress, and in DENIED at the endpoint whose policy it is. A direction without a policy is open. A policy may wait for
    /// its endpoint.
    #[command(visible_alias = "policy")]
    Policies {
        /// The rules of the endpoint of this name, in words; it is a failure if it has no policy.
        endpoint: Option<String>,
    },
    /// Neighbours on the uplinks, found by ARP and neighbour discovery, and the other ends of tunnels (`permanent`).
    ///
    /// An end has a path MTU where a router on the way there has said that it carries no longer packets; it is forgotten after ten
    /// minutes.
    #[command(visible_alias = "neighbors")]
    Neighbours {
        /// Only this address; it is a failure if it is not there.
        address: Option<IpAddr>,
    },
    /// Workers: what each does with its time, and where its packets went.
    ///
    /// At rest rx + handed-in + originated + split-extra = tx + drops + punts + handed-out + held + consumed, for each
    /// worker. The imbalance is the left side less the right; with traffic it is off by the packets in flight.
    #[command(visible_alias = "worker")]
    Workers,
    /// Connections that are known, and what is decided for them: where their packets go, and by which rules.
    ///
    /// All filters must fit. No worker stops for it, however many flows there are; one that comes or ends meanwhile may be
    /// missed. An ICMP flow has the identifier for its client's port.
    #[command(visible_alias = "flow")]
    Flows {
        /// Either end is an address of this endpoint; it is a failure if there is none of that name.
        #[arg(long, value_name = "NAME")]
        pod: Option<String>,
        /// The client, the Service, the backend or the translated source is this address, or in this prefix.
        #[arg(long, value_name = "IP|CIDR", value_parser = prefix)]
        address: Option<IpPrefix>,
        /// Any of their ports is this one.
        #[arg(long, value_name = "N")]
        port: Option<u16>,
        /// tcp, udp, sctp, icmp, icmpv6 or a number.
        #[arg(long, value_name = "PROTO")]
        protocol: Option<Protocol>,
        /// new, replied, opening, accepted, established, finished-forward, finished-reply, finished or reset; or affinity: clients that
        /// stay with a backend, whatever their ports.
        #[arg(long, value_name = "NAME")]
        state: Option<String>,
        /// At most so many.
        #[arg(long, value_name = "N", default_value_t = 10_000)]
        limit: u32,
    },
    /// Dropped packets by port, direction and reason, most first.
    #[command(visible_alias = "drop")]
    Drops {
        /// Also the reasons that have not happened.
        #[arg(long)]
        all: bool,
        /// Only those of this port.
        #[arg(long, value_name = "NAME")]
        port: Option<String>,
    },
}

fn service(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("write its namespace and its name, as in default/web".to_owned()),
    }
}

/// An address is the prefix that holds it alone.
fn prefix(text: &str) -> Result<IpPrefix, String> {
    if let Ok(address) = text.parse() {
        return Ok(IpPrefix::host(address));
    }
    text.parse().map_err(|error: wire::AddrError| error.to_string())
}

/// Which routes are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RouteFilter {
    /// Those that contain the address.
    Matching(IpAddr),
    /// Those that lie in the prefix.
    Inside(IpPrefix),
}

impl FromStr for RouteFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Matching(address));
        }
        text.parse().map(Self::Inside).map_err(|error: wire::AddrError| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_holds_and_tells_its_codes() {
        Args::command().debug_assert();
        let help = Args::command().render_long_help().to_string();
        for word in ["Exit codes:", "Examples:", "--dataplane", proto::CONTROL_SOCKET, "NO_COLOR"] {
            assert!(help.contains(word), "{word}: {help}");
        }
    }

    #[test]
    fn route_filters() {
        assert_eq!("10.0.0.1".parse(), Ok(RouteFilter::Matching("10.0.0.1".parse().unwrap())));
        assert_eq!("fd00::/8".parse(), Ok(RouteFilter::Inside("fd00::/8".parse().unwrap())));
        assert!("10.0.0.1/8".parse::<RouteFilter>().unwrap_err().contains("10.0.0.0/8"));
        assert!("x".parse::<RouteFilter>().unwrap_err().contains("`x`"));
    }
}
