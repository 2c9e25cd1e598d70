//! How things stand between us and an API server: what is wrong, in words, and how long it asks to be left alone.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::runtime::watcher::DefaultBackoff;
use tokio::sync::Notify;
use tokio::time::sleep;

/// Longest that an API server may tell us to stay away (`Retry-After`).
const LONGEST_REST: Duration = Duration::from_secs(300);

/// Warnings of one resource's objects, at most: more of them would say no more.
const MOST_WARNINGS: usize = 20;

/// An error in one line, without the repetitions and structures that libraries print.
pub(crate) fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    loop {
        if let Some(status) = cause.downcast_ref::<Box<kube::core::Status>>() {
            let advice = match status.code {
                401 => " (is the token or certificate still good?)",
                403 => " (does the ClusterRole of control/deploy allow it?)",
                _ => "",
            };
            let message = if status.message.is_empty() { &status.reason } else { &status.message };
            return format!("HTTP {}: {message}{advice}", status.code);
        }
        if let Some(error) = cause.downcast_ref::<serde_json::Error>() {
            return format!(
                "an answer that cannot be read: {error} (is it an API server that listens there?)"
            );
        }
        // The last cause is what the system or the server said; those before it say who heard it.
        match cause.source() {
            Some(next) => cause = next,
            None => return cause.to_string(),
        }
    }
}

/// What is wrong, in words; told again only when it changes.
#[derive(Debug, Default)]
pub(crate) struct Board {
    /// By resource and object; of a resource as a whole, with an empty name.
    troubles: Mutex<Troubles>,
    pub(crate) changed: Notify,
}

type Troubles = BTreeMap<(&'static str, String), String>;

impl Board {
    fn lock(&self) -> MutexGuard<'_, Troubles> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, resource: &'static str, name: &str, text: String) {
        let before = self.lock().insert((resource, name.to_owned()), text.clone());
        if before != Some(text) {
            self.changed.notify_one();
        }
    }

    pub(crate) fn clear(&self, resource: &'static str, name: impl ToString) {
        let mut troubles = self.lock();
        // Almost always there is none, and objects come by the hundred thousand.
        if !troubles.is_empty() && troubles.remove(&(resource, name.to_string())).is_some() {
            self.changed.notify_one();
        }
    }

    /// Of a resource's objects, those of `names` alone are still there.
    pub(crate) fn keep(&self, resource: &'static str, is_there: impl Fn(&str) -> bool) {
        self.lock().retain(|(own, name), _| *own != resource || name.is_empty() || is_there(name));
        self.changed.notify_one();
    }

    /// Nobody asks for a resource any more.
    pub(crate) fn forget(&self, resource: &'static str) {
        self.lock().retain(|(own, _), _| *own != resource);
    }

    pub(crate) fn warnings(&self, source: &str) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut told: BTreeMap<&str, usize> = BTreeMap::new();
        for ((resource, name), text) in &*self.lock() {
            if name.is_empty() {
                warnings.push(format!("{source}: {resource}: {text}"));
                continue;
            }
            let told = told.entry(resource).or_default();
            *told += 1;
            if *told <= MOST_WARNINGS {
                warnings.push(text.clone());
            }
        }
        for (resource, told) in told {
            if let Some(more) = told.checked_sub(MOST_WARNINGS).filter(|more| *more > 0) {
                warnings.push(format!("{source}: {resource}: {more} more objects cannot be read"));
            }
        }
        warnings
    }
}

/// The way to one resource.
#[derive(Debug)]
pub(crate) struct Reach {
    pub(crate) resource: &'static str,
    pub(crate) board: Arc<Board>,
    /// Seconds that the server's last answer asks us to wait.
    rest: AtomicU64,
}

impl Reach {
    pub(crate) const fn new(resource: &'static str, board: Arc<Board>) -> Self {
        Self { resource, board, rest: AtomicU64::new(0) }
    }

    pub(crate) fn trouble(&self, text: &str) {
        self.board.set(self.resource, "", format!("{text}; what was read before stays in force"));
    }

    /// Looks at an answer as it passes: one without fault ends the trouble, though nothing may change for hours.
    pub(crate) fn hear<B>(&self, response: http::Response<B>) -> http::Response<B> {
        let rest = response.headers().get(http::header::RETRY_AFTER);
        let rest = rest.and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
        self.rest.store(rest.unwrap_or(0), Ordering::Relaxed);
        if response.status().is_success() {
            self.board.clear(self.resource, "");
        }
        response
    }

    /// Stays away for a while, as long as the server asks at least; longer each time.
    pub(crate) async fn pause(&self, backoff: &mut DefaultBackoff, why: &str) {
        let asked = Duration::from_secs(self.rest.swap(0, Ordering::Relaxed)).min(LONGEST_REST);
        let pause = backoff.next().unwrap_or(LONGEST_REST).max(asked);
        // Without how long: the same trouble is no news when the pause is another.
        self.trouble(&format!("{why}; trying again"));
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_asks_to_be_left_alone_is() {
        let reach = Reach::new("nodes", Arc::default());
        for (asked, least) in [("7", 7), ("soon", 0), ("86400", 300)] {
            let answer = http::Response::builder().status(429).header("Retry-After", asked);
            reach.hear(answer.body(()).unwrap());
            let begun = tokio::time::Instant::now();
            reach.pause(&mut DefaultBackoff::default(), "HTTP 429").await;
            let paused = begun.elapsed();
            assert!(
                paused >= Duration::from_secs(least) && paused < Duration::from_secs(least + 5),
                "{paused:?}"
            );
        }
        assert!(reach.board.warnings("s")[0].starts_with("s: nodes: HTTP 429; trying again;"));
        reach.hear(http::Response::new(()));
        assert!(reach.board.warnings("s").is_empty());
    }
}
