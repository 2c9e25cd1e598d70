//! Devices that come and go while EAL runs.

use std::ffi::{CStr, CString, c_char};

use dpdk_sys as sys;

use crate::Errno;
use crate::eal::Eal;
use crate::log::{self, LogTail};

/// Why a device did not come or go.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HotplugError {
    /// No device could be called that.
    #[error("`{0}` names no device: write `net_null0` or `0000:01:00.0`, arguments after a comma")]
    Name(String),
    /// It is there.
    #[error("device `{0}` is attached already: detach it, or choose another number at the name's end")]
    Exists(String),
    /// `rte_eal_hotplug_add` failed.
    #[error("rte_eal_hotplug_add({bus}, `{device}`): {errno}; {hint}{log}")]
    Attach {
        /// `vdev` or `pci`.
        bus: &'static str,
        /// Name and arguments.
        device: String,
        /// Why.
        errno: Errno,
        /// What to do.
        hint: &'static str,
        /// What DPDK logged.
        log: LogTail,
    },
    /// The device came, but no port with it.
    #[error("device `{0}` was attached but has no port: it is not a network device")]
    NoPort(String),
    /// A `Port` or queue of it exists.
    #[error("device `{0}` is in use: drop its Port and all its queues first")]
    InUse(String),
    /// `rte_eal_hotplug_remove` failed.
    #[error("rte_eal_hotplug_remove({bus}, `{device}`): {errno}; is that its name?{log}")]
    Detach {
        /// `vdev` or `pci`.
        bus: &'static str,
        /// Its name.
        device: String,
        /// Why.
        errno: Errno,
        /// What DPDK logged.
        log: LogTail,
    },
}

impl Eal {
    /// Attaches a device, given as in `--vdev` or `--allow`: `net_ring0`, `net_null0,size=128`, `0000:01:00.0`.
    /// Returns the name of its (first) port, for [`crate::Port::open`].
    ///
    /// # Errors
    /// Says why DPDK refused it, and what to do.
    pub fn attach(&self, devargs: &str) -> Result<String, HotplugError> {
        let (name, args) = devargs.split_once(',').unwrap_or((devargs, ""));
        let bad = || HotplugError::Name(devargs.to_owned());
        if name.is_empty() {
            return Err(bad());
        }
        let c_name = CString::new(name).map_err(|_| bad())?;
        let c_args = CString::new(args).map_err(|_| bad())?;
        let _control = self.control();
        let before = names();
        if before.iter().any(|port| port == name) {
            return Err(HotplugError::Exists(name.to_owned()));
        }
        log::mark();
        // SAFETY: all three are zero-terminated and outlive the call, which copies them; the lock keeps other
        // calls of this kind away.
        let result =
            unsafe { sys::rte_eal_hotplug_add(c_bus(name).as_ptr(), c_name.as_ptr(), c_args.as_ptr()) };
        if result < 0 {
            let errno = Errno::of(result);
            return Err(HotplugError::Attach {
                bus: bus(name),
                device: devargs.to_owned(),
                errno,
                hint: hint(name, errno),
                log: log::tail(),
            });
        }
        let after = names();
        after
            .into_iter()
            .find(|port| !before.contains(port))
            .ok_or_else(|| HotplugError::NoPort(name.to_owned()))
    }

    /// Detaches a device, by the name it was attached by. All its ports must be closed.
    ///
    /// # Errors
    /// When it is in use, or unknown.
    pub fn detach(&self, name: &str) -> Result<(), HotplugError> {
        let c_name = CString::new(name).map_err(|_| HotplugError::Name(name.to_owned()))?;
        let control = self.control();
        let device = full_name(name);
        let in_use =
            |(&id, of): (&u16, &String)| full_name(of) == device || name_of(id).as_deref() == Some(name);
        if control.open_ports.iter().any(in_use) {
            return Err(HotplugError::InUse(name.to_owned()));
        }
        log::mark();
        // SAFETY: both names are zero-terminated; no handle of the device exists, and the lock keeps it so.
        let result = unsafe { sys::rte_eal_hotplug_remove(c_bus(name).as_ptr(), c_name.as_ptr()) };
        if result < 0 {
            let (device, errno) = (name.to_owned(), Errno::of(result));
            return Err(HotplugError::Detach { bus: bus(name), device, errno, log: log::tail() });
        }
        Ok(())
    }

    /// The names of all ports there are, open or not.
    #[must_use]
    pub fn devices(&self) -> Vec<String> {
        let _control = self.control();
        names()
    }
}

fn hint(name: &str, errno: Errno) -> &'static str {
    match errno {
        Errno::EXISTS | Errno::BUSY => "it is attached already",
        Errno::NOT_PERMITTED | Errno::ACCESS => "not permitted: run as root, or give the process the device",
        _ if is_pci(name) => {
            "is the device there, bound to a driver that DPDK can use, and EAL started with --allow?"
        }
        _ => "check its arguments, and that its driver's package (librte-net-…) is installed",
    }
}

/// `[0000:]01:00.0`; names of virtual devices begin with their driver's.
fn is_pci(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_hexdigit())
        && name.contains(':')
        && name.chars().all(|c| c.is_ascii_hexdigit() || c == ':' || c == '.')
}

/// A PCI device's name with its domain, which may be left out where it is 0.
fn full_name(name: &str) -> String {
    if is_pci(name) && name.matches(':').count() == 1 { format!("0000:{name}") } else { name.to_owned() }
}

fn bus(name: &str) -> &'static str {
    if is_pci(name) { "pci" } else { "vdev" }
}

fn c_bus(name: &str) -> &'static CStr {
    if is_pci(name) { c"pci" } else { c"vdev" }
}

/// The names of all ports. The caller holds the control lock, or does not mind a port that comes or goes.
pub(crate) fn names() -> Vec<String> {
    let mut names = Vec::new();
    let mut from = 0;
    loop {
        // SAFETY: takes any number; returns RTE_MAX_ETHPORTS after the last port.
        let id = unsafe { sys::rte_eth_find_next(from) };
        if u32::from(id) >= sys::RTE_MAX_ETHPORTS {
            return names;
        }
        names.extend(name_of(id));
        from = id + 1;
    }
}

fn name_of(id: u16) -> Option<String> {
    let mut text: [c_char; sys::RTE_ETH_NAME_MAX_LEN as usize] = [0; _];
    // SAFETY: writes a zero-terminated name of at most this length, for any id.
    let result = unsafe { sys::rte_eth_dev_get_name_by_port(id, text.as_mut_ptr()) };
    if result != 0 {
        return None;
    }
    // SAFETY: zero-terminated by the call.
    Some(unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buses_by_name() {
        assert_eq!(bus("0000:01:00.0"), "pci");
        assert_eq!(bus("3b:00.1"), "pci");
        for name in ["net_null0", "eth_af_packet0", "crypto_null", "net_ring1"] {
            assert_eq!(bus(name), "vdev", "{name}");
        }
    }

    #[test]
    fn a_pci_device_has_two_names() {
        assert_eq!(full_name("3b:00.1"), full_name("0000:3b:00.1"));
        assert_eq!(full_name("net_ring0"), "net_ring0");
    }
}
