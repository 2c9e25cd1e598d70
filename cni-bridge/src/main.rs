//! `podrouter-cni`: what a container runtime runs to attach a pod (CNI 1.1.0).
//!
//! Standard input and environment in, one request to control, JSON on standard output. It keeps nothing but DELs that
//! nobody was there to take, starts no thread and decides nothing about addresses: control does, or the IPAM plug-in that
//! the configuration names. Logs go to standard error alone.

#![forbid(unsafe_code)]

mod check;
mod config;
mod control;
mod device_info;
mod env;
mod error;
mod ipam;
mod netlink;
mod netns;
mod result;

use std::io::{IsTerminal, Read, Write, stderr, stdin, stdout};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use proto::control::{AttachAddresses, AttachPort, AttachRequest, Attached, Request, Response};
use serde_json::Value;

use config::{Config, MAX_CONFIG, NEWEST, Port, Version};
use control::{Control, PATIENCE, STATUS_PATIENCE};
use env::{Attachment, Command, shown};
use error::{Failure, code};
use ipam::Ipam;

fn main() -> ExitCode {
    if let Some(text) = about() {
        return print(&text, proto::exit::OK);
    }
    let input = read_stdin();
    // Also a failure that has nothing to do with the configuration is told in the version that this names.
    let text = input.as_deref().unwrap_or_default();
    let config = input.as_ref().map_err(Failure::clone).and_then(|bytes| decode(bytes));
    let version = config.as_ref().map_or(NEWEST, |config| config.version_text()).to_owned();
    match answer(config, text) {
        Ok(Some(result)) => print(&format!("{result}\n"), proto::exit::OK),
        Ok(None) => ExitCode::from(proto::exit::OK),
        Err(failure) => print(&format!("{}\n", failure.in_version(&version)), proto::exit::FAILURE),
    }
}

/// Serves the command; `None` where the specification wants no output.
fn answer(config: Result<Config, Failure>, text: &[u8]) -> Result<Option<Value>, Failure> {
    let command = env::command()?
        .ok_or_else(|| Failure::new(code::ENVIRONMENT, "CNI_COMMAND is missing from the environment"))?;
    let config = config?;
    match command {
        Command::Version => Ok(Some(result::versions(config.version_text()))),
        Command::Add(attachment, netns) => add(&config, text, attachment, netns).map(Some),
        Command::Del(attachment) => del(&config, text, attachment).map(|()| None),
        Command::Check(attachment, netns) => {
            config.version("CHECK", Version::V0_4_0)?;
            config.name()?;
            let previous = config.previous()?.ok_or_else(|| {
                Failure::new(code::INVALID_CONFIG, "`prevResult` is missing: CHECK compares the pod with it")
            })?;
            let port = known(&config, &attachment)?;
            if let Some(ipam) = delegated(&config, text)? {
                ipam.tell("CHECK")?;
            }
            check::check(&attachment, &netns, port, &previous).map(|()| None)
        }
        Command::Status => {
            config.version("STATUS", Version::V1_1_0)?;
            config.name()?;
            ready(&config)?;
            delegated(&config, text)?.map_or(Ok(()), |ipam| tell(&ipam, "STATUS")).map(|()| None)
        }
        Command::Gc => {
            config.version("GC", Version::V1_1_0)?;
            gc(&config, text).map(|()| None)
        }
    }
}

/// The IPAM plug-in that the configuration delegates to, if it does.
fn delegated<'a>(config: &Config, text: &'a [u8]) -> Result<Option<Ipam<'a>>, Failure> {
    config.ipam()?.map(|kind| Ipam::find(kind, &env::path()?, text)).transpose()
}

/// Tells a delegated plug-in what it may be too old to know: then it has nothing to say.
fn tell(ipam: &Ipam<'_>, command: &str) -> Result<(), Failure> {
    match ipam.tell(command) {
        Err(failure) if matches!(failure.code, code::INCOMPATIBLE_VERSION | code::ENVIRONMENT) => Ok(()),
        other => other,
    }
}

