//! The network between nodes: one bridge, or a network for each; and on it an outside host that is everybody's gateway.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Result;

use crate::netns::{Netns, veth};
use crate::node::{OTHER_HOST, OTHER_POD, OUTSIDE, Options, Uplink, WORLD};
use crate::run::Run;
use crate::site::Site;

/// A node's end of its cable.
pub const UPLINK: &str = "uplink";

/// The outside host among the nodes' own addresses.
pub const GATEWAY: [&str; 2] = ["192.168.77.1", "fd00:77::1"];

/// Lengths of prefixes where all nodes are on one network, and where each has one with the router alone (RFC 3021, RFC 6164).
pub(crate) const SHARED: [u8; 2] = [24, 64];
pub(crate) const PAIR: [u8; 2] = [31, 127];

/// The other address of such a pair. Of the sites' own, those of the first two are in different ones.
///
/// # Errors
/// A text that is no address.
pub(crate) fn across(address: &str) -> Result<String> {
    Ok(match address.parse()? {
        IpAddr::V4(own) => IpAddr::from((own.to_bits() ^ 1).to_be_bytes()),
        IpAddr::V6(own) => IpAddr::from((own.to_bits() ^ 1).to_be_bytes()),
    }
    .to_string())
}

/// The bridge or the router, and whose it is.
#[derive(Debug, Clone)]
pub struct Lan {
    /// The outside host's namespace; its `eth0` is the bridge.
    pub outside: Netns,
    uplink: Uplink,
    routed: bool,
    mtu: u16,
}

impl Lan {
    /// A bridge with nobody on it but the outside host, which is the wider world as well.
    ///
    /// # Errors
    /// As `ip`.
    pub fn create(run: &Arc<Run>, options: &Options) -> Result<Self> {
        let Options { uplink, routed, uplink_mtu: mtu, .. } = *options;
        let outside = Netns::create(run, "outside")?;
        // It hands every frame on at once, multicast too: nobody here speaks the protocols that it would learn by.
        outside.ip(&[
            "link",
            "add",
            "eth0",
            "type",
            "bridge",
            "forward_delay",
            "0",
            "mcast_snooping",
            "0",
        ])?;
        outside.ip(&["link", "set", "eth0", "mtu", &mtu.to_string(), "up"])?;
        outside.disable_offloads("eth0")?;
        // Beside nodes that each have a network of their own, these are nobody's.
        let lengths = if routed { [32, 128] } else { SHARED };
        for (address, length) in OUTSIDE.iter().zip(lengths) {
            outside.add_address("eth0", &format!("{address}/{length}"))?;
        }
        // Nodes that have their own addresses on the network have their way out among these.
        for (address, length) in GATEWAY.iter().zip(lengths).filter(|_| uplink == Uplink::Kernel) {
            outside.add_address("eth0", &format!("{address}/{length}"))?;
        }
        for address in WORLD {
            outside.add_address("lo", address)?;
        }
        if routed {
            route_nodes_alone(&outside)?;
        }
        Ok(Self { outside, uplink, routed, mtu })
    }

    /// Has the outside host play another node's part: it has that node's address and a pod's.
    ///
    /// # Errors
    /// As `ip`.
    pub fn play_other_node(&self) -> Result<()> {
        [OTHER_POD, OTHER_HOST]
            .iter()
            .flatten()
            .try_for_each(|address| self.outside.add_address("lo", address))
    }

