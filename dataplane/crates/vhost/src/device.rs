//! What the front end's messages do: features, memory, and the two rings' set-up.
//!
//! Owns the configuration of both rings; the rings that run are shared with the worker. Each message is checked before it
//! changes anything, and one that is refused ends the connection. What always holds: features outlast a connection.

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
use virtio_bindings::virtio_net::{VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS};

use crate::eventfd;
use crate::memory::{Memory, SLOTS_MAX};
use crate::ring::{Direction, Kick, SharedRing};
use crate::vring::{MRG_RXBUF, UserAddresses, VERSION_1, Vring};

/// The guest's transmit ring: what we receive. Ring 0 is its receive ring (VIRTIO 1.2, 5.1.2).
const FROM_GUEST: usize = 1;
const RINGS: usize = 2;

const VHOST_USER_F_PROTOCOL_FEATURES: u64 = 1 << 30;
/// MTU and STATUS are the front end's to fill in (its configuration space); offering them lets it.
const OFFERED: u64 =
    VERSION_1 | VHOST_USER_F_PROTOCOL_FEATURES | MRG_RXBUF | 1 << VIRTIO_NET_F_MTU | 1 << VIRTIO_NET_F_STATUS;

/// The device that a front end talks to.
#[derive(Debug)]
pub(crate) struct Device {
    features: u64,
    memory: Memory,
    vrings: [Vring; RINGS],
    epoll: Arc<OwnedFd>,
    kick_token: u64,
    doorbell: Option<OwnedFd>,
}

impl Device {
    /// A device without a connection. Kicks of the guest's transmit ring show up in `epoll` as `kick_token`.
    pub(crate) fn new(
        to_guest: Arc<SharedRing>,
        from_guest: Arc<SharedRing>,
        epoll: Arc<OwnedFd>,
        kick_token: u64,
        doorbell: Option<OwnedFd>,
    ) -> Device {
        let vrings = [Vring::new(to_guest, Direction::ToGuest), Vring::new(from_guest, Direction::FromGuest)];
        Device { features: 0, memory: Memory::default(), vrings, epoll, kick_token, doorbell }
    }

    /// Whether both rings run.
    pub(crate) fn running(&self) -> bool {
        self.vrings.iter().all(|vring| vring.shared.change(|ring| ring.is_some()))
    }

    /// The guest kicked while the worker was parked.
    pub(crate) fn kicked(&self) {
        if let Some(kick) = &self.vrings[FROM_GUEST].kick {
            kick.drain();
        }
        self.ring_doorbell();
    }

    /// The connection is gone: nothing of the guest's is touched any more, and its memory is unmapped.
    pub(crate) fn disconnect(&mut self) {
        for vring in &mut self.vrings {
            vring.stop();
            *vring = Vring::new(Arc::clone(&vring.shared), vring.direction);
        }
        self.memory = Memory::default();
    }

    fn ring_doorbell(&self) {
        if let Some(doorbell) = &self.doorbell {
            eventfd::signal(doorbell);
        }
    }

    fn vring(&mut self, index: usize) -> Result<&mut Vring> {
        self.vrings.get_mut(index).ok_or_else(|| refused(format!("ring {index}: there are {RINGS}")))
    }

    /// Stops the ring, and starts it again if all that it needs is known.
    fn restart(&mut self, index: usize) -> Result<()> {
        let (memory, features) = (&self.memory, self.features);
        let Some(vring) = self.vrings.get_mut(index) else { return Ok(()) };
        vring.stop();
        let started =
            vring.start(memory, features).map_err(|reason| refused(format!("ring {index}: {reason}")))?;
        if started {
            self.ring_doorbell();
        }
        Ok(())
    }

    /// Puts a new table in place. A ring that it no longer holds stays stopped until its addresses come again.
    fn replace_memory(&mut self, memory: Memory) {
        self.memory = memory;
        for index in 0..RINGS {
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
        Ok(OFFERED)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !OFFERED != 0 {
            return Err(refused(format!("features {:#x} were not offered", features & !OFFERED)));
        }
        self.features = features;
        for index in 0..RINGS {
            // Without protocol features there is no SET_VRING_ENABLE: a ring then starts enabled.
            if features & VHOST_USER_F_PROTOCOL_FEATURES == 0 {
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
            .filter(|size| size.is_power_of_two() && *size <= crate::QUEUE_SIZE_MAX)
            .ok_or_else(|| {
                refused(format!("ring {index}: {num} descriptors is no power of two up to 32768"))
            })?;
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
        vring.addresses = Some(UserAddresses { descriptors: descriptor, available, used });
        self.restart(index_of(index))
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let base = u16::try_from(base)
            .map_err(|_| refused(format!("ring {index}: base {base} is more than 65535")))?;
        let vring = self.vring(index_of(index))?;
        vring.stop();
        vring.base = base;
        self.restart(index_of(index))
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let vring = self.vring(index_of(index))?;
        vring.stop();
        // Stopped until the next SET_VRING_KICK; the descriptors come again with it.
        (vring.started, vring.kick, vring.call) = (false, None, None);
        Ok(VhostUserVringState::new(index, u32::from(vring.base)))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let index = usize::from(index);
        let fd = peer_fd(index, "kick", fd)?;
        // Nobody listens to kicks of the receive ring: "buffers are there again" is seen when the next frame is sent.
        let listened = fd.filter(|_| index == FROM_GUEST);
        let (epoll, token) = (Arc::clone(&self.epoll), self.kick_token);
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
        Ok(VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS)
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        let beyond = features & !self.get_protocol_features()?.bits();
        if beyond != 0 {
            return Err(refused(format!("protocol features {beyond:#x} were not offered")));
        }
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(1)
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

    fn get_inflight_fd(&mut self, _inflight: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        Err(unoffered("GET_INFLIGHT_FD"))
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        Err(unoffered("SET_INFLIGHT_FD"))
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
