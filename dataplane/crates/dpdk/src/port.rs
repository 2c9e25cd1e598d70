//! Ports: found, set up, started; stopped and closed when the last of the port and its queues is dropped.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dpdk_sys as sys;

use crate::burst::Burst;
use crate::eal::Eal;
use crate::hotplug;
use crate::log::{self, LogTail};
use crate::pool::Pool;
use crate::port_info::{PortInfo, info};
use crate::queue::{RxQueue, TxQueue, receive};
use crate::{Errno, rx_offload, tx_offload};

/// How a port is set up.
#[derive(Clone)]
pub struct PortConfig<'a> {
    /// Receive queues; with more than one, RSS spreads flows over them, by addresses and ports, where the device has it
    /// ([`PortInfo::spreads`]).
    pub rx_queues: u16,
    /// Transmit queues.
    pub tx_queues: u16,
    /// Descriptors of a receive queue; the driver may round it.
    pub rx_desc: u16,
    /// Descriptors of a transmit queue; the driver may round it.
    pub tx_desc: u16,
    /// Bytes of an IP packet; none leaves the driver's.
    pub mtu: Option<u16>,
    /// Where received packets are put.
    pub pool: &'a Pool,
    /// Take packets for any MAC address.
    pub promiscuous: bool,
    /// Wanted of [`rx_offload`]; those the driver has not are left out.
    pub rx_offloads: u64,
    /// Wanted of [`tx_offload`]; those the driver has not are left out.
    pub tx_offloads: u64,
}

impl<'a> PortConfig<'a> {
    /// One queue each way, 1,024 descriptors, the driver's MTU, promiscuous, chains allowed, no other offload.
    #[must_use]
    pub fn new(pool: &'a Pool) -> Self {
        Self {
            rx_queues: 1,
            tx_queues: 1,
            rx_desc: 1024,
            tx_desc: 1024,
            mtu: None,
            pool,
            promiscuous: true,
            rx_offloads: rx_offload::SCATTER,
            tx_offloads: tx_offload::MULTI_SEGS,
        }
    }
}

/// Why a port does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// No such device.
    #[error(
        "no DPDK port `{name}`: {}. Name it by --vdev or --allow; if you did, its driver's package may be missing \
         (librte-net-…) or it was closed before (detach and attach it)", existing(.ports)
    )]
    Unknown {
        /// What was asked for.
        name: String,
        /// The ports there are.
        ports: Vec<String>,
    },
    /// It is open already.
    #[error("DPDK port `{0}` is open already: drop its Port and all its queues first")]
    InUse(String),
    /// The pool is of another EAL than the call; there is only one, so this cannot be but after a cleanup.
    #[error("pool and port of `{0}` belong to different EALs")]
    OtherEal(String),
    /// A number that the device cannot have.
    #[error("DPDK port `{port}` (driver {driver}): {field} = {value}, allowed are {least} to {most}")]
    Limit {
        /// The device.
        port: String,
        /// Its driver.
        driver: String,
        /// The field of `PortConfig`.
        field: &'static str,
        /// What was asked for.
        value: u16,
        /// The least it can have.
        least: u16,
        /// The most it can have.
        most: u16,
    },
    /// A call failed.
    #[error("{call} on DPDK port `{port}`: {errno}{hint}{log}")]
    Call {
        /// DPDK's function.
        call: &'static str,
        /// The device.
        port: String,
        /// Why.
        errno: Errno,
        /// What to do.
        hint: &'static str,
        /// What DPDK logged.
        log: LogTail,
    },
}

fn existing(ports: &[String]) -> String {
    if ports.is_empty() { "there are none".into() } else { format!("there are {}", ports.join(", ")) }
}

/// What a running port was set up with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InUse {
    /// Receive queues.
    pub rx_queues: u16,
    /// Transmit queues.
    pub tx_queues: u16,
    /// Of [`rx_offload`], those that were wanted and that the device has.
    pub rx_offloads: u64,
    /// Of [`tx_offload`], those that were wanted and that the device has.
    pub tx_offloads: u64,
}

