//! A real virtual machine as a pod: QEMU under emulation with Debian's cloud kernel, ISC's client for DHCPv6, and busybox for all
//! the rest.
//!
//! The guest is a shell on its serial port, which runs one command after another. Kernel and QEMU are Debian's packages; the
//! kernel's is unpacked, never installed. Without hardware virtualisation it boots in some five seconds.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::artefacts::target_directory;
use crate::node::Node;
use crate::pod::Pod;
use crate::process::{Process, finish, succeed};
use crate::wait::{PATIENCE, wait_until};

/// The package that depends on the current kernel's.
const META: &str = "linux-image-cloud-amd64";

/// In the order in which they need each other.
const MODULES: [&str; 8] = [
    "kernel/drivers/virtio/virtio_ring",
    "kernel/drivers/virtio/virtio",
    "kernel/drivers/virtio/virtio_pci_modern_dev",
    "kernel/drivers/virtio/virtio_pci_legacy_dev",
    "kernel/drivers/virtio/virtio_pci",
    "kernel/net/core/failover",
    "kernel/drivers/net/net_failover",
    "kernel/drivers/net/virtio_net",
];

/// What the guest runs instead of an init: it says that it is there, then runs each line and says how that went.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /www /tmp /etc
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do insmod $module; done
ip link set lo up
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo -onlcr
echo @@ready
while read -r line; do eval \"$line\" </dev/null; echo \"@@$?\"; done
";

/// What busybox's udhcpc has done with what it is told, in its environment, and prints: all of it is put in force.
const DHCP4: &str = "#!/bin/sh
[ \"$1\" = bound ] || exit 0
ip link set $interface mtu $mtu
ip addr add $ip/$mask dev $interface
echo bound ip=$ip/$mask router=$router mtu=$mtu lease=$lease routes=$staticroutes dns=$dns search=$search
set -- $staticroutes
while [ $# -ge 2 ]; do
    [ $2 = 0.0.0.0 ] && ip route add $1 dev $interface || ip route add $1 via $2 dev $interface
    shift 2
done
for server in $dns; do echo nameserver $server; done >> /etc/resolv.conf
";

/// The same of dhclient for IPv6. It waits until addresses are known to be nobody else's, as Debian's own script does.
const DHCP6: &str = "#!/bin/sh
settle() { while ip -6 addr show dev $interface | grep -q tentative; do usleep 100000; done; }
case $reason in
PREINIT6)
    settle ;;
BOUND6)
    ip -6 addr add $new_ip6_address/$new_ip6_prefixlen dev $interface
    settle
    for server in $new_dhcp6_name_servers; do echo nameserver $server; done >> /etc/resolv.conf
    echo search $new_dhcp6_domain_search >> /etc/resolv.conf ;;
esac
";

/// ISC's DHCP client, as Debian installs it.
const DHCLIENT: &str = "/sbin/dhclient";

/// Longest that a command in the guest may take: it is emulated, perhaps on a busy machine.
const COMMAND: Duration = Duration::from_secs(180);

/// Kernel and file system.
#[derive(Debug, Clone)]
pub struct Image {
    kernel: PathBuf,
    initramfs: PathBuf,
}

impl Image {
    /// Fetches and unpacks the kernel, and builds the guest's file system, where they are not there yet.
    ///
    /// # Errors
    /// When a package cannot be fetched, or lacks what is expected of it.
    pub fn prepare() -> Result<Self> {
        let depends = succeed(Command::new("apt-cache").args(["depends", META]), PATIENCE)?;
        let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
        let release = package.with_context(|| format!("{META} depends on no kernel: {depends}"))?.to_owned();
        // What is in it is part of the name, so that another version of this file makes another one.
        let mut contents = DefaultHasher::new();
        (INIT, DHCP4, DHCP6, MODULES).hash(&mut contents);
        let folder = target_directory()?.join("lab-vm").join(format!("{release}-{:016x}", contents.finish()));
        let image = Self {
            kernel: folder.join(format!("vmlinuz-{release}")),
            initramfs: folder.join("initramfs.gz"),
        };
        if image.initramfs.exists() {
            return Ok(image);
        }
        // Made elsewhere and moved: who finds it finds it whole.
        let making = folder.with_extension(std::process::id().to_string());
        fs::create_dir_all(&making)?;
        let made = image.make(&release, &making, &folder);
        if making.exists() {
            fs::remove_dir_all(&making)?;
        }
        made?;
        Ok(image)
    }

