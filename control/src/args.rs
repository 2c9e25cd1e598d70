//! The command line, and the configuration that it makes: checked as a whole before anything is touched.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use clap::Parser;
use desired::{Uplink, Vxlan, pod_mtu};
use http::Uri;
use proto::dataplane::{Ethdev, InterfaceAddress, Router};
use wire::IpPrefix;

use crate::health;
use crate::watch::{ApiServer, Manifests, Source};

/// Turns what the cluster says into a node's routes and attaches its pods.
///
/// Exit codes: 0 ok (also after SIGTERM or SIGINT; ports, devices and routes stay), 1 failure, 2 usage, 3 configuration,
/// 4 a permission is missing.
#[derive(Debug, Parser)]
#[command(name = "podrouter-control", version)]
pub(crate) struct Args {
    /// Name of this node's Node object.
    #[arg(long, value_parser = non_empty)]
    pub(crate) node: String,
    /// Directory of Node and Pod objects (*.yaml, *.yml, *.json), as `kubectl get nodes,pods -A -o yaml` prints them; they
    /// are followed instead of an API server.
    #[arg(long, value_name = "DIR")]
    pub(crate) manifests: Option<PathBuf>,
    /// Which API server to follow, and as whom; without this it is that of the pod's own service account.
    #[arg(long, value_name = "FILE", conflicts_with = "manifests")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of --kubeconfig, instead of its current one.
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    pub(crate) context: Option<String>,
    /// Address of the API server, instead of the one that --kubeconfig or the pod's environment names: one of its own, or of
    /// a load balancer before it, never a ClusterIP, which would need the data plane that waits for us.
    #[arg(long, value_name = "URL", conflicts_with = "manifests", value_parser = server)]
    pub(crate) api_server: Option<Uri>,
    /// Socket to listen on, for the CNI plug-in and the command line.
    #[arg(long, value_name = "PATH", default_value = proto::CONTROL_SOCKET)]
    pub(crate) socket: PathBuf,
    /// The data plane's socket.
    #[arg(long, value_name = "PATH", default_value = proto::DATAPLANE_SOCKET)]
    pub(crate) dataplane: PathBuf,
    /// Where attachments are kept.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/podrouter")]
    pub(crate) state_dir: PathBuf,
    /// Where vhost-user sockets are made.
    #[arg(long, value_name = "DIR", default_value = "/run/podrouter/vhost")]
    pub(crate) vhost_dir: PathBuf,
    /// DPDK's name of the device towards other nodes, as the data plane knows it; without one the node's kernel is the way.
    #[arg(long, value_name = "DEVICE", value_parser = non_empty)]
    pub(crate) uplink: Option<String>,
    /// Queue pairs of the uplink; without this one for each poll worker, or all that the device has where it does not itself
    /// spread flows over them.
    #[arg(long, value_name = "N", requires = "uplink", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) uplink_queues: Option<u16>,
    /// The VLAN (IEEE 802.1Q) that the router is on at the uplink; without this it is untagged.
    #[arg(long, value_name = "ID", requires = "uplink", value_parser = clap::value_parser!(u16).range(1..=4094))]
    pub(crate) uplink_vlan: Option<u16>,
    /// Finish checksums, cut segments and tag frames in software, whatever the uplink's device could do of it.
    #[arg(long, requires = "uplink")]
    pub(crate) uplink_no_offloads: bool,
    /// The router's own address on the uplink, with the length of its subnet.
    #[arg(long, value_name = "ADDR/LEN", requires = "uplink", value_parser = interface_address)]
    pub(crate) uplink_address: Vec<InterfaceAddress>,
    /// Next hop of what no other route covers; at most one a family.
    #[arg(long, value_name = "ADDR", requires = "uplink")]
    pub(crate) uplink_gateway: Vec<IpAddr>,
    /// Largest IP packet between nodes, by the uplink or the node's kernel, in bytes; and, less what --vxlan adds, of pods that ask for
    /// nothing else.
    #[arg(long, value_name = "BYTES", default_value_t = 1500, value_parser = clap::value_parser!(u16).range(1280..))]
    pub(crate) uplink_mtu: u16,
    /// Whether packets to other nodes' pods go in VXLAN (RFC 7348): `never`; `across-subnets`: to nodes that are on none of this node's own
    /// subnets, those of --uplink-address or else of its kernel; `always`. All nodes of a cluster have to agree.
    #[arg(long, value_name = "WHEN", default_value = "never")]
    pub(crate) vxlan: VxlanUse,
    /// The VXLAN network identifier, the same on all nodes.
    #[arg(long, value_name = "VNI", default_value_t = 1, value_parser = clap::value_parser!(u32).range(..1 << 24))]
    pub(crate) vxlan_vni: u32,
    /// The UDP port of VXLAN, the same on all nodes.
    #[arg(long, value_name = "PORT", default_value_t = wire::VXLAN_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) vxlan_port: u16,
    /// Pods are seen as themselves beyond the cluster too, where there must be routes to them; without this all they send there leaves with
    /// the node's address, that of the uplink if there is one.
    #[arg(long)]
    pub(crate) no_masquerade: bool,
    /// Addresses beyond the cluster that see pods as themselves.
    #[arg(long, value_name = "PREFIX", conflicts_with = "no_masquerade")]
    pub(crate) no_masquerade_to: Vec<IpPrefix>,
    /// NodePorts are served on those of the node's addresses that are in one of these; without this on all.
    #[arg(long, value_name = "PREFIX", value_delimiter = ',')]
    pub(crate) nodeport_addresses: Vec<IpPrefix>,
    /// The host's TAP; `none`: the host has no port.
    #[arg(long, value_name = "NAME", default_value = "podrouter0", value_parser = non_empty)]
    pub(crate) host_interface: String,
    /// The gateway that every pod sees.
    #[arg(long, value_name = "ADDR", default_value = "169.254.1.1")]
    pub(crate) gateway4: Ipv4Addr,
    /// The gateway that every pod sees.
    #[arg(long, value_name = "ADDR", default_value = "fe80::1")]
    pub(crate) gateway6: Ipv6Addr,
    /// A DNS server that pods are told of by DHCP and router advertisements; at most six, asked in this order.
    #[arg(long, value_name = "ADDR")]
    pub(crate) cluster_dns: Vec<IpAddr>,
    /// The cluster's domain, as in `cluster.local`: pods are told to seek short names in `svc.NAME` and in NAME.
    #[arg(long, value_name = "NAME", requires = "cluster_dns", value_parser = domain)]
    pub(crate) cluster_domain: Option<String>,
    /// Where /healthz, /readyz and /metrics are answered; `none`: nowhere.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9640", value_parser = health::address)]
    pub(crate) health_address: HealthAddress,
    /// What is logged, as in `info,podrouter_control=debug`.
    #[arg(long, value_name = "FILTER", default_value = "info,kube=off,rustls=off", env = "PODROUTER_LOG")]
    pub(crate) log: String,
}

