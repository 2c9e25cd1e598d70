//! Network namespaces and what is in them, by iproute2: each call is one that a reader could type.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use anyhow::Result;

use crate::process::succeed;
use crate::run::Run;
use crate::wait::PATIENCE;

/// A named network namespace, deleted when its last copy is dropped.
#[derive(Debug, Clone)]
pub struct Netns(Arc<Named>);

#[derive(Debug)]
struct Named {
    name: String,
    run: Arc<Run>,
}

impl Netns {
    /// Makes a namespace with its loopback up.
    ///
    /// # Errors
    /// As `ip netns add`.
    pub fn create(run: &Arc<Run>, what: &str) -> Result<Self> {
        let name = run.name(what);
        run.record_namespace(&name)?;
        succeed(Command::new("ip").args(["netns", "add", &name]), PATIENCE)?;
        let netns = Self(Arc::new(Named { name, run: Arc::clone(run) }));
        netns.ip(&["link", "set", "lo", "up"])?;
        Ok(netns)
    }

    /// As in `ip netns exec NAME`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// As in `CNI_NETNS`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.0.name)
    }

    /// A command that will run inside.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0.name]).arg(program);
        command
    }

    /// Runs a program inside, to success.
    ///
    /// # Errors
    /// As [`succeed`].
    pub fn succeed(&self, program: &str, arguments: &[&str]) -> Result<String> {
        succeed(self.command(program).args(arguments), PATIENCE)
    }

    /// `ip -n NAME ARGUMENTS`.
    ///
    /// # Errors
    /// As `ip`.
    pub fn ip(&self, arguments: &[&str]) -> Result<String> {
        succeed(Command::new("ip").args(["-n", &self.0.name]).args(arguments), PATIENCE)
    }

    /// Gives `device` an address. IPv6 addresses skip duplicate detection: the links are ours alone, and a tentative
    /// address would be a second of waiting.
    ///
    /// # Errors
    /// As `ip address add`.
    pub fn add_address(&self, device: &str, address: &str) -> Result<()> {
        let mut arguments = vec!["address", "add", address, "dev", device];
        if address.contains(':') {
            arguments.push("nodad");
        }
        self.ip(&arguments).map(drop)
    }

    /// Sets a value under `/proc/sys`, as `net.ipv6.conf.all.disable_ipv6`.
    ///
    /// # Errors
    /// As `sysctl`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        self.succeed("sh", &["-c", &format!("echo {value} > {path}")]).map(drop)
    }

    /// Switches off what a packet socket on the other end of a veth pair cannot take: checksums left to the device
    /// and segments above the MTU.
    ///
    /// # Errors
    /// As `ethtool -K`.
    pub fn disable_offloads(&self, device: &str) -> Result<()> {
        let flags = ["-K", device, "tx", "off", "tso", "off", "gso", "off", "gro", "off"];
        self.succeed("ethtool", &flags).map(drop)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        if !self.run.is_kept() {
            // Without the limit of other commands, and out of Ctrl-C's reach: it must go after a signal as well.
            let _ = Command::new("ip").args(["netns", "del", &self.name]).process_group(0).output();
        }
    }
}

/// A veth pair with one end in each namespace, both up.
///
/// # Errors
/// As `ip link add`.
pub fn veth(left: &Netns, left_device: &str, right: &Netns, right_device: &str) -> Result<()> {
    let pair =
        ["link", "add", left_device, "type", "veth", "peer", "name", right_device, "netns", right.name()];
    left.ip(&pair)?;
    left.ip(&["link", "set", left_device, "up"])?;
    right.ip(&["link", "set", right_device, "up"]).map(drop)
}
