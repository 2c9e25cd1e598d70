//! The life of ports: made, given to a worker, taken back. Runs on the socket's threads; no worker stops for it.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use crossbeam::channel;
use dpdk::PortConfig;
use podrouter_vhost::{Mode, PeerState, VhostConfig, VhostPort};
use proto::dataplane::{PortInfo, PortKind, PortSpec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tables::{MAX_PORTS, PortEntry, PortId, PortRole};
use wire::MacAddr;

use crate::core::Core;
use crate::handover::{Command, Kind, WorkerShared};
use crate::io::{Device, Ethdev, Memory, Staged, TapPort, Vhost};
use crate::worker::Slot;

/// Longest that a worker may take to give a port back before that is an error worth telling.
const GIVE_BACK: Duration = Duration::from_secs(10);

/// Longest name of a port, in bytes.
const NAME_MAX: usize = 63;

/// Descriptors of a NIC queue: DPDK's own example default, and what a burst of 32 wants.
const DESCRIPTORS: u16 = 1_024;

/// All ports by name.
#[derive(Default)]
pub(crate) struct Ports {
    by_name: BTreeMap<String, PortRecord>,
    /// Ids are given out in turn, so that one is not used again while a packet of its last port may be about.
    next: u16,
}

/// A port, seen from here; its queues are its worker's.
pub(crate) struct PortRecord {
    pub(crate) info: PortInfo,
    pub(crate) worker: u16,
    pub(crate) handle: Handle,
    /// What the counters of this id stood at when the port was made.
    pub(crate) baseline: crate::show::Totals,
}

/// What stays with this thread of each kind of port.
pub(crate) enum Handle {
    Tap(OwnedFd),
    Vhost(VhostPort),
    Ethdev(dpdk::Port),
    Memory,
}

impl Handle {
    /// Somebody is on the other end.
    pub(crate) fn is_up(&self) -> bool {
        match self {
            Self::Tap(fd) => {
                // A TAP is writable while its interface is up (tun_chr_poll).
                let mut fds = [PollFd::new(fd, PollFlags::OUT)];
                let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0) && fds[0].revents().contains(PollFlags::OUT)
            }
            Self::Vhost(port) => port.state() == PeerState::Running,
            Self::Ethdev(port) => port.link().is_ok_and(|link| link.up),
            Self::Memory => true,
        }
    }
}

impl Ports {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &PortRecord> {
        self.by_name.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&PortRecord> {
        self.by_name.get(name)
    }

    /// The id of a port, or an error that names those there are.
    pub(crate) fn id(&self, name: &str) -> anyhow::Result<PortId> {
        self.by_name.get(name).map(|record| PortId(record.info.id)).ok_or_else(|| {
            let known: Vec<_> = self.by_name.keys().map(String::as_str).collect();
            anyhow!("port `{name}` does not exist; there are: {}", known.join(", "))
        })
    }

    fn free_id(&mut self) -> anyhow::Result<PortId> {
        for _ in 0..MAX_PORTS {
            let id = self.next;
            self.next = (self.next + 1) % MAX_PORTS;
            if self.by_name.values().all(|record| record.info.id != id) {
                return Ok(PortId(id));
            }
        }
        bail!("all {MAX_PORTS} ports are in use: remove one first")
    }
}

impl Core {
    /// Makes a port and gives it to a worker, or finds that it is there as asked.
    pub(crate) fn add_port(&mut self, spec: PortSpec, fds: Vec<OwnedFd>) -> anyhow::Result<PortInfo> {
        check(&spec)?;
        if let Some(there) = self.ports.get(&spec.name) {
            if there.info.spec == spec {
                return Ok(there.info.clone());
            }
            bail!("port `{}` exists with other settings ({:?}): remove it first", spec.name, there.info.spec);
        }
        let worker = self.worker_for(&spec)?;
        let (device, handle, device_mac) = self
            .open(&spec, fds, &worker)
            .with_context(|| format!("port `{}` could not be made", spec.name))?;
        let id = self.ports.free_id()?;
        let mac = spec.mac.or(device_mac).unwrap_or_else(|| made_up_mac(&spec.name));
        let entry = PortEntry { id, name: spec.name.clone(), mac, mtu: spec.mtu, role: PortRole::Idle };
        self.tables.set_port(entry)?;
        self.owners.set(id, Some(worker.id));
        worker.command(Command::AddPort(Box::new(Slot { id, device, staged: Staged::new() })));
        let info = PortInfo { id: id.0, mac, spec };
        tracing::info!(port = info.spec.name, id = id.0, worker = worker.id, %mac, "port added");
        let baseline = crate::show::Totals::of(&self.workers, id);
        let record = PortRecord { info: info.clone(), worker: worker.id, handle, baseline };
        self.ports.by_name.insert(info.spec.name.clone(), record);
        Ok(info)
    }