/// A running port. Dropping it leaves it running for as long as queues of it exist.
pub struct Port(Arc<PortInner>);

pub(crate) struct PortInner {
    id: u16,
    name: String,
    driver: String,
    in_use: InUse,
    rx_desc: u16,
    /// Received packets are put there; it is also what keeps EAL.
    pool: Pool,
    /// Held over each control call on this port: a driver need not bear two of them at a time.
    calls: Mutex<()>,
}

impl PortInner {
    pub(crate) fn id(&self) -> u16 {
        self.id
    }
}

impl Port {
    /// Sets up and starts the device called `name`; gives its queues in order.
    ///
    /// # Errors
    /// Says which call failed, why and what to do. The device can be opened again, with other numbers.
    pub fn open(
        eal: &Eal,
        name: &str,
        config: PortConfig<'_>,
    ) -> Result<(Self, Vec<RxQueue>, Vec<TxQueue>), PortError> {
        if !eal.same(config.pool.eal()) {
            return Err(PortError::OtherEal(name.to_owned()));
        }
        let mut control = eal.control();
        let id = find(name)?;
        if control.open_ports.contains_key(&id) {
            return Err(PortError::InUse(name.to_owned()));
        }
        log::mark();
        let (info, rx_desc) = start(id, name, &config)?;
        control.open_ports.insert(id, info.device);
        drop(control);
        let inner = Arc::new(PortInner {
            id,
            name: name.to_owned(),
            driver: info.driver,
            in_use: InUse {
                rx_queues: config.rx_queues,
                tx_queues: config.tx_queues,
                rx_offloads: config.rx_offloads & info.rx_offload_capa,
                tx_offloads: config.tx_offloads & info.tx_offload_capa,
            },
            rx_desc,
            pool: config.pool.clone(),
            calls: Mutex::new(()),
        });
        let rx = (0..config.rx_queues).map(|queue| RxQueue::new(Arc::clone(&inner), queue)).collect();
        let tx = (0..config.tx_queues).map(|queue| TxQueue::new(Arc::clone(&inner), queue)).collect();
        Ok((Self(inner), rx, tx))
    }

    /// What the device called `name` can do, before it is opened.
    ///
    /// # Errors
    /// There is no such device, or its driver does not say.
    pub fn probe(eal: &Eal, name: &str) -> Result<PortInfo, PortError> {
        let _control = eal.control();
        log::mark();
        let id = find(name)?;
        info(id).map_err(|errno| failed("rte_eth_dev_info_get", name, errno, ""))
    }