/// Which other nodes are reached by a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum VxlanUse {
    Never,
    AcrossSubnets,
    Always,
}

/// `None` for `none`. Spelt so that clap takes it for one value, not for a flag that may be missing.
type HealthAddress = std::option::Option<SocketAddr>;

/// What the process runs with.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) node: String,
    pub(crate) vhost_dir: PathBuf,
    pub(crate) uplink: Option<Uplink>,
    pub(crate) vxlan: Option<Vxlan>,
    /// The host TAP's name.
    pub(crate) host: Option<String>,
    pub(crate) router: Router,
    /// Where beyond the cluster pods are seen as themselves; `None`: everywhere.
    pub(crate) masquerade: Option<Vec<IpPrefix>>,
    /// In which of the node's addresses NodePorts are; empty: in all.
    pub(crate) node_port_addresses: Vec<IpPrefix>,
    /// The API server's addresses.
    pub(crate) kept: Vec<IpAddr>,
    /// Of pods that ask for nothing else, and of the host: what the uplink allows.
    pub(crate) mtu: u16,
}

impl Config {
    /// Whether the way to other nodes depends on the networks that the kernel is on.
    pub(crate) fn wants_subnets(&self) -> bool {
        self.uplink.is_none() && self.vxlan.is_some_and(|vxlan| vxlan.across_subnets)
    }
}

