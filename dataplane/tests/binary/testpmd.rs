//! DPDK's testpmd as the other end of a port: forwards until the test ends.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// One that runs. Ends with the test.
pub(crate) struct Testpmd {
    child: Child,
    prefix: String,
    log: PathBuf,
}

impl Testpmd {
    /// Starts it in the namespace of this thread, with these devices of DPDK's and arguments of its own; what it prints goes to `log`.
    pub(crate) fn start<A: AsRef<OsStr>>(log: &Path, devices: &[String], arguments: &[A]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Relaxed: only uniqueness matters.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("podrouter-testpmd-{}-{number}", std::process::id());
        let file = File::create(log).unwrap();
        // It writes to a back end that has gone, and should not die of that.
        let child = Command::new("sh")
            .args(["-c", "trap '' PIPE; exec dpdk-testpmd \"$@\"", "dpdk-testpmd"])
            .args(["--no-huge", "--no-pci", "-m", "256", "--lcores", "0@(0-1),1@(0-1)"])
            .arg(format!("--file-prefix={prefix}"))
            .args(devices.iter().map(|device| format!("--vdev={device}")))
            .args(["--", "--total-num-mbufs=8192", "--no-mlockall", "--no-flush-rx"])
            .args(arguments)
            // It runs until its standard input ends.
            .stdin(Stdio::piped())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .expect("dpdk-testpmd starts (apt-get install dpdk-dev)");
        Self { child, prefix, log: log.to_owned() }
    }

    /// What it has printed so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("testpmd's log:\n{}", self.log());
        }
        drop(self.child.kill());
        drop(self.child.wait());
        drop(std::fs::remove_dir_all(Path::new("/var/run/dpdk").join(&self.prefix)));
    }
}
