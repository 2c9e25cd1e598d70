//! The life of ports: made, given to a worker, taken back. Runs on the socket's threads; no worker stops for it.

mod devices;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use crossbeam::channel;
use dpdk::{rx_offload_names, tx_offload_names};
use podrouter_vhost::{Mode, PeerState, VhostConfig, VhostPort};
use proto::dataplane::{DeviceCounter, DeviceStatus, Ethdev, Limit, PortInfo, PortKind, PortSpec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tables::{MAX_PORTS, PortEntry, PortId, PortRole, Tunnel};
use wire::MacAddr;

pub(crate) use self::devices::device_name;
use crate::core::Core;
use crate::frame::LARGE_ROOM;
use crate::handover::{Command, Kind};
use crate::io::{Device, LinkUp, Memory, Staged, TapPort, Vhost};
use crate::limits::PortLimits;
use crate::worker::Slot;

/// Longest that a worker may take to give a port back before that is an error worth telling.
const GIVE_BACK: Duration = Duration::from_secs(10);

/// Longest name of a port, in bytes.
const NAME_MAX: usize = 63;

/// Bytes of an Ethernet header with one VLAN tag (IEEE 802.1Q), which no MTU counts.
const ETHERNET: u16 = 18;

/// Bytes that a tunnel's datagram has in front of the packet in it: IPv4, UDP and VXLAN headers, and the inner frame's.
const VXLAN_OVER_IPV4: u16 = 50;

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
    /// Who has queues of it; the first is its owner.
    pub(crate) workers: Vec<u16>,
    pub(crate) handle: Handle,
    /// What the counters of this id stood at when the port was made.
    pub(crate) baseline: crate::show::Totals,
}

/// What stays with this thread of each kind of port.
pub(crate) enum Handle {
    Tap(OwnedFd),
    Vhost(VhostPort),
    Ethdev(dpdk::Port, Arc<LinkUp>),
    Memory,
    /// Its uplink's.
    Tunnel(Arc<LinkUp>),
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
            Self::Ethdev(_, link) | Self::Tunnel(link) => link.get(),
            Self::Memory => true,
        }
    }
}

impl Handle {
    /// What a DPDK device says of itself; none for other kinds. A driver may take its time over it.
    pub(crate) fn device(&self) -> Option<DeviceStatus> {
        let Self::Ethdev(port, _) = self else { return None };
        let in_use = port.in_use();
        let text = |names: Vec<&'static str>| names.into_iter().map(str::to_owned).collect();
        Some(DeviceStatus {
            driver: port.info().map(|info| info.driver).unwrap_or_default(),
            speed_mbps: port.link().ok().and_then(|link| link.speed),
            rx_queues: in_use.rx_queues,
            tx_queues: in_use.tx_queues,
            rx_offloads: text(rx_offload_names(in_use.rx_offloads)),
            tx_offloads: text(tx_offload_names(in_use.tx_offloads)),
            counters: port
                .xstats()
                .unwrap_or_default()
                .into_iter()
                .map(|(name, count)| DeviceCounter { name, count })
                .collect(),
        })
    }
}

impl Ports {
    /// Has workers know of links that went down or came back; says so in the log.
    pub(crate) fn watch_links(&self) {
        for record in self.iter() {
            let Handle::Ethdev(port, up) = &record.handle else { continue };
            // A driver that does not say is left as it was.
            let Ok(link) = port.link() else { continue };
            let name = &record.info.spec.name;
            match (up.set(link.up), link.up) {
                (false, true) => tracing::info!(port = name, speed_mbps = link.speed, "the link is up"),
                (true, false) => {
                    tracing::warn!(port = name, "the link is down: what is sent by it is dropped (tx-down)");
                }
                (true, true) | (false, false) => {}
            }
        }
    }

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

