//! One ring as the front end has described it so far, and its start once that is enough.
//!
//! What always holds: a ring runs only while its size, addresses and kick are set, it is enabled, and it lies whole in
//! guest memory.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;

use crate::memory::Memory;
use crate::ring::{Direction, Kick, Layout, Ring, SharedRing, Signals};

pub(crate) const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
pub(crate) const MRG_RXBUF: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;

/// A ring as the front end has described it so far. The addresses are its own virtual ones.
#[derive(Debug)]
pub(crate) struct Vring {
    pub(crate) shared: Arc<SharedRing>,
    pub(crate) direction: Direction,
    pub(crate) size: Option<u16>,
    pub(crate) addresses: Option<UserAddresses>,
    pub(crate) base: u16,
    /// `SET_VRING_KICK` came since the ring was last stopped.
    pub(crate) started: bool,
    pub(crate) enabled: bool,
    pub(crate) kick: Option<Arc<Kick>>,
    pub(crate) call: Option<OwnedFd>,
    pub(crate) err: Option<OwnedFd>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct UserAddresses {
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
}

impl Vring {
    /// Nothing is known of it yet.
    pub(crate) fn new(shared: Arc<SharedRing>, direction: Direction) -> Vring {
        Vring {
            shared,
            direction,
            size: None,
            addresses: None,
            base: 0,
            started: false,
            enabled: false,
            kick: None,
            call: None,
            err: None,
        }
    }

    /// Takes the ring from the worker; where it got to is where it goes on.
    pub(crate) fn stop(&mut self) {
        if let Some(ring) = self.shared.change(Option::take) {
            self.base = ring.next_available();
        }
    }

    /// Gives the ring to the worker; `false` if the front end has not said all that it needs.
    pub(crate) fn start(&mut self, memory: &Memory, features: u64) -> Result<bool, String> {
        let (Some(size), Some(addresses)) = (self.size, self.addresses) else { return Ok(false) };
        if !self.started || !self.enabled {
            return Ok(false);
        }
        let translate = |part: &str, user: u64| {
            memory
                .guest_address(user)
                .ok_or_else(|| format!("{part} at user address {user:#x} is in no memory region"))
        };
        let mergeable = features & MRG_RXBUF != 0;
        let layout = Layout {
            size,
            descriptors: translate("descriptor table", addresses.descriptors)?,
            available: translate("available ring", addresses.available)?,
            used: translate("used ring", addresses.used)?,
            next_available: self.base,
            direction: self.direction,
            // VIRTIO 1.2, 5.1.6.1: a legacy driver's header has num_buffers only where it merges.
            header_len: if mergeable || features & VERSION_1 != 0 { 12 } else { 10 },
            mergeable,
        };
        let duplicate = |fd: &Option<OwnedFd>| fd.as_ref().map(OwnedFd::try_clone).transpose();
        let signals = Signals {
            kick: self.kick.clone(),
            call: duplicate(&self.call).map_err(|error| error.to_string())?,
            err: duplicate(&self.err).map_err(|error| error.to_string())?,
        };
        let ring = Ring::start(&layout, signals, Arc::clone(memory.mapped()))?;
        self.shared.change(|slot| *slot = Some(ring));
        Ok(true)
    }
}
