//! DPDK's environment: started once a process, ended when its last user goes.
//!
//! Owns `rte_eal_init` and `rte_eal_cleanup`, and the registry of what must outlive what: pools and open ports.
//! What always holds: memory is unmapped only when every mbuf of every pool is back; otherwise it stays mapped.

use std::collections::HashMap;
use std::ffi::{CStr, CString, NulError, OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dpdk_sys as sys;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::errno::Errno;
use crate::log::{self, LogTail};
use crate::memory::{self, DEFAULT_NO_HUGE_MB, Huge};
use crate::pool::PoolRecord;

/// What EAL is started with.
#[derive(Clone, Debug, Default)]
pub struct EalConfig {
    /// The program's name, as EAL logs it.
    pub program: String,
    /// Names this process's runtime folder; two processes with the same cannot run at once. Empty: made from the
    /// program's name and process id.
    pub file_prefix: String,
    /// Megabytes of memory. With hugepages, what is reserved at start (more is taken when needed); without, all
    /// there is (default 256).
    pub memory_mb: Option<u32>,
    /// Hugepages or not.
    pub huge: Huge,
    /// Virtual devices: `net_null0,copy=1`.
    pub vdevs: Vec<String>,
    /// PCI devices to use, as `0000:01:00.0[,args]`. Empty: none (`--no-pci`), so no NIC is touched unasked.
    pub allow: Vec<String>,
    /// EAL's `--log-level`; default `warning`.
    pub log_level: Option<String>,
    /// Further EAL arguments, as they are.
    pub extra: Vec<String>,
    /// Pins EAL's own threads (interrupts, control) to this core. Default: those the process may run on.
    pub main_core: Option<usize>,
}

/// Why EAL did not start, or a thread could not be registered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EalError {
    /// `rte_eal_init` works once a process, also after a cleanup.
    #[error("EAL is already initialised in this process: clone the Eal that Eal::init gave")]
    AlreadyInitialised,
    /// It becomes a folder's name.
    #[error("file prefix `{0}` is no file name: use letters, digits, `-` and `_`")]
    FilePrefix(String),
    /// C ends strings at a zero byte.
    #[error("EAL argument holds a zero byte: {0}")]
    Argument(#[from] NulError),
    /// `Huge::Yes`, and none free.
    #[error(
        "hugepages were asked for and none are free: `echo 512 > /proc/sys/vm/nr_hugepages`, or start without hugepages"
    )]
    NoHugepages,
    /// The thread that EAL is initialised on, or its CPU affinity.
    #[error("cannot prepare the thread that initialises EAL: {0}")]
    Thread(std::io::Error),
    /// The C library refused DPDK's log stream.
    #[error("cannot open DPDK's log: {0}")]
    Log(Errno),
    /// `rte_eal_init` failed.
    #[error("rte_eal_init({arguments}): {errno}; {hint}{log}")]
    Init {
        /// What it was given.
        arguments: String,
        /// Why.
        errno: Errno,
        /// What to do.
        hint: &'static str,
        /// What DPDK logged.
        log: LogTail,
    },
    /// A second token on one thread.
    #[error("this thread is registered with DPDK already: keep the first ThreadToken")]
    AlreadyRegistered,
    /// `rte_thread_register` failed.
    #[error("rte_thread_register: {errno}; DPDK knows at most {} threads at a time{log}", sys::RTE_MAX_LCORE)]
    Register {
        /// Why.
        errno: Errno,
        /// What DPDK logged.
        log: LogTail,
    },
}

/// DPDK, initialised. A handle: clones share one environment, which is cleaned up when the last of them and of
/// everything made from them (pools, ports, queues, thread tokens) is dropped.
#[derive(Clone)]
pub struct Eal(pub(crate) Arc<EalInner>);

pub(crate) struct EalInner {
    hugepages: bool,
    file_prefix: String,
    /// Held over each control-path call that allocates, probes or removes: those are not safe against each other.
    pub(crate) control: Mutex<Control>,
}

/// What exists.
#[derive(Default)]
pub(crate) struct Control {
    /// Every pool ever made. They are freed with EAL and not before.
    pub(crate) pools: Vec<PoolRecord>,
    /// Ports that a `Port` or a queue stands for, each with the name of its device: that is another than the port's
    /// own where a device has several ports.
    pub(crate) open_ports: HashMap<u16, String>,
}

/// `rte_eal_init` may run once. Written by the first `init`; never cleared.
static INITIALISED: AtomicBool = AtomicBool::new(false);