    fn make(&self, release: &str, making: &Path, folder: &Path) -> Result<()> {
        let limit = Duration::from_secs(300);
        let package = format!("linux-image-{release}");
        succeed(Command::new("apt-get").args(["download", "-q", &package]).current_dir(making), limit)
            .with_context(|| format!("{package} cannot be fetched: run `apt-get update` if lists are old"))?;
        let unpack = "dpkg -x linux-image-*.deb unpacked";
        succeed(Command::new("sh").args(["-c", unpack]).current_dir(making), limit)?;
        let root = making.join("root");
        fs::create_dir_all(root.join("bin"))?;
        fs::create_dir_all(root.join("modules"))?;
        fs::copy("/bin/busybox", root.join("bin/busybox")).context("busybox-static is not installed")?;
        let modules = making.join("unpacked/lib/modules").join(release);
        for (number, module) in MODULES.iter().enumerate() {
            let from = modules.join(format!("{module}.ko"));
            let to = root.join(format!("modules/{number}.ko"));
            fs::copy(&from, to).with_context(|| format!("{} is not in {package}", from.display()))?;
        }
        copy_program(DHCLIENT, &root).context("isc-dhcp-client is not installed")?;
        for (name, text) in [("init", INIT), ("dhcp4", DHCP4), ("dhcp6", DHCP6)] {
            fs::write(root.join(name), text)?;
            fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o755))?;
        }
        let pack = "cd root && find . | cpio -o -H newc 2>/dev/null | gzip -1 > ../initramfs.gz";
        succeed(Command::new("sh").args(["-c", pack]).current_dir(making), limit)?;
        let kernel = format!("vmlinuz-{release}");
        fs::rename(making.join("unpacked/boot").join(&kernel), making.join(&kernel))?;
        for done in ["unpacked", "root"] {
            fs::remove_dir_all(making.join(done))?;
        }
        // Another run may have been faster: then theirs is as good.
        if fs::rename(making, folder).is_err() {
            ensure!(self.initramfs.exists(), "{} cannot be made", folder.display());
        }
        Ok(())
    }
}

/// Copies a program into the guest's file system, and the libraries that it is linked with, each where it is here.
fn copy_program(path: &str, root: &Path) -> Result<()> {
    let linked = succeed(Command::new("ldd").arg(path), PATIENCE)?;
    let libraries = linked.split_whitespace().filter(|word| word.starts_with('/'));
    for file in libraries.chain([path]) {
        let to = root.join(file.trim_start_matches('/'));
        fs::create_dir_all(to.parent().context("a file is in a folder")?)?;
        fs::copy(file, &to).with_context(|| format!("{file} cannot be copied"))?;
    }
    Ok(())
}

/// Which rings the guest's driver is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rings {
    Split,
    Packed,
}

/// A machine that runs. Dropping it ends QEMU.
#[derive(Debug)]
pub struct Vm {
    pub qemu: Process,
    console: Console,
}

impl Vm {
    /// Boots one on a pod's vhost-user socket, and waits for its shell.
    ///
    /// # Errors
    /// When QEMU ends, or the guest does not come up; the console's end is in the error.
    pub fn boot(node: &Node, pod: &Pod, image: &Image, rings: Rings) -> Result<Self> {
        let socket = pod.socket.as_ref().with_context(|| format!("pod {} has no socket", pod.name))?;
        let name = node.run.name(&format!("vm{}", node.run.number()));
        let serial = node.run.dir().join(format!("{name}.tty"));
        let mut command = pod.netns.command("qemu-system-x86_64");
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        command.args(["-M", "pc,accel=tcg,memory-backend=m", "-m", "256M"]);
        command.args(["-object", "memory-backend-memfd,id=m,size=256M,share=on"]);
        command.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(&image.initramfs);
        command.args(["-append", "console=ttyS0 quiet loglevel=0 panic=-1 rdinit=/init"]);
        command.args(["-serial", "chardev:tty"]);
        command.args(["-chardev", &format!("socket,id=tty,path={},server=on,wait=off", serial.display())]);
        // It asks once a second whether its back end is there again.
        command.args(["-chardev", &format!("socket,id=net,path={},reconnect=1", socket.display())]);
        command.args(["-netdev", "vhost-user,id=n,chardev=net"]);
        let packed = if rings == Rings::Packed { "on" } else { "off" };
        // With interrupt vectors QEMU 7.2 crashes under emulation when the driver starts.
        let device = format!("virtio-net-pci,netdev=n,romfile=,vectors=0,mac={},packed={packed}", pod.mac);
        command.args(["-device", &device]);
        let mut qemu = Process::spawn(&node.run, &name, &mut command)?;
        let console = wait_until("QEMU's console", PATIENCE, || {
            qemu.check()?;
            Console::connect(&serial)
        })?;
        let mut vm = Self { qemu, console };
        vm.console.until("@@ready").map_err(|error| error.context(vm.qemu.tail(20)))?;
        Ok(vm)
    }

