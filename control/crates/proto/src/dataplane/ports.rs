//! Ports: what one is asked to be, and what it is then.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wire::MacAddr;

use crate::text;

/// A port as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortSpec {
    /// Unique; at most 63 bytes.
    pub name: String,
    pub kind: PortKind,
    /// The router's own address on this port; `None`: the device's, or one made up from the name.
    #[serde(default, with = "text::option")]
    pub mac: Option<MacAddr>,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// How fast whoever is behind it may send and be sent to. They may change while the port is there.
    #[serde(default, skip_serializing_if = "Limits::is_none")]
    pub limits: Limits,
}

/// What a port lets pass, by direction as seen from whoever is behind it; `None`: everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// What is sent by the port: towards the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Limit>,
    /// What is received by the port: from the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Limit>,
}

impl Limits {
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.ingress.is_none() && self.egress.is_none()
    }
}

/// A token bucket. Frames count as the port's counters count them, with their Ethernet header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Bytes a second, at least 1.
    pub rate: u64,
    /// Bytes that may pass at once after a rest, at least 1.
    pub burst: u64,
}

/// The kinds of port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum PortKind {
    /// A TAP whose descriptor comes with the request.
    Tap,
    /// A vhost-user socket; `server` makes the socket, otherwise the peer does. The guest may have so many queue pairs.
    Vhost {
        path: PathBuf,
        server: bool,
        #[serde(default = "one", skip_serializing_if = "is_one")]
        queue_pairs: u16,
    },
    /// A device that DPDK drives.
    Ethdev(Ethdev),
    /// Frames from one pcap file, frames to another: for tests and benches.
    Memory {
        #[serde(default)]
        rx_pcap: Option<PathBuf>,
        #[serde(default)]
        tx_pcap: Option<PathBuf>,
        /// Plays the file over and over: an endless source that costs a copy a frame.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        repeat: bool,
    },
    /// A tunnel to other nodes (VXLAN, RFC 7348), whose datagrams leave by another port. Its ends are rows ([`TunnelPeer`](super::TunnelPeer)).
    Vxlan {
        /// The port that they leave and come by; its interface's addresses are this end's.
        uplink: String,
        /// The network identifier, of 24 bits.
        vni: u32,
        /// The UDP port that all ends listen at.
        #[serde(default = "vxlan_port")]
        udp_port: u16,
    },
}

/// A DPDK device, and how it is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ethdev {
    /// Its name: `net_af_packet0`, `0000:3b:00.0`.
    pub device: String,
    /// What it is probed with if it is not there yet; begins with its name.
    #[serde(default)]
    pub devargs: Option<String>,
    /// Queue pairs. `None`: one for each poll worker where the device itself spreads flows (RSS), else all that it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<u16>,
    /// The VLAN that it is on (IEEE 802.1Q, 1 to 4094): frames leave with its tag, and those without it are not taken. `None`:
    /// untagged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// What the device can do itself it does: checksums, segmentation, VLAN tags.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub offloads: bool,
}

impl Ethdev {
    /// With the defaults.
    pub fn new(device: impl Into<String>) -> Self {
        Self { device: device.into(), devargs: None, queues: None, vlan: None, offloads: true }
    }
}

const fn vxlan_port() -> u16 {
    wire::VXLAN_PORT
}

const fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_yes(said: &bool) -> bool {
    *said
}

const fn one() -> u16 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_one(number: &u16) -> bool {
    *number == 1
}

/// A port as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortInfo {
    pub id: u16,
    pub spec: PortSpec,
    /// The address it answers for; equal to `spec.mac` where that was given.
    #[serde(with = "text")]
    pub mac: MacAddr,
}