    /// Taken before a control call. Forgets what this thread logged before, so that an error shows only its own.
    pub(crate) fn calls(&self) -> MutexGuard<'_, ()> {
        log::mark();
        self.0.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The port's number, as in [`crate::Mbuf::port`].
    #[must_use]
    pub fn id(&self) -> u16 {
        self.0.id
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What it was set up with.
    #[must_use]
    pub fn in_use(&self) -> InUse {
        self.0.in_use
    }

    /// The MAC address, in transmission order.
    ///
    /// # Errors
    /// When the driver does not say.
    pub fn mac(&self) -> Result<[u8; 6], PortError> {
        let _calls = self.calls();
        let mut mac = sys::rte_ether_addr { addr_bytes: [0; 6] };
        // SAFETY: writes the address, for any port id.
        let result = unsafe { sys::rte_eth_macaddr_get(self.id(), &raw mut mac) };
        check(result, "rte_eth_macaddr_get", self.name(), "")?;
        Ok(mac.addr_bytes)
    }

    /// The MTU: bytes of an IP packet.
    ///
    /// # Errors
    /// When the driver does not say.
    pub fn mtu(&self) -> Result<u16, PortError> {
        let _calls = self.calls();
        let mut mtu = 0;
        // SAFETY: writes the number, for any port id.
        let result = unsafe { sys::rte_eth_dev_get_mtu(self.id(), &raw mut mtu) };
        check(result, "rte_eth_dev_get_mtu", self.name(), "")?;
        Ok(mtu)
    }

    /// Changes the MTU of the running port.
    ///
    /// # Errors
    /// When it is out of the device's range, or the driver cannot change it while the port runs.
    pub fn set_mtu(&self, mtu: u16) -> Result<(), PortError> {
        let limits = self.info()?;
        check_mtu(self.name(), &limits, mtu)?;
        let _control = self.0.pool.eal().control();
        let _calls = self.calls();
        // SAFETY: takes any port id and number.
        let result = unsafe { sys::rte_eth_dev_set_mtu(self.id(), mtu) };
        match result {
            // The device kept what it had: drivers without the call have no limit to move.
            result if Errno::of(result) == Errno::NOT_SUPPORTED => {
                check(result, "rte_eth_dev_set_mtu", self.name(), "; this driver has a fixed MTU")
            }
            result => check(
                result,
                "rte_eth_dev_set_mtu",
                self.name(),
                "; this driver may take it only when the port is opened (PortConfig::mtu)",
            ),
        }
    }
}

pub(crate) fn failed(call: &'static str, port: &str, errno: Errno, hint: &'static str) -> PortError {
    PortError::Call { call, port: port.to_owned(), errno, hint, log: log::tail() }
}

fn check(result: i32, call: &'static str, port: &str, hint: &'static str) -> Result<(), PortError> {
    if result < 0 { Err(failed(call, port, Errno::of(result), hint)) } else { Ok(()) }
}

fn check_mtu(port: &str, info: &PortInfo, mtu: u16) -> Result<(), PortError> {
    check_limit(port, info, "mtu", mtu, (info.min_mtu, info.max_mtu))
}

fn check_limit(
    port: &str,
    info: &PortInfo,
    field: &'static str,
    value: u16,
    (least, most): (u16, u16),
) -> Result<(), PortError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(PortError::Limit { port: port.to_owned(), driver: info.driver.clone(), field, value, least, most })
}

fn find(name: &str) -> Result<u16, PortError> {
    let unknown = || PortError::Unknown { name: name.to_owned(), ports: hotplug::names() };
    let c_name = CString::new(name).map_err(|_| unknown())?;
    let mut id = 0;
    // SAFETY: the name is zero-terminated and outlives the call.
    let result = unsafe { sys::rte_eth_dev_get_port_by_name(c_name.as_ptr(), &raw mut id) };
    if result == 0 { Ok(id) } else { Err(unknown()) }
}