    /// Runs a command, and gives what it printed.
    ///
    /// # Errors
    /// When it fails, or does not end.
    pub fn run(&mut self, command: &str) -> Result<String> {
        let (status, printed) = self.console.run(command)?;
        ensure!(status == 0, "`{command}` in the guest failed ({status}): {printed}");
        Ok(printed)
    }

    /// Has the guest ask for its addresses, routes, MTU and DNS servers, and put them in force; gives what DHCPv4's client was told.
    ///
    /// # Errors
    /// When it is told nothing, or its client fails.
    pub fn configure(&mut self) -> Result<String> {
        let told = self
            .run("udhcpc -i eth0 -n -q -t 20 -T 1 -O mtu -O staticroutes -O search -s /dhcp4 2>/dev/null")?;
        self.run("dhclient -6 -1 -sf /dhcp6 -lf /tmp/leases -pf /tmp/dhclient -cf /dev/null eth0 2>&1")?;
        let bound = told.lines().find(|line| line.starts_with("bound ")).unwrap_or(&told);
        Ok(bound.to_owned())
    }

    /// Numbers of the virtio features that driver and device agreed on.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn features(&mut self) -> Result<Vec<usize>> {
        let bits = self.run("cat /sys/class/net/eth0/device/features")?;
        Ok(bits
            .trim()
            .bytes()
            .enumerate()
            .filter(|&(_, bit)| bit == b'1')
            .map(|(number, _)| number)
            .collect())
    }
}

/// The guest's serial port.
#[derive(Debug)]
struct Console {
    stream: BufReader<UnixStream>,
    /// Its last lines, for errors.
    seen: String,
}

impl Console {
    fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(Self { stream: BufReader::new(stream), seen: String::new() })
    }

    fn run(&mut self, command: &str) -> Result<(i32, String)> {
        self.stream.get_mut().write_all(format!("{command}\n").as_bytes())?;
        let (mark, printed) = self.until("@@").with_context(|| format!("`{command}` in the guest"))?;
        let status = mark.parse().map_err(|_| anyhow!("the guest said `{mark}` after `{command}`"))?;
        Ok((status, printed))
    }

    /// Reads to the line that begins with `mark`; gives the rest of that line, and what came before.
    fn until(&mut self, mark: &str) -> Result<(String, String)> {
        let (began, mut printed, mut line) = (Instant::now(), String::new(), Vec::new());
        loop {
            match self.stream.read_until(b'\n', &mut line) {
                Ok(0) => bail!("the guest's console closed: {}", self.seen),
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) =>
                {
                    crate::signals::check()?;
                }
                Err(error) => return Err(error.into()),
            }
            ensure!(
                began.elapsed() < COMMAND,
                "not within {COMMAND:?}; the guest said: {printed}{}",
                self.seen
            );
            if line.last() != Some(&b'\n') {
                continue;
            }
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            self.seen.push_str(&text);
            self.seen.push('\n');
            let keep = self.seen.len().saturating_sub(4_000);
            self.seen = self.seen.chars().skip(keep).collect();
            if let Some(rest) = text.strip_prefix(mark) {
                return Ok((rest.to_owned(), printed));
            }
            printed.push_str(&text);
            printed.push('\n');
        }
    }
}

/// A web server of busybox's in a pod's namespace, for what is in a folder.
///
/// # Errors
/// When it cannot be started.
pub fn web_server(node: &Node, pod: &Pod, folder: &Path) -> Result<Process> {
    let mut command = pod.netns.command("busybox");
    command.args(["httpd", "-f", "-p", "[::]:80", "-h"]).arg(folder);
    Process::spawn(&node.run, &format!("httpd{}", node.run.number()), &mut command)
}

/// The MD5 sum of what is fetched in a pod's namespace.
///
/// # Errors
/// When it cannot be had.
pub fn fetch_sum(pod: &Pod, url: &str) -> Result<String> {
    let mut command = pod.netns.command("sh");
    command.args(["-c", &format!("busybox wget -q -O - '{url}' | md5sum")]);
    let finished = finish(&mut command, COMMAND)?;
    ensure!(finished.status.success(), "{url}: {}", finished.stderr);
    Ok(finished.stdout.split_whitespace().next().unwrap_or_default().to_owned())
}
