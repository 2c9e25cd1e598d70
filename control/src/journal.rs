//! The attachments of this node on disk: an append-only file of one JSON record a line.
//!
//! What always holds: a record is fsynced before `append` returns, so what was answered is there after any crash; a
//! torn last line was never answered and is cut off; a damaged line costs itself and no other. At start the file is
//! rewritten with what still holds (temporary file, rename, fsync of the directory).
//! Its records are a contract with later releases: fields may be added, none may change its meaning.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use desired::{NamedPort, Pod};
use proto::control::{AttachRequest, Attached};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::ipam::HOLD;

/// What an attachment is found by: network, container, interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Key {
    pub(crate) network: String,
    pub(crate) container: String,
    pub(crate) interface: String,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.network, self.container, self.interface)
    }
}

/// A pod's interface: what was asked, what was answered, and what it is called in the data plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attachment {
    pub(crate) request: AttachRequest,
    pub(crate) port: String,
    pub(crate) endpoint: String,
    pub(crate) attached: Attached,
    /// What NetworkPolicies go by while the cluster does not have the pod.
    #[serde(default, skip_serializing_if = "Traits::is_empty")]
    pub(crate) traits: Traits,
}

/// Of a pod, as the cluster had it when it was attached, or when it lost it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Traits {
    pub(crate) labels: BTreeMap<String, String>,
    /// Name, protocol and number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ports: Vec<(String, String, u16)>,
}

impl Traits {
    fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.ports.is_empty()
    }
}

impl From<&Pod> for Traits {
    fn from(pod: &Pod) -> Self {
        let labels = pod.labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let port = |own: &NamedPort| (own.name.to_string(), own.protocol.to_string(), own.port);
        Self { labels, ports: pod.named_ports.iter().map(port).collect() }
    }
}

impl Attachment {
    pub(crate) fn key(&self) -> Key {
        let AttachRequest { network, container, interface, .. } = self.request.clone();
        Key { network, container, interface }
    }

    /// Where its addresses are; 0: the pods' own network.
    pub(crate) fn network_id(&self) -> u16 {
        self.request.network_id()
    }
}

/// A line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub(crate) enum Record {
    Attach(Box<Attachment>),
    Detach {
        #[serde(flatten)]
        key: Key,
        /// When, in seconds since the boot: its addresses are held back for a while.
        #[serde(default)]
        at: u64,
    },
    /// What its pod was like when the cluster lost it.
    Traits {
        #[serde(flatten)]
        key: Key,
        traits: Traits,
    },
    /// Addresses of a network that were given last, one a family, kept when the attachments that had them are gone from the file.
    Last {
        #[serde(default, skip_serializing_if = "is_pods_own")]
        network_id: u16,
        addresses: Vec<IpAddr>,
        /// The boot from which the times in this file count; the kernel's own id of it.
        #[serde(default)]
        boot: String,
    },
    /// Addresses of a network that are held back, and when each was released.
    Released {
        #[serde(default, skip_serializing_if = "is_pods_own")]
        network_id: u16,
        addresses: Vec<(IpAddr, u64)>,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks it")]
const fn is_pods_own(network_id: &u16) -> bool {
    *network_id == 0
}

impl Record {
    pub(crate) fn detach(key: Key) -> Self {
        Self::Detach { key, at: seconds() }
    }
}

/// Since the boot, asleep or awake: the clock on the wall may be set to anything at any time.
fn seconds() -> u64 {
    u64::try_from(clock_gettime(ClockId::Boottime).tv_sec).unwrap_or(0)
}

/// Tells this boot from any other; empty where the kernel does not say.
fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// What the records come to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct History {
    /// In the order in which they were attached.
    pub(crate) attachments: Vec<Attachment>,
    /// By network.
    addresses: BTreeMap<u16, Past>,
    /// From which those count.
    boot: String,
    /// What could not be read, each naming file and line.
    pub(crate) problems: Vec<String>,
}

/// What became of a network's addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Past {
    /// Given last, one a family.
    last: Vec<IpAddr>,
    /// Released, and when, in seconds since the boot.
    released: Vec<(IpAddr, u64)>,
}

