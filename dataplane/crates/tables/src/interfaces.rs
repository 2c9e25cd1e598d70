//! Changes to interfaces. An interface's addresses are local host routes, its subnets are connected routes.

use std::net::IpAddr;

use wire::IpPrefix;

use crate::entry::{Interface, PortRole, is_link_local6, is_unicast};
use crate::error::TableError;
use crate::id::PortId;
use crate::network::Origin;
use crate::stamp::Place;
use crate::tables::Tables;
use crate::target::Packed;

impl Tables {
    /// The interface on this port.
    #[inline]
    #[must_use]
    pub fn interface(&self, port: PortId) -> Option<&Interface> {
        self.interfaces.get(u32::from(port.0))
    }

    /// All interfaces, by port.
    pub fn interfaces(&self) -> impl Iterator<Item = &Interface> + '_ {
        self.interfaces.iter().map(|(_, interface)| interface)
    }

    /// Adds an interface, or replaces the one on this port.
    ///
    /// # Errors
    /// A port that is not there, has an endpoint or is a tunnel, an address that is not one node's or that something else
    /// holds, a prefix length out of range, a subnet that another interface has.
    pub fn set_interface(&mut self, interface: Interface) -> Result<(), TableError> {
        let port = interface.port;
        if self.interface(port) == Some(&interface) {
            return Ok(());
        }
        self.check_interface(&interface)?;
        self.withdraw(port);
        for &(addr, length) in &interface.addresses {
            for (prefix, route) in routes(port, addr, length) {
                self.networks.change(interface.network, |routes| routes.set(prefix, route));
            }
        }
        self.set_role(port, PortRole::Uplink);
        self.interfaces.set(u32::from(port.0), interface);
        // What arrives by an uplink or leaves by it may come from anywhere and go anywhere; and uplinks change rarely.
        self.touch(Place::Everything);
        Ok(())
    }

    /// Removes the interface on this port, and its routes.
    ///
    /// # Errors
    /// There is none.
    pub fn remove_interface(&mut self, port: PortId) -> Result<(), TableError> {
        if self.interface(port).is_none() {
            return Err(TableError::UnknownInterface { port });
        }
        self.withdraw(port);
        self.interfaces.remove(u32::from(port.0));
        self.set_role(port, PortRole::Idle);
        self.touch(Place::Everything);
        Ok(())
    }

    /// What to call the interface on a port.
    pub(crate) fn interface_title(&self, port: PortId) -> String {
        let name = self.port(port).map_or("", |entry| entry.name.as_str());
        format!("the interface on port {port} (`{name}`)")
    }

    fn check_interface(&self, interface: &Interface) -> Result<(), TableError> {
        let Interface { port, network, addresses } = interface;
        let (port, network) = (*port, *network);
        let item = || format!("interface on port {port}");
        let entry = self.port(port).ok_or_else(|| TableError::UnknownPort { item: item(), port })?;
        if let PortRole::Endpoint(_) | PortRole::Tunnel { .. } = entry.role {
            let user = self.port_user(entry).unwrap_or_default();
            return Err(TableError::PortInUse { port, name: entry.name.clone(), user });
        }
        for (i, &(address, length)) in addresses.iter().enumerate() {
            if !is_unicast(address) {
                let why = "an interface needs unicast addresses";
                return Err(TableError::Address { item: item(), address, why });
            }
            let most = if address.is_ipv4() { 32 } else { 128 };
            if length > most {
                return Err(TableError::PrefixLength { item: item(), address, length, most });
            }
            if addresses[..i].iter().any(|&(other, _)| other == address) {
                return Err(TableError::AddressTwice { item: item(), address });
            }
            if address == IpAddr::V4(self.router.gateway4) {
                let holder = "the router, as gateway4".to_owned();
                return Err(TableError::AddressHeld { item: item(), address, network, holder });
            }
            if let Some((_, holder)) = self.holder(network, address).filter(|&(holder, _)| holder != port) {
                return Err(TableError::AddressHeld { item: item(), address, network, holder });
            }
            self.check_subnet(interface, address, length)?;
        }
        Ok(())
    }

    /// One connected route a subnet: two ports cannot both be the way to its hosts.
    fn check_subnet(&self, interface: &Interface, address: IpAddr, length: u8) -> Result<(), TableError> {
        let connected =
            routes(interface.port, address, length).find(|(_, route)| route.origin() == Origin::Connected);
        let Some((prefix, ours)) = connected else { return Ok(()) };
        let network = interface.network;
        let theirs = self.networks.get(network).and_then(|routes| routes.get(prefix, Origin::Connected));
        let Some(theirs) = theirs.filter(|&theirs| theirs != ours) else { return Ok(()) };
        let holder = self.interface_title(PortId(u16::try_from(theirs.number()).unwrap_or(u16::MAX)));
        let item = format!("interface on port {}", interface.port);
        Err(TableError::SubnetHeld { item, prefix, network, holder })
    }

    fn withdraw(&mut self, port: PortId) {
        let Some(interface) = self.interfaces.get(u32::from(port.0)) else { return };
        for &(addr, length) in &interface.addresses {
            for (prefix, route) in routes(port, addr, length) {
                // Two addresses of one subnet share its route; the second removal finds nothing.
                self.networks.change(interface.network, |routes| routes.remove(prefix, route.origin()));
            }
        }
    }
}

/// The routes that one address of an interface makes: itself, and its subnet unless that is the address alone.
fn routes(port: PortId, addr: IpAddr, length: u8) -> impl Iterator<Item = (IpPrefix, Packed)> {
    let routed = !is_link_local6(addr);
    let local = routed.then(|| (IpPrefix::host(addr), Packed::local(port)));
    let subnet = IpPrefix::containing(addr, length).filter(|subnet| routed && !subnet.is_host());
    local.into_iter().chain(subnet.map(|subnet| (subnet, Packed::connected(port))))
}
