//! The source that follows an API server.
//!
//! A task for each resource lists and watches it by way of kube-rs, which resumes a watch that ended and lists anew what it
//! has missed. One loop gathers what they say. What always holds: an object counts as gone only if the server says so, by
//! an event or by a whole list without it; whatever else goes wrong, what is known stays, and is tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use desired::{Change, Node, Pod, ViewChange};
use futures_util::{Stream, StreamExt};
use kube::client::ClientBuilder;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::runtime::watcher::{self, DefaultBackoff, Event};
use kube::{Api, Client, Config};
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};
use tower::limit::RateLimitLayer;
use tower::util::MapResponseLayer;

use super::objects::Trimmed;
use super::watched::Watched;
use super::{Source, Update};

/// Steps that are taken together at most: memory stays flat while a large cluster is listed.
const BATCH: usize = 1024;

/// Longest silence while a list is read; an API server's own limit of a request is 60 s.
const SILENCE: Duration = Duration::from_secs(90);

/// Requests for one resource a second, at most.
const RATE: u64 = 20;

/// Longest that an API server may tell us to stay away (`Retry-After`).
const LONGEST_REST: Duration = Duration::from_secs(300);

/// Warnings of one resource's objects, at most: more of them would say no more.
const MOST_WARNINGS: usize = 20;

