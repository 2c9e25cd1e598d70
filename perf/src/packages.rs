//! Debian packages: which are needed for what, which are missing, and installing them.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::getuid;

use crate::process::{finish, show};

/// What a command needs of the distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    /// To build what links DPDK: headers, and libclang for the bindings.
    Build,
    /// To run topologies: DPDK's drivers and testpmd, and the tools that make and look at networks.
    Run,
    /// To boot virtual machines. Their kernel is unpacked by who boots them.
    Vm,
    /// To build libFuzzer, which is C++.
    Fuzz,
    /// To count instructions.
    Gauge,
    /// What benches compare with, beyond what runs anyway.
    Peers,
}

impl Set {
    /// Those of everything but benches, whose peers bring daemons along.
    pub const ALL: [Self; 5] = [Self::Build, Self::Run, Self::Vm, Self::Fuzz, Self::Gauge];

    const fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Build => &["gcc", "libclang-dev", "libdpdk-dev", "pkg-config"],
            Self::Run => &[
                "containernetworking-plugins",
                "dpdk",
                "dpdk-dev",
                "ethtool",
                "iperf3",
                "iproute2",
                "iputils-ping",
                "isc-dhcp-client",
                "nftables",
                "tcpdump",
            ],
            Self::Vm => &["busybox-static", "cpio", "isc-dhcp-client", "qemu-system-x86"],
            Self::Fuzz => &["g++"],
            Self::Gauge => &["valgrind"],
            Self::Peers => &["openvswitch-switch-dpdk"],
        }
    }
}

/// Installs what is missing of `sets`. Says what, and asks unless `yes` or nobody is there to answer.
///
/// # Errors
/// Not Debian, not root, refused, or apt-get failed; each says what to do.
pub fn install(sets: &[Set], yes: bool) -> Result<()> {
    let wanted: Vec<&str> = sets.iter().flat_map(|set| set.packages()).copied().collect();
    let missing = missing(&wanted)?;
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    println!("Missing Debian packages: {list}");
    if !getuid().is_root() {
        bail!(
            "installing packages needs root: run `apt-get install {list}` as root, or this command as root"
        );
    }
    if !yes && std::io::stdin().is_terminal() && !agreed()? {
        bail!("not installed; `apt-get install {list}` does it by hand");
    }
    // A peer is a daemon that a bench starts by itself; the package would start it for the whole machine.
    let _quiet = sets.contains(&Set::Peers).then(NoDaemons::begin).transpose()?;
    // Lists that are missing or older than the archive are the usual reason for a failure, so they are fetched then.
    if !installable(&missing)? {
        update()?;
    }
    if fetch(&missing).is_err() {
        update()?;
        fetch(&missing).with_context(|| format!("these packages could not be installed: {list}"))?;
    }
    Ok(())
}

/// While it lives, packages that are installed start no daemon (invoke-rc.d(8), "INIT SCRIPT POLICY").
struct NoDaemons {
    /// Made here, to be taken away again.
    made: bool,
}

impl NoDaemons {
    const POLICY: &str = "/usr/sbin/policy-rc.d";
    /// Exit code by which a policy forbids an action.
    const FORBIDDEN: i32 = 101;

    fn begin() -> Result<Self> {
        if !Path::new(Self::POLICY).exists() {
            let mut options = OpenOptions::new();
            let file = options.write(true).create_new(true).mode(0o755).open(Self::POLICY);
            file.and_then(|mut file| writeln!(file, "#!/bin/sh\nexit {}", Self::FORBIDDEN))
                .with_context(|| format!("{} cannot be written", Self::POLICY))?;
            return Ok(Self { made: true });
        }
        // A policy that is there is the machine's own; it is only asked.
        let mut ask = Command::new(Self::POLICY);
        let answer = finish(ask.args(["openvswitch-switch", "start"]), Duration::from_secs(10))?;
        if answer.status.code() != Some(Self::FORBIDDEN) {
            bail!(
                "{} lets packages start their daemons, and Open vSwitch's would take the machine's ports: install \
                 openvswitch-switch-dpdk by hand",
                Self::POLICY
            );
        }
        Ok(Self { made: false })
    }
}

impl Drop for NoDaemons {
    fn drop(&mut self) {
        if self.made {
            let _ = std::fs::remove_file(Self::POLICY);
        }
    }
}

/// Those of `wanted` that dpkg does not list as installed.
fn missing(wanted: &[&str]) -> Result<Vec<String>> {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f=${Package} ${db:Status-Status}\\n"]).args(wanted);
    let answer = finish(&mut query, Duration::from_secs(60)).with_context(|| {
        format!(
            "this needs a Debian system (dpkg-query is not there); on another one, install the counterparts of: {}",
            wanted.join(" ")
        )
    })?;
    let installed = |name: &&str| answer.stdout.lines().any(|line| line == format!("{name} installed"));
    Ok(wanted.iter().filter(|name| !installed(name)).map(|&name| name.to_owned()).collect())
}

fn agreed() -> Result<bool> {
    print!("Install them now with apt-get? [Y/n] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer)?;
    // Ctrl-D is no answer, and no is the careful reading of it.
    Ok(read > 0 && matches!(answer.trim().to_ascii_lowercase().as_str(), "" | "y" | "yes"))
}

fn installable(packages: &[String]) -> Result<bool> {
    let mut simulate = apt_get(&["install", "--simulate"]);
    simulate.args(packages);
    Ok(finish(&mut simulate, Duration::from_secs(120))?.status.success())
}

fn update() -> Result<()> {
    show(&mut apt_get(&["update", "-q"])).context("the package lists cannot be fetched; is there a network?")
}

fn fetch(packages: &[String]) -> Result<()> {
    show(apt_get(&["install", "-q", "-y", "--no-install-recommends"]).args(packages))
}

fn apt_get(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(arguments);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_installed_is_found() {
        // dpkg itself is always there; the other name cannot be a package (Debian Policy, section 5.6.7).
        match missing(&["dpkg", "No_Such_Package"]) {
            Ok(missing) => assert_eq!(missing, ["No_Such_Package"]),
            Err(error) => assert!(format!("{error:#}").contains("Debian"), "{error:#}"),
        }
    }
}