/// The journal could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("journal {}: {operation}: {source}", path.display())]
pub(crate) struct JournalError {
    path: PathBuf,
    operation: &'static str,
    source: io::Error,
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    /// Bytes that are known to be whole lines.
    length: u64,
    /// There may be half a line after them, which could not be cut off yet.
    torn: bool,
    /// Records that could not be written; they go before the next one.
    deferred: Vec<Record>,
}

/// The file's name in the state directory.
const NAME: &str = "attachments.journal";

impl Journal {
    /// Reads the journal in `dir`, rewrites it with what still holds, and opens it for appending. A file with damaged
    /// lines is kept beside it under a name that ends in `.damaged`.
    ///
    /// # Errors
    /// The directory or file cannot be read or written. Nothing is lost then.
    pub(crate) fn open(dir: &Path) -> Result<(Self, History), JournalError> {
        let path = dir.join(NAME);
        let wrap = |operation| {
            let path = path.clone();
            move |source| JournalError { path: path.clone(), operation, source }
        };
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(wrap("reading it")(error)),
        };
        let mut history = replay(&path, &text);
        if !history.problems.is_empty() {
            let kept = dir.join(format!("{NAME}.damaged"));
            std::fs::copy(&path, &kept).map_err(wrap("keeping a copy of the damaged file"))?;
            history.problems.push(format!(
                "{}: the damaged file is kept as {}; detach and attach again what is missing",
                path.display(),
                kept.display()
            ));
        }
        history.forget(&boot(), seconds());
        let temporary = dir.join(format!("{NAME}.new"));
        let mut lines = Vec::new();
        for record in history.records() {
            lines.extend(line(&record).map_err(wrap("writing it anew"))?);
        }
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(&lines)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            File::open(dir)?.sync_all()?;
            OpenOptions::new().append(true).open(&path)
        };
        let file = write().map_err(wrap("writing it anew"))?;
        let length = lines.len() as u64;
        Ok((Self { path, file, length, torn: false, deferred: Vec::new() }, history))
    }

    /// Writes a record, and those deferred before it, to the disk itself.
    ///
    /// # Errors
    /// The disk is full or broken; the file is then as it was before.
    pub(crate) fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        self.append_all(Some(record))
    }

    /// Writes the deferred records.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub(crate) fn settle(&mut self) -> Result<(), JournalError> {
        if self.deferred.is_empty() { Ok(()) } else { self.append_all(None) }
    }

    fn append_all(&mut self, record: Option<&Record>) -> Result<(), JournalError> {
        let mut lines = Vec::new();
        let result = self.deferred.iter().chain(record).try_for_each(|record| {
            lines.extend(line(record)?);
            Ok(())
        });
        let result = result.and_then(|()| {
            // Half a line in the middle would cost the next record.
            if self.torn {
                self.file.set_len(self.length)?;
            }
            self.torn = true;
            self.file.write_all(&lines)?;
            self.file.sync_data()
        });
        match result {
            Ok(()) => {
                self.length += lines.len() as u64;
                self.torn = false;
                self.deferred.clear();
                Ok(())
            }
            Err(source) => {
                self.torn = self.file.set_len(self.length).is_err();
                Err(JournalError { path: self.path.clone(), operation: "appending a record", source })
            }
        }
    }

    /// Remembers a record that could not be written but holds all the same.
    pub(crate) fn defer(&mut self, record: Record) {
        self.deferred.push(record);
    }
}

fn line(record: &Record) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    Ok(line)
}

fn replay(path: &Path, text: &[u8]) -> History {
    let mut history = History::default();
    // What follows the last line feed is a record that was never answered.
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    for (i, line) in text[..whole].split(|byte| *byte == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        match serde_json::from_slice(line) {
            Ok(record) => history.apply(record),
            Err(error) => history.problems.push(format!(
                "{}: line {}: {error}; the line is left out",
                path.display(),
                i + 1
            )),
        }
    }
    history
}