impl Args {
    /// Checks what one flag alone does not show.
    ///
    /// # Errors
    /// A sentence that names the flag, its value and what to do.
    pub(crate) fn config(&self) -> Result<Config, String> {
        if let Some(why) = interface_name_fault(&self.host_interface) {
            return Err(format!("--host-interface {}: {why}", self.host_interface));
        }
        if !self.gateway4.is_link_local() {
            return Err(format!("--gateway4 {}: must be link-local (169.254.0.0/16)", self.gateway4));
        }
        if !self.gateway6.is_unicast_link_local() {
            return Err(format!("--gateway6 {}: must be link-local (fe80::/10)", self.gateway6));
        }
        if self.cluster_dns.len() > 6 {
            return Err(format!(
                "--cluster-dns: is given {} times; six are used at most",
                self.cluster_dns.len()
            ));
        }
        for server in &self.cluster_dns {
            if server.is_unspecified() || server.is_multicast() || server.is_loopback() {
                return Err(format!("--cluster-dns {server}: is no address of a server that a pod can ask"));
            }
        }
        let (uplink, vxlan) = (self.uplink_config()?, self.vxlan_config()?);
        Ok(Config {
            node: self.node.clone(),
            vhost_dir: self.vhost_dir.clone(),
            host: (self.host_interface != "none").then(|| self.host_interface.clone()),
            router: Router {
                gateway4: self.gateway4,
                gateway6: self.gateway6,
                dns_servers: self.cluster_dns.clone(),
                dns_search: self
                    .cluster_domain
                    .iter()
                    .flat_map(|name| [format!("svc.{name}"), name.clone()])
                    .collect(),
            },
            masquerade: (!self.no_masquerade).then(|| self.no_masquerade_to.clone()),
            node_port_addresses: self.nodeport_addresses.clone(),
            kept: vec![],
            mtu: pod_mtu(self.uplink_mtu, uplink.as_ref(), vxlan),
            uplink,
            vxlan,
        })
    }

    /// What the cluster is followed by, and who is told of this node.
    ///
    /// # Errors
    /// A sentence that names the flag, its value and what to do.
    pub(crate) fn source(&self) -> Result<(Box<dyn Source>, Option<kube::Config>), String> {
        let Some(directory) = &self.manifests else {
            let (kubeconfig, context) = (self.kubeconfig.as_deref(), self.context.as_deref());
            let source = ApiServer::new(kubeconfig, context, self.api_server.as_ref(), &self.node);
            let source = source.map_err(|error| error.to_string())?;
            let config = source.config().clone();
            return Ok((Box::new(source), Some(config)));
        };
        if !directory.is_dir() {
            return Err(format!(
                "--manifests {}: is no directory; make it, and put Node and Pod objects there",
                directory.display()
            ));
        }
        Ok((Box::new(Manifests::new(directory.clone())), None))
    }

    fn vxlan_config(&self) -> Result<Option<Vxlan>, String> {
        let across_subnets = match self.vxlan {
            VxlanUse::Never => return Ok(None),
            VxlanUse::AcrossSubnets => true,
            VxlanUse::Always => false,
        };
        if self.uplink.is_none() && self.host_interface == "none" {
            return Err(
                "--vxlan: there is nothing to tunnel over: give --uplink, or a --host-interface".to_owned()
            );
        }
        // What IPv6 asks of every link, inside the tunnel.
        if self.uplink_mtu < 1_350 {
            return Err(format!(
                "--uplink-mtu {}: leaves a tunnel less than the 1280 bytes that IPv6 needs; 1350 is the least with --vxlan",
                self.uplink_mtu
            ));
        }
        Ok(Some(Vxlan { across_subnets, vni: self.vxlan_vni, udp_port: self.vxlan_port }))
    }

    fn uplink_config(&self) -> Result<Option<Uplink>, String> {
        let Some(device) = &self.uplink else { return Ok(None) };
        for (i, own) in self.uplink_address.iter().enumerate() {
            if self.uplink_address[..i].iter().any(|other| other.address == own.address) {
                return Err(format!("--uplink-address {}/{}: is given twice", own.address, own.prefix_len));
            }
        }
        for (i, gateway) in self.uplink_gateway.iter().enumerate() {
            let flag = format!("--uplink-gateway {gateway}");
            if self.uplink_gateway[..i].iter().any(|other| other.is_ipv4() == gateway.is_ipv4()) {
                return Err(format!("{flag}: is a second one of its family; one a family is used"));
            }
            let link_local = matches!(gateway, IpAddr::V6(own) if own.is_unicast_link_local());
            let on_link = self.uplink_address.iter().any(|own| {
                own.address != *gateway
                    && IpPrefix::containing(own.address, own.prefix_len)
                        .is_some_and(|net| net.contains(*gateway))
            });
            if !link_local && !on_link {
                return Err(format!("{flag}: is a neighbour in no subnet of --uplink-address"));
            }
        }
        Ok(Some(Uplink {
            device: Ethdev {
                queues: self.uplink_queues,
                vlan: self.uplink_vlan,
                offloads: !self.uplink_no_offloads,
                ..Ethdev::new(device)
            },
            mtu: self.uplink_mtu,
            addresses: self.uplink_address.clone(),
            gateways: self.uplink_gateway.clone(),
        }))
    }
}