impl Eal {
    /// Starts DPDK. Runs on a thread of its own, since `rte_eal_init` pins its caller and threads started later
    /// would inherit that.
    ///
    /// # Errors
    /// Says which step failed, what DPDK logged and what to do. After `Init` a process cannot try again.
    pub fn init(config: EalConfig) -> Result<Self, EalError> {
        let file_prefix = prefix_of(&config)?;
        let free_mb = memory::free_hugepages_mb();
        if config.huge == Huge::Yes && free_mb == 0 {
            return Err(EalError::NoHugepages);
        }
        let hugepages = memory::choose(config.huge, config.memory_mb, free_mb);
        let cores = cores_of(&config)?;
        let arguments = arguments(&config, &file_prefix, hugepages, &cores);
        let strings =
            arguments.iter().map(|text| CString::new(text.as_str())).collect::<Result<Vec<_>, _>>()?;

        // Relaxed: only the winner goes on, and it needs to see nothing of the others.
        if INITIALISED.swap(true, Ordering::Relaxed) {
            return Err(EalError::AlreadyInitialised);
        }
        log::open().map_err(EalError::Log)?;
        let main_core = config.main_core;
        let outcome = std::thread::Builder::new()
            .name("eal-init".into())
            .spawn(move || init_here(strings, main_core))
            .map_err(EalError::Thread)?
            .join();
        forget_folder(&file_prefix);
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(InitFailure::Affinity(error))) => return Err(EalError::Thread(error)),
            Ok(Err(InitFailure::Dpdk(errno, log))) => {
                let hint = hint(errno, hugepages);
                return Err(EalError::Init { arguments: arguments[1..].join(" "), errno, hint, log });
            }
            Err(_) => return Err(EalError::Thread(std::io::Error::other("it panicked"))),
        }
        Ok(Self(Arc::new(EalInner { hugepages, file_prefix, control: Mutex::default() })))
    }

    /// Whether DPDK's memory is hugepages (else ordinary pages, `--no-huge`).
    #[must_use]
    pub fn hugepages(&self) -> bool {
        self.0.hugepages
    }

    /// The DPDK this process runs with, as `DPDK 22.11.11`.
    #[must_use]
    pub fn version() -> String {
        // SAFETY: returns a constant string, before initialisation too.
        let text = unsafe { sys::rte_version() };
        // SAFETY: zero-terminated, and never freed.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }

    pub(crate) fn control(&self) -> MutexGuard<'_, Control> {
        // The registry is changed after the calls that may panic, so a poisoned one is consistent.
        self.0.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

enum InitFailure {
    Affinity(std::io::Error),
    Dpdk(Errno, LogTail),
}

fn init_here(strings: Vec<CString>, main_core: Option<usize>) -> Result<(), InitFailure> {
    // EAL's control threads get what this thread may run on, less the main core; and the main core if nothing is
    // left. With `main_core` set that is where they go, away from the workers' cores.
    if let Some(core) = main_core {
        let mut set = CpuSet::new();
        set.set(core);
        sched_setaffinity(None, &set).map_err(|error| InitFailure::Affinity(error.into()))?;
    }
    // EAL reorders the array and may keep pointers into the strings: they live as long as the process.
    let mut argv: Vec<*mut c_char> = strings.into_iter().map(CString::into_raw).collect();
    let count = c_int::try_from(argv.len()).unwrap_or(c_int::MAX);
    argv.push(std::ptr::null_mut());
    let argv = argv.leak();
    log::mark();
    // SAFETY: `argv` has `count` zero-terminated strings and a null after them, all leaked; `INITIALISED` makes
    // this the only call in the process.
    let result = unsafe { sys::rte_eal_init(count, argv.as_mut_ptr()) };
    if result < 0 { Err(InitFailure::Dpdk(Errno::of(result), log::tail())) } else { Ok(()) }
}

fn prefix_of(config: &EalConfig) -> Result<String, EalError> {
    let prefix = if config.file_prefix.is_empty() {
        format!("{}-{}", config.program, std::process::id())
    } else {
        config.file_prefix.clone()
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if prefix.is_empty() || !prefix.chars().all(fits) {
        Err(EalError::FilePrefix(prefix))
    } else {
        Ok(prefix)
    }
}

/// The cores of EAL's one lcore, as EAL writes a set: `2` or `(0,1,5)`.
fn cores_of(config: &EalConfig) -> Result<String, EalError> {
    if let Some(core) = config.main_core {
        return Ok(core.to_string());
    }
    let set = sched_getaffinity(None).map_err(|error| EalError::Thread(error.into()))?;
    let cores: Vec<String> =
        (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).map(|core| core.to_string()).collect();
    Ok(format!("({})", cores.join(",")))
}

fn arguments(config: &EalConfig, file_prefix: &str, hugepages: bool, cores: &str) -> Vec<String> {
    let program = if config.program.is_empty() { "dpdk" } else { &config.program };
    let mut list = vec![program.to_owned()];
    let mut add = |option: &str, value: &str| list.push(format!("{option}={value}"));
    // One lcore: our workers are threads of ours, registered with DPDK; EAL would start idle ones on each core.
    add("--lcores", &format!("0@{cores}"));
    add("--file-prefix", file_prefix);
    add("--log-level", config.log_level.as_deref().unwrap_or("warning"));
    for device in &config.vdevs {
        add("--vdev", device);
    }
    for device in &config.allow {
        add("--allow", device);
    }
    let memory = if hugepages { config.memory_mb } else { config.memory_mb.or(Some(DEFAULT_NO_HUGE_MB)) };
    if let Some(mb) = memory {
        list.extend(["-m".to_owned(), mb.to_string()]);
    }
    let mut flag = |option: &str| list.push(option.to_owned());
    if hugepages {
        // Nothing is left in a hugetlbfs when the process is killed, and none need be mounted. One file a memory
        // zone, since virtio-user passes at most eight of them to its peer.
        flag("--in-memory");
        flag("--single-file-segments");
    } else {
        flag("--no-huge");
        // No secondary process shares this memory. (`--in-memory` implies it; 22.11 refuses that without hugepages.)
        flag("--no-shconf");
    }
    flag("--no-telemetry");
    if config.allow.is_empty() {
        flag("--no-pci");
    }
    list.extend(config.extra.iter().cloned());
    list
}

fn hint(errno: Errno, hugepages: bool) -> &'static str {
    match errno {
        Errno::NOT_PERMITTED | Errno::ACCESS if hugepages => {
            "hugepages and devices need root (or CAP_SYS_ADMIN and CAP_IPC_LOCK): run as root, or without hugepages"
        }
        Errno::NOT_PERMITTED | Errno::ACCESS => {
            "not permitted: run as root, or give the process the device it asks for"
        }
        Errno::NO_MEMORY if hugepages => {
            "not enough memory: free hugepages (`cat /proc/meminfo`), ask for fewer MB, or start without hugepages"
        }
        Errno::NO_MEMORY => "not enough memory: ask for fewer MB",
        Errno::NO_DEVICE | Errno::NO_ENTRY => {
            "a device is unknown: check --vdev and --allow, and that its driver's package (librte-net-…) is installed"
        }
        _ => "check the arguments, devices and driver packages (librte-net-…)",
    }
}

impl Drop for EalInner {
    fn drop(&mut self) {
        // No handle is left, so no port is open, no thread is registered (each token holds a handle), and no
        // mbuf can be allocated. One that was allocated earlier may still be out.
        let control = self.control.get_mut().unwrap_or_else(PoisonError::into_inner);
        for pool in &control.pools {
            let missing = pool.missing();
            if missing > 0 {
                eprintln!(
                    "dpdk: {missing} mbufs of pool `{}` are still in use at the end: its memory stays mapped",
                    pool.name()
                );
                return;
            }
        }
        // SAFETY: EAL is initialised, and as nothing of it is in use any more nothing will touch what this unmaps.
        // A thread that gave the last mbuf back was not registered (a registered one holds a handle): its free was
        // an enqueue to the pool's ring, whose last access is the store that made `missing` see the mbuf.
        let result = unsafe { sys::rte_eal_cleanup() };
        if result != 0 {
            eprintln!("dpdk: rte_eal_cleanup: {}", Errno::of(result));
        }
        forget_folder(&self.file_prefix);
    }
}

/// Removes EAL's runtime folder, which it makes though it puts nothing there: we run it without shared files. Done
/// once EAL has started, so that none is left when the process is killed. A folder that is not named after our
/// prefix, or not empty, is not ours.
fn forget_folder(file_prefix: &str) {
    // SAFETY: returns a pointer into EAL's static configuration; empty before EAL has chosen a folder.
    let Some(text) = NonNull::new(unsafe { sys::rte_eal_get_runtime_dir() }.cast_mut()) else { return };
    // SAFETY: zero-terminated, and unchanged meanwhile.
    let text = unsafe { CStr::from_ptr(text.as_ptr()) };
    let folder = Path::new(OsStr::from_bytes(text.to_bytes()));
    if folder.file_name().is_some_and(|name| *name == *file_prefix) {
        // Gone already, or in use after all by options of the caller's: neither matters.
        let _ = std::fs::remove_dir(folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_by_memory() {
        let config = EalConfig { vdevs: vec!["net_null0".into()], memory_mb: None, ..EalConfig::default() };
        let plain = arguments(&config, "p", false, "0").join(" ");
        assert_eq!(
            plain,
            "dpdk --lcores=0@0 --file-prefix=p --log-level=warning --vdev=net_null0 -m 256 --no-huge --no-shconf \
             --no-telemetry --no-pci"
        );
        let huge = arguments(&EalConfig { allow: vec!["0000:01:00.0".into()], ..config }, "p", true, "(0,1)")
            .join(" ");
        assert!(huge.contains("--allow=0000:01:00.0") && huge.contains("--in-memory"), "{huge}");
        assert!(!huge.contains("--no-pci") && !huge.contains("-m "), "{huge}");
    }

    #[test]
    fn prefixes_are_file_names() {
        for bad in ["a/b", "..", "a b"] {
            let config = EalConfig { file_prefix: bad.into(), ..EalConfig::default() };
            assert!(matches!(prefix_of(&config), Err(EalError::FilePrefix(_))), "{bad}");
        }
    }
}
