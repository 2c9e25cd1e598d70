//! A small API server, for tests and benches that have no real one.
//!
//! Lists and watches as kube-apiserver 1.36 does: resource versions, chunked lists, bookmarks, watches that begin with a
//! list (KEP-3157), field selectors, 410 for what is forgotten. It admits, defaults and validates nothing. It misbehaves
//! when told to ([`Fault`]). A thread a connection; plain HTTP.

#![forbid(unsafe_code)]

mod http;
mod serve;
mod store;

use std::collections::BTreeMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use serde_json::Value;

pub use http::Request;
use store::Store;

/// How an API server, or what is before it, fails.
#[derive(Debug, Clone)]
pub enum Fault {
    /// An answer of this status with a `Status` object; with `Retry-After`, in seconds.
    Status { code: u16, reason: &'static str, message: &'static str, retry_after: Option<u32> },
    /// The request is read, and never answered.
    Silence,
    /// The answer breaks off after so many bytes of its body.
    Cut(usize),
    /// A watch is accepted, and ends at once.
    Ended,
    /// A watch's next line is this text instead of an event.
    Line(&'static str),
}

impl Fault {
    /// An answer with a `Status` object, and nothing else.
    #[must_use]
    pub const fn status(code: u16, reason: &'static str, message: &'static str) -> Self {
        Self::Status { code, reason, message, retry_after: None }
    }
}

type Faults = Box<dyn Fn(&Request) -> Option<Fault> + Send>;

struct Shared {
    store: Store,
    faults: Mutex<Option<Faults>>,
    log: Mutex<Vec<Request>>,
    connections: Mutex<BTreeMap<u64, TcpStream>>,
    listed: Mutex<Option<Instant>>,
    stopped: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running API server; dropped, it is gone with all its connections.
pub struct ApiServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl ApiServer {
    /// Serves on `listener`, with nothing in it, as one that knows no event up to `version` (0 for a new cluster's).
    ///
    /// # Errors
    /// The listener has no address, or there is no thread to be had.
    pub fn start(listener: TcpListener, version: u64) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            store: Store::begin(version),
            faults: Mutex::default(),
            log: Mutex::default(),
            connections: Mutex::default(),
            listed: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let (address, own) = (listener.local_addr()?, Arc::clone(&shared));
        let accepting = std::thread::Builder::new().name("apiserver".to_owned()).spawn(move || {
            for (number, stream) in (0..).zip(listener.incoming()) {
                if own.stopped.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let Ok(second) = stream.try_clone() else { continue };
                locked(&own.connections).insert(number, second);
                let shared = Arc::clone(&own);
                std::thread::spawn(move || {
                    // That a client hangs up is no fault.
                    let _ = serve::converse(&shared, &stream);
                    let _ = stream.shutdown(Shutdown::Both);
                    locked(&shared.connections).remove(&number);
                });
            }
        })?;
        Ok(Self { address, shared, accepting: Some(accepting) })
    }

    /// As a kubeconfig's `server` spells it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Creates or replaces an object, told by its `kind` and name, and gives its resource version.
    ///
    /// # Panics
    /// Of a kind that is not served.
    pub fn set(&self, object: Value) -> u64 {
        self.shared.store.set(object)
    }

    /// Deletes an object; nothing, if there is none.
    ///
    /// # Panics
    /// Of a kind that is not served.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) {
        self.shared.store.delete(kind, namespace, name);
    }

    /// The object as it is now.
    #[must_use]
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        self.shared.store.get(kind, namespace, name)
    }

    /// All objects of a kind.
    ///
    /// # Panics
    /// Of a kind that is not served.
    #[must_use]
    pub fn all(&self, kind: &str) -> Vec<Value> {
        self.shared.store.all(kind)
    }

    /// Sends every watch a bookmark.
    pub fn bookmark(&self) {
        self.shared.store.bookmark();
    }

    /// Forgets all events until now, and the lists that were begun: who asks for them is told 410.
    pub fn forget(&self) {
        self.shared.store.forget();
    }

    /// Has requests fail, those for which `faults` gives something; `None` as before.
    pub fn set_faults(&self, faults: impl Fn(&Request) -> Option<Fault> + Send + 'static) {
        *locked(&self.shared.faults) = Some(Box::new(faults));
    }

    /// Behaves again.
    pub fn behave(&self) {
        *locked(&self.shared.faults) = None;
    }

    /// Breaks all connections off, as a server that crashes.
    pub fn hang_up(&self) {
        for stream in locked(&self.shared.connections).values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.shared.store.wake();
    }

    /// When a watch that begins with the objects that are there was last told that these were all.
    #[must_use]
    pub fn last_listed(&self) -> Option<Instant> {
        *locked(&self.shared.listed)
    }

    /// The requests since it was asked last.
    #[must_use]
    pub fn take_log(&self) -> Vec<Request> {
        std::mem::take(&mut locked(&self.shared.log))
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts. From another namespace it is not reached, and ends with its process.
        if TcpStream::connect(self.address).is_ok()
            && let Some(thread) = self.accepting.take()
        {
            let _ = thread.join();
        }
        self.hang_up();
    }
}
