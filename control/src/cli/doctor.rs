//! `podrouter doctor`: whether this node has what podrouter needs, and what to do about what is missing.
//!
//! Each check reads and changes nothing. What is needed and missing is a failure; what costs speed or comfort alone, a warning.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use proto::dataplane;
use rustix::fs::{Access, access};
use rustix::io::Errno;
use serde::Serialize;

use crate::args::{Args, Doctor};
use crate::client;
use crate::table::Style;

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    Ok,
    Warning,
    Failure,
}

/// A check: what was found and, unless all is well, what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    pub(crate) verdict: Verdict,
    pub(crate) about: &'static str,
    pub(crate) found: String,
    pub(crate) remedy: Option<String>,
}

impl Check {
    fn new(verdict: Verdict, about: &'static str, found: impl Into<String>, remedy: &str) -> Self {
        let remedy = (!remedy.is_empty()).then(|| remedy.to_owned());
        Self { verdict, about, found: found.into(), remedy }
    }

    fn ok(about: &'static str, found: impl Into<String>) -> Self {
        Self::new(Verdict::Ok, about, found, "")
    }
}

/// Capabilities that are needed (capabilities(7)): their bits, and what for.
const CAPABILITIES: [(u32, &str, &str); 3] = [
    (12, "CAP_NET_ADMIN", "TAPs, addresses and routes"),
    (13, "CAP_NET_RAW", "packet sockets of net_af_packet"),
    (21, "CAP_SYS_ADMIN", "entering pods' network namespaces"),
];

/// What x86-64-v3 has beyond older processors (x86-64 psABI), as /proc/cpuinfo spells it.
const FLAGS: [&str; 8] = ["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"];

/// Whether the kernel forwards: needed where it is the way to other nodes.
const FORWARDING: [&str; 2] = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"];

/// All checks, in the order in which one would mend things.
pub(crate) fn checks(args: &Args, wanted: &Doctor) -> Vec<Check> {
    let host = Host { root: PathBuf::from("/") };
    let mut checks = vec![
        host.processor(),
        host.cores(),
        host.capabilities(),
        host.tun(),
        host.hugepages(),
        host.network_manager(&wanted.kept.host_interface),
        host.forwarding(),
        host.nft(),
        host.state(&wanted.kept.state_dir),
    ];
    checks.push(dataplane_check(args));
    checks.extend(control_checks(args));
    checks.extend(host.plug_in(&wanted.places.bin_dir, &wanted.places.conf_dir));
    checks
}

/// A line a check, with its remedy below.
pub(crate) fn print(checks: &[Check], style: Style, out: &mut impl Write) -> io::Result<()> {
    for Check { verdict, about, found, remedy } in checks {
        let word = match verdict {
            Verdict::Ok => "ok      ".to_owned(),
            Verdict::Warning => style.alert("warning "),
            Verdict::Failure => style.alert("failure "),
        };
        writeln!(out, "{word}{about}: {}", found.replace('\n', "\n        "))?;
        if let Some(remedy) = remedy {
            writeln!(out, "        {remedy}")?;
        }
    }
    Ok(())
}

/// The machine, as its files tell.
struct Host {
    root: PathBuf,
}

