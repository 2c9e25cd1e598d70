//! ADD and DEL: the steps from a request to a pod's interface that forwards, and back.
//!
//! What always holds: an attachment that was answered is in the journal and in the committed tables; of one that failed
//! nothing is left, neither device nor address nor record. Detaching takes the rows away first, then the port, then
//! the device, and the address last, so that it is never used again while a row has it.

mod check;

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use desired::Pod;
use proto::control::{
    AttachAddresses, AttachPort, AttachRequest, Attached, AttachmentName, PodName, Request, Secondary,
};
use tap::Tap;

use crate::ipam::{self, IpamError};
use crate::journal::{Attachment, Key, Record, Traits};
use crate::pod::{self, PodError};
use crate::sandbox;
use crate::store::{Claim, Store, Unapplied};

/// Longest wait for the data plane's commit, within what runtimes give a plug-in.
const COMMIT: Duration = Duration::from_secs(10);

/// Longest wait for another request for the same interface.
const TURN: Duration = Duration::from_secs(30);

/// How often DELs that were left while nobody listened are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// Longest socket path (`sun_path`, unix(7), less its closing zero).
const SOCKET_PATH: usize = 107;

/// Most queue pairs of a guest that the data plane serves.
const MOST_QUEUE_PAIRS: u16 = 128;

/// Why an interface was not attached or detached, as CNI's error object has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: u32,
    pub(crate) reason: String,
    pub(crate) details: String,
}

/// CNI's error codes (CNI 1.1.0, section 5), and ours from 100.
pub(crate) mod code {
    pub(crate) const INCOMPATIBLE_VERSION: u32 = 1;
    pub(crate) const UNKNOWN_CONTAINER: u32 = 3;
    pub(crate) const INVALID_ENVIRONMENT: u32 = 4;
    pub(crate) const IO: u32 = 5;
    pub(crate) const DECODE: u32 = 6;
    pub(crate) const INVALID_CONFIG: u32 = 7;
    pub(crate) const TRY_AGAIN_LATER: u32 = 11;
    /// The same network, container and interface are attached already.
    pub(crate) const ATTACHED_ALREADY: u32 = 100;
    /// The namespace has an interface of that name.
    pub(crate) const INTERFACE_EXISTS: u32 = 101;
    /// The kernel refused to make or set up the interface.
    pub(crate) const INTERFACE: u32 = 102;
    /// The data plane refused the port or its rows.
    pub(crate) const DATAPLANE: u32 = 103;
}

fn failure(code: u32, reason: impl Into<String>, details: impl Into<String>) -> Failure {
    Failure { code, reason: reason.into(), details: details.into() }
}

/// Attaches a pod; answers once its traffic is forwarded.
///
/// # Errors
/// Nothing is left behind.
pub(crate) fn attach(
    store: &Store,
    mut request: AttachRequest,
    netns: Option<OwnedFd>,
) -> Result<Attached, Failure> {
    check::request(&request)?;
    let key = Key {
        network: request.network.clone(),
        container: request.container.clone(),
        interface: request.interface.clone(),
    };
    let claim = store.claim(&key, TURN).ok_or_else(|| busy(&key))?;
    if let Some(there) = store.attachment(&key) {
        return Err(failure(
            code::ATTACHED_ALREADY,
            format!("{key} is attached already, as port {}", there.port),
            "DEL it first",
        ));
    }
    let again = |reason: String| failure(code::TRY_AGAIN_LATER, reason, "");
    if let Some(trouble) = store.trouble() {
        return Err(again(trouble));
    }
    check::host_ports(store, &request)?;
    let pod = known_pod(store, &request)?;
    if let Some(pod) = &pod {
        choose_port(pod, &mut request)?;
    }
    let network_id = request.network_id();
    let addresses = addresses(store, &request)?;
    let traits = pod.as_ref().map(Traits::from).unwrap_or_default();
    let attachment = draw_up(store, request, &claim, &addresses, traits);
    let result =
        attachment.and_then(|attachment| put_in_force(store, &attachment, netns).map(|()| attachment));
    match result {
        Ok(attachment) => {
            tracing::info!("{key}: attached as {} ({})", attachment.endpoint, attachment.port);
            Ok(attachment.attached)
        }
        Err(failure) => {
            // What got as far as the tables is held back already.
            store.free(network_id, &addresses);
            tracing::warn!("{key}: not attached: {}", failure.reason);
            Err(failure)
        }
    }
}

