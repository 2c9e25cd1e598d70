//! The network between nodes: one bridge, and on it an outside host that is everybody's gateway.

use anyhow::Result;
use std::sync::Arc;

use crate::netns::{Netns, veth};
use crate::node::{OTHER_HOST, OTHER_POD, OUTSIDE, WORLD};
use crate::run::Run;
use crate::site::Site;

/// A node's end of its cable, for its data plane.
pub const UPLINK: &str = "uplink";

/// The bridge, and whose it is.
#[derive(Debug, Clone)]
pub struct Lan {
    /// The outside host's namespace; its `eth0` is the bridge.
    pub outside: Netns,
    mtu: u16,
}

impl Lan {
    /// A bridge with nobody on it but the outside host, which is the wider world as well.
    ///
    /// # Errors
    /// As `ip`.
    pub fn create(run: &Arc<Run>, mtu: u16) -> Result<Self> {
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
        for address in WORLD {
            outside.add_address("lo", address)?;
        }
        Ok(Self { outside, mtu })
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

    /// Plugs a node in. Its end belongs to the data plane's packet socket alone; the node's kernel, which sees the same frames,
    /// drops them, as it would not see those of a NIC that is DPDK's.
    ///
    /// # Errors
    /// As `ip`.
    pub fn connect(&self, host: &Netns, site: Site) -> Result<()> {
        let port = port(site);
        veth(host, UPLINK, &self.outside, &port)?;
        host.sysctl("net.ipv6.conf.uplink.disable_ipv6", "1")?;
        let deaf = "add table netdev lab; add chain netdev lab deaf \
                    { type filter hook ingress device \"uplink\" priority 0; policy drop; }";
        host.succeed("nft", &[deaf])?;
        let mtu = self.mtu.to_string();
        host.ip(&["link", "set", UPLINK, "mtu", &mtu])?;
        self.outside.ip(&["link", "set", &port, "mtu", &mtu, "master", "eth0"])?;
        self.outside.disable_offloads(&port)?;
        for (prefixes, lengths) in [(site.pod_cidrs(), None), (site.host(), Some([32, 128]))] {
            for (i, router) in site.router().iter().enumerate() {
                let to =
                    lengths.map_or_else(|| prefixes[i].clone(), |of| format!("{}/{}", prefixes[i], of[i]));
                self.outside.ip(&["route", "add", &to, "via", router, "dev", "eth0"])?;
            }
        }
        Ok(())
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