impl History {
    fn apply(&mut self, record: Record) {
        match record {
            Record::Attach(attachment) => {
                self.past(attachment.network_id()).remember(&attachment.attached.addresses);
                let key = attachment.key();
                self.attachments.retain(|other| other.key() != key);
                self.attachments.push(*attachment);
            }
            Record::Detach { key, at } => {
                for gone in self.attachments.extract_if(.., |other| other.key() == key) {
                    let past = self.addresses.entry(gone.network_id()).or_default();
                    past.released.extend(gone.attached.addresses.iter().map(|own| (*own, at)));
                }
            }
            Record::Traits { key, traits } => {
                if let Some(own) = self.attachments.iter_mut().find(|own| own.key() == key) {
                    own.traits = traits;
                }
            }
            Record::Last { network_id, addresses, boot } => {
                self.past(network_id).remember(&addresses);
                self.boot = boot;
            }
            Record::Released { network_id, addresses } => self.past(network_id).released.extend(addresses),
        }
    }

    /// What comes to the same. What was given last stands behind the attachments, each of which was last when it was made.
    fn records(&self) -> impl Iterator<Item = Record> {
        let attachments = self.attachments.iter().map(|own| Record::Attach(Box::new(own.clone())));
        let past = self.addresses.iter();
        let released = past.filter(|(_, past)| !past.released.is_empty());
        let released = released
            .map(|(&network_id, past)| Record::Released { network_id, addresses: past.released.clone() });
        let last = self.addresses.iter().map(|(&network_id, past)| Record::Last {
            network_id,
            addresses: past.last.clone(),
            boot: self.boot.clone(),
        });
        attachments.chain(released).chain(last)
    }

    /// Lets go of addresses that were released long ago. The times of another boot count as if it had ended with the newest of
    /// them: how long that is ago, no clock tells that could not have been set since.
    fn forget(&mut self, boot: &str, now: u64) {
        let is_another = boot.is_empty() || self.boot != boot;
        let all = self.addresses.values().flat_map(|past| &past.released);
        let end = all.map(|(_, at)| *at).max().unwrap_or(0);
        for Past { released, .. } in self.addresses.values_mut() {
            if is_another {
                released.retain(|(_, at)| end - at < HOLD.as_secs());
                for (_, at) in &mut *released {
                    *at = now.saturating_sub(end - *at);
                }
            }
            released.retain(|(_, at)| now.saturating_sub(*at) < HOLD.as_secs());
        }
        boot.clone_into(&mut self.boot);
        // Its record tells the boot, also where nothing was given yet.
        self.past(0);
    }

    /// The addresses of each network: given last, one a family; and released, with the time for which each is yet to be held back.
    pub(crate) fn networks(
        &self,
    ) -> impl Iterator<Item = (u16, &[IpAddr], impl Iterator<Item = (IpAddr, Duration)>)> {
        let now = seconds();
        self.addresses.iter().map(move |(&network_id, past)| {
            let left = move |at| HOLD.saturating_sub(Duration::from_secs(now.saturating_sub(at)));
            let held = past.released.iter().map(move |&(address, at)| (address, left(at)));
            (network_id, past.last.as_slice(), held)
        })
    }

    fn past(&mut self, network_id: u16) -> &mut Past {
        self.addresses.entry(network_id).or_default()
    }
}