/// The pod, as far as the cluster tells. Without its labels nobody knows which NetworkPolicies are for it: where any may be, it is not
/// attached, so that nothing passes which one forbids.
fn known_pod(store: &Store, request: &AttachRequest) -> Result<Option<Pod>, Failure> {
    let again = |reason: String| failure(code::TRY_AGAIN_LATER, reason, "");
    let Some(name) = &request.pod else { return Ok(None) };
    // They are for the pods' own network alone.
    if request.secondary.is_none() && store.policies_wait(&name.namespace) {
        return Err(again(format!(
            "NetworkPolicies of namespace {} wait until the pods that they speak of are known",
            name.namespace
        )));
    }
    let why = match store.pod(name) {
        Ok(Some(pod)) => return Ok(Some(pod)),
        Ok(None) => "there is no such pod".to_owned(),
        Err(why) => why,
    };
    let PodName { namespace, name, .. } = name;
    if request.secondary.is_none() && store.may_be_policed(namespace) {
        return Err(again(format!(
            "pod {namespace}/{name} is not known, so that nobody can tell which of its namespace's \
             NetworkPolicies are for it: {why}"
        )));
    }
    tracing::info!("pod {namespace}/{name} is not known: {why}; as if it had neither labels nor annotations");
    Ok(None)
}

/// Has the pod's annotations choose the port, unless the runtime did.
fn choose_port(pod: &Pod, request: &mut AttachRequest) -> Result<(), Failure> {
    let Some(name) = request.pod.as_ref().filter(|_| !request.port_chosen) else { return Ok(()) };
    let wish = |text: &Option<Box<str>>| wish(text.as_deref()?, &request.interface).map(str::to_owned);
    let (port, pairs) = (wish(&pod.port), wish(&pod.queue_pairs));
    let bad = |annotation: &str, value: &str, rule: &str| {
        let reason =
            format!("pod {}/{}: annotation {annotation}: `{value}`: {rule}", name.namespace, name.name);
        failure(code::INVALID_CONFIG, reason, "mend the annotation, and make the pod anew")
    };
    if let Some(port) = port {
        request.port = match port.as_str() {
            "tap" => AttachPort::Tap,
            "vhost-user" => AttachPort::VhostUser,
            other => return Err(bad(desired::PORT, other, "write `tap` or `vhost-user`")),
        };
        if request.port == AttachPort::Tap {
            request.queue_pairs = None;
        }
    }
    if let Some(pairs) = pairs.filter(|_| request.port == AttachPort::VhostUser) {
        let number = pairs.parse().ok().filter(|pairs| (1..=MOST_QUEUE_PAIRS).contains(pairs));
        let rule = format!("write a number from 1 to {MOST_QUEUE_PAIRS}");
        request.queue_pairs = Some(number.ok_or_else(|| bad(desired::QUEUE_PAIRS, &pairs, &rule))?);
    }
    Ok(())
}

/// What an annotation says of an interface: what it says of it by name, else what it says of all.
fn wish<'a>(annotation: &'a str, interface: &str) -> Option<&'a str> {
    let parts = || annotation.split(',').map(str::trim).filter(|part| !part.is_empty());
    let named = parts().filter_map(|part| part.split_once('=')).find(|(own, _)| own.trim() == interface);
    named.map(|(_, value)| value.trim()).or_else(|| parts().find(|part| !part.contains('=')))
}