    /// The port that a tunnel is to leave by.
    fn uplink(&self, name: &str) -> anyhow::Result<&PortRecord> {
        self.get(name).with_context(|| format!("uplink `{name}` does not exist: add that port first"))
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

/// Devices by worker, what stays here, and the device's own MAC.
type Opened = (Vec<Device>, Handle, Option<MacAddr>);

impl Core {
    /// Makes a port and gives it to a worker, or finds that it is there as asked. A TAP that is there goes on with the
    /// descriptor that came last: it is another device where the pod's, or the host's, was deleted and made anew. Limits that are
    /// other than they were hold from then on, in full buckets.
    pub(crate) fn add_port(&mut self, spec: PortSpec, fds: Vec<OwnedFd>) -> anyhow::Result<PortInfo> {
        check(&spec)?;
        if let Some(there) = self.ports.get(&spec.name) {
            let PortSpec { limits, mtu, ref kind, .. } = there.info.spec;
            let mtu = if matches!(kind, PortKind::Ethdev(_)) { spec.mtu } else { mtu };
            if there.info.spec != (PortSpec { limits, mtu, ..spec.clone() }) {
                bail!(
                    "port `{}` exists with other settings ({:?}): remove it first",
                    spec.name,
                    there.info.spec
                );
            }
            if matches!(spec.kind, PortKind::Tap) && !fds.is_empty() {
                self.replace_tap(&spec, fds)?;
            }
            return self.adjust_port(&spec);
        }
        let workers = self.workers_for(&spec)?;
        let id = self.ports.free_id()?;
        let mut entry = PortEntry {
            id,
            name: spec.name.clone(),
            mac: spec.mac.unwrap_or_else(|| made_up_mac(&spec.name)),
            mtu: spec.mtu,
            role: PortRole::Idle,
        };
        // Asked of a copy, before anything is opened that would have to be closed again.
        self.tables.clone().set_port(entry.clone())?;
        let tunnel = self.tunnel(id, &spec)?;
        let opened = self.open(&spec, fds, workers.len());
        let (devices, handle, device_mac) =
            opened.with_context(|| format!("port `{}` could not be made", spec.name))?;
        if spec.mac.is_none() && device_mac.is_some_and(|mac| mac.is_unicast()) {
            entry.mac = device_mac.unwrap_or(entry.mac);
        }
        let info = PortInfo { id: id.0, mac: entry.mac, spec };
        self.tables.set_port(entry)?;
        if let Some(tunnel) = tunnel {
            self.tables.set_tunnel(tunnel)?;
        }
        // Before the worker counts anything for it.
        let baseline = crate::show::Totals::of(&self.workers, id);
        let workers: Vec<u16> = workers.into_iter().take(devices.len()).collect();
        self.owners.set(id, workers.first().copied());
        let limits = PortLimits::new(info.spec.limits);
        for (&worker, device) in workers.iter().zip(devices) {
            let (staged, limits) = (Staged::default(), limits.clone());
            let slot = Slot { id, mtu: info.spec.mtu, device, staged, limits };
            self.workers[usize::from(worker)].command(Command::AddPort(Box::new(slot)));
        }
        tracing::info!(port = info.spec.name, id = id.0, ?workers, mac = %info.mac, "port added");
        let record = PortRecord { info: info.clone(), workers, handle, baseline };
        self.ports.by_name.insert(info.spec.name.clone(), record);
        Ok(info)
    }

    /// What the tables are told of a tunnel; `None` for a port that is none.
    fn tunnel(&self, port: PortId, spec: &PortSpec) -> anyhow::Result<Option<Tunnel>> {
        let PortKind::Vxlan { uplink, vni, udp_port } = &spec.kind else { return Ok(None) };
        let under = &self.ports.uplink(uplink)?.info;
        let most = under.spec.mtu.saturating_sub(VXLAN_OVER_IPV4);
        if spec.mtu > most {
            bail!(
                "port `{}`: mtu {} is more than the {most} that are left of uplink `{uplink}` with the header of a datagram",
                spec.name,
                spec.mtu
            );
        }
        Ok(Some(Tunnel { port, uplink: PortId(under.id), vni: *vni, udp_port: *udp_port }))
    }

    /// Has the workers of a port that is there keep to these limits and this MTU, if it has others. What packets fit is asked of the tables
    /// from the next generation on; until then one that fits no more is cut up or dropped where it would leave.
    fn adjust_port(&mut self, spec: &PortSpec) -> anyhow::Result<PortInfo> {
        let missing = || anyhow!("port `{}` is gone", spec.name);
        let there = &self.ports.get(&spec.name).ok_or_else(missing)?.info;
        if (there.spec.limits, there.spec.mtu) == (spec.limits, spec.mtu) {
            return Ok(there.clone());
        }
        let id = PortId(there.id);
        self.tunnel(id, spec)?;
        if let Some(entry) = self.tables.port(id).cloned() {
            self.tables.set_port(PortEntry { mtu: spec.mtu, ..entry })?;
        }
        let record = self.ports.by_name.get_mut(&spec.name).ok_or_else(missing)?;
        let limits =
            if record.info.spec.limits == spec.limits { None } else { Some(PortLimits::new(spec.limits)) };
        (record.info.spec.limits, record.info.spec.mtu) = (spec.limits, spec.mtu);
        for &worker in &record.workers {
            let command = Command::AdjustPort(id, limits.clone(), spec.mtu);
            self.workers[usize::from(worker)].command(command);
        }
        tracing::info!(port = spec.name, limits = ?spec.limits, mtu = spec.mtu, "the port keeps to other limits");
        Ok(record.info.clone())
    }

    fn replace_tap(&mut self, spec: &PortSpec, fds: Vec<OwnedFd>) -> anyhow::Result<()> {
        let (device, handle) = open_tap(fds).with_context(|| {
            format!("port `{}` keeps the device it has, for the new one could not be taken", spec.name)
        })?;
        let Some(record) = self.ports.by_name.get_mut(&spec.name) else { return Ok(()) };
        let (reply, old) = channel::bounded(1);
        let command = Command::ReplaceDevice(PortId(record.info.id), Box::new(device), reply);
        // A TAP has one.
        let Some(&worker) = record.workers.first() else { return Ok(()) };
        self.workers[usize::from(worker)].command(command);
        record.handle = handle;
        let old = old.recv_timeout(GIVE_BACK);
        drop(old.with_context(|| gave_nothing_back(worker, &spec.name))?);
        tracing::info!(port = spec.name, "the port goes on with another TAP descriptor");
        Ok(())
    }

    /// Takes a port away. No row of the published tables names it then, so no new packet goes there.
    pub(crate) fn remove_port(&mut self, name: &str) -> anyhow::Result<()> {
        let id = self.ports.id(name)?;
        self.tables.remove_port(id)?;
        self.close_port(name)?;
        // It is of use only to a port that comes back with the next process.
        if let Some(state) = self.vhost_state(name) {
            drop(std::fs::remove_file(state));
        }
        Ok(())
    }

    /// Takes a port from its worker and closes it, whatever the tables say of it.
    pub(crate) fn close_port(&mut self, name: &str) -> anyhow::Result<()> {
        let id = self.ports.id(name)?;
        let Some(record) = self.ports.by_name.remove(name) else { return Ok(()) };
        self.owners.set(id, None);
        let mut written = Ok(());
        for &worker in &record.workers {
            let (reply, slot) = channel::bounded(1);
            self.workers[usize::from(worker)].command(Command::RemovePort(id, reply));
            let slot = slot.recv_timeout(GIVE_BACK).with_context(|| gave_nothing_back(worker, name))?;
            if let Device::Memory(memory) = &slot.device {
                written = memory.finish();
            }
        }
        // Queues are gone now, so that the device they belong to may go.
        drop(record.handle);
        if let PortKind::Ethdev(Ethdev { device, .. }) = &record.info.spec.kind
            && let Err(error) = self.eal.detach(device)
        {
            // It is closed, and does no harm; but adding it again will fail, with a reason.
            tracing::warn!(device, "{error}");
        }
        tracing::info!(port = name, id = id.0, "port removed");
        written.with_context(|| format!("port `{name}` is removed, but what it kept is lost"))
    }

    /// Who may serve a port, by its queues: TAPs go to kernel workers, all else to poll workers; first to those with the fewest
    /// ports.
    fn workers_for(&self, spec: &PortSpec) -> anyhow::Result<Vec<u16>> {
        let (kind, most) = match &spec.kind {
            PortKind::Tap => (Kind::Kernel, 1),
            PortKind::Vhost { queue_pairs, .. } => (Kind::Poll, usize::from(*queue_pairs)),
            // So many as its queues turn out to be.
            PortKind::Ethdev(_) => (Kind::Poll, self.workers.len()),
            PortKind::Memory { .. } => (Kind::Poll, 1),
            // Whoever has the uplink's queues sends and receives for it.
            PortKind::Vxlan { uplink, .. } => return Ok(self.ports.uplink(uplink)?.workers.clone()),
        };
        let load = |id: u16| self.ports.iter().filter(|record| record.workers.contains(&id)).count();
        let mut workers: Vec<u16> =
            self.workers.iter().filter(|worker| worker.kind == kind).map(|worker| worker.id).collect();
        workers.sort_by_key(|&worker| load(worker));
        workers.truncate(most);
        if workers.is_empty() {
            bail!("port `{}` needs a poll worker and there is none: start with --workers", spec.name);
        }
        Ok(workers)
    }

    /// Opens a port for so many workers; gives at most one device for each, and at least one.
    fn open(&self, spec: &PortSpec, fds: Vec<OwnedFd>, workers: usize) -> anyhow::Result<Opened> {
        Ok(match &spec.kind {
            PortKind::Tap => {
                let (device, handle) = open_tap(fds)?;
                (vec![device], handle, None)
            }
            PortKind::Vhost { path, server, queue_pairs } => {
                let mode = if *server { Mode::Server } else { Mode::Client };
                let state = self.vhost_state(&spec.name);
                let config = VhostConfig {
                    mode,
                    state,
                    queue_pairs: *queue_pairs,
                    ..VhostConfig::new(path, &spec.name)
                };
                let (port, pairs) = VhostPort::start(config, Vec::new())?;
                let mut shares: Vec<_> = (0..workers).map(|_| Vec::new()).collect();
                for (pair, number) in pairs.into_iter().zip(0..) {
                    shares[number % workers].push(pair);
                }
                let devices = shares.into_iter().map(|pairs| Device::Vhost(Vhost::new(pairs)));
                (devices.collect(), Handle::Vhost(port), None)
            }
            PortKind::Ethdev(ethdev) => self.open_ethdev(spec, ethdev, workers)?,
            PortKind::Memory { rx_pcap, tx_pcap, repeat } => {
                let memory = Memory::open(rx_pcap.as_deref(), tx_pcap.clone(), *repeat)?;
                (vec![Device::Memory(memory)], Handle::Memory, None)
            }
            PortKind::Vxlan { uplink, .. } => {
                let link = match &self.ports.uplink(uplink)?.handle {
                    Handle::Ethdev(_, link) => Arc::clone(link),
                    _ => Arc::new(LinkUp::new(true)),
                };
                ((0..workers).map(|_| Device::Tunnel).collect(), Handle::Tunnel(link), None)
            }
        })
    }

    /// The file that keeps where a vhost-user port's packed rings are, beside the one that keeps connections.
    fn vhost_state(&self, name: &str) -> Option<PathBuf> {
        // A port's name may have a slash, a file's may not.
        let name = name.replace('/', "%");
        self.state.as_ref().map(|state| state.with_added_extension(format!("rings-{name}")))
    }
}

fn open_tap(fds: Vec<OwnedFd>) -> anyhow::Result<(Device, Handle)> {
    let fd = fds.into_iter().next().context("a TAP's descriptor must come with the request")?;
    let copy = fd.try_clone().context("duplicating its descriptor")?;
    Ok((Device::Tap(TapPort::new(fd)?), Handle::Tap(copy)))
}

fn gave_nothing_back(worker: u16, name: &str) -> String {
    format!(
        "worker {worker} has not given port `{name}` back within {GIVE_BACK:?}: it is stuck; start the data plane again"
    )
}

fn check(spec: &PortSpec) -> anyhow::Result<()> {
    if spec.name.is_empty() || spec.name.len() > NAME_MAX || spec.name.contains(char::is_control) {
        bail!("port name {:?} must have 1 to {NAME_MAX} bytes, and no control characters", spec.name);
    }
    if let Some(mac) = spec.mac
        && !mac.is_unicast()
    {
        bail!("port `{}`: mac {mac} is no unicast address", spec.name);
    }
    // What a frame of that MTU must fit, beside the Ethernet header.
    let room = match &spec.kind {
        // The vnet header passes segments of any length.
        PortKind::Tap => u16::MAX,
        // Received as chains, but finished and cut in one buffer.
        PortKind::Vhost { .. } | PortKind::Ethdev(_) | PortKind::Memory { .. } | PortKind::Vxlan { .. } => {
            LARGE_ROOM - ETHERNET
        }
    };
    if let PortKind::Ethdev(Ethdev { queues, vlan, .. }) = &spec.kind {
        if *queues == Some(0) {
            bail!("port `{}`: queues 0: at least one is needed", spec.name);
        }
        if let Some(id) = vlan
            && !(1..=4_094).contains(id)
        {
            bail!("port `{}`: vlan {id}: a VLAN has a number from 1 to 4094 (IEEE 802.1Q)", spec.name);
        }
    }
    for (direction, limit) in [("ingress", spec.limits.ingress), ("egress", spec.limits.egress)] {
        let Some(Limit { rate, burst }) = limit else { continue };
        if rate == 0 || burst == 0 {
            bail!(
                "port `{}`: limits.{direction}: rate {rate}, burst {burst}: both must be 1 at least, or let nothing pass; \
                 leave the limit out for none",
                spec.name
            );
        }
    }
    if spec.mtu > room {
        bail!(
            "port `{}`: mtu {} is more than the {room} that the buffers of such a port hold",
            spec.name,
            spec.mtu
        );
    }
    Ok(())
}

/// A locally administered address (IEEE 802, section 8.2) that is the same at each start.
fn made_up_mac(name: &str) -> MacAddr {
    let [a, b, c, d, e, ..] = proto::fnv1a(name.bytes()).to_le_bytes();
    MacAddr([0x02, a, b, c, d, e])
}
