//! What a port says of itself: link, counters, capabilities.

use std::ffi::CStr;
use std::mem::MaybeUninit;

use dpdk_sys as sys;

use crate::Errno;
use crate::port::{Port, PortError, failed};

/// The state of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Carrier.
    pub up: bool,
    /// In Mbit/s; none if the driver does not know.
    pub speed: Option<u32>,
}

/// A port's counters since it started, as its driver keeps them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets the device dropped, its queue being full.
    pub rx_missed: u64,
    /// Packets received in error.
    pub rx_errors: u64,
    /// Packets not sent, for an error.
    pub tx_errors: u64,
    /// Packets lost since the pool was empty.
    pub rx_no_mbuf: u64,
}

/// What a port's driver can do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortInfo {
    /// The driver's name: `net_null`.
    pub driver: String,
    /// The device's name, which is the port's own where the device has one port.
    pub device: String,
    /// Most receive queues.
    pub max_rx_queues: u16,
    /// Most transmit queues.
    pub max_tx_queues: u16,
    /// Least MTU, in bytes.
    pub min_mtu: u16,
    /// Most MTU, in bytes.
    pub max_mtu: u16,
    /// Receive offloads it knows: see [`crate::rx_offload`].
    pub rx_offload_capa: u64,
    /// Transmit offloads it knows: see [`crate::tx_offload`].
    pub tx_offload_capa: u64,
    /// Headers its RSS can hash (DPDK's `RTE_ETH_RSS_*`); zero if it has no RSS.
    pub rss: u64,
    /// Most segments of one packet on transmit, with segmentation by the device.
    pub max_tx_segments: u16,
}

impl PortInfo {
    /// The device itself spreads flows over its receive queues. Where it does not, somebody else does who knows nothing of how many
    /// are read (the kernel's fanout, the peer of a virtual device), so that all there are must be.
    #[must_use]
    pub const fn spreads(&self) -> bool {
        self.rss & sys::DPDK_SHIM_RSS_IP != 0
    }
}

pub(crate) fn info(id: u16) -> Result<PortInfo, Errno> {
    let mut raw = MaybeUninit::<sys::rte_eth_dev_info>::zeroed();
    // SAFETY: fills in the structure, for any port id.
    let result = unsafe { sys::rte_eth_dev_info_get(id, raw.as_mut_ptr()) };
    if result != 0 {
        return Err(Errno::of(result));
    }
    // SAFETY: zeroed, which is a value of it, and then filled in.
    let raw = unsafe { raw.assume_init() };
    let driver = if raw.driver_name.is_null() {
        String::new()
    } else {
        // SAFETY: not null, and a constant string of the driver's.
        unsafe { CStr::from_ptr(raw.driver_name) }.to_string_lossy().into_owned()
    };
    let device = if raw.device.is_null() {
        String::new()
    } else {
        // SAFETY: the port's own device, which lives as long as the port; a zero-terminated name inside it.
        let text = unsafe { sys::rte_dev_name(raw.device) };
        // SAFETY: as above, and copied at once.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    };
    Ok(PortInfo {
        driver,
        device,
        max_rx_queues: raw.max_rx_queues,
        max_tx_queues: raw.max_tx_queues,
        min_mtu: raw.min_mtu,
        max_mtu: raw.max_mtu,
        rx_offload_capa: raw.rx_offload_capa,
        tx_offload_capa: raw.tx_offload_capa,
        rss: raw.flow_type_rss_offloads,
        max_tx_segments: raw.tx_desc_lim.nb_seg_max,
    })
}

impl Port {
    /// The state of the link now, without waiting for it.
    ///
    /// # Errors
    /// When the driver does not say.
    pub fn link(&self) -> Result<Link, PortError> {
        let _calls = self.calls();
        let (mut speed, mut up) = (0, false);
        // SAFETY: fills in both values, for any port id.
        match unsafe { sys::dpdk_shim_link(self.id(), &raw mut speed, &raw mut up) } {
            0 => Ok(Link { up, speed: u32::try_from(speed).ok() }),
            error => Err(failed("rte_eth_link_get_nowait", self.name(), Errno::of(error), "")),
        }
    }

    /// The counters.
    ///
    /// # Errors
    /// When the driver has none.
    pub fn stats(&self) -> Result<Stats, PortError> {
        let _calls = self.calls();
        let mut raw = MaybeUninit::<sys::rte_eth_stats>::zeroed();
        // SAFETY: fills in the structure, for any port id.
        let result = unsafe { sys::rte_eth_stats_get(self.id(), raw.as_mut_ptr()) };
        if result != 0 {
            return Err(failed("rte_eth_stats_get", self.name(), Errno::of(result), ""));
        }
        // SAFETY: zeroed, which is a value of it, and then filled in.
        let raw = unsafe { raw.assume_init() };
        Ok(Stats {
            rx_packets: raw.ipackets,
            tx_packets: raw.opackets,
            rx_bytes: raw.ibytes,
            tx_bytes: raw.obytes,
            rx_missed: raw.imissed,
            rx_errors: raw.ierrors,
            tx_errors: raw.oerrors,
            rx_no_mbuf: raw.rx_nombuf,
        })
    }

    /// All the driver's own counters by name.
    ///
    /// # Errors
    /// When the driver fails to read them.
    pub fn xstats(&self) -> Result<Vec<(String, u64)>, PortError> {
        let failed = |call, result| failed(call, self.name(), Errno::of(result), "");
        let _calls = self.calls();
        // SAFETY: with no room it only counts.
        let count = unsafe { sys::rte_eth_xstats_get_names(self.id(), std::ptr::null_mut(), 0) };
        let size = u32::try_from(count).map_err(|_| failed("rte_eth_xstats_get_names", count))?;
        let len = usize::try_from(size).unwrap_or(0);
        let mut names = vec![sys::rte_eth_xstat_name { name: [0; 64] }; len];
        let mut values = vec![sys::rte_eth_xstat { id: 0, value: 0 }; len];
        // SAFETY: writes at most `size` names.
        let named = unsafe { sys::rte_eth_xstats_get_names(self.id(), names.as_mut_ptr(), size) };
        // SAFETY: writes at most `size` values.
        let valued = unsafe { sys::rte_eth_xstats_get(self.id(), values.as_mut_ptr(), size) };
        for (call, result) in [("rte_eth_xstats_get_names", named), ("rte_eth_xstats_get", valued)] {
            if result < 0 {
                return Err(failed(call, result));
            }
        }
        // Where their number grew meanwhile, nothing was written and both are as long as they were.
        let valid = usize::try_from(named.min(valued)).unwrap_or(0).min(len);
        Ok(values[..valid]
            .iter()
            .filter_map(|value| {
                let name = names.get(usize::try_from(value.id).ok()?)?;
                let bytes: Vec<u8> =
                    name.name.iter().map(|&c| c.to_ne_bytes()[0]).take_while(|&byte| byte != 0).collect();
                Some((String::from_utf8_lossy(&bytes).into_owned(), value.value))
            })
            .collect())
    }

    /// What the driver can do.
    ///
    /// # Errors
    /// When the driver does not say.
    pub fn info(&self) -> Result<PortInfo, PortError> {
        let _calls = self.calls();
        info(self.id()).map_err(|errno| failed("rte_eth_dev_info_get", self.name(), errno, ""))
    }
}