/// Configures and starts; returns what the driver says of itself and the descriptors a receive queue got.
fn start(id: u16, name: &str, config: &PortConfig<'_>) -> Result<(PortInfo, u16), PortError> {
    let info = info(id).map_err(|errno| failed("rte_eth_dev_info_get", name, errno, ""))?;
    check_limit(name, &info, "rx_queues", config.rx_queues, (0, info.max_rx_queues))?;
    check_limit(name, &info, "tx_queues", config.tx_queues, (0, info.max_tx_queues))?;
    if let Some(mtu) = config.mtu {
        check_mtu(name, &info, mtu)?;
    }

    // SAFETY: plain data, for which all zero means the driver's defaults.
    let mut raw = unsafe { MaybeUninit::<sys::rte_eth_conf>::zeroed().assume_init() };
    raw.rxmode.offloads = config.rx_offloads & info.rx_offload_capa;
    raw.txmode.offloads = config.tx_offloads & info.tx_offload_capa;
    raw.rxmode.mtu = config.mtu.map_or(0, u32::from);
    let rss = info.rss
        & (sys::DPDK_SHIM_RSS_IP | sys::DPDK_SHIM_RSS_TCP | sys::DPDK_SHIM_RSS_UDP | sys::DPDK_SHIM_RSS_SCTP);
    if config.rx_queues > 1 && rss != 0 {
        raw.rxmode.mq_mode = sys::DPDK_SHIM_MQ_RX_RSS as u32;
        raw.rx_adv_conf.rss_conf.rss_hf = rss;
    }
    // SAFETY: the port exists and is not started (nobody else has it open); the call copies the structure.
    let result =
        unsafe { sys::rte_eth_dev_configure(id, config.rx_queues, config.tx_queues, &raw const raw) };
    check(result, "rte_eth_dev_configure", name, "; fewer queues or another MTU may do")?;

    let (mut rx_desc, mut tx_desc) = (config.rx_desc, config.tx_desc);
    // SAFETY: the port exists; rounds both numbers in place.
    let result = unsafe { sys::rte_eth_dev_adjust_nb_rx_tx_desc(id, &raw mut rx_desc, &raw mut tx_desc) };
    check(result, "rte_eth_dev_adjust_nb_rx_tx_desc", name, "")?;
    // SAFETY: takes any port id; -1 (any node) comes back as such.
    let socket = unsafe { sys::rte_eth_dev_socket_id(id) };
    #[expect(clippy::cast_sign_loss, reason = "DPDK's own way to say any node: -1 as unsigned")]
    let socket = socket as u32;
    for queue in 0..config.rx_queues {
        // SAFETY: configured with more than `queue` queues; a null configuration is the driver's default. The
        // pool's memory outlives the port, as it does all ports.
        let result = unsafe {
            sys::rte_eth_rx_queue_setup(id, queue, rx_desc, socket, std::ptr::null(), config.pool.raw())
        };
        check(result, "rte_eth_rx_queue_setup", name, "; the pool's buffers may be too small (data_room)")?;
    }
    for queue in 0..config.tx_queues {
        // SAFETY: as above.
        let result = unsafe { sys::rte_eth_tx_queue_setup(id, queue, tx_desc, socket, std::ptr::null()) };
        check(result, "rte_eth_tx_queue_setup", name, "")?;
    }
    // SAFETY: configured, all queues set up.
    let result = unsafe { sys::rte_eth_dev_start(id) };
    check(result, "rte_eth_dev_start", name, "; the pool may have too few mbufs, or the peer be missing")?;

    let result = if config.promiscuous {
        // SAFETY: takes any port id.
        unsafe { sys::rte_eth_promiscuous_enable(id) }
    } else {
        // SAFETY: takes any port id.
        unsafe { sys::rte_eth_promiscuous_disable(id) }
    };
    // Drivers without a filter take everything and do not know the call.
    if result != 0 && Errno::of(result) != Errno::NOT_SUPPORTED {
        let error = failed("rte_eth_promiscuous_…", name, Errno::of(result), "");
        // SAFETY: started above, and no queue of it was handed out.
        unsafe { sys::rte_eth_dev_stop(id) };
        return Err(error);
    }
    Ok((info, rx_desc))
}

impl Drop for PortInner {
    fn drop(&mut self) {
        let eal = self.pool.eal().clone();
        let mut control = eal.control();
        // No queue is left, so no thread is in a burst call of this port.
        if self.driver == "net_ring" {
            self.drain();
        }
        // SAFETY: see above.
        let stopped = unsafe { sys::rte_eth_dev_stop(self.id) };
        // SAFETY: stopped, or refusing to; gives the mbufs of its queues back and frees the port's number.
        let closed = unsafe { sys::rte_eth_dev_close(self.id) };
        for (call, result) in [("rte_eth_dev_stop", stopped), ("rte_eth_dev_close", closed)] {
            if result < 0 {
                eprintln!("dpdk: {call} on port `{}`: {}", self.name, Errno::of(result));
            }
        }
        control.open_ports.remove(&self.id);
    }
}

impl PortInner {
    /// net_ring frees its ring with the mbufs that are in it: they are taken out first. Bounded, as a ring that
    /// another port sends to may never be empty.
    fn drain(&self) {
        let mut burst = Burst::new();
        for queue in 0..self.in_use.rx_queues {
            for _ in 0..usize::from(self.rx_desc.max(1024)).div_ceil(Burst::CAPACITY) * 2 {
                // SAFETY: the port still runs, and the last handle of this queue is gone.
                if unsafe { receive(self, queue, &mut burst, Burst::CAPACITY) } == 0 {
                    break;
                }
                burst.clear();
            }
        }
    }
}