/// A pod's addresses, taken.
fn addresses(store: &Store, request: &AttachRequest) -> Result<Vec<IpAddr>, Failure> {
    let network_id = request.network_id();
    let refused = |error: IpamError| {
        let code = if error.may_pass() { code::TRY_AGAIN_LATER } else { code::INVALID_CONFIG };
        failure(code, error.to_string(), "")
    };
    let again = |reason: String| failure(code::TRY_AGAIN_LATER, reason, "");
    let wanted = match &request.addresses {
        AttachAddresses::Given { addresses } => {
            store.take_addresses(network_id, addresses).map_err(refused)?;
            return Ok(addresses.clone());
        }
        AttachAddresses::Wanted { addresses } => addresses.as_slice(),
        AttachAddresses::Any => &[],
    };
    if let Some(Secondary { id, subnets }) = &request.secondary {
        return store.allocate(*id, wanted, subnets, &[]).map_err(refused);
    }
    let plan = store.plan().ok_or_else(|| again("the cluster was not read yet".to_owned()))?;
    if plan.desired.own_cidrs.is_empty() {
        return Err(again(format!(
            "Node {} has no usable spec.podCIDRs: see `podrouter status`",
            store.config.node
        )));
    }
    let reserved = store.reserved(&plan);
    store.allocate(0, wanted, &plan.desired.own_cidrs, &reserved).map_err(refused)
}

/// Detaches all of a network's attachments but `valid`; gives how many, and which could not be, and why.
pub(crate) fn collect(store: &Store, network: &str, valid: &[AttachmentName]) -> (u32, Vec<String>) {
    let is_valid = |key: &Key| {
        valid.iter().any(|own| (&own.container, &own.interface) == (&key.container, &key.interface))
    };
    let keys = store.attachments().into_iter().map(|own| own.key());
    let stale: Vec<Key> = keys.filter(|key| key.network == network && !is_valid(key)).collect();
    let (mut removed, mut failures) = (0, Vec::new());
    for key in stale {
        match detach(store, &key) {
            Ok(()) => removed += 1,
            Err(failure) => failures.push(format!("{key}: {}", failure.reason)),
        }
    }
    (removed, failures)
}

/// Detaches what DELs were left for while nobody was here to take them; gives how many.
pub(crate) fn take_left(store: &Store, spool: &Path) -> usize {
    let left = match proto::spool::left(spool) {
        Ok(left) => left,
        Err(error) => {
            tracing::warn!("{}: {error}: DELs that were left there are not seen to", spool.display());
            return 0;
        }
    };
    let mut taken = 0;
    for (path, read) in left {
        let key = match read {
            Ok(Request::Detach { network, container, interface }) => Key { network, container, interface },
            Ok(_) | Err(_) => {
                let kept = path.with_extension("damaged");
                tracing::warn!("{}: is no DEL that was left; kept as {}", path.display(), kept.display());
                let _ = std::fs::rename(&path, kept);
                continue;
            }
        };
        match detach(store, &key) {
            // Should it not go away, the DEL is carried out again, which changes nothing.
            Ok(()) => drop(std::fs::remove_file(&path)),
            Err(failure) => tracing::warn!("{key}: {}; its DEL is tried again", failure.reason),
        }
        taken += 1;
    }
    taken
}

/// Looks for DELs that were left, for good: one may have been left just when we began to listen.
pub(crate) fn follow_left(store: &Store, spool: &Path) {
    loop {
        std::thread::sleep(LOOK);
        take_left(store, spool);
    }
}

/// What ADD answered, if it is still in force.
///
/// # Errors
/// It is not attached, or the data plane does not have it.
pub(crate) fn check_attached(store: &Store, key: &Key) -> Result<Attached, Failure> {
    let unknown = || failure(code::UNKNOWN_CONTAINER, format!("{key} is not attached"), "");
    let attachment = store.attachment(key).ok_or_else(unknown)?;
    if let Some(trouble) = store.trouble() {
        return Err(failure(code::TRY_AGAIN_LATER, trouble, ""));
    }
    match store.wait_applied(store.revision(), Some(&attachment.port), COMMIT) {
        Ok(()) => Ok(attachment.attached),
        Err(Unapplied::Refused(reason)) => {
            Err(failure(code::DATAPLANE, format!("port {}: {reason}", attachment.port), ""))
        }
        Err(reason @ Unapplied::Late(_)) => Err(failure(code::TRY_AGAIN_LATER, reason.to_string(), "")),
    }
}

