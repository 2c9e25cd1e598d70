//! One ring as the front end has described it so far, and its start once that is enough.
//!
//! What always holds: a ring runs only while its size, addresses and kick are set, it is enabled, and it lies whole in
//! guest memory.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::chains::Direction;
use crate::features::Features;
use crate::inflight::InflightRing;
use crate::memory::Memory;
use crate::ring::{Addresses, Kick, Layout, Ring, SharedRing, Signals};

/// A ring as the front end has described it so far. The addresses are its own virtual ones.
#[derive(Debug)]
pub(crate) struct Vring {
    pub(crate) shared: Arc<SharedRing>,
    pub(crate) direction: Direction,
    pub(crate) size: Option<u16>,
    pub(crate) addresses: Option<Addresses>,
    /// As `SET_VRING_BASE` has it: 16 bits of a split ring, two places of a packed one.
    pub(crate) base: u32,
    /// `SET_VRING_KICK` came since the ring was last stopped.
    pub(crate) started: bool,
    pub(crate) enabled: bool,
    pub(crate) kick: Option<Arc<Kick>>,
    pub(crate) call: Option<OwnedFd>,
    pub(crate) err: Option<OwnedFd>,
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
            self.base = ring.base();
        }
    }

    /// Gives the ring to the worker; `false` if the front end has not said all that it needs.
    pub(crate) fn start(
        &mut self,
        memory: &Arc<Memory>,
        features: Features,
        inflight: Option<InflightRing>,
    ) -> Result<bool, String> {
        let (Some(size), Some(addresses)) = (self.size, self.addresses) else { return Ok(false) };
        if !self.started || !self.enabled {
            return Ok(false);
        }
        if !features.packed() && !size.is_power_of_two() {
            return Err(format!("{size} descriptors is no power of two, which a split ring has"));
        }
        let duplicate = |fd: &Option<OwnedFd>| fd.as_ref().map(OwnedFd::try_clone).transpose();
        let signals = Signals {
            kick: self.kick.clone(),
            call: duplicate(&self.call).map_err(|error| error.to_string())?,
            err: duplicate(&self.err).map_err(|error| error.to_string())?,
        };
        let layout = Layout { size, addresses, base: self.base, direction: self.direction, features };
        let ring = Ring::start(&layout, signals, memory, inflight)?;
        self.shared.change(|slot| *slot = Some(ring));
        Ok(true)
    }
}