impl Host {
    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path.as_ref().strip_prefix("/").unwrap_or(path.as_ref()))
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    fn processor(&self) -> Check {
        let text = self.read("/proc/cpuinfo");
        let Some(flags) = text.lines().find_map(|line| line.strip_prefix("flags")) else {
            return Check::ok("processor", "tells no x86 flags");
        };
        let missing: Vec<_> =
            FLAGS.iter().filter(|flag| !flags.split_whitespace().any(|own| own == **flag)).copied().collect();
        match missing.is_empty() {
            true => Check::ok("processor", "x86-64-v3"),
            false => Check::new(
                Verdict::Failure,
                "processor",
                format!("older than x86-64-v3: it has no {}", missing.join(", ")),
                "build with RUSTFLAGS=\"-C target-cpu=native\" on this machine, or use a newer one",
            ),
        }
    }

    fn cores(&self) -> Check {
        let status = self.read("/proc/self/status");
        let allowed = field(&status, "Cpus_allowed_list:").unwrap_or_default();
        let isolated = self.read("/sys/devices/system/cpu/isolated");
        match (count(allowed), isolated.trim()) {
            (0 | 1, _) => Check::new(
                Verdict::Warning,
                "cores",
                format!("this process may use {allowed:?} alone"),
                "give it two at least: a poll worker keeps one busy",
            ),
            (n, "") => Check::new(
                Verdict::Warning,
                "cores",
                format!("{n} to use, none isolated"),
                "for even latency, keep others off the poll workers' cores: isolcpus= and nohz_full= at boot, or the static \
                 CPU manager of kubelet",
            ),
            (n, isolated) => Check::ok("cores", format!("{n} to use; isolated: {isolated}")),
        }
    }

    fn capabilities(&self) -> Check {
        let status = self.read("/proc/self/status");
        let bits = field(&status, "CapEff:").and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
        let missing: Vec<String> = CAPABILITIES
            .iter()
            .filter(|(bit, _, _)| bits >> bit & 1 == 0)
            .map(|(_, name, what)| format!("{name} ({what})"))
            .collect();
        match missing.is_empty() {
            true => Check::ok("capabilities", "all that are needed"),
            false => Check::new(
                Verdict::Failure,
                "capabilities",
                format!("missing: {}", missing.join(", ")),
                "run it as root, or add them to the container's securityContext",
            ),
        }
    }

    fn tun(&self) -> Check {
        let path = self.path("/dev/net/tun");
        match fs::OpenOptions::new().read(true).write(true).open(&path) {
            Ok(_) => Check::ok("TAP devices", "/dev/net/tun can be opened"),
            Err(error) => Check::new(
                Verdict::Failure,
                "TAP devices",
                format!("/dev/net/tun: {error}"),
                "`modprobe tun`; in a container, mount /dev/net/tun and allow the device",
            ),
        }
    }

    fn hugepages(&self) -> Check {
        let text = self.read("/proc/meminfo");
        let number = |name| {
            field(&text, name).and_then(|text| text.split(' ').next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        let (total, free, size) =
            (number("HugePages_Total:"), number("HugePages_Free:"), number("Hugepagesize:") >> 10);
        match total {
            0 => Check::new(
                Verdict::Warning,
                "hugepages",
                "none: the data plane runs without them, and slower",
                "`sysctl vm.nr_hugepages=1024`, better at boot (hugepages=), and a mount of hugetlbfs in the container; \
                 NICs with drivers of their own need them",
            ),
            _ => Check::ok("hugepages", format!("{free} of {total} of {size} MB free")),
        }
    }

    fn network_manager(&self, interface: &str) -> Check {
        match self.path("/run/NetworkManager").exists() {
            false => Check::ok("NetworkManager", "is not here"),
            true => Check::new(
                Verdict::Warning,
                "NetworkManager",
                "runs on this node, and may take hold of the host's interface",
                &format!(
                    "tell it not to, in /etc/NetworkManager/conf.d/podrouter.conf: [keyfile] \
                     unmanaged-devices=interface-name:{interface}"
                ),
            ),
        }
    }

    fn forwarding(&self) -> Check {
        let off = |switch: &&str| self.read(&format!("/proc/sys/{}", switch.replace('.', "/"))).trim() == "0";
        let off: Vec<&str> = FORWARDING.iter().copied().filter(off).collect();
        match off.is_empty() {
            true => Check::ok("forwarding", "the kernel forwards"),
            false => Check::new(
                Verdict::Warning,
                "forwarding",
                format!("{} is 0: this node's kernel forwards nothing of that family", off.join(", ")),
                &format!(
                    "`sysctl -w {}`, where podrouter-control has no --uplink, or clients come to hostPorts by the kernel's NICs",
                    off.iter().map(|switch| format!("{switch}=1")).collect::<Vec<_>>().join(" ")
                ),
            ),
        }
    }

    fn nft(&self) -> Check {
        let found = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/bin/nft", "/usr/local/sbin/nft"];
        match found.iter().find(|path| self.path(path).exists()) {
            Some(path) => Check::ok("nftables", format!("{path} is there")),
            None => Check::new(
                Verdict::Warning,
                "nftables",
                "nft is not there",
                "install nftables beside podrouter-control: without it the node itself cannot use hostPorts, nor pods leave the \
                 cluster by its kernel",
            ),
        }
    }

    fn state(&self, directory: &Path) -> Check {
        // Of a directory that is yet to be made, the nearest one that is there.
        let there = directory.ancestors().find(|path| self.path(path).exists()).unwrap_or(directory);
        let path = self.path(there);
        let tried = match path.is_dir() {
            // What a file system that is read-only says too, to root as well (access(2)).
            true => access(&path, Access::WRITE_OK | Access::EXEC_OK),
            false => Err(Errno::NOTDIR),
        };
        match tried {
            Ok(()) => Check::ok("state", format!("{} can be written", directory.display())),
            Err(error) => Check::new(
                Verdict::Failure,
                "state",
                format!("{}: {error}", there.display()),
                "attachments are kept there: mount a directory of the node's own that can be written",
            ),
        }
    }

    /// The plug-in, and the configuration that has kubelet use it.
    fn plug_in(&self, bin: &Path, conf: &Path) -> Vec<Check> {
        let remedy = "`podrouter install`";
        let plugin = self.path(bin).join("podrouter-cni");
        let installed = match plugin.is_file() {
            true => Check::ok("CNI plug-in", format!("{} is there", plugin.display())),
            false => Check::new(
                Verdict::Failure,
                "CNI plug-in",
                format!("{} is not there", plugin.display()),
                remedy,
            ),
        };
        let names = crate::install::configurations(&self.path(conf)).unwrap_or_default();
        let first = names
            .first()
            .map(|name| (name, fs::read_to_string(self.path(conf).join(name)).unwrap_or_default()));
        let configured = match first {
            Some((name, text)) if text.contains("podrouter-cni") => {
                Check::ok("network configuration", format!("{} comes first", conf.join(name).display()))
            }
            Some((name, _)) => Check::new(
                Verdict::Failure,
                "network configuration",
                format!("{} comes first, and is not podrouter's", conf.join(name).display()),
                "remove it, or have podrouter's come before it: `podrouter install --conf-name 00-podrouter.conflist`",
            ),
            None => Check::new(
                Verdict::Failure,
                "network configuration",
                format!("none in {}", conf.display()),
                remedy,
            ),
        };
        vec![installed, configured]
    }
}

fn dataplane_check(args: &Args) -> Check {
    let about = "data plane";
    match client::dataplane_status(&args.dataplane) {
        Ok(dataplane::Status { version, warnings, .. }) if warnings.is_empty() => {
            Check::ok(about, format!("{version} answers"))
        }
        Ok(status) => Check::new(Verdict::Warning, about, status.warnings.join("\n"), ""),
        Err(error) => Check::new(Verdict::Failure, about, error.to_string(), ""),
    }
}

fn control_checks(args: &Args) -> Vec<Check> {
    let about = "control";
    let status = match client::control_status(&args.control) {
        Ok(status) => status,
        Err(error) => return vec![Check::new(Verdict::Failure, about, error.to_string(), "")],
    };
    let mut checks = vec![match &status.unready {
        None => Check::ok(about, format!("{} follows {}", status.version, status.source)),
        Some(why) => Check::new(Verdict::Failure, about, format!("no pod can be attached: {why}"), ""),
    }];
    checks.extend(status.warnings.into_iter().map(|text| Check::new(Verdict::Warning, about, text, "")));
    checks
}

/// The rest of the line that begins with `name`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// How many numbers a list like `0-3,8` has.
fn count(list: &str) -> usize {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(last.trim().parse::<usize>().ok()?.checked_sub(first.trim().parse().ok()?)? + 1)
    };
    list.split(',').filter_map(range).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = dir.path().to_owned();
        (dir, Host { root })
    }

    #[test]
    fn a_node_that_has_all() {
        let flags = format!("flags\t\t: fpu {} sse4_2\n", FLAGS.join(" "));
        let (_dir, host) = host(&[
            ("proc/cpuinfo", &flags),
            ("proc/self/status", "CapEff:\t000001ffffffffff\nCpus_allowed_list:\t0-3,8\n"),
            ("sys/devices/system/cpu/isolated", "2-3\n"),
            (
                "proc/meminfo",
                "HugePages_Total:    1024\nHugePages_Free:     1000\nHugepagesize:       2048 kB\n",
            ),
            ("dev/net/tun", ""),
            ("proc/sys/net/ipv4/ip_forward", "1\n"),
            ("usr/sbin/nft", ""),
            ("opt/cni/bin/podrouter-cni", ""),
            ("etc/cni/net.d/10-podrouter.conflist", "{\"plugins\":[{\"type\":\"podrouter-cni\"}]}"),
            ("etc/cni/net.d/99-loopback.conf", "{}"),
        ]);
        let mut checks =
            vec![host.processor(), host.cores(), host.capabilities(), host.tun(), host.hugepages()];
        checks.extend([host.network_manager("podrouter0"), host.state(Path::new("/var/lib/podrouter"))]);
        checks.extend([host.forwarding(), host.nft()]);
        checks.extend(host.plug_in(Path::new("/opt/cni/bin"), Path::new("/etc/cni/net.d")));
        assert!(
            checks.iter().all(|check| check.verdict == Verdict::Ok && check.remedy.is_none()),
            "{checks:#?}"
        );
        assert_eq!(checks[1].found, "5 to use; isolated: 2-3");
        assert_eq!(checks[4].found, "1000 of 1024 of 2 MB free");
    }

    #[test]
    fn each_thing_that_is_missing_has_its_remedy() {
        let (_dir, host) = host(&[
            ("proc/cpuinfo", "flags\t\t: fpu avx\n"),
            ("proc/self/status", "CapEff:\t0000000000001000\nCpus_allowed_list:\t0\n"),
            ("proc/meminfo", "HugePages_Total:    0\n"),
            ("run/NetworkManager/x", ""),
            ("var/lib/podrouter", "no directory"),
            ("proc/sys/net/ipv4/ip_forward", "1\n"),
            ("proc/sys/net/ipv6/conf/all/forwarding", "0\n"),
            ("etc/cni/net.d/05-other.conflist", "{\"plugins\":[{\"type\":\"bridge\"}]}"),
        ]);
        let plug_in = host.plug_in(Path::new("/opt/cni/bin"), Path::new("/etc/cni/net.d"));
        for (check, verdict, found, remedy) in [
            (host.processor(), Verdict::Failure, "avx2, bmi1", "target-cpu=native"),
            (host.cores(), Verdict::Warning, "\"0\"", "two at least"),
            (host.capabilities(), Verdict::Failure, "CAP_NET_RAW", "securityContext"),
            (host.tun(), Verdict::Failure, "/dev/net/tun", "modprobe tun"),
            (host.forwarding(), Verdict::Warning, "net.ipv6.conf.all.forwarding is 0", "sysctl -w net.ipv6"),
            (host.nft(), Verdict::Warning, "nft is not there", "install nftables"),
            (host.hugepages(), Verdict::Warning, "none", "nr_hugepages"),
            (
                host.network_manager("podrouter0"),
                Verdict::Warning,
                "NetworkManager",
                "interface-name:podrouter0",
            ),
            (host.state(Path::new("/var/lib/podrouter/x")), Verdict::Failure, "/var/lib/podrouter", "mount"),
            (plug_in[0].clone(), Verdict::Failure, "podrouter-cni is not there", "podrouter install"),
            (plug_in[1].clone(), Verdict::Failure, "05-other.conflist comes first", "remove it"),
        ] {
            assert_eq!(check.verdict, verdict, "{check:?}");
            let text = format!("{} {}", check.about, check.found);
            assert!(
                text.contains(found) && check.remedy.as_ref().is_some_and(|text| text.contains(remedy)),
                "{check:?}"
            );
        }
        assert!(!host.capabilities().found.contains("CAP_NET_ADMIN"));
        let empty = Host { root: host.root.join("nowhere") };
        assert_eq!(empty.plug_in(Path::new("/a"), Path::new("/b"))[1].found, "none in /b");
    }

    #[test]
    fn lists_of_cores_are_counted() {
        assert_eq!(["", "0", "0-3", "0-1,4,6-7", "x"].map(count), [0, 1, 4, 5, 0]);
    }
}
