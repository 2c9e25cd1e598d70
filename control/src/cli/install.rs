//! `podrouter install` and `uninstall`: the CNI plug-in and its network configuration on this node, and off it.
//!
//! What always holds: kubelet never sees half a file (temporary name, fsync, rename), and sees no network configuration before
//! the plug-in that it names is there and the data plane is ready. Both may be run again at any time.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, netdevice, socket};
use serde::Serialize;
use serde_json::json;
use tap::{Tap, TapConfig};

use crate::args::{Args, Install, Uninstall};
use crate::client;

/// The plug-in's file name, and the `type` of a network configuration.
const PLUGIN: &str = "podrouter-cni";

/// How often control is asked whether the data plane is ready.
const LOOK: Duration = Duration::from_millis(500);

/// How often one that stays looks whether all is as it was installed.
const STAY: Duration = Duration::from_secs(5);

/// What was done, for people a line each.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Done {
    installed: Vec<PathBuf>,
    /// Files, folders, and an interface by its name.
    removed: Vec<PathBuf>,
    /// What stays, and why.
    kept: Vec<String>,
}

impl Done {
    pub(crate) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        for path in &self.installed {
            writeln!(out, "installed {}", path.display())?;
        }
        for path in &self.removed {
            writeln!(out, "removed {}", path.display())?;
        }
        self.kept.iter().try_for_each(|why| writeln!(out, "kept {why}"))
    }
}

/// Copies the plug-in, waits until the data plane is ready, and writes the network configuration. `said` is told what was done; with
/// `stay`, again whenever something had to be put back.
pub(crate) fn install(
    args: &Args,
    wanted: &Install,
    mut said: impl FnMut(&Done) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    said(&install_once(args, wanted)?)?;
    if !wanted.stay {
        return Ok(());
    }
    loop {
        std::thread::sleep(STAY);
        let there = |path: PathBuf, content: &[u8]| fs::read(path).is_ok_and(|found| found == content);
        let configured = there(
            wanted.places.conf_dir.join(&wanted.file.conf_name),
            configuration(args, wanted).as_bytes(),
        );
        if !configured || !there(wanted.places.bin_dir.join(PLUGIN), &plug_in(wanted)?) {
            said(&install_once(args, wanted)?)?;
        }
    }
}

/// The plug-in that is to be installed.
fn plug_in(wanted: &Install) -> anyhow::Result<Vec<u8>> {
    let source = match &wanted.plugin {
        Some(path) => path.clone(),
        None => std::env::current_exe().context("finding this program")?.with_file_name(PLUGIN),
    };
    fs::read(&source)
        .with_context(|| format!("reading the plug-in {}: give its path with --plugin", source.display()))
}

fn install_once(args: &Args, wanted: &Install) -> anyhow::Result<Done> {
    let mut done = Done::default();
    let path = wanted.places.bin_dir.join(PLUGIN);
    replace(&path, &plug_in(wanted)?, 0o755)?;
    done.installed.push(path);

    wait(&args.control, Duration::from_secs(wanted.timeout)).with_context(|| {
        format!("{} is installed, and no network configuration", done.installed[0].display())
    })?;
    let path = wanted.places.conf_dir.join(&wanted.file.conf_name);
    replace(&path, configuration(args, wanted).as_bytes(), 0o644)?;
    done.installed.push(path);
    for other in
        configurations(&wanted.places.conf_dir)?.into_iter().take_while(|name| *name < wanted.file.conf_name)
    {
        done.kept.push(format!(
            "{}: container runtimes take the first name, so that this one counts: remove it",
            wanted.places.conf_dir.join(other).display()
        ));
    }
    Ok(done)
}

/// Takes the network configuration and then the plug-in away; and, once both processes have ended, what they keep.
pub(crate) fn uninstall(args: &Args, wanted: &Uninstall) -> anyhow::Result<Done> {
    let control = client::control_status(&args.control).ok();
    if let Some(status) = control.as_ref().filter(|status| status.attachments > 0 && !wanted.force) {
        bail!(
            "{} interface(s) are attached: drain the node first, or use --force and leave their pods without a network",
            status.attachments
        );
    }
    let mut done = Done::default();
    for path in [wanted.places.conf_dir.join(&wanted.file.conf_name), wanted.places.bin_dir.join(PLUGIN)] {
        remove(&path, &mut done)?;
    }
    if control.is_some() || client::dataplane_status(&args.dataplane).is_ok() {
        let (state, run) = (wanted.kept.state_dir.display(), wanted.run_dir.display());
        done.kept.push(format!(
            "{state}, {run} and the interface {}: podrouter-control or podrouter-dataplane runs: end both, and run this again",
            wanted.kept.host_interface
        ));
        return Ok(done);
    }
    remove_interface(&wanted.kept.host_interface, &mut done)?;
    remove_ways(&mut done)?;
    remove_table(&mut done)?;
    if let Some(path) = &wanted.flow_file {
        remove(path, &mut done)?;
    }
    for path in [&wanted.kept.state_dir, &wanted.run_dir] {
        match fs::remove_dir_all(path) {
            Ok(()) => done.removed.push(path.clone()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("removing {}", path.display())),
        }
    }
    Ok(done)
}

/// The network configuration: `cniVersion` for runtimes of old, `cniVersions` for those that can choose.
fn configuration(args: &Args, wanted: &Install) -> String {
    let list = json!({
        "cniVersion": "1.0.0",
        "cniVersions": ["0.4.0", "1.0.0", "1.1.0"],
        "name": wanted.network,
        "plugins": [{
            "type": PLUGIN,
            "socket": args.control,
            "spool": wanted.spool,
            "capabilities": {
                "CNIDeviceInfoFile": true, "bandwidth": true, "ips": true, "mac": true, "portMappings": true,
            },
        }],
    });
    format!("{list:#}\n")
}