impl Past {
    fn remember(&mut self, addresses: &[IpAddr]) {
        for &address in addresses {
            self.last.retain(|other| other.is_ipv4() != address.is_ipv4());
            self.last.push(address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::control::{AttachAddresses, AttachPort, PodName, Secondary};

    fn attachment(n: u8) -> Attachment {
        Attachment {
            request: AttachRequest {
                network: "pods".into(),
                container: format!("c{n}"),
                interface: "eth0".into(),
                netns: "/run/netns/é".into(),
                port: AttachPort::Tap,
                port_chosen: false,
                device: None,
                queue_pairs: None,
                mtu: None,
                mac: None,
                addresses: AttachAddresses::Any,
                pod: Some(PodName { namespace: "shop".into(), name: "line\nfeed".into(), uid: None }),
                bandwidth: None,
                secondary: None,
                port_mappings: vec![],
            },
            port: format!("p{n}"),
            endpoint: format!("shop/{n}"),
            attached: Attached {
                mac: wire::MacAddr([2, 0, 0, 0, 0, n]),
                mtu: 1500,
                addresses: vec![IpAddr::from([10, 0, 0, n])],
                gateways: vec![],
                routes: vec![],
                network_id: 0,
                socket: None,
            },
            traits: Traits {
                labels: [("app".to_owned(), format!("{n}"))].into_iter().take(usize::from(n)).collect(),
                ports: vec![],
            },
        }
    }

    /// The same addresses on another network.
    fn secondary(n: u8, id: u16) -> Attachment {
        let mut own = attachment(n);
        own.request.interface = format!("net{id}");
        own.request.secondary = Some(Secondary { id, subnets: vec![] });
        own
    }

    /// Few keys, so that they are attached and detached again and again.
    fn records() -> impl Strategy<Value = Vec<Record>> {
        let record = (0u8..4, 0u8..3, any::<bool>()).prop_map(|(n, what, elsewhere)| {
            let at = seconds() - u64::from(n);
            let own = if elsewhere { secondary(n, 7) } else { attachment(n) };
            let traits = || Traits { labels: [("n".to_owned(), n.to_string())].into(), ports: vec![] };
            match what {
                0 => Record::Attach(Box::new(own)),
                1 => Record::Traits { key: own.key(), traits: traits() },
                _ => Record::Detach { key: own.key(), at },
            }
        });
        proptest::collection::vec(record, 0..12)
    }

    fn history(records: &[Record]) -> History {
        let mut history = History::default();
        for record in records {
            history.apply(record.clone());
        }
        history
    }

    fn reopen(dir: &Path) -> History {
        Journal::open(dir).unwrap().1
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn cut_anywhere_it_is_a_prefix_of_the_history(records in records()) {
            let dir = tempfile::tempdir().unwrap();
            let (mut journal, _) = Journal::open(dir.path()).unwrap();
            let path = dir.path().join(NAME);
            let mut ends = vec![std::fs::metadata(&path).unwrap().len()];
            for record in &records {
                journal.append(record).unwrap();
                ends.push(std::fs::metadata(&path).unwrap().len());
            }
            let bytes = std::fs::read(&path).unwrap();
            for cut in 0..=bytes.len() {
                let whole = ends.iter().filter(|end| **end <= cut as u64).count().saturating_sub(1);
                let mut expected = history(&records[..whole]);
                if cut as u64 >= ends[0] {
                    expected.past(0);
                    expected.boot = boot();
                }
                prop_assert_eq!(replay(&path, &bytes[..cut]), expected, "cut at {}", cut);
            }
            // And once through the file system: cut, opened, appended to, opened again.
            let cut = bytes.len() * 2 / 3;
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let (mut journal, before) = Journal::open(dir.path()).unwrap();
            journal.append(&Record::Attach(Box::new(attachment(9)))).unwrap();
            let mut expected = before;
            expected.apply(Record::Attach(Box::new(attachment(9))));
            prop_assert_eq!(reopen(dir.path()), expected);
        }
    }

    #[test]
    fn a_damaged_line_is_named_and_costs_itself_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        let (mut journal, _) = Journal::open(dir.path()).unwrap();
        for n in 1..=3 {
            journal.append(&Record::Attach(Box::new(attachment(n)))).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let damaged = text.replace("\"port\":\"p2\"", "\"port\":7");
        assert_ne!(text, damaged);
        std::fs::write(&path, &damaged).unwrap();
        let found = reopen(dir.path());
        assert_eq!(found.attachments, [attachment(1), attachment(3)]);
        assert!(found.problems[0].contains("attachments.journal: line 3:"), "{:?}", found.problems);
        assert_eq!(std::fs::read_to_string(dir.path().join("attachments.journal.damaged")).unwrap(), damaged);
        assert_eq!(reopen(dir.path()).problems, Vec::<String>::new());
    }

    #[test]
    fn what_is_detached_leaves_only_the_place_where_the_search_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path()).unwrap();
        journal.append(&Record::Attach(Box::new(attachment(1)))).unwrap();
        journal.defer(Record::Detach { key: attachment(1).key(), at: 0 });
        journal.append(&Record::Attach(Box::new(attachment(2)))).unwrap();
        journal.append(&Record::Detach { key: attachment(2).key(), at: 0 }).unwrap();
        drop(journal);
        reopen(dir.path());
        let text = std::fs::read_to_string(dir.path().join(NAME)).unwrap();
        let expected =
            format!("{{\"record\":\"last\",\"addresses\":[\"10.0.0.2\"],\"boot\":\"{}\"}}\n", boot());
        assert_eq!(text, expected);
        assert_eq!(reopen(dir.path()).addresses[&0].last, [IpAddr::from([10, 0, 0, 2])]);
    }

    #[test]
    fn the_search_goes_on_where_it_was_over_any_number_of_starts() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path()).unwrap();
        for n in [1, 2] {
            journal.append(&Record::Attach(Box::new(attachment(n)))).unwrap();
        }
        journal.append(&Record::Attach(Box::new(secondary(3, 7)))).unwrap();
        for gone in [attachment(2), secondary(3, 7)] {
            journal.append(&Record::detach(gone.key())).unwrap();
        }
        drop(journal);
        for _ in 0..3 {
            let found = reopen(dir.path());
            assert_eq!(found.attachments, [attachment(1)]);
            for (network, last) in [(0, 2), (7, 3)] {
                assert_eq!(found.addresses[&network].last, [IpAddr::from([10, 0, 0, last])]);
            }
        }
    }

    /// Addresses 10.0.0.N, each released at its time.
    fn released(boot: &str, times: &[u64]) -> History {
        let released = (1u8..).zip(times).map(|(n, at)| (IpAddr::from([10, 0, 0, n]), *at)).collect();
        let addresses = [(0, Past { released, last: vec![] })].into();
        History { addresses, boot: boot.to_owned(), ..History::default() }
    }

    #[test]
    fn what_was_released_is_held_over_any_number_of_starts() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path()).unwrap();
        for own in [attachment(1), attachment(2), secondary(2, 7), secondary(3, 9)] {
            journal.append(&Record::Attach(Box::new(own.clone()))).unwrap();
            journal.append(&Record::detach(own.key())).unwrap();
        }
        drop(journal);
        for _ in 0..3 {
            let found = reopen(dir.path());
            let held: Vec<_> =
                found.networks().flat_map(|(id, _, held)| held.map(move |own| (id, own))).collect();
            let addresses: Vec<_> = held.iter().map(|(id, (own, _))| (*id, own.to_string())).collect();
            let expected = [(0, "10.0.0.1"), (0, "10.0.0.2"), (7, "10.0.0.2"), (9, "10.0.0.3")];
            assert_eq!(addresses, expected.map(|(id, own)| (id, own.to_owned())));
            let is_left = |left: Duration| left <= HOLD && left > Duration::ZERO;
            assert!(held.iter().all(|(_, (_, left))| is_left(*left)), "{held:?}");
        }
    }

    #[test]
    fn a_time_counts_from_its_own_boot_whatever_any_clock_is_set_to() {
        let left = |mut history: History, now: u64| -> Vec<(u64, u64)> {
            history.forget("this", now);
            assert_eq!(history.boot, "this");
            let of = |(address, at): &(IpAddr, u64)| match address {
                IpAddr::V4(own) => (u64::from(own.octets()[3]), *at),
                IpAddr::V6(_) => panic!("{address}"),
            };
            history.addresses[&0].released.iter().map(of).collect()
        };
        assert_eq!(left(released("this", &[100, 139, 140, 141, 200]), 200), [(4, 141), (5, 200)]);
        assert_eq!(left(released("this", &[]), 200), []);
        // Another boot, or a file that does not say: since its newest record nothing counts as having passed.
        for boot in ["other", ""] {
            let history = released(boot, &[1_795_700_000, 1_795_700_000 - 50, 1_795_700_000 - 60]);
            assert_eq!(left(history, 200), [(1, 200), (2, 150)]);
            assert_eq!(left(released(boot, &[7000, 6990]), 5), [(1, 5), (2, 0)]);
        }
    }
}
