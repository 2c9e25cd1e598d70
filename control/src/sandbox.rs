//! Kernel pods whose sandbox went away without a DEL.
//!
//! An open TAP pins its namespace, so that nobody else ends it: what the runtime takes away is the path. Where the path
//! no longer leads to the pod's namespace, the attachment is released as by DEL, and both processes close the
//! descriptor. Only a path that once led there is judged: where this process sees none of the runtime's mounts,
//! nothing is gone. A vhost-user pod has no namespace that we know, and waits for its DEL.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;

use crate::attach::release_gone;
use crate::journal::{Attachment, Key};
use crate::store::Store;

/// Device and inode of a namespace, as `stat` gives them for each path to it.
pub(crate) type NetnsId = (u64, u64);

/// Time between two looks. What was missing in two that follow each other is gone.
const LOOK: Duration = Duration::from_secs(3);

/// Has a pod's path looked at from now on, if it leads to the pod's namespace.
pub(crate) fn watch(store: &Store, attachment: &Attachment, netns: BorrowedFd<'_>) {
    let path = &attachment.request.netns;
    let Ok(id) = tap::netns::netns_id(netns) else { return };
    if is_gone(path, id) {
        let path = path.display();
        tracing::warn!(
            "{}: {path} leads to no or another namespace as seen from here: the pod stays until its DEL, and its \
             device cannot be opened again; in a container, mount the runtime's directory of namespaces",
            attachment.key()
        );
    } else {
        store.watch_sandbox(&attachment.key(), id);
    }
}

/// Looks for good, on the calling thread.
pub(crate) fn follow(store: &Store) {
    let mut missing: BTreeSet<Key> = BTreeSet::new();
    loop {
        std::thread::sleep(LOOK);
        let mut now = BTreeSet::new();
        for (attachment, id) in store.sandboxes() {
            let (key, path) = (attachment.key(), &attachment.request.netns);
            if !is_gone(path, id) {
                continue;
            }
            if missing.contains(&key) {
                release_gone(store, &key, |there| *there == attachment);
            } else {
                now.insert(key);
            }
        }
        missing = now;
    }
}

/// Whether the path surely no longer leads to that namespace. What cannot be looked at is not gone.
fn is_gone(path: &Path, id: NetnsId) -> bool {
    match rustix::fs::stat(path) {
        Ok(found) => (found.st_dev, found.st_ino) != id,
        Err(error) => matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::SRCH),
    }
}
