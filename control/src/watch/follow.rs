//! One resource of an API server's: listed, watched, and listed anew where something was missed.
//!
//! Goes by kube-rs' events, and says each as a step of the view's. What always holds: a list that broke off says nothing of what
//! is gone, and whatever cannot be gone on from is begun anew.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use desired::{Change, Pool, ViewChange};
use futures_util::{Stream, StreamExt};
use kube::runtime::watcher::{self, DefaultBackoff, Event};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::objects::Trimmed;
use super::reach::{Reach, told};
use super::watched::Watched;

/// Longest wait for an answer to begin, and longest silence while a list is read; an API server's own limit of a request is 60 s.
pub(crate) const SILENCE: Duration = Duration::from_secs(90);

/// What a task says.
#[derive(Debug)]
pub(crate) enum Said {
    Changed(ViewChange),
    /// A list was read to its end.
    Listed(&'static str),
}

/// Why a watch is begun anew, with a list.
enum Anew {
    /// The server has no watch that begins with a list, or none that ends it.
    ByLists,
    /// It has forgotten what we know, or told us something that we could not read.
    Lost,
    /// Nobody listens any more.
    Over,
}

/// Which of a resource's objects are followed, and what they are to the view.
pub(crate) struct Course<T: Trimmed> {
    /// As it is told: the resource's plural name, or that and which of them.
    pub(crate) title: &'static str,
    /// By their fields, in the API's words; `None`: all.
    pub(crate) fields: Option<String>,
    /// By their labels.
    pub(crate) labels: Option<&'static str>,
    pub(crate) change: fn(Change<T::Key, T>) -> ViewChange,
}

impl<T: Trimmed> Course<T> {
    /// All of them.
    pub(crate) fn all() -> Self {
        Self { title: T::PLURAL, fields: None, labels: None, change: T::change }
    }
}

/// Follows a resource for good.
pub(crate) async fn follow<T: Trimmed>(
    client: Client,
    course: Course<T>,
    reach: Arc<Reach>,
    say: mpsc::Sender<Said>,
) {
    let api = Api::<Watched<T>>::all(client);
    let mut pool = Pool::default();
    let mut backoff = DefaultBackoff::default();
    // A watch that begins with the objects that are there costs the server and us least (KEP-3157).
    let mut by_lists = false;
    loop {
        let mut config = watcher::Config::default();
        config.field_selector.clone_from(&course.fields);
        config.label_selector = course.labels.map(str::to_owned);
        if !by_lists {
            config = config.streaming_lists();
        }
        let events = watcher::watcher(api.clone(), config);
        match take(std::pin::pin!(events), &course, by_lists, &mut pool, &mut backoff, &reach, &say).await {
            Anew::ByLists => by_lists = true,
            Anew::Lost => {}
            Anew::Over => return,
        }
    }
}

async fn take<T: Trimmed>(
    mut events: impl Stream<Item = watcher::Result<Event<Watched<T>>>> + Unpin,
    course: &Course<T>,
    by_lists: bool,
    pool: &mut Pool,
    backoff: &mut DefaultBackoff,
    reach: &Reach,
    say: &mpsc::Sender<Said>,
) -> Anew {
    // Those of a list that is being read.
    let mut listed: Option<BTreeSet<T::Key>> = None;
    let changed = |change| Said::Changed((course.change)(change));
    loop {
        let next = match listed {
            None => events.next().await,
            Some(_) => match timeout(SILENCE, events.next()).await {
                Ok(next) => next,
                Err(_) => {
                    reach.trouble(&format!("no answer for {SILENCE:?}; asking anew"));
                    // A server older than such watches sends the objects and never says that these were all.
                    return if by_lists { Anew::Lost } else { Anew::ByLists };
                }
            },
        };
        // The stream of events never ends of itself.
        let Some(next) = next else { return Anew::Lost };
        let said = match next {
            Ok(Event::Init) => {
                if listed.replace(BTreeSet::new()).is_some_and(|listed| !listed.is_empty()) {
                    reach.pause(backoff, "the list broke off").await;
                }
                continue;
            }
            Ok(Event::InitApply(object) | Event::Apply(object)) => {
                let Some(mut name) = object.name() else {
                    reach.board.set(reach.resource, "", "an object without a name; left out".to_owned());
                    continue;
                };
                pool.name(&mut name);
                let key = T::Key::from(name);
                if let Some(listed) = &mut listed {
                    listed.insert(key.clone());
                }
                match object.object {
                    Ok(mut object) => {
                        object.share(pool);
                        reach.board.clear(reach.resource, &key);
                        changed(Change::Set(key, object))
                    }
                    Err(why) => {
                        let text =
                            format!("{} {key}: {why}; what was known of it before stays in force", T::KIND);
                        reach.board.set(reach.resource, &key.to_string(), text);
                        continue;
                    }
                }
            }
            Ok(Event::Delete(object)) => {
                let Some(key) = object.name().map(T::Key::from) else { continue };
                reach.board.clear(reach.resource, &key);
                changed(Change::Remove(key))
            }
            Ok(Event::InitDone) => {
                let keys = listed.take().unwrap_or_default();
                reach.board.keep(reach.resource, |name| keys.iter().any(|key| key.to_string() == name));
                if say.send(changed(Change::Only(keys))).await.is_err() {
                    return Anew::Over;
                }
                Said::Listed(course.title)
            }
            Err(error) => {
                if !by_lists && refuses_initial_events(&error) {
                    tracing::info!(
                        "{}: the API server has no watch that begins with a list ({error})",
                        course.title
                    );
                    return Anew::ByLists;
                }
                reach.pause(backoff, &told(&error)).await;
                if is_lost(&error) {
                    return Anew::Lost;
                }
                continue;
            }
        };
        if say.send(said).await.is_err() {
            return Anew::Over;
        }
    }
}

/// What the server says of a request that it does not take: a [`kube::core::Status`].
fn status(error: &watcher::Error) -> Option<&kube::core::Status> {
    use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
    match error {
        WatchError(status) => Some(status),
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status)) => Some(status),
        InitialListFailed(_) | WatchStartFailed(_) | WatchFailed(_) | NoResourceVersion => None,
    }
}

/// Such a server says 422 of the parameter `sendInitialEvents`, or 400 or 403 of one that it does not take.
fn refuses_initial_events(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(_))
        && status(error).is_some_and(|status| {
            status.code == 422
                || matches!(status.code, 400 | 403) && status.message.contains("sendInitialEvents")
        })
}

/// Whether there is no going on from where we were. An expired resource version may be told before a watch begins, too;
/// and an event that could not be read may have been any.
fn is_lost(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchFailed(kube::Error::SerdeError(_)))
        || status(error).is_some_and(|status| status.code == 410)
}

#[cfg(test)]
mod tests {
    use super::*;
    use desired::Node;

    #[tokio::test(start_paused = true)]
    async fn a_list_that_falls_silent_is_begun_anew() {
        use futures_util::stream::{iter, pending};
        let (say, _said) = mpsc::channel(4);
        for by_lists in [false, true] {
            let events = iter([Ok(Event::<Watched<Node>>::Init)]).chain(pending());
            let ended = take(
                std::pin::pin!(events),
                &Course::all(),
                by_lists,
                &mut Pool::default(),
                &mut DefaultBackoff::default(),
                &Reach::new("nodes", Arc::default()),
                &say,
            )
            .await;
            assert_eq!(matches!(ended, Anew::ByLists), !by_lists);
        }
    }
}