/// Detaches a pod; what is not attached is no fault.
///
/// # Errors
/// The journal could not be written; asked again, it succeeds.
pub(crate) fn detach(store: &Store, key: &Key) -> Result<(), Failure> {
    let _claim = store.claim(key, TURN).ok_or_else(|| busy(key))?;
    let Some(attachment) = store.attachment(key) else {
        // A DEL whose record could not be written is asked again.
        return store.settle().map_err(|error| failure(code::IO, error.to_string(), "see --state-dir"));
    };
    let written = take_down(store, &attachment, true);
    store.count(|counted| counted.detached += 1);
    tracing::info!("{key}: detached ({})", attachment.port);
    written
}

fn busy(key: &Key) -> Failure {
    failure(code::TRY_AGAIN_LATER, format!("another request for {key} is under way"), "")
}

/// Everything about an attachment, before anything is made.
fn draw_up(
    store: &Store,
    request: AttachRequest,
    claim: &Claim<'_>,
    addresses: &[IpAddr],
    traits: Traits,
) -> Result<Attachment, Failure> {
    let port = port_name(claim.key());
    if store.attachment_of(&port).is_some() {
        let reason = format!("another attachment's port has the name {port} too");
        return Err(failure(code::DATAPLANE, reason, "use another container id"));
    }
    let names = match &request.pod {
        // The first one is for an interface of the pods' own network. A pod with more of them, or whose sandbox is made anew, is
        // there several times.
        Some(PodName { namespace, name, .. }) => {
            let further = [&request.interface, &port].map(|which| format!("{namespace}/{name}@{which}"));
            let first = request.secondary.is_none().then(|| format!("{namespace}/{name}"));
            first.into_iter().chain(further).collect()
        }
        None => vec![port.clone()],
    };
    let endpoint = store.name_endpoint(claim, &names).ok_or_else(|| {
        failure(
            code::DATAPLANE,
            format!("another endpoint has the name {}", names.join(" or ")),
            "DEL it first",
        )
    })?;
    let socket = match request.port {
        AttachPort::Tap if let Some(device) = &request.device => {
            let reason = format!("deviceID `{device}` is for a vhost-user pod, and this is a kernel pod");
            return Err(failure(
                code::INVALID_CONFIG,
                reason,
                "choose port vhost-user, or ask for no device",
            ));
        }
        AttachPort::Tap => None,
        AttachPort::VhostUser => Some(socket_folder(store, &request)?.join(format!("{port}.sock"))),
    };
    if let Some(path) = socket.as_deref().filter(|path| path.as_os_str().len() > SOCKET_PATH) {
        let reason = format!("the socket's path {} is longer than {SOCKET_PATH} bytes", path.display());
        return Err(failure(
            code::INVALID_CONFIG,
            reason,
            "start podrouter-control with a shorter --vhost-dir",
        ));
    }
    let network_id = request.network_id();
    let routes = pod::routes(addresses, &store.config.router, request.secondary.as_ref());
    let attached = Attached {
        mac: request.mac.unwrap_or_else(|| ipam::mac_of(network_id, addresses)),
        network_id,
        mtu: request.mtu.unwrap_or(store.config.mtu),
        addresses: addresses.to_vec(),
        gateways: pod::gateways(addresses, &store.config.router),
        routes,
        socket,
    };
    Ok(Attachment { request, port, endpoint, attached, traits })
}

/// Where a vhost-user pod's socket is: a device plug-in makes a folder for a pod and mounts it there, and names it by `deviceID`.
fn socket_folder(store: &Store, request: &AttachRequest) -> Result<PathBuf, Failure> {
    let Some(device) = &request.device else { return Ok(store.config.vhost_dir.clone()) };
    let mut parts = Path::new(device).components();
    let is_name = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    let folder = store.config.vhost_dir.join(device);
    if is_name && folder.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        return Ok(folder);
    }
    let reason = format!("deviceID `{device}`: {} is no directory", folder.display());
    Err(failure(
        code::INVALID_CONFIG,
        reason,
        "whoever gives the device makes it, before the pod is attached",
    ))
}