fn add(config: &Config, text: &[u8], attachment: Attachment, netns: PathBuf) -> Result<Value, Failure> {
    // All that can be refused is looked at before anything is made.
    let version = config.version("ADD", Version::V0_3_1)?;
    let network = config.name()?;
    let socket = config.socket()?;
    let port = config.port()?;
    let queue_pairs = config.queue_pairs()?;
    let mtu = config.mtu()?;
    let mut dns = config.dns()?;
    let capabilities = config.capabilities()?;
    let ipam = delegated(config, text)?;
    let mut secondary = config.secondary()?;
    let previous = config.previous()?;
    let args = env::args()?;
    // A vhost-user port is nothing in the namespace, which a VM's may not even be (section 1, "container"). But the pod's
    // annotation may still make it a kernel pod.
    let opened = match port {
        Port { kind: AttachPort::Tap, .. } => Some(netns::open(&netns)?),
        Port { kind: AttachPort::VhostUser, chosen } => netns::open(&netns).ok().filter(|_| !chosen),
    };

    let mut control = Control::connect(&socket, PATIENCE)?;
    let addresses = match &ipam {
        Some(ipam) => {
            let leased = ipam.add()?;
            if dns.is_empty() {
                dns = leased.dns;
            }
            if let Some(network) = secondary.as_mut().filter(|network| network.subnets.is_empty()) {
                network.subnets = leased.subnets;
            }
            AttachAddresses::Given { addresses: leased.addresses }
        }
        None if capabilities.ips.is_empty() => AttachAddresses::Any,
        None => AttachAddresses::Wanted { addresses: capabilities.ips },
    };
    let network_id = secondary.as_ref().map_or(0, |network| network.id);
    let request = Request::Attach(AttachRequest {
        network,
        container: attachment.container,
        interface: attachment.interface.clone(),
        netns: netns.clone(),
        port: port.kind,
        port_chosen: port.chosen,
        device: capabilities.device,
        queue_pairs,
        mtu,
        mac: capabilities.mac.or(args.mac),
        addresses,
        pod: args.pod,
        secondary,
        port_mappings: capabilities.port_mappings,
        bandwidth: capabilities.bandwidth,
    });
    let fds: Vec<_> = opened.iter().map(AsFd::as_fd).collect();
    // DEL follows a failed ADD; but what was leased for nothing goes back at once (section 4, "Delegated plugins").
    let give_back = || {
        if let Some(ipam) = &ipam {
            ipam.give_back();
        }
    };
    let answer = control.ask(&request, &fds).inspect_err(|_| give_back());
    match answer? {
        Response::Attached(attached) => {
            if attached.network_id != network_id {
                undo(&mut control, request);
                give_back();
                return Err(Failure::new(
                    code::PROTOCOL,
                    format!("podrouter-control knows nothing of `networkId`: the pod would have been on network {}", attached.network_id),
                )
                .details("bring podrouter-control to this plug-in's release"));
            }
            if let (Some(file), Some(at)) = (&capabilities.device_info, &attached.socket) {
                device_info::write(file, at).inspect_err(|_| {
                    undo(&mut control, request);
                    give_back();
                })?;
            }
            if let Some(socket) = attached.socket.as_ref().filter(|_| version < Version::V1_1_0) {
                log(&format!("a result of {} cannot tell the socket {}", version.text(), shown(socket)));
            }
            Ok(result::added(version, &attachment.interface, &netns, &attached, dns, previous))
        }
        other => Err(control.out_of_turn("Attach", &other)),
    }
}

/// Takes back an attachment that the pod could not be told of. DEL would do it too; that this fails is for the log alone.
fn undo(control: &mut Control, request: Request) {
    let Request::Attach(AttachRequest { network, container, interface, .. }) = request else { return };
    if let Err(failure) = control.ask(&Request::Detach { network, container, interface }, &[]) {
        log(&failure.msg);
    }
}

/// Needs the network's name and the socket, nothing else: neither namespace, `prevResult` nor the keys of ADD. Addresses are
/// given back last.
fn del(config: &Config, text: &[u8], attachment: Attachment) -> Result<(), Failure> {
    config.version("DEL", Version::V0_3_1)?;
    let network = config.name()?;
    let socket = config.socket()?;
    let Attachment { container, interface } = attachment;
    let request = Request::Detach { network, container, interface };
    match detach(&socket, &request) {
        Err(away) if away.code == code::TRY_AGAIN && !control::answers(&socket) => {
            leave(config, &socket, &request, away)?;
        }
        other => other?,
    }
    match delegated(config, text) {
        Ok(Some(ipam)) => ipam.tell("DEL"),
        Ok(None) => Ok(()),
        // A plug-in that is not there any more gives nothing back, and the pod must be able to end.
        Err(failure) => {
            log(&failure.msg);
            Ok(())
        }
    }
}

fn detach(socket: &Path, request: &Request) -> Result<(), Failure> {
    let mut control = Control::connect(socket, PATIENCE)?;
    match control.ask(request, &[]) {
        Ok(Response::Detached) => Ok(()),
        Ok(other) => Err(control.out_of_turn("Detach", &other)),
        // Nothing to clean up is what DEL is after.
        Err(failure) if failure.code == code::UNKNOWN_CONTAINER => Ok(()),
        Err(failure) => Err(failure),
    }
}

