//! DPDK devices opened as ports: what they can do is asked first, then used.

use std::sync::Arc;

use anyhow::bail;
use dpdk::{PortConfig, rx_offload, tx_offload};
use proto::dataplane::{Ethdev, PortSpec};
use wire::MacAddr;

use super::{Handle, Opened};
use crate::core::Core;
use crate::io::{self, Device, LinkUp};

/// Descriptors of a NIC's queue to receive by: DPDK's own example default, and what a burst of 32 wants.
const RX_DESCRIPTORS: u16 = 1_024;
/// Descriptors of one to send by. Fewer, since drivers keep the buffers of what was sent until they need its descriptor.
const TX_DESCRIPTORS: u16 = 512;

/// The name that DPDK's arguments begin with, as in `net_null0,size=128`.
pub(crate) fn device_name(devargs: &str) -> &str {
    devargs.split_once(',').map_or(devargs, |(name, _)| name)
}

impl Core {
    /// Opens a DPDK device for so many workers, and attaches it first where it is not there yet.
    pub(super) fn open_ethdev(
        &self,
        spec: &PortSpec,
        ethdev: &Ethdev,
        workers: usize,
    ) -> anyhow::Result<Opened> {
        let device = &ethdev.device;
        // One that was closed is gone from DPDK: it comes back by the arguments it had at start.
        let devargs = ethdev.devargs.as_deref().or_else(|| self.devices.get(device).map(String::as_str));
        let mut attached = false;
        if let Some(devargs) = devargs
            && !self.eal.devices().iter().any(|there| there == device)
        {
            if device_name(devargs) != device {
                bail!("devargs `{devargs}` name another device than `{device}`: begin them with `{device}`");
            }
            self.eal.attach(devargs)?;
            attached = true;
        }
        let opened = self.open_attached(spec, ethdev, workers);
        if opened.is_err()
            && attached
            && let Err(error) = self.eal.detach(device)
        {
            tracing::warn!(device, "{error}");
        }
        opened
    }

    fn open_attached(&self, spec: &PortSpec, ethdev: &Ethdev, workers: usize) -> anyhow::Result<Opened> {
        let info = dpdk::Port::probe(&self.eal, &ethdev.device)?;
        let (mtus, driver) = (info.min_mtu..=info.max_mtu, &info.driver);
        if !mtus.contains(&spec.mtu) {
            bail!(
                "mtu {}: `{}` (driver {driver}) takes {} to {}",
                spec.mtu,
                ethdev.device,
                mtus.start(),
                mtus.end()
            );
        }
        let (rx_queues, tx_queues) = queues(&info, ethdev.queues, workers);
        let (mut rx_offloads, mut tx_offloads) = (rx_offload::SCATTER, tx_offload::MULTI_SEGS);
        if ethdev.offloads {
            rx_offloads |= rx_offload::TCP_CKSUM | rx_offload::UDP_CKSUM | rx_offload::SCTP_CKSUM;
            tx_offloads |= tx_offload::IPV4_CKSUM | tx_offload::TCP_CKSUM | tx_offload::UDP_CKSUM;
            tx_offloads |= tx_offload::UDP_TSO;
            // DPDK's net_tap holds a segment with its Ethernet header against the MTU, so that it refuses full ones, and all of
            // TCP over IPv6: cut up here, they leave.
            if info.driver != "net_tap" {
                tx_offloads |= tx_offload::TCP_TSO;
            }
            if ethdev.vlan.is_some() {
                rx_offloads |= rx_offload::VLAN_STRIP;
                tx_offloads |= tx_offload::VLAN_INSERT;
            }
        }
        let config = PortConfig {
            rx_queues,
            tx_queues,
            rx_desc: RX_DESCRIPTORS,
            tx_desc: TX_DESCRIPTORS,
            promiscuous: spec.mac.is_some(),
            // Every Ethernet device takes 1,500; not every one can be told.
            mtu: (spec.mtu > 1_500).then_some(spec.mtu),
            rx_offloads,
            tx_offloads,
            ..PortConfig::new(&self.pools.small)
        };
        let (port, rx, tx) = dpdk::Port::open(&self.eal, &ethdev.device, config)?;
        let mac = MacAddr(port.mac()?);
        let link = Arc::new(LinkUp::new(port.link().map_or(true, |link| link.up)));
        let shares = tx.len().min(workers);
        if shares == 0 {
            bail!("`{}` has no queue to send by", ethdev.device);
        }
        let mut rx_of: Vec<_> = (0..shares).map(|_| Vec::new()).collect();
        for (number, queue) in rx.into_iter().enumerate() {
            rx_of[number % shares].push(queue);
        }
        // A queue to send by that no worker has is not used.
        let devices = rx_of.into_iter().zip(tx).map(|(rx, tx)| {
            let link = Arc::clone(&link);
            Device::Ethdev(io::Ethdev::new(rx, tx, link, port.in_use(), info.max_tx_segments, ethdev.vlan))
        });
        Ok((devices.collect(), Handle::Ethdev(port, link), Some(mac)))
    }
}

/// How many queues a device is opened with to receive and to send: as asked, else one for each of so many workers where the device
/// itself spreads flows. Where it does not, whoever does knows nothing of what is read, so that all there are must be.
fn queues(info: &dpdk::PortInfo, asked: Option<u16>, workers: usize) -> (u16, u16) {
    /// A device that claims more than this makes its queues as it is asked to (net_memif), and has none to be read beside them.
    const SPREAD_BY_OTHERS: u16 = 64;
    let workers = u16::try_from(workers).unwrap_or(u16::MAX).max(1);
    let rx = match asked {
        Some(asked) => asked,
        None if info.spreads() => workers.min(info.max_rx_queues).min(info.max_tx_queues),
        None if info.max_rx_queues <= SPREAD_BY_OTHERS => info.max_rx_queues,
        None => 1,
    };
    // As many, as some drivers demand; where they have not so many, these have all the same.
    (rx, if asked.is_some() { rx } else { rx.min(info.max_tx_queues) })
}
