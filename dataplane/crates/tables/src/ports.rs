//! Changes to ports.

use crate::entry::{PortEntry, PortRole};
use crate::error::TableError;
use crate::id::{MAX_PORTS, PortId};
use crate::stamp::Place;
use crate::tables::Tables;

/// What IPv6 asks of every link (RFC 8200, section 5).
const LEAST_MTU: u16 = 1280;

impl Tables {
    /// The port of this number.
    #[inline]
    #[must_use]
    pub fn port(&self, id: PortId) -> Option<&PortEntry> {
        self.ports.get(u32::from(id.0))
    }

    /// All ports, by number.
    pub fn ports(&self) -> impl Iterator<Item = &PortEntry> + '_ {
        self.ports.iter().map(|(_, port)| port)
    }

    /// Adds a port, or replaces the one of this number; it keeps its role.
    ///
    /// # Errors
    /// A number out of range, an empty name or that of another port, a MAC address that no station can have, an MTU
    /// below 1280.
    pub fn set_port(&mut self, port: PortEntry) -> Result<(), TableError> {
        let PortEntry { id, name, mac, mtu, role: _ } = &port;
        if id.0 >= MAX_PORTS {
            return Err(TableError::PortRange { name: name.clone(), port: *id });
        }
        if name.is_empty() {
            return Err(TableError::EmptyName { item: format!("port {id}") });
        }
        if let Some(holder) = self.ports().find(|other| other.name == *name && other.id != *id) {
            return Err(TableError::PortName { port: *id, name: name.clone(), holder: holder.id });
        }
        if !mac.is_unicast() {
            return Err(TableError::Mac { item: format!("port `{name}`"), mac: *mac });
        }
        if *mtu < LEAST_MTU {
            return Err(TableError::Mtu { name: name.clone(), mtu: *mtu });
        }
        let old = self.port(*id);
        let role = old.map_or(PortRole::Idle, |old| old.role);
        // Nothing rests on a port that is new, nor on a name.
        if old.is_some_and(|old| (old.mac, old.mtu) != (*mac, *mtu)) {
            match role {
                PortRole::Endpoint(endpoint) if !self.targets.use_port(*id) => self.touch_endpoint(endpoint),
                _ => self.touch(Place::Everything),
            }
        }
        self.ports.set(u32::from(port.id.0), PortEntry { role, ..port });
        Ok(())
    }

    /// Removes a port.
    ///
    /// # Errors
    /// No such port; or an endpoint, interface, tunnel, tunnel peer or configured route still names it.
    pub fn remove_port(&mut self, id: PortId) -> Result<(), TableError> {
        let Some(port) = self.port(id) else {
            return Err(TableError::UnknownPort { item: "removal".to_owned(), port: id });
        };
        let route = || {
            let target = self.targets.find(|target| target.port() == Some(id))?;
            Some(self.route_title_to(target))
        };
        let over = self.tunnel_over(id).map(|tunnel| format!("the tunnel on port {}", tunnel.port));
        let user = match port.role {
            PortRole::Tunnel { .. } => self.tunnel_user(id),
            _ => self.port_user(port),
        };
        if let Some(user) = user.or(over).or_else(route) {
            return Err(TableError::PortInUse { port: id, name: port.name.clone(), user });
        }
        if let PortRole::Tunnel { uplink } = port.role {
            self.remove_tunnel(uplink);
        }
        self.ports.remove(u32::from(id.0));
        Ok(())
    }

    /// What to call the endpoint or interface on a port.
    pub(crate) fn port_user(&self, port: &PortEntry) -> Option<String> {
        match port.role {
            PortRole::Idle => None,
            PortRole::Uplink => Some(self.interface_title(port.id)),
            PortRole::Tunnel { .. } => Some("a tunnel".to_owned()),
            PortRole::Endpoint(id) => {
                self.endpoint(id).map(|endpoint| format!("endpoint `{}`", endpoint.name))
            }
        }
    }

    /// Whoever sets a role touches what rests on it, but for the routes that lead to the port: they may be anywhere.
    pub(crate) fn set_role(&mut self, id: PortId, role: PortRole) {
        if self.port(id).is_some_and(|port| port.role != role)
            && let Some(port) = self.ports.get_mut(u32::from(id.0))
        {
            port.role = role;
            if self.targets.use_port(id) {
                self.touch(Place::Everything);
            }
        }
    }
}
