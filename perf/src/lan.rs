//! The network between nodes: one bridge, and on it an outside host that is everybody's gateway.

use anyhow::Result;
use std::sync::Arc;

use crate::netns::{Netns, veth};
use crate::node::{OTHER_HOST, OTHER_POD, OUTSIDE, Uplink, WORLD};
use crate::run::Run;
use crate::site::Site;

/// A node's end of its cable.
pub const UPLINK: &str = "uplink";

/// The outside host among the nodes' own addresses.
pub const GATEWAY: [&str; 2] = ["192.168.77.1", "fd00:77::1"];

/// The bridge, and whose it is.
#[derive(Debug, Clone)]
pub struct Lan {
    /// The outside host's namespace; its `eth0` is the bridge.
    pub outside: Netns,
    uplink: Uplink,
    mtu: u16,
}

impl Lan {
    /// A bridge with nobody on it but the outside host, which is the wider world as well.
    ///
    /// # Errors
    /// As `ip`.
    pub fn create(run: &Arc<Run>, uplink: Uplink, mtu: u16) -> Result<Self> {
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
        for (address, length) in OUTSIDE.iter().zip([24, 64]) {
            outside.add_address("eth0", &format!("{address}/{length}"))?;
        }
        // Nodes that have their own addresses on the network have their way out among these.
        for (address, length) in GATEWAY.iter().zip([24, 64]).filter(|_| uplink == Uplink::Kernel) {
            outside.add_address("eth0", &format!("{address}/{length}"))?;
        }
        for address in WORLD {
            outside.add_address("lo", address)?;
        }
        Ok(Self { outside, uplink, mtu })
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
            Uplink::Kernel => Self::leave_to_kernel(host, site)?,
        }
        let mtu = self.mtu.to_string();
        host.ip(&["link", "set", UPLINK, "mtu", &mtu])?;
        self.outside.ip(&["link", "set", &port, "mtu", &mtu, "master", "eth0"])?;
        self.outside.disable_offloads(&port)?;
        let routers = if self.uplink == Uplink::Kernel { site.host() } else { site.router() };
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
    fn leave_to_kernel(host: &Netns, site: Site) -> Result<()> {
        for ((address, length), gateway) in site.host().iter().zip([24, 64]).zip(GATEWAY) {
            host.add_address(UPLINK, &format!("{address}/{length}"))?;
            host.ip(&["route", "add", "default", "via", gateway, "dev", UPLINK])?;
        }
        host.sysctl("net.ipv4.ip_forward", "1")?;
        host.sysctl("net.ipv6.conf.all.forwarding", "1")
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

fn port(site: Site) -> String {
    format!("port{}", site.number())
}