/// Device, journal, data plane; whichever fails, those before it are undone.
fn put_in_force(store: &Store, attachment: &Attachment, netns: Option<OwnedFd>) -> Result<(), Failure> {
    let tap = match attachment.request.port {
        AttachPort::Tap => Some(make_tap(attachment, netns.as_ref())?),
        AttachPort::VhostUser => None,
    };
    // Until it is in the journal, the device goes with its descriptor: a process that dies here leaves nothing.
    store
        .write(&Record::Attach(Box::new(attachment.clone())))
        .map_err(|error| failure(code::IO, error.to_string(), "see --state-dir"))?;
    let lasting = tap.as_ref().map_or(Ok(()), |tap| tap.set_persistent(true));
    let revision = store.insert(attachment.clone(), tap);
    if let Some(netns) = &netns {
        sandbox::watch(store, attachment, netns.as_fd());
    }
    let (code, reason, in_time) = match lasting {
        Err(error) => (code::INTERFACE, error.to_string(), true),
        Ok(()) => match store.wait_applied(revision, Some(&attachment.port), COMMIT) {
            Ok(()) => return Ok(()),
            Err(reason @ Unapplied::Refused(_)) => (code::DATAPLANE, reason.to_string(), true),
            // One that hangs, or went away meanwhile, may be back for the next attempt.
            Err(reason @ Unapplied::Late(_)) => (code::TRY_AGAIN_LATER, reason.to_string(), false),
        },
    };
    let undone = take_down(store, attachment, in_time);
    let details = undone.err().map(|failure| failure.reason).unwrap_or_default();
    Err(failure(code, format!("port {}: {reason}", attachment.port), details))
}

fn make_tap(attachment: &Attachment, netns: Option<&OwnedFd>) -> Result<Tap, Failure> {
    let request = &attachment.request;
    let path = request.netns.display();
    let netns = netns.ok_or_else(|| {
        failure(
            code::INVALID_ENVIRONMENT,
            format!("no descriptor of CNI_NETNS `{path}` came with the request"),
            "",
        )
    })?;
    pod::make(netns.as_fd(), &request.interface, &attachment.attached).map_err(|error| {
        let code = match error {
            PodError::Exists(_) => code::INTERFACE_EXISTS,
            PodError::Reached { .. } => code::INVALID_CONFIG,
            PodError::Gone(_) | PodError::Tap(_) | PodError::Netlink { .. } => code::INTERFACE,
        };
        failure(code, error.to_string(), format!("CNI_NETNS {path}"))
    })
}

/// Rows, port, device, record, address. With `wait`, only once the data plane has let go.
fn take_down(store: &Store, attachment: &Attachment, wait: bool) -> Result<(), Failure> {
    let key = attachment.key();
    let revision = store.remove(&key);
    // A data plane that is away or hangs gets the removal later, in the transaction that may use the address anew; and
    // a port of the same name on a new device is made anew.
    if wait
        && store.is_connected()
        && let Err(reason) = store.wait_applied(revision, None, COMMIT)
    {
        tracing::warn!("{key}: the data plane still has it: {reason}");
    }
    let tap = store.let_go(&attachment.port);
    if attachment.request.port == AttachPort::Tap {
        pod::remove(tap.as_deref(), attachment);
    }
    let record = Record::detach(key);
    let written = store.write(&record);
    store.release(attachment);
    written.map_err(|error| {
        store.write_later(record);
        failure(code::IO, error.to_string(), "see --state-dir")
    })
}

/// Releases a kernel pod whose sandbox went away, unless it was detached meanwhile or is there after all.
pub(crate) fn release_gone(store: &Store, key: &Key, gone: impl FnOnce(&Attachment) -> bool) {
    let Some(_claim) = store.claim(key, TURN) else { return };
    let Some(attachment) = store.attachment(key).filter(gone) else { return };
    let path = attachment.request.netns.display();
    tracing::warn!("{key}: {path} is gone and no DEL came; released");
    store.count(|counted| counted.detached += 1);
    if let Err(failure) = take_down(store, &attachment, true) {
        tracing::warn!("{key}: {}", failure.reason);
    }
}

