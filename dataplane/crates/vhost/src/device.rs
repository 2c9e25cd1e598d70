//! What the front end's messages do: features, memory, and the rings' set-up.
//!
//! Owns the configuration of all rings; those that run are shared with workers. Each message is checked before it changes
//! anything, and one that is refused ends the connection. What always holds: features outlast a connection.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};

use crate::chains::Direction;
use crate::eventfd;
use crate::features::Features;
use crate::inflight::Inflight;
use crate::memory::{Memory, SLOTS_MAX};
use crate::ring::{Addresses, Kick, Ring, SharedRing};
use crate::vring::Vring;

/// One queue pair as workers have it: what the guest receives from, and what it transmits to. In that order they are rings
/// `2n` and `2n + 1` (VIRTIO 1.2, 5.1.2).
#[derive(Clone, Debug, Default)]
pub(crate) struct Pair {
    pub(crate) to_guest: Arc<SharedRing>,
    pub(crate) from_guest: Arc<SharedRing>,
}

/// The device that a front end talks to.
#[derive(Debug)]
pub(crate) struct Device {
    offered: u64,
    features: Features,
    /// The front end has said on this connection which it takes.
    pub(crate) negotiated: bool,
    memory: Arc<Memory>,
    vrings: Vec<Vring>,
    /// By queue pair; none at all where nobody sleeps.
    doorbells: Vec<OwnedFd>,
    /// Where packed rings are, and where they were when an earlier process was killed.
    inflight: Option<Inflight>,
    remembered: Option<Inflight>,
    epoll: Arc<OwnedFd>,
    kick_token: u64,
}

impl Device {
    /// A device without a connection. Kicks of the guest's transmit rings show up in `epoll` as `kick_token` and the pair's number.
    pub(crate) fn new(
        offered: u64,
        pairs: &[Pair],
        doorbells: Vec<OwnedFd>,
        remembered: Option<Inflight>,
        epoll: Arc<OwnedFd>,
        kick_token: u64,
    ) -> Self {
        let vrings = pairs.iter().flat_map(|pair| {
            [
                Vring::new(Arc::clone(&pair.to_guest), Direction::ToGuest),
                Vring::new(Arc::clone(&pair.from_guest), Direction::FromGuest),
            ]
        });
        Self {
            offered,
            features: Features::default(),
            negotiated: false,
            memory: Arc::default(),
            vrings: vrings.collect(),
            doorbells,
            inflight: None,
            remembered,
            epoll,
            kick_token,
        }
    }

    /// Whether both rings of the first pair run.
    pub(crate) fn running(&self) -> bool {
        self.vrings.iter().take(2).all(|vring| vring.shared.is_running())
    }

    /// The guest kicked while a worker was parked.
    pub(crate) fn kicked(&self, pair: usize) {
        if let Some(kick) = self.vrings.get(2 * pair + 1).and_then(|vring| vring.kick.as_ref()) {
            kick.drain();
        }
        self.ring_doorbell(pair);
    }

    /// The connection is gone: nothing of the guest's is touched any more, and its memory is unmapped.
    pub(crate) fn disconnect(&mut self) {
        for vring in &mut self.vrings {
            vring.stop();
            *vring = Vring::new(Arc::clone(&vring.shared), vring.direction);
        }
        self.memory = Arc::default();
        self.inflight = None;
        self.negotiated = false;
    }

    fn ring_doorbell(&self, pair: usize) {
        if let Some(doorbell) = self.doorbells.get(pair) {
            eventfd::signal(doorbell);
        }
    }

    fn vring(&mut self, index: usize) -> Result<&mut Vring> {
        let there = self.vrings.len();
        self.vrings.get_mut(index).ok_or_else(|| refused(format!("ring {index}: there are {there}")))
    }

    /// Stops the ring, and starts it again if all that it needs is known.
    fn restart(&mut self, index: usize) -> Result<()> {
        let kept = self.inflight.as_ref().or(self.remembered.as_ref()).and_then(|kept| kept.ring(index));
        let Some(vring) = self.vrings.get_mut(index) else { return Ok(()) };
        vring.stop();
        let started = vring.start(&self.memory, self.features, kept);
        if started.map_err(|reason| refused(format!("ring {index}: {reason}")))? {
            self.ring_doorbell(index / 2);
        }
        Ok(())
    }

    /// Puts a new table in place. A ring that it no longer holds stays stopped until its addresses come again.
    fn replace_memory(&mut self, memory: Memory) {
        self.memory = Arc::new(memory);
        for index in 0..self.vrings.len() {
            if let Err(error) = self.restart(index) {
                tracing::warn!(%error, "vhost-user ring stopped by a change of guest memory");
            }
        }
    }
}

fn refused(reason: impl Into<String>) -> Error {
    Error::ReqHandlerError(io::Error::other(reason.into()))
}

fn unoffered(message: &str) -> Error {
    refused(format!("{message} belongs to a feature that was not offered"))
}

fn index_of(index: u32) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}