/// Until a pod can be attached.
fn wait(control: &Path, limit: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + limit;
    let mut said = String::new();
    loop {
        let why = match client::control_status(control) {
            Ok(status) => match status.unready {
                None => return Ok(()),
                Some(why) => why,
            },
            Err(error) => error.to_string(),
        };
        if Instant::now() >= end {
            bail!("no pod could be attached within {} s: {why}", limit.as_secs());
        }
        if why != said {
            // With standard error closed there is nobody to tell.
            let _ = writeln!(io::stderr(), "podrouter: waiting: {why}");
            said = why;
        }
        std::thread::sleep(LOOK);
    }
}

/// Puts a file in the place of another, or of none, as a whole.
fn replace(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let folder = path.parent().ok_or_else(|| anyhow!("{}: is no file's path", path.display()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Runtimes pass over names that begin with a dot and those of other endings.
    let temporary = folder.join(format!(".{name}.{}", std::process::id()));
    let write = || {
        fs::create_dir_all(folder)?;
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    };
    write()
        .inspect_err(|_| drop(fs::remove_file(&temporary)))
        .with_context(|| format!("writing {}", path.display()))
}

fn remove(path: &Path, done: &mut Done) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => done.removed.push(path.to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("removing {}", path.display())),
    }
    Ok(())
}

/// The host's TAP goes with its last descriptor once it is persistent no more; its routes go with it.
fn remove_interface(name: &str, done: &mut Done) -> anyhow::Result<()> {
    // Any socket will do to ask by (netdevice(7)); what /sys shows may be another namespace's.
    let socket = socket(AddressFamily::UNIX, SocketType::DGRAM, None).context("making a socket")?;
    match netdevice::name_to_index(&socket, name) {
        Ok(_) => {}
        Err(Errno::NODEV) => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("looking for the interface {name}")),
    }
    let config = TapConfig { name: name.to_owned(), persistent: false, vnet_hdr: true };
    let gone = Tap::create(&config).and_then(|tap| tap.set_persistent(false));
    gone.with_context(|| format!("removing the interface {name}"))?;
    done.removed.push(PathBuf::from(name));
    Ok(())
}

/// Where the kernel was the way to other nodes, it has routes by devices that stay, rules, and a device for tunnels; podrouter-control
/// marks what is its own by a protocol.
fn remove_ways(done: &mut Done) -> anyhow::Result<()> {
    const OURS: [&str; 2] = ["protocol", "112"];
    const TUNNEL: &str = "podrouter.vxlan";
    // Of the first priority, where `ip rule flush` leaves all alone.
    const MARKED: [&str; 6] = ["pref", "0", "fwmark", "0x1000/0x1000", "lookup", "30113"];
    remove_way(&["link", "show", "dev", TUNNEL, "type", "vxlan"], "", &["link", "del", TUNNEL], done)?;
    for family in ["-4", "-6"] {
        let ip = |what, verb| [&[family, what, verb], &OURS[..]].concat();
        let marked = [&[family, "rule", "del"], &MARKED[..], &OURS[..]].concat();
        remove_way(&ip("rule", "show"), &MARKED[2..].join(" "), &marked, done)?;
        // Rules are all shown, whatever is asked for.
        remove_way(&ip("rule", "show"), "proto 112", &ip("rule", "flush"), done)?;
        remove_way(&ip("route", "show"), "", &ip("route", "flush"), done)?;
    }
    Ok(())
}

/// What `ip` shows, with `sign` in it, is removed.
fn remove_way(show: &[&str], sign: &str, removal: &[&str], done: &mut Done) -> anyhow::Result<()> {
    let ip = |arguments: &[&str]| Command::new("ip").args(arguments).output();
    match ip(show) {
        Ok(there)
            if there.status.success()
                && !there.stdout.is_empty()
                && String::from_utf8_lossy(&there.stdout).contains(sign) => {}
        // Without the program they are looked for by nobody; with none of them there is nothing to do.
        _ => return Ok(()),
    }
    let (command, output) = (removal.join(" "), ip(removal).context("running ip")?);
    if !output.status.success() {
        bail!("ip {command}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    done.removed.push(PathBuf::from(format!("ip {}", show.join(" "))));
    Ok(())
}

/// What the kernel was told of hostPorts. Without the program that tells it, it was told nothing.
fn remove_table(done: &mut Done) -> anyhow::Result<()> {
    let nft = |arguments: &[&str]| Command::new("nft").args(arguments).output();
    let table = ["table", "inet", "podrouter"];
    match nft(&[&["list"], &table[..]].concat()) {
        Ok(there) if there.status.success() => {}
        _ => return Ok(()),
    }
    let output = nft(&[&["delete"], &table[..]].concat()).context("running nft")?;
    if !output.status.success() {
        bail!("removing nftables' table inet podrouter: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    done.removed.push(PathBuf::from("table inet podrouter"));
    Ok(())
}

/// Network configurations of a folder, in the order in which runtimes take them.
pub(crate) fn configurations(folder: &Path) -> anyhow::Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let known = |name: &String| [".conflist", ".conf", ".json"].iter().any(|ending| name.ends_with(ending));
    let mut names: Vec<String> = names.filter(|name| known(name) && !name.starts_with('.')).collect();
    names.sort();
    Ok(names)
}
