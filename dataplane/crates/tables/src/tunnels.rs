//! Tunnels to other nodes over an uplink (VXLAN, RFC 7348), and who is at their other ends.
//!
//! A tunnel is a port of its own, without a device. Its peers are next hops on it, by their addresses on the uplink's network; each has a
//! number, by which frames for it are known on their way through this node.

use std::net::IpAddr;

use wire::MacAddr;

use crate::entry::{PortRole, is_unicast};
use crate::error::TableError;
use crate::id::PortId;
use crate::stamp::Place;
use crate::tables::Tables;
use crate::target::RouteTarget;

/// A tunnel: a port whose packets leave by another one, in datagrams to its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunnel {
    /// The port that it is.
    pub port: PortId,
    /// The port that its datagrams leave and come by, and whose interface's addresses are this end's.
    pub uplink: PortId,
    /// VXLAN network identifier, of 24 bits.
    pub vni: u32,
    /// The UDP port that it is reached at: 4789, where nothing speaks for another.
    pub udp_port: u16,
}

/// The other end of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelPeer {
    /// The tunnel.
    pub port: PortId,
    /// Where it is, on the uplink's network.
    pub addr: IpAddr,
    /// Its MAC address inside the tunnel.
    pub mac: MacAddr,
}

/// What a peer is known by within a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerNumber(pub u32);

impl Tables {
    /// The tunnel that this port is.
    #[inline]
    #[must_use]
    pub fn tunnel(&self, port: PortId) -> Option<&Tunnel> {
        match self.port(port)?.role {
            PortRole::Tunnel { uplink } => self.tunnel_over(uplink),
            PortRole::Idle | PortRole::Endpoint(_) | PortRole::Uplink => None,
        }
    }

    /// The tunnel whose datagrams come by this port.
    #[inline]
    #[must_use]
    pub fn tunnel_over(&self, uplink: PortId) -> Option<&Tunnel> {
        self.tunnels.get(u32::from(uplink.0))
    }

    /// Makes a port a tunnel.
    ///
    /// # Errors
    /// Either port is not there, the one is in use, the other is a tunnel itself or has one already; a number that does not fit; an MTU that
    /// leaves no room for the outer header.
    pub fn set_tunnel(&mut self, tunnel: Tunnel) -> Result<(), TableError> {
        let Tunnel { port, uplink, vni, udp_port } = tunnel;
        if self.tunnel_over(uplink) == Some(&tunnel) {
            return Ok(());
        }
        let item = || format!("tunnel on port {port}");
        let there = |id| self.port(id).ok_or_else(|| TableError::UnknownPort { item: item(), port: id });
        let (own, under) = (there(port)?, there(uplink)?);
        if own.role != PortRole::Idle {
            let user = self.port_user(own).unwrap_or_default();
            return Err(TableError::PortInUse { port, name: own.name.clone(), user });
        }
        if let Some(other) = self.tunnel_over(uplink) {
            let user = format!("the tunnel on port {}", other.port);
            return Err(TableError::PortInUse { port: uplink, name: under.name.clone(), user });
        }
        if port == uplink || matches!(under.role, PortRole::Tunnel { .. } | PortRole::Endpoint(_)) {
            return Err(TableError::TunnelUplink { item: item(), uplink, name: under.name.clone() });
        }
        if vni >> 24 != 0 {
            return Err(TableError::Vni { item: item(), vni });
        }
        if udp_port == 0 {
            return Err(TableError::TunnelPort { item: item() });
        }
        self.set_role(port, PortRole::Tunnel { uplink });
        self.tunnels.set(u32::from(uplink.0), tunnel);
        // What arrives by its uplink may be of the tunnel from now on.
        self.touch(Place::Everything);
        Ok(())
    }

    /// With the port that it is.
    pub(crate) fn remove_tunnel(&mut self, uplink: PortId) {
        if self.tunnels.remove(u32::from(uplink.0)) {
            self.touch(Place::Everything);
        }
    }

    /// A peer by its number.
    #[inline]
    #[must_use]
    pub fn tunnel_peer(&self, number: PeerNumber) -> Option<&TunnelPeer> {
        self.tunnel_peers.get(number.0)
    }

    /// The number of a peer.
    #[inline]
    #[must_use]
    pub fn tunnel_peer_at(&self, port: PortId, addr: IpAddr) -> Option<PeerNumber> {
        self.tunnel_peer_index.get(&(port, addr)).copied().map(PeerNumber)
    }

    /// All peers, by number.
    pub fn tunnel_peers(&self) -> impl Iterator<Item = &TunnelPeer> + '_ {
        self.tunnel_peers.iter().map(|(_, peer)| peer)
    }

    /// Adds a peer, or replaces the one of this address.
    ///
    /// # Errors
    /// A port that is no tunnel, an address or MAC address that is not one node's, no room.
    pub fn set_tunnel_peer(&mut self, peer: TunnelPeer) -> Result<(), TableError> {
        let TunnelPeer { port, addr: address, mac } = peer;
        let item = || format!("tunnel peer {address}");
        if self.tunnel(port).is_none() {
            return Err(TableError::UnknownTunnel { item: item(), port });
        }
        if !is_unicast(address) {
            let why = "a tunnel's peer has a unicast address";
            return Err(TableError::Address { item: item(), address, why });
        }
        if !mac.is_unicast() {
            return Err(TableError::Mac { item: item(), mac });
        }
        let there = self.tunnel_peer_at(port, address).map(|PeerNumber(number)| number);
        let number = there
            .or_else(|| self.tunnel_peers.vacant())
            .ok_or_else(|| TableError::TunnelPeersFull { item: item() })?;
        if self.tunnel_peers.get(number) == Some(&peer) {
            return Ok(());
        }
        self.tunnel_peers.set(number, peer);
        self.tunnel_peer_index.insert((port, address), number);
        self.touch_peer(port, address);
        Ok(())
    }

    /// Removes a peer.
    ///
    /// # Errors
    /// There is none, or a route leads to it.
    pub fn remove_tunnel_peer(&mut self, port: PortId, address: IpAddr) -> Result<(), TableError> {
        let item = || format!("tunnel peer {address}");
        let Some(PeerNumber(number)) = self.tunnel_peer_at(port, address) else {
            return Err(TableError::UnknownPeer { port, address });
        };
        if let Some(target) = [true, false]
            .map(|inside| RouteTarget::NextHop { port, addr: address, inside })
            .into_iter()
            .find(|&target| self.targets.has(target))
        {
            return Err(TableError::PeerInUse { item: item(), user: self.route_title_to(target) });
        }
        self.tunnel_peers.remove(number);
        self.tunnel_peer_index.remove(&(port, address));
        self.touch_peer(port, address);
        Ok(())
    }

    /// What is known of how to reach it.
    fn touch_peer(&mut self, port: PortId, addr: IpAddr) {
        let uplink = self.tunnel(port).map(|tunnel| tunnel.uplink);
        let network = uplink.and_then(|uplink| self.interface(uplink)).map(|interface| interface.network);
        self.touch(Place::Host(network.unwrap_or_default(), addr));
    }

    /// Something that is still at the other end of a tunnel.
    pub(crate) fn tunnel_user(&self, port: PortId) -> Option<String> {
        let peer = self.tunnel_peers().find(|peer| peer.port == port)?;
        Some(format!("tunnel peer {}", peer.addr))
    }
}