impl VhostUserBackendReqHandlerMut for Device {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        // Deprecated; the specification's advice is to disable all rings and keep the rest.
        for vring in &mut self.vrings {
            vring.stop();
            vring.enabled = false;
        }
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        Err(unoffered("RESET_DEVICE"))
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.offered)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        let beyond = features & !self.offered;
        if beyond != 0 {
            return Err(refused(format!("features {beyond:#x} were not offered")));
        }
        self.features = Features(features);
        self.negotiated = true;
        for index in 0..self.vrings.len() {
            // Without protocol features there is no SET_VRING_ENABLE: a ring then starts enabled.
            if !self.features.protocol() {
                self.vring(index)?.enabled = true;
            }
            self.restart(index)?;
        }
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        let memory = Memory::from_table(regions, files).map_err(refused)?;
        self.replace_memory(memory);
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let size = u16::try_from(num)
            .ok()
            .filter(|size| (1..=crate::QUEUE_SIZE_MAX).contains(size))
            .ok_or_else(|| refused(format!("ring {index}: {num} descriptors; 1 to 32768 are possible")))?;
        let vring = self.vring(index_of(index))?;
        vring.stop();
        vring.size = Some(size);
        self.restart(index_of(index))
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let vring = self.vring(index_of(index))?;
        vring.stop();
        vring.addresses = Some(Addresses { descriptors: descriptor, available, used });
        self.restart(index_of(index))
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let vring = self.vring(index_of(index))?;
        vring.stop();
        vring.base = base;
        self.restart(index_of(index))
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let vring = self.vring(index_of(index))?;
        vring.shared.change(|ring| ring.as_ref().map(Ring::forget));
        vring.stop();
        // Stopped until the next SET_VRING_KICK; the descriptors come again with it.
        (vring.started, vring.kick, vring.call) = (false, None, None);
        Ok(VhostUserVringState::new(index, vring.base))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let index = usize::from(index);
        let fd = peer_fd(index, "kick", fd)?;
        // Nobody listens to kicks of receive rings: "buffers are there again" is seen when the next frame is sent.
        let listened = fd.filter(|_| index % 2 == 1);
        let pair = u64::try_from(index / 2).unwrap_or(0);
        let (epoll, token) = (Arc::clone(&self.epoll), self.kick_token + pair);
        let vring = self.vring(index)?;
        vring.stop();
        // The old one goes first: the front end may pass the same eventfd again.
        vring.kick = None;
        vring.kick = listened
            .map(|fd| Kick::new(fd, epoll, token).map(Arc::new))
            .transpose()
            .map_err(|error| refused(format!("ring {index}: listening to its kick: {error}")))?;
        vring.started = true;
        self.restart(index)
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let index = usize::from(index);
        let fd = peer_fd(index, "call", fd)?;
        let vring = self.vring(index)?;
        let shown = fd.as_ref().map(OwnedFd::try_clone).transpose().map_err(Error::ReqHandlerError)?;
        vring.call = fd;
        // Changes often (a guest masking its interrupt), so the ring goes on running.
        vring.shared.change(|ring| {
            if let Some(ring) = ring.as_mut() {
                ring.call = shown;
            }
        });
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let index = usize::from(index);
        let fd = peer_fd(index, "err", fd)?;
        self.vring(index)?.err = fd;
        self.restart(index)
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::INFLIGHT_SHMFD
            | VhostUserProtocolFeatures::MQ)
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        let beyond = features & !self.get_protocol_features()?.bits();
        if beyond != 0 {
            return Err(refused(format!("protocol features {beyond:#x} were not offered")));
        }
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        // Queue pairs, as network devices count them.
        Ok(u64::try_from(self.vrings.len() / 2).unwrap_or(1))
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        let vring = self.vring(index_of(index))?;
        if vring.enabled == enable {
            return Ok(());
        }
        vring.enabled = enable;
        self.restart(index_of(index))
    }

    fn get_config(&mut self, _offset: u32, _size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        Err(unoffered("GET_CONFIG"))
    }

    fn set_config(&mut self, _offset: u32, _buf: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        Err(unoffered("SET_CONFIG"))
    }

    fn set_gpu_socket(&mut self, _gpu_backend: GpuBackend) -> Result<()> {
        Err(unoffered("GPU_SET_SOCKET"))
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        Err(unoffered("GET_SHARED_OBJECT"))
    }

    fn get_inflight_fd(&mut self, wanted: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        let VhostUserInflight { num_queues, queue_size, .. } = *wanted;
        if usize::from(num_queues) > self.vrings.len() || queue_size > crate::QUEUE_SIZE_MAX {
            return Err(refused(format!(
                "in-flight state of {num_queues} rings of {queue_size} descriptors: there are {} of at most {}",
                self.vrings.len(),
                crate::QUEUE_SIZE_MAX
            )));
        }
        let (message, file, inflight) = Inflight::create(num_queues, queue_size).map_err(refused)?;
        self.inflight = Some(inflight);
        Ok((message, file))
    }

    fn set_inflight_fd(&mut self, kept: &VhostUserInflight, file: File) -> Result<()> {
        self.inflight = Some(Inflight::open(kept, file).map_err(refused)?);
        Ok(())
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(SLOTS_MAX)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        fd: File,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        let memory = self.memory.with(region, fd).map_err(refused)?;
        self.replace_memory(memory);
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        let (guest, user, size) = (region.guest_phys_addr, region.user_addr, region.memory_size);
        let memory = self.memory.without(guest, user, size).map_err(refused)?;
        self.replace_memory(memory);
        Ok(())
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _fd: File,
    ) -> Result<Option<File>> {
        Err(unoffered("SET_DEVICE_STATE_FD"))
    }

    fn check_device_state(&mut self) -> Result<()> {
        Err(unoffered("CHECK_DEVICE_STATE"))
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(unoffered("GET_SHMEM_CONFIG"))
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        Err(unoffered("SET_LOG_BASE"))
    }
}

fn peer_fd(index: usize, which: &str, file: Option<File>) -> Result<Option<OwnedFd>> {
    file.map(eventfd::from_peer)
        .transpose()
        .map_err(|error| refused(format!("ring {index}: its {which} descriptor: {error}")))
}