/// Leaves a DEL for control to find when it is back: a pod must be able to end while it is away.
fn leave(config: &Config, socket: &Path, request: &Request, away: Failure) -> Result<(), Failure> {
    let spool = config.spool()?;
    let path = proto::spool::leave(&spool, request).map_err(|error| Failure {
        details: format!("nor could the DEL be left in {}: {error}", shown(&spool)),
        ..away.clone()
    })?;
    log(&format!("{}; the DEL is left as {}", away.msg, shown(&path)));
    // It may have come back just before; then nobody looks for the file for a while.
    if detach(socket, request).is_ok() {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

/// Removes what is stale, goes on over what fails, and tells it at the end.
fn gc(config: &Config, text: &[u8]) -> Result<(), Failure> {
    let network = config.name()?;
    let valid = config.valid_attachments()?;
    let ipam = delegated(config, text)?;
    let mut control = Control::connect(&config.socket()?, PATIENCE)?;
    let mut failures = match control.ask(&Request::Collect { network, valid }, &[])? {
        Response::Collected { failures, .. } => failures,
        other => return Err(control.out_of_turn("Collect", &other)),
    };
    if let Some(ipam) = ipam
        && let Err(failure) = tell(&ipam, "GC")
    {
        failures.push(failure.msg);
    }
    if failures.is_empty() {
        return Ok(());
    }
    Err(Failure::new(code::NOT_COLLECTED, format!("not collected: {}", failures.join("; "))))
}

/// Whether control has the attachment, and the data plane as well; by which kind of port.
fn known(config: &Config, attachment: &Attachment) -> Result<AttachPort, Failure> {
    let network = config.name()?;
    let Attachment { container, interface } = attachment.clone();
    let mut control = Control::connect(&config.socket()?, PATIENCE)?;
    match control.ask(&Request::Check { network, container, interface }, &[])? {
        Response::Attached(Attached { socket: Some(_), .. }) => Ok(AttachPort::VhostUser),
        Response::Attached(_) => Ok(AttachPort::Tap),
        other => Err(control.out_of_turn("Check", &other)),
    }
}

/// Whether control could serve an ADD; if not, why.
fn ready(config: &Config) -> Result<(), Failure> {
    let unready = |failure: Failure| {
        if failure.code == code::TRY_AGAIN {
            Failure { code: code::NOT_AVAILABLE, ..failure }
        } else {
            failure
        }
    };
    let secondary = config.secondary()?.is_some();
    let mut control = Control::connect(&config.socket()?, STATUS_PATIENCE).map_err(unready)?;
    let status = match control.ask(&Request::Status, &[]).map_err(unready)? {
        Response::Status(status) => status,
        other => return Err(control.out_of_turn("Status", &other)),
    };
    match status.unready {
        None if status.connected && status.synced => Ok(()),
        // What there is of the node's podCIDRs is no matter of a network with subnets of its own.
        Some(_) if secondary && status.connected && status.synced => Ok(()),
        // One of the release before says no more than that.
        None => Err(Failure::new(code::NOT_AVAILABLE, "podrouter-control is not ready")
            .details("is podrouter-dataplane running? `podrouter status` tells more")),
        Some(why) => Err(Failure::new(code::NOT_AVAILABLE, why).details("`podrouter status` tells more")),
    }
}

fn decode(bytes: &[u8]) -> Result<Config, Failure> {
    // VERSION is asked without a configuration by runtimes of old.
    let bare =
        bytes.iter().all(u8::is_ascii_whitespace) && matches!(env::command(), Ok(Some(Command::Version)));
    Config::decode(if bare { b"{}" } else { bytes })
}

fn read_stdin() -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    match stdin().lock().take(MAX_CONFIG + 1).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(Failure::new(code::IO, format!("cannot read standard input: {error}"))),
    }
}

/// For people: who runs it by hand, or asks for help, is told what it is.
fn about() -> Option<String> {
    if std::env::var_os("CNI_COMMAND").is_some() {
        return None;
    }
    let title = concat!("podrouter-cni ", env!("CARGO_PKG_VERSION"), "\n");
    match std::env::args_os().nth(1).as_deref().and_then(|argument| argument.to_str()) {
        Some("--version" | "-V") => Some(title.to_owned()),
        Some("--help" | "-h") => Some(format!("{title}{}", include_str!("about.txt"))),
        _ => stdin().is_terminal().then(|| format!("{title}{}", include_str!("about.txt"))),
    }
}

fn print(text: &str, code: u8) -> ExitCode {
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::from(code),
        Err(error) => {
            log(&format!("cannot write to standard output: {error}"));
            ExitCode::from(proto::exit::FAILURE)
        }
    }
}

/// A line on standard error, where the runtime keeps it for people. That it may be closed is no reason to fail.
pub(crate) fn log(line: &str) {
    let _ = writeln!(stderr(), "podrouter-cni: {line}");
}
