//! Links of devices, looked at a few times a second by a thread of their own: on the path of a packet it would be a system call, and
//! not every driver tells by itself.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{self, RecvTimeoutError, Sender};

use crate::core::Core;
use crate::serve;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(200);

/// The thread; it ends when this is dropped.
pub(crate) struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn start(core: &Arc<Mutex<Option<Core>>>) -> std::io::Result<Self> {
        let (stop, stopped) = channel::bounded::<()>(0);
        let core = Arc::clone(core);
        let thread = std::thread::Builder::new().name("links".to_owned()).spawn(move || {
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                if let Some(core) = &*serve::lock(&core) {
                    core.ports.watch_links();
                }
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that watches links has panicked");
        }
    }
}