    /// Takes a port away. No row of the published tables names it then, so no new packet goes there.
    pub(crate) fn remove_port(&mut self, name: &str) -> anyhow::Result<()> {
        let id = self.ports.id(name)?;
        self.tables.remove_port(id)?;
        self.close_port(name)
    }

    /// Takes a port from its worker and closes it, whatever the tables say of it.
    pub(crate) fn close_port(&mut self, name: &str) -> anyhow::Result<()> {
        let id = self.ports.id(name)?;
        let Some(record) = self.ports.by_name.remove(name) else { return Ok(()) };
        self.owners.set(id, None);
        let (reply, slot) = channel::bounded(1);
        self.workers[usize::from(record.worker)].command(Command::RemovePort(id, reply));
        match slot.recv_timeout(GIVE_BACK) {
            Ok(slot) => {
                if let Device::Memory(memory) = &slot.device {
                    memory.finish()?;
                }
                // Queues first, then the device they belong to.
                drop(slot);
                drop(record.handle);
                tracing::info!(port = name, id = id.0, "port removed");
                Ok(())
            }
            Err(_) => bail!("worker {} has not given port `{name}` back within {GIVE_BACK:?}", record.worker),
        }
    }

    /// TAPs go to kernel workers, all else to poll workers; to the one with the fewest ports.
    fn worker_for(&self, spec: &PortSpec) -> anyhow::Result<std::sync::Arc<WorkerShared>> {
        let kind = if matches!(spec.kind, PortKind::Tap) { Kind::Kernel } else { Kind::Poll };
        let load = |id: u16| self.ports.iter().filter(|record| record.worker == id).count();
        let worker = self.workers.iter().filter(|worker| worker.kind == kind).min_by_key(|worker| load(worker.id));
        worker.cloned().with_context(|| {
            format!("port `{}` needs a poll worker and there is none: start with --workers", spec.name)
        })
    }

    fn open(
        &self,
        spec: &PortSpec,
        fds: Vec<OwnedFd>,
        worker: &WorkerShared,
    ) -> anyhow::Result<(Device, Handle, Option<MacAddr>)> {
        Ok(match &spec.kind {
            PortKind::Tap => {
                let fd = fds.into_iter().next().context("a TAP's descriptor must come with the request")?;
                let copy = fd.try_clone()?;
                (Device::Tap(TapPort::new(fd)?), Handle::Tap(copy), None)
            }
            PortKind::Vhost { path, server } => {
                let mode = if *server { Mode::Server } else { Mode::Client };
                let config = VhostConfig { path: path.clone(), mode, name: spec.name.clone() };
                let (port, rx, tx) = VhostPort::start(config, None)?;
                (Device::Vhost(Vhost::new(rx, tx)), Handle::Vhost(port), None)
            }
            PortKind::Ethdev { device, devargs } => {
                if let Some(devargs) = devargs
                    && !self.eal.devices().contains(device)
                {
                    self.eal.attach(devargs)?;
                }
                let config = PortConfig {
                    rx_desc: DESCRIPTORS,
                    tx_desc: DESCRIPTORS,
                    promiscuous: spec.mac.is_some(),
                    // Every Ethernet device takes 1,500; not every one can be told.
                    mtu: (spec.mtu > 1_500).then_some(spec.mtu),
                    ..PortConfig::new(&self.pools.small)
                };
                let (port, rx, tx) = dpdk::Port::open(&self.eal, device, config)?;
                let mac = MacAddr(port.mac()?);
                let (rx, tx) = rx.into_iter().zip(tx).next().context("the device has no queue pair")?;
                tracing::debug!(device, worker = worker.id, "device opened");
                (Device::Ethdev(Ethdev::new(rx, tx)), Handle::Ethdev(port), Some(mac))
            }
            PortKind::Memory { rx_pcap, tx_pcap } => {
                let memory = Memory::open(rx_pcap.as_deref(), tx_pcap.clone())?;
                (Device::Memory(memory), Handle::Memory, None)
            }
        })
    }
}

fn check(spec: &PortSpec) -> anyhow::Result<()> {
    if spec.name.is_empty() || spec.name.len() > NAME_MAX {
        bail!("port name `{}` must have 1 to {NAME_MAX} bytes", spec.name);
    }
    if let Some(mac) = spec.mac
        && !mac.is_unicast()
    {
        bail!("port `{}`: mac {mac} is no unicast address", spec.name);
    }
    Ok(())
}

/// A locally administered address (IEEE 802, section 8.2) that is the same at each start: FNV-1a over the name.
fn made_up_mac(name: &str) -> MacAddr {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let [a, b, c, d, e, ..] = hash.to_le_bytes();
    MacAddr([0x02, a, b, c, d, e])
}