/// At start: opens again what can be opened, and lets go of kernel pods whose namespace is no more (the node was booted
/// anew). What another process holds, the data plane duplicates later.
pub(crate) fn restore(store: &Store) {
    for attachment in store.attachments() {
        let attachment = with_mtu_of_now(store, attachment);
        if attachment.request.port != AttachPort::Tap {
            continue;
        }
        let path: &Path = &attachment.request.netns;
        if !path.exists() {
            tracing::info!("{}: {} is gone; released", attachment.key(), path.display());
            if let Err(failure) = take_down(store, &attachment, true) {
                tracing::warn!("{}: {}", attachment.key(), failure.reason);
            }
            continue;
        }
        let opened = tap::netns::open_netns(path).map_err(|error| error.to_string()).and_then(|netns| {
            let tap = match pod::restore(netns.as_fd(), &attachment.request.interface, &attachment.attached) {
                Ok(tap) => Some(tap),
                Err(error) if error.is_busy() => {
                    pod::set_mtu(netns.as_fd(), &attachment.request.interface, &attachment.attached)
                        .map_err(|error| error.to_string())?;
                    None
                }
                Err(error) => return Err(error.to_string()),
            };
            sandbox::watch(store, &attachment, netns.as_fd());
            Ok(tap)
        });
        match opened {
            Ok(Some(tap)) => store.keep_tap(&attachment.port, tap, None),
            Ok(None) => {}
            Err(error) => tracing::warn!("{}: {error}", attachment.key()),
        }
    }
}

/// A pod that asked for no MTU has what the uplink allows, also where that is another than when it was attached.
fn with_mtu_of_now(store: &Store, mut attachment: Attachment) -> Attachment {
    let mtu = attachment.request.mtu.unwrap_or(store.config.mtu);
    if attachment.attached.mtu == mtu {
        return attachment;
    }
    tracing::info!("{}: its MTU was {}, and is {mtu} now", attachment.key(), attachment.attached.mtu);
    attachment.attached.mtu = mtu;
    if let Err(error) = store.write(&Record::Attach(Box::new(attachment.clone()))) {
        // The next start finds it as it was, and does the same.
        tracing::warn!("{}: {error}", attachment.key());
    }
    store.insert(attachment.clone(), None);
    attachment
}

/// `p` and 12 hexadecimal digits of a hash of the key: the same in every release, short enough for a socket's path.
fn port_name(key: &Key) -> String {
    // A byte that no name holds keeps apart `a`, `bc` and `ab`, `c`.
    let parts = [&key.network, &key.container, &key.interface];
    let hash = proto::fnv1a(parts.iter().flat_map(|part| part.bytes().chain([0xff])));
    format!("p{:012x}", hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(network: &str, container: &str, interface: &str) -> Key {
        Key { network: network.into(), container: container.into(), interface: interface.into() }
    }

    #[test]
    fn port_names_are_short_and_stay_as_they_are() {
        let name = port_name(&key("pods", "abc", "eth0"));
        assert_eq!(name, "p4a30a33f2925");
        assert_ne!(port_name(&key("a", "bc", "eth0")), port_name(&key("ab", "c", "eth0")));
    }

    #[test]
    fn an_annotation_speaks_of_all_interfaces_or_of_one() {
        for (annotation, interface, expected) in [
            ("vhost-user", "eth0", Some("vhost-user")),
            ("net1=vhost-user", "eth0", None),
            ("net1=vhost-user, tap", "eth0", Some("tap")),
            ("tap , net1 = vhost-user", "net1", Some("vhost-user")),
            ("", "eth0", None),
            (",", "eth0", None),
            ("eth0=", "eth0", Some("")),
        ] {
            assert_eq!(wish(annotation, interface), expected, "{annotation}");
        }
    }
}