/// Why there is no API server to follow.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiServerError {
    #[error("--kubeconfig {0}: {1}")]
    Kubeconfig(PathBuf, KubeconfigError),
    #[error("{0}; outside of a cluster give --kubeconfig, or --manifests")]
    InCluster(InClusterError),
    #[error(
        "KUBERNETES_SERVICE_HOST is {0}, a ClusterIP, which needs the very data plane that waits for us: give \
         --api-server https://HOST:PORT with an address of the API server's own"
    )]
    ClusterIp(String),
    #[error("making a client of the API server: {0}")]
    Client(#[from] kube::Error),
    #[error("starting a runtime: {0}")]
    Runtime(#[from] std::io::Error),
}

/// An API server.
pub(crate) struct ApiServer {
    config: Config,
    /// Whose pods are watched.
    node: String,
}

impl ApiServer {
    /// Works out where it is and who we are there; speaks to nobody yet. Without a kubeconfig we are the pod's own service
    /// account; `server` stands in for the address that either names.
    ///
    /// # Errors
    /// Names the flag or file, and what to do.
    pub(crate) fn new(
        kubeconfig: Option<&Path>,
        context: Option<&str>,
        server: Option<&http::Uri>,
        node: &str,
    ) -> Result<Self, ApiServerError> {
        let mut config = match kubeconfig {
            Some(path) => {
                let named = |error| ApiServerError::Kubeconfig(path.to_owned(), error);
                let options = KubeConfigOptions { context: context.map(str::to_owned), ..Default::default() };
                let read =
                    async { Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await };
                runtime()?.block_on(read).map_err(named)?
            }
            None => {
                let config = Config::incluster().map_err(ApiServerError::InCluster)?;
                if server.is_none()
                    && let Some(address) = cluster_ip()
                {
                    return Err(ApiServerError::ClusterIp(address));
                }
                config
            }
        };
        if let Some(server) = server {
            config.cluster_url = server.clone();
        }
        // What went wrong is ours to tell, and a server's wish to be left alone ours to grant.
        config.default_retry = false;
        Ok(Self { config, node: node.to_owned() })
    }

    /// How to speak to it.
    pub(crate) const fn config(&self) -> &Config {
        &self.config
    }

    /// Starts a task that follows a resource.
    fn watch<T>(
        &self,
        selector: Option<String>,
        board: &Arc<Board>,
        say: &mpsc::Sender<Said>,
    ) -> kube::Result<()>
    where
        T: Trimmed + Clone + fmt::Debug + Send + 'static,
    {
        let reach =
            Arc::new(Reach { resource: T::PLURAL, board: Arc::clone(board), rest: AtomicU64::new(0) });
        let heard = Arc::clone(&reach);
        let hear = MapResponseLayer::new(move |response| heard.hear(response));
        // A server that ends each watch at once would be asked again at once, for ever.
        let builder = ClientBuilder::try_from(self.config.clone())?
            .with_layer(&RateLimitLayer::new(RATE, Duration::from_secs(1)));
        let client = builder.with_layer(&hear).build();
        tokio::spawn(follow::<T>(client, selector, reach, say.clone()));
        Ok(())
    }
}

/// The API server's ClusterIP, if that is what the environment names. A kubelet sets both of these to it; whoever sets
/// the first one in a pod's manifest to an address that needs no data plane has the second one differ.
fn cluster_ip() -> Option<String> {
    let host = std::env::var("KUBERNETES_SERVICE_HOST").ok()?;
    let port = std::env::var("KUBERNETES_SERVICE_PORT").ok()?;
    let named = std::env::var(format!("KUBERNETES_PORT_{port}_TCP_ADDR")).ok()?;
    (named == host).then_some(host)
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

impl Source for ApiServer {
    fn describe(&self) -> String {
        format!("API server {}", self.config.cluster_url.to_string().trim_end_matches('/'))
    }

    fn follow(self: Box<Self>, give: &mut dyn FnMut(Update) -> ControlFlow<()>) {
        if let Err(error) = self.run(give) {
            // The configuration was read before: a file that it names is gone since, or there is no descriptor left. A
            // supervisor starts us anew.
            tracing::error!("{}: {error}", self.describe());
            std::process::exit(proto::exit::FAILURE.into());
        }
    }
}

impl ApiServer {
    fn run(&self, give: &mut dyn FnMut(Update) -> ControlFlow<()>) -> Result<(), ApiServerError> {
        Ok(runtime()?.block_on(self.gather(give))?)
    }

    async fn gather(&self, give: &mut dyn FnMut(Update) -> ControlFlow<()>) -> kube::Result<()> {
        let board = Arc::new(Board::default());
        let (say, mut said) = mpsc::channel(BATCH);
        let mut missing = BTreeSet::from([Node::PLURAL, Pod::PLURAL]);
        self.watch::<Node>(None, &board, &say)?;
        self.watch::<Pod>(Some(format!("spec.nodeName={}", self.node)), &board, &say)?;
        let mut batch = Vec::with_capacity(BATCH);
        let mut last = Vec::new();
        loop {
            tokio::select! {
                _ = said.recv_many(&mut batch, BATCH) => {}
                () = board.changed.notified() => {}
            }
            let mut update = Update::default();
            for said in batch.drain(..) {
                match said {
                    Said::Changed(change) => update.changes.push(change),
                    Said::Listed(resource) => {
                        missing.remove(resource);
                    }
                }
            }
            update.complete = missing.is_empty();
            update.warnings = board.warnings(&self.describe());
            if !update.complete {
                let missing: Vec<_> = missing.iter().copied().collect();
                update.warnings.insert(
                    0,
                    format!(
                        "{}: nothing is changed until {} have been listed once",
                        self.describe(),
                        missing.join(" and ")
                    ),
                );
            }
            if update.changes.is_empty() && update.warnings == last && !update.complete {
                continue;
            }
            last.clone_from(&update.warnings);
            if give(update).is_break() {
                return Ok(());
            }
        }
    }
}

/// What a task says.
#[derive(Debug)]
enum Said {
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

/// Follows a resource for good.
async fn follow<T>(client: Client, selector: Option<String>, reach: Arc<Reach>, say: mpsc::Sender<Said>)
where
    T: Trimmed + Clone + fmt::Debug + Send + 'static,
{
    let api = Api::<Watched<T>>::all(client);
    let mut backoff = DefaultBackoff::default();
    // A watch that begins with the objects that are there costs the server and us least (KEP-3157).
    let mut by_lists = false;
    loop {
        let mut config = watcher::Config::default();
        config.field_selector.clone_from(&selector);
        if !by_lists {
            config = config.streaming_lists();
        }
        let events = watcher::watcher(api.clone(), config);
        match take(std::pin::pin!(events), by_lists, &mut backoff, &reach, &say).await {
            Anew::ByLists => by_lists = true,
            Anew::Lost => {}
            Anew::Over => return,
        }
    }
}

async fn take<T>(
    mut events: impl Stream<Item = watcher::Result<Event<Watched<T>>>> + Unpin,
    by_lists: bool,
    backoff: &mut DefaultBackoff,
    reach: &Reach,
    say: &mpsc::Sender<Said>,
) -> Anew
where
    T: Trimmed + Clone + fmt::Debug + Send + 'static,
{
    // Those of a list that is being read.
    let mut listed: Option<BTreeSet<T::Key>> = None;
    let changed = |change| Said::Changed(T::change(change));
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
                let Some(key) = object.name().map(T::key) else {
                    reach.board.set(reach.resource, "", "an object without a name; left out".to_owned());
                    continue;
                };
                if let Some(listed) = &mut listed {
                    listed.insert(key.clone());
                }
                match object.object {
                    Ok(object) => {
                        reach.board.clear(reach.resource, &key.to_string());
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
                let Some(key) = object.name().map(T::key) else { continue };
                reach.board.clear(reach.resource, &key.to_string());
                changed(Change::Remove(key))
            }
            Ok(Event::InitDone) => {
                let keys = listed.take().unwrap_or_default();
                reach.board.keep(reach.resource, |name| keys.iter().any(|key| key.to_string() == name));
                if say.send(changed(Change::Only(keys))).await.is_err() {
                    return Anew::Over;
                }
                Said::Listed(T::PLURAL)
            }
            Err(error) => {
                if !by_lists && refuses_initial_events(&error) {
                    tracing::info!(
                        "{}: the API server has no watch that begins with a list ({error})",
                        T::PLURAL
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
struct Board {
    /// By resource and object; of a resource as a whole, with an empty name.
    troubles: Mutex<Troubles>,
    changed: Notify,
}

type Troubles = BTreeMap<(&'static str, String), String>;

impl Board {
    fn lock(&self) -> MutexGuard<'_, Troubles> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, resource: &'static str, name: &str, text: String) {
        let before = self.lock().insert((resource, name.to_owned()), text.clone());
        if before != Some(text) {
            self.changed.notify_one();
        }
    }

    fn clear(&self, resource: &'static str, name: &str) {
        let mut troubles = self.lock();
        // Almost always there is none, and objects come by the hundred thousand.
        if !troubles.is_empty() && troubles.remove(&(resource, name.to_owned())).is_some() {
            self.changed.notify_one();
        }
    }

    /// Of a resource's objects, those of `names` alone are still there.
    fn keep(&self, resource: &'static str, is_there: impl Fn(&str) -> bool) {
        self.lock().retain(|(own, name), _| *own != resource || name.is_empty() || is_there(name));
        self.changed.notify_one();
    }

    fn warnings(&self, source: &str) -> Vec<String> {
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
struct Reach {
    resource: &'static str,
    board: Arc<Board>,
    /// Seconds that the server's last answer asks us to wait.
    rest: AtomicU64,
}

impl Reach {
    fn trouble(&self, text: &str) {
        self.board.set(self.resource, "", format!("{text}; what was read before stays in force"));
    }

    /// Looks at an answer as it passes: one without fault ends the trouble, though nothing may change for hours.
    fn hear<B>(&self, response: http::Response<B>) -> http::Response<B> {
        let rest = response.headers().get(http::header::RETRY_AFTER);
        let rest = rest.and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
        self.rest.store(rest.unwrap_or(0), Ordering::Relaxed);
        if response.status().is_success() {
            self.board.clear(self.resource, "");
        }
        response
    }

    /// Stays away for a while, as long as the server asks at least; longer each time.
    async fn pause(&self, backoff: &mut DefaultBackoff, why: &str) {
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
    use apiserver::Fault;
    use desired::{ClusterView, ObjectName};
    use serde_json::{Value, json};
    use std::net::TcpListener;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Instant;

    fn node(name: &str, cidr: &str) -> Value {
        json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": name}, "spec": {"podCIDRs": [cidr]}})
    }

    fn pod(name: &str, node: &str, ip: &str) -> Value {
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"namespace": "shop", "name": name},
            "spec": {"nodeName": node, "containers": []}, "status": {"phase": "Running", "podIPs": [{"ip": ip}]}})
    }

    fn serve() -> apiserver::ApiServer {
        apiserver::ApiServer::start(TcpListener::bind("127.0.0.1:0").unwrap(), 0).unwrap()
    }

    /// What a source that follows `server` has said.
    struct Heard {
        updates: Receiver<Update>,
        view: ClusterView,
        complete: bool,
        warnings: Vec<String>,
    }

    impl Heard {
        fn from(server: &apiserver::ApiServer) -> Self {
            let mut config = Config::new(server.url().parse().unwrap());
            config.default_retry = false;
            let source = Box::new(ApiServer { config, node: "n1".to_owned() });
            let (give, updates) = channel();
            std::thread::spawn(move || {
                source.follow(&mut |update| match give.send(update) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                });
            });
            Self { updates, view: ClusterView::default(), complete: false, warnings: vec![] }
        }

        fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
            let limit = Instant::now() + Duration::from_secs(60);
            while !done(self) {
                let left = limit.saturating_duration_since(Instant::now());
                let Ok(update) = self.updates.recv_timeout(left) else {
                    panic!("never came: {what}; {:?} {:?}", self.warnings, self.view);
                };
                assert!(update.complete || !self.complete, "complete, and then no more");
                self.complete = update.complete;
                self.warnings = update.warnings;
                for change in update.changes {
                    self.view.apply(change);
                }
            }
        }

        fn nodes(&self) -> Vec<&str> {
            self.view.nodes.keys().map(String::as_str).collect()
        }

        fn pods(&self) -> Vec<&str> {
            self.view.pods.keys().map(|name| name.name.as_str()).collect()
        }

        fn is_warned(&self, part: &str) -> bool {
            self.warnings.iter().any(|text| text.contains(part))
        }
    }

    #[test]
    fn objects_come_and_go_and_only_this_nodes_pods_count() {
        let server = serve();
        server.set(node("n1", "10.1.0.0/24"));
        server.set(pod("a", "n1", "10.1.0.2"));
        server.set(pod("b", "n2", "10.2.0.2"));
        let mut heard = Heard::from(&server);
        heard.until("both lists", |heard| heard.complete);
        assert_eq!((heard.nodes(), heard.pods()), (vec!["n1"], vec!["a"]));
        server.set(node("n2", "10.2.0.0/24"));
        server.set(pod("c", "", ""));
        heard.until("a node", |heard| heard.nodes() == ["n1", "n2"]);
        // It is scheduled here; and another one is moved away, as no pod is, but a selector does not know that.
        server.set(pod("c", "n1", "10.1.0.3"));
        server.set(pod("a", "n2", "10.2.0.3"));
        heard.until("another pod", |heard| heard.pods() == ["c"]);
        server.set(node("n2", "10.3.0.0/24"));
        heard.until("another range", |heard| heard.view.nodes["n2"].pod_cidrs == ["10.3.0.0/24"]);
        server.delete("Node", "", "n2");
        server.delete("Pod", "shop", "c");
        heard.until("none of them", |heard| heard.nodes() == ["n1"] && heard.pods().is_empty());
        assert!(heard.warnings.is_empty(), "{:?}", heard.warnings);
        // A watch that begins with the objects, not a list.
        assert!(server.take_log().iter().all(apiserver::Request::is_watch));
    }

    #[test]
    fn nothing_is_complete_before_each_list_is() {
        let server = serve();
        server.set(node("n1", "10.1.0.0/24"));
        server.set_faults(|request| {
            let message = "pods is forbidden: User \"x\" cannot list resource";
            (request.resource() == "pods").then_some(Fault::Status {
                code: 403,
                reason: "Forbidden",
                message,
                retry_after: None,
            })
        });
        let mut heard = Heard::from(&server);
        heard.until("the node, and why there are no pods", |heard| {
            heard.nodes() == ["n1"]
                && heard.is_warned("pods: HTTP 403: pods is forbidden")
                && heard.is_warned("nothing is changed until pods have been listed once")
        });
        assert!(!heard.complete);
        server.behave();
        heard.until("all", |heard| heard.complete && heard.warnings.is_empty());
    }

    #[test]
    fn an_api_server_that_goes_takes_nothing_along() {
        let server = serve();
        for n in 1..=3 {
            server.set(node(&format!("n{n}"), &format!("10.{n}.0.0/24")));
        }
        let mut heard = Heard::from(&server);
        heard.until("all", |heard| heard.complete);
        server.set_faults(|_| {
            Some(Fault::Status {
                code: 503,
                reason: "ServiceUnavailable",
                message: "not yet",
                retry_after: Some(1),
            })
        });
        server.hang_up();
        heard.until("the trouble", |heard| {
            heard.is_warned("nodes: HTTP 503: not yet") && heard.is_warned("pods: HTTP 503")
        });
        assert!(heard.is_warned("stays in force") && heard.complete);
        assert_eq!(heard.nodes(), ["n1", "n2", "n3"]);
        // What happens meanwhile is caught up, first by its events and then by a list.
        server.delete("Node", "", "n2");
        server.behave();
        heard.until("the difference", |heard| heard.nodes() == ["n1", "n3"] && heard.warnings.is_empty());
        server.set_faults(|_| Some(Fault::Ended));
        server.hang_up();
        server.delete("Node", "", "n3");
        server.set(node("n4", "10.4.0.0/24"));
        server.forget();
        server.behave();
        heard.until("the difference", |heard| heard.nodes() == ["n1", "n4"]);
        heard.until("no trouble", |heard| heard.warnings.is_empty());
    }

    #[test]
    fn a_version_that_expired_before_the_watch_began_is_no_end() {
        let server = serve();
        server.set(node("n1", "10.1.0.0/24"));
        let mut heard = Heard::from(&server);
        heard.until("all", |heard| heard.complete);
        // Some servers say it by the answer's own status, and go on saying it to whoever asks for that version.
        server.set_faults(|request| {
            (request.parameter("sendInitialEvents").is_none()).then_some(Fault::Status {
                code: 410,
                reason: "Expired",
                message: "too old",
                retry_after: None,
            })
        });
        server.hang_up();
        server.set(node("n2", "10.2.0.0/24"));
        heard.until("the difference", |heard| heard.nodes() == ["n1", "n2"]);
    }

    #[test]
    fn a_server_without_watches_that_begin_with_a_list_is_listed_in_chunks() {
        let server = serve();
        for n in 0..1200 {
            server.set(node(&format!("n{n}"), &format!("10.{}.{}.0/24", n >> 8, n & 255)));
        }
        server.set_faults(|request| {
            let message = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
            (request.parameter("sendInitialEvents").is_some())
                .then_some(Fault::Status { code: 422, reason: "Invalid", message, retry_after: None })
        });
        let mut heard = Heard::from(&server);
        heard.until("all", |heard| heard.complete);
        assert_eq!(heard.nodes().len(), 1200);
        assert!(heard.warnings.is_empty(), "{:?}", heard.warnings);
        let log = server.take_log();
        let chunks = log.iter().filter(|request| request.resource() == "nodes" && !request.is_watch());
        assert_eq!(chunks.map(|request| request.parameter("limit")).collect::<Vec<_>>(), [Some("500"); 3]);
        server.delete("Node", "", "n7");
        heard.until("the change", |heard| heard.nodes().len() == 1199);
    }

    #[test]
    fn an_object_that_cannot_be_read_costs_itself_alone() {
        let server = serve();
        let odd = |name: &str| json!({"kind": "Node", "metadata": {"name": name}, "spec": {"podCIDRs": 7}});
        server.set(odd("odd"));
        server.set(json!({"kind": "Node", "metadata": {"name": "bare"}}));
        server.set(node("n1", "10.1.0.0/24"));
        let mut heard = Heard::from(&server);
        heard.until("those that can be read", |heard| heard.complete && heard.nodes() == ["bare", "n1"]);
        assert!(
            heard.is_warned("Node odd: spec.podCIDRs: invalid type: integer `7`"),
            "{:?}",
            heard.warnings
        );
        server.set(odd("n1"));
        heard.until("a warning", |heard| heard.is_warned("Node n1: spec.podCIDRs"));
        assert_eq!(heard.view.nodes["n1"].pod_cidrs, ["10.1.0.0/24"], "as it was known");
        server.set(node("n1", "10.1.1.0/24"));
        server.delete("Node", "", "odd");
        heard.until("no warning, and what it says now", |heard| {
            heard.warnings.is_empty() && heard.view.nodes["n1"].pod_cidrs == ["10.1.1.0/24"]
        });
    }

    #[test]
    fn what_is_no_event_has_everything_listed_anew() {
        let server = serve();
        server.set(node("n1", "10.1.0.0/24"));
        let mut heard = Heard::from(&server);
        heard.until("all", |heard| heard.complete);
        let line = r#"{"type":"MODIFIED","object":{"metadata":{"name":"n1"#;
        server.set_faults(move |request| {
            (request.parameter("sendInitialEvents").is_none()).then_some(Fault::Line(line))
        });
        server.hang_up();
        server.delete("Node", "", "n1");
        heard.until("the difference", |heard| heard.nodes().is_empty());
    }

    /// Whatever happens on the way, in the end the view is what the server has.
    #[test]
    fn any_series_of_changes_and_faults_ends_at_the_truth() {
        let server = serve();
        server.set(node("n1", "10.1.0.0/24"));
        let mut heard = Heard::from(&server);
        heard.until("all", |heard| heard.complete);
        // A linear congruential generator (Knuth, MMIX): the same series each time.
        let mut seed: u64 = 42;
        let mut random = |limit: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % limit
        };
        for _ in 0..600 {
            let name = format!("x{}", random(12));
            match random(20) {
                0..6 => drop(server.set(node(&name, &format!("10.9.{}.0/24", random(200))))),
                6..10 => server.delete("Node", "", &name),
                10..14 => drop(server.set(pod(&name, if random(2) == 0 { "n1" } else { "n2" }, "10.1.0.9"))),
                14 => server.delete("Pod", "shop", &name),
                15 => server.hang_up(),
                16 => server.forget(),
                17 => server.bookmark(),
                18 => {
                    let cut = usize::try_from(random(2000)).unwrap();
                    server.set_faults(move |request| request.is_watch().then_some(Fault::Cut(cut)));
                }
                _ => server.behave(),
            }
            std::thread::sleep(Duration::from_millis(random(4)));
        }
        server.behave();
        server.set(node("last", "10.200.0.0/24"));
        heard.until("the truth", |heard| {
            let all = (0..12).map(|n| format!("x{n}"));
            heard.nodes().contains(&"last")
                && all.into_iter().all(|name| {
                    let range = server.get("Node", "", &name).map(|node| node["spec"]["podCIDRs"][0].clone());
                    let known = heard.view.nodes.get(&name).map(|node| json!(node.pod_cidrs[0]));
                    let here =
                        server.get("Pod", "shop", &name).is_some_and(|pod| pod["spec"]["nodeName"] == "n1");
                    let key = ObjectName { namespace: "shop".to_owned(), name };
                    range == known && here == heard.view.pods.contains_key(&key)
                })
        });
    }

    fn reach() -> Reach {
        Reach { resource: "nodes", board: Arc::new(Board::default()), rest: AtomicU64::new(0) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_asks_to_be_left_alone_is() {
        let reach = reach();
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

    #[tokio::test(start_paused = true)]
    async fn a_list_that_falls_silent_is_begun_anew() {
        use futures_util::stream::{iter, pending};
        let (say, _said) = mpsc::channel(4);
        for by_lists in [false, true] {
            let events = iter([Ok(Event::<Watched<Node>>::Init)]).chain(pending());
            let ended =
                take(std::pin::pin!(events), by_lists, &mut DefaultBackoff::default(), &reach(), &say).await;
            assert_eq!(matches!(ended, Anew::ByLists), !by_lists);
        }
    }
}