/// Why the kernel would not have the name, or would have it stand for something else (`dev_valid_name`; `%` asks for a
/// number; `all` and `default` are its switches for every device).
pub(crate) fn interface_name_fault(name: &str) -> Option<&'static str> {
    let bad = |c: char| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > 15 {
        Some("an interface's name has 1 to 15 bytes")
    } else if name.contains(bad) {
        Some("an interface's name has no `/`, `:`, `%` or white space")
    } else if matches!(name, "." | ".." | "lo" | "all" | "default") {
        Some("no interface of ours can be called that")
    } else {
        None
    }
}

fn non_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) }
}

fn server(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
    match (uri.scheme_str(), uri.host()) {
        (Some("https" | "http"), Some(_)) => Ok(uri),
        _ => Err("write https, host and port, as in https://192.168.77.1:6443".to_owned()),
    }
}

fn domain(text: &str) -> Result<String, String> {
    let label =
        |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_graphic());
    // Twice in an option of 255 bytes, with a label before one of them (RFC 3397).
    if text.len() > 120 || !text.split('.').all(label) {
        return Err(
            "write labels of 1 to 63 bytes with dots between, 120 in all, as in cluster.local".to_owned()
        );
    }
    Ok(text.to_owned())
}

fn interface_address(text: &str) -> Result<InterfaceAddress, String> {
    let bad = "write an address and the length of its subnet, as in 192.168.77.11/24";
    let (address, length) = text.split_once('/').ok_or(bad)?;
    let address: IpAddr = address.parse().map_err(|_| bad)?;
    let prefix_len: u8 = length.parse().map_err(|_| bad)?;
    if prefix_len == 0 || IpPrefix::containing(address, prefix_len).is_none() {
        return Err(format!("{length} is no length of a subnet; {bad}"));
    }
    if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
        return Err("is no address that a router can have".to_owned());
    }
    Ok(InterfaceAddress { address, prefix_len })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(extra: &[&str]) -> Result<Config, String> {
        let base = ["podrouter-control", "--node", "n", "--manifests", "/tmp"];
        let args = Args::try_parse_from(base.iter().chain(extra)).map_err(|error| error.to_string())?;
        args.config()
    }

    #[test]
    fn defaults_are_those_documented() {
        let config = config(&[]).unwrap();
        assert_eq!(config.host.as_deref(), Some("podrouter0"));
        assert!(config.uplink.is_none());
        assert_eq!((config.mtu, config.router.gateway4.to_string()), (1500, "169.254.1.1".to_owned()));
    }

    #[test]
    fn names_are_sought_among_services_first() {
        let config = config(&["--cluster-dns", "10.96.0.10", "--cluster-domain", "cluster.local"]).unwrap();
        assert_eq!(config.router.dns_search, ["svc.cluster.local", "cluster.local"]);
        assert_eq!(config.router.dns_servers.len(), 1);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_flag_and_value() {
        let uplink = ["--uplink", "net_null0", "--uplink-address", "192.168.77.11/24"];
        let with = |more: &[&str]| config(&[&uplink, more].concat());
        assert!(with(&["--uplink-gateway", "192.168.77.1"]).is_ok());
        assert!(with(&["--uplink-gateway", "fe80::9"]).is_ok());
        for (bad, named) in [
            (vec!["--uplink-gateway", "10.0.0.1"], "--uplink-gateway 10.0.0.1"),
            (vec!["--uplink-gateway", "192.168.77.11"], "--uplink-gateway 192.168.77.11"),
            (vec!["--uplink-gateway", "192.168.77.1", "--uplink-gateway", "192.168.77.2"], "second one"),
            (vec!["--uplink-address", "192.168.77.11/24"], "given twice"),
            (vec!["--uplink-address", "10.0.0.1/33"], "10.0.0.1/33"),
            (vec!["--uplink-address", "10.0.0.1"], "--uplink-address"),
            (vec!["--uplink-mtu", "100"], "100"),
            (vec!["--host-interface", "sixteen-bytes-xx"], "--host-interface sixteen-bytes-xx"),
            (vec!["--gateway4", "10.0.0.1"], "--gateway4 10.0.0.1"),
            (vec!["--gateway6", "fd00::1"], "--gateway6 fd00::1"),
            (vec!["--cluster-dns", "224.0.0.1"], "--cluster-dns 224.0.0.1"),
            (vec!["--cluster-domain", "cluster.local"], "--cluster-dns"),
            (vec!["--cluster-dns", "10.96.0.10", "--cluster-domain", "a..b"], "--cluster-domain"),
        ] {
            let message = with(&bad).unwrap_err();
            assert!(message.contains(named), "{bad:?}: {message}");
        }
        assert!(config(&["--uplink-gateway", "10.0.0.1"]).unwrap_err().contains("--uplink"));
    }
}