    /// Plugs a node in, and gives it its own addresses.
    ///
    /// # Errors
    /// As `ip`.
    pub fn connect(&self, host: &Netns, site: Site) -> Result<()> {
        let port = port(site);
        veth(host, UPLINK, &self.outside, &port)?;
        match self.uplink {
            Uplink::Dedicated => Self::dedicate(host, site)?,
            Uplink::Kernel => self.leave_to_kernel(host, site)?,
        }
        let mtu = self.mtu.to_string();
        host.ip(&["link", "set", UPLINK, "mtu", &mtu])?;
        if self.routed {
            self.outside.ip(&["link", "set", &port, "mtu", &mtu, "up"])?;
            self.outside.disable_offloads(&port)?;
            return self.own(site).iter().zip(PAIR).try_for_each(|(address, length)| {
                self.outside.add_address(&port, &format!("{}/{length}", across(address)?))
            });
        }
        self.outside.ip(&["link", "set", &port, "mtu", &mtu, "master", "eth0"])?;
        self.outside.disable_offloads(&port)?;
        let routers = self.own(site);
        for (to, router) in site.pod_cidrs().iter().zip(&routers) {
            self.outside.ip(&["route", "add", to, "via", router, "dev", "eth0"])?;
        }
        if self.uplink == Uplink::Dedicated {
            for ((to, length), router) in site.host().iter().zip([32, 128]).zip(&routers) {
                self.outside.ip(&[
                    "route",
                    "add",
                    &format!("{to}/{length}"),
                    "via",
                    router,
                    "dev",
                    "eth0",
                ])?;
            }
        }
        Ok(())
    }

    /// Its end belongs to the data plane's packet socket alone; the node's kernel, which sees the same frames, drops them, as it would
    /// not see those of a NIC that is DPDK's.
    fn dedicate(host: &Netns, site: Site) -> Result<()> {
        for (address, length) in site.host().iter().zip([32, 128]) {
            host.add_address("lo", &format!("{address}/{length}"))?;
        }
        host.sysctl("net.ipv6.conf.uplink.disable_ipv6", "1")?;
        let deaf = "add table netdev lab; add chain netdev lab deaf \
                    { type filter hook ingress device \"uplink\" priority 0; policy drop; }";
        host.succeed("nft", &[deaf]).map(drop)
    }

    /// Its end is the node's NIC, as in a cluster of any kind: the node's addresses, a way out, and a kernel that forwards.
    fn leave_to_kernel(&self, host: &Netns, site: Site) -> Result<()> {
        let lengths = if self.routed { PAIR } else { SHARED };
        for ((address, length), gateway) in site.host().iter().zip(lengths).zip(GATEWAY) {
            let gateway = if self.routed { across(address)? } else { gateway.to_owned() };
            host.add_address(UPLINK, &format!("{address}/{length}"))?;
            host.ip(&["route", "add", "default", "via", &gateway, "dev", UPLINK])?;
        }
        host.sysctl("net.ipv4.ip_forward", "1")?;
        host.sysctl("net.ipv6.conf.all.forwarding", "1")
    }

    /// A node's addresses on it.
    fn own(&self, site: Site) -> [String; 2] {
        if self.uplink == Uplink::Kernel { site.host() } else { site.router() }
    }

    /// Has the router between nodes' networks take packets to a node up to this length only, and say so of longer ones; `None`: all again.
    ///
    /// # Errors
    /// As `ip`.
    pub fn narrow(&self, site: Site, mtu: Option<u16>) -> Result<()> {
        let (port, text) = (port(site), mtu.unwrap_or(self.mtu).to_string());
        self.own(site).iter().zip([32, 128]).try_for_each(|(to, length)| {
            let to = format!("{to}/{length}");
            self.outside.ip(&["route", "replace", &to, "dev", &port, "mtu", "lock", &text]).map(drop)
        })
    }

    /// Takes a node off the bridge, or back: what it sends is lost meanwhile. (With its end down, its packet socket would keep it.)
    ///
    /// # Errors
    /// As `ip link set`.
    pub fn set_plugged(&self, site: Site, plugged: bool) -> Result<()> {
        let master: &[&str] = if plugged { &["master", "eth0"] } else { &["nomaster"] };
        let port = port(site);
        self.outside.ip(&[["link", "set", &port].as_slice(), master].concat()).map(drop)
    }
}

/// Has it be the router between nodes, of which it knows no pods, as a cloud's does not.
fn route_nodes_alone(outside: &Netns) -> Result<()> {
    outside.sysctl("net.ipv4.ip_forward", "1")?;
    outside.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    let pods = "add table inet lab; add chain inet lab strangers { type filter hook forward priority 0; policy accept; }; \
                add rule inet lab strangers ip saddr 10.244.0.0/16 drop; \
                add rule inet lab strangers ip6 saddr fd00:10:244::/48 drop";
    outside.succeed("nft", &[pods]).map(drop)
}

fn port(site: Site) -> String {
    format!("port{}", site.number())
}
