//! The source that follows an API server.
//!
//! A task for each resource lists and watches it by way of kube-rs, which resumes a watch that ended and lists anew what it
//! has missed ([`follow`]). One loop gathers what they say ([`Gather`]). What always holds: an object counts as gone only if the server says so, by
//! an event or by a whole list without it; whatever else goes wrong, what is known stays, and is tried again.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kube::Config;
use kube::client::ClientBuilder;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tower::limit::RateLimitLayer;
use tower::timeout::TimeoutLayer;
use tower::util::MapResponseLayer;

use super::follow::{Course, SILENCE, Said, follow};
use super::gather::Gather;
use super::objects::Trimmed;
use super::reach::{Board, Reach};
use super::{Source, Update};

/// How long other nodes' pods are followed after nobody needs them: somebody may again, and listing them costs the API server.
const LINGER: Duration = Duration::from_secs(600);

/// Requests for one resource a second, at most.
const RATE: u64 = 20;

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
    /// Longest wait until an answer begins.
    patience: Duration,
    /// How long other nodes' pods are followed after nobody needs them.
    linger: Duration,
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
                if server.is_none()
                    && let Some(address) = cluster_ip()
                {
                    return Err(ApiServerError::ClusterIp(address));
                }
                Config::incluster().map_err(ApiServerError::InCluster)?
            }
        };
        if let Some(server) = server {
            config.cluster_url = server.clone();
        }
        // What went wrong is ours to tell, and a server's wish to be left alone ours to grant.
        config.default_retry = false;
        Ok(Self { config, node: node.to_owned(), patience: SILENCE, linger: LINGER })
    }

    /// How to speak to it.
    pub(crate) const fn config(&self) -> &Config {
        &self.config
    }

    /// Whose pods are its own.
    pub(super) fn node(&self) -> &str {
        &self.node
    }

    pub(super) const fn linger(&self) -> Duration {
        self.linger
    }

    /// In words.
    pub(super) fn title(&self) -> String {
        format!("API server {}", self.config.cluster_url.to_string().trim_end_matches('/'))
    }

    /// Starts a task that follows a resource.
    pub(super) fn follow<T: Trimmed>(
        &self,
        course: Course<T>,
        board: &Arc<Board>,
        say: &mpsc::Sender<Said>,
    ) -> kube::Result<AbortHandle> {
        let reach = Arc::new(Reach::new(course.title, Arc::clone(board)));
        let heard = Arc::clone(&reach);
        let hear = MapResponseLayer::new(move |response| heard.hear(response));
        let client = ClientBuilder::try_from(self.config.clone())?
            // kube-rs waits for a watch to begin for as long as the connection stands.
            .with_layer(&TimeoutLayer::new(self.patience))
            // A server that ends each watch at once would be asked again at once, for ever.
            .with_layer(&RateLimitLayer::new(RATE, Duration::from_secs(1)))
            .with_layer(&hear)
            .build();
        Ok(tokio::spawn(follow::<T>(client, course, reach, say.clone())).abort_handle())
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
        self.title()
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
        Ok(runtime()?.block_on(async { Gather::begin(self)?.run(give).await })?)
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
            Self::patient(server, SILENCE, LINGER)
        }

        fn patient(server: &apiserver::ApiServer, patience: Duration, linger: Duration) -> Self {
            let mut config = Config::new(server.url().parse().unwrap());
            config.default_retry = false;
            let source = Box::new(ApiServer { config, node: "n1".to_owned(), patience, linger });
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
            self.view.pods.keys().map(|name| &*name.name).collect()
        }

        fn others(&self) -> Vec<&str> {
            self.view.other_pods.keys().map(|name| &*name.name).collect()
        }

        fn policies(&self) -> Vec<&str> {
            self.view.policies.keys().map(|name| &*name.name).collect()
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

    /// One that is for all pods of its namespace, and lets in those that `from` selects.
    fn policy(name: &str, from: &Value) -> Value {
        json!({"kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1", "metadata": {"namespace": "shop", "name": name},
            "spec": {"podSelector": {}, "ingress": [{"from": [from]}], "policyTypes": ["Ingress"]}})
    }

    fn block() -> Value {
        json!({"ipBlock": {"cidr": "10.0.0.0/8"}})
    }

    fn labelled() -> Value {
        json!({"podSelector": {"matchLabels": {"app": "front"}}})
    }

    #[test]
    fn every_kind_is_followed() {
        let server = serve();
        let meta = |name: &str, labels: Value| json!({"namespace": "shop", "name": name, "labels": labels});
        server.set(json!({"kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "web"}}}));
        server.set(json!({"kind": "Service", "metadata": meta("front", json!({})), "spec": {"clusterIP": "10.96.0.7"}}));
        let slice = |name: &str, labels: Value| {
            json!({"kind": "EndpointSlice", "metadata": meta(name, labels), "addressType": "IPv4",
                "endpoints": [{"addresses": ["10.1.0.2"]}], "ports": [{"port": 8080}]})
        };
        server.set(slice("front-a", json!({"kubernetes.io/service-name": "front"})));
        server.set(slice("none-a", json!({"service.kubernetes.io/headless": ""})));
        server.set(policy("p", &block()));
        let mut heard = Heard::from(&server);
        heard.until("all", |heard| heard.complete);
        let view = &heard.view;
        assert_eq!(view.namespaces["shop"].labels.get("team"), Some("web"));
        let named = |name: &str| ObjectName { namespace: "shop".into(), name: name.into() };
        assert_eq!(view.services[&named("front")].cluster_ips, ["10.96.0.7".into()]);
        assert_eq!(view.endpoint_slices.keys().collect::<Vec<_>>(), [&named("front-a")]);
        assert_eq!(view.endpoint_slices[&named("front-a")].service, "front".into());
        assert_eq!(heard.policies(), ["p"]);
        server.delete("EndpointSlice", "shop", "front-a");
        server.delete("Service", "shop", "front");
        server.set(json!({"kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "money"}}}));
        heard.until("the changes", |heard| {
            heard.view.endpoint_slices.is_empty()
                && heard.view.services.is_empty()
                && heard.view.namespaces["shop"].labels.get("team") == Some("money")
        });
    }

    #[test]
    fn other_nodes_pods_are_followed_while_a_policy_needs_them() {
        let server = serve();
        server.set(pod("here", "n1", "10.1.0.2"));
        server.set(pod("there", "n2", "10.2.0.2"));
        server.set(pod("nowhere", "", ""));
        server.set(policy("blocks", &block()));
        let mut heard = Heard::patient(&server, SILENCE, Duration::from_millis(1));
        heard.until("all", |heard| heard.complete);
        assert_eq!((heard.pods(), heard.others(), heard.policies()), (vec!["here"], vec![], vec!["blocks"]));

        // While they cannot be had, the policy that needs them waits, and nothing else does.
        let all_others = |request: &apiserver::Request| {
            request.parameter("fieldSelector").is_some_and(|selector| selector.contains("!="))
        };
        server.set_faults(move |request| {
            all_others(request).then_some(Fault::status(503, "ServiceUnavailable", "not yet"))
        });
        server.set(policy("labels", &labelled()));
        heard.until("why it waits", |heard| {
            heard.is_warned("pods of other nodes: HTTP 503: not yet")
                && heard
                    .is_warned("changes of NetworkPolicies wait until pods of other nodes have been listed")
        });
        server.set(node("n2", "10.2.0.0/24"));
        heard.until("another change", |heard| heard.nodes() == ["n2"]);
        assert_eq!(heard.policies(), ["blocks"]);
        server.behave();
        heard.until("the policy", |heard| heard.policies() == ["blocks", "labels"]);
        assert_eq!(
            (heard.pods(), heard.others()),
            (vec!["here"], vec!["nowhere", "there"]),
            "with all it needs"
        );
        heard.until("no trouble", |heard| heard.warnings.is_empty());
        server.set(pod("nowhere", "n1", "10.1.0.3"));
        heard.until("its way here", |heard| {
            heard.pods() == ["here", "nowhere"] && heard.others() == ["there"]
        });

        // A second one that needs them does not have them read again; and when the last one is gone, so are they.
        assert!(server.take_log().iter().any(all_others));
        server.set(policy("blocks", &labelled()));
        server.delete("NetworkPolicy", "shop", "labels");
        heard.until("one of them", |heard| heard.policies() == ["blocks"]);
        assert_eq!(heard.others(), ["there"]);
        assert!(!server.take_log().iter().any(all_others));
        server.set(policy("blocks", &block()));
        heard.until("no others", |heard| heard.others().is_empty());
        server.delete("Node", "", "n2");
        heard.until("no trouble", |heard| heard.nodes().is_empty() && heard.warnings.is_empty());
    }

    #[test]
    fn at_the_start_a_policy_that_needs_them_has_them_read_first() {
        let server = serve();
        server.set(pod("there", "n2", "10.2.0.2"));
        server.set(policy("labels", &labelled()));
        server.set_faults(|request| {
            let others = request.parameter("fieldSelector").is_some_and(|selector| selector.contains("!="));
            others.then_some(Fault::status(503, "ServiceUnavailable", "not yet"))
        });
        let mut heard = Heard::from(&server);
        heard.until("what is missing", |heard| {
            heard.is_warned("nothing is changed until these have been listed once: pods of other nodes")
        });
        assert!(!heard.complete);
        server.behave();
        heard.until("all", |heard| heard.complete);
        assert_eq!((heard.others(), heard.policies()), (vec!["there"], vec!["labels"]));
    }

    #[test]
    fn nothing_is_complete_before_each_list_is() {
        let server = serve();
        server.set(node("n1", "10.1.0.0/24"));
        server.set_faults(|request| {
            let message = "pods is forbidden: User \"x\" cannot list resource";
            (request.resource() == "pods").then_some(Fault::status(403, "Forbidden", message))
        });
        let mut heard = Heard::from(&server);
        heard.until("the node, and why there are no pods", |heard| {
            heard.nodes() == ["n1"]
                && heard.is_warned("pods: HTTP 403: pods is forbidden")
                && heard.is_warned("nothing is changed until these have been listed once: pods")
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
    fn a_watch_that_never_begins_is_asked_for_again() {
        let server = serve();
        server.set(node("n1", "10.1.0.0/24"));
        let mut heard = Heard::patient(&server, Duration::from_secs(1), LINGER);
        heard.until("all", |heard| heard.complete);
        server
            .set_faults(|request| request.parameter("sendInitialEvents").is_none().then_some(Fault::Silence));
        server.hang_up();
        heard.until("the trouble", |heard| heard.is_warned("nodes: request timed out"));
        server.set(node("n2", "10.2.0.0/24"));
        server.behave();
        heard.until("the difference", |heard| heard.nodes() == ["n1", "n2"] && heard.warnings.is_empty());
    }

    #[test]
    fn a_version_that_expired_before_the_watch_began_is_no_end() {
        let server = serve();
        server.set(node("n1", "10.1.0.0/24"));
        let mut heard = Heard::from(&server);
        heard.until("all", |heard| heard.complete);
        // Some servers say it by the answer's own status, and go on saying it to whoever asks for that version.
        server.set_faults(|request| {
            (request.parameter("sendInitialEvents").is_none())
                .then_some(Fault::status(410, "Expired", "too old"))
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
                .then_some(Fault::status(422, "Invalid", message))
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
                    let key = ObjectName { namespace: "shop".into(), name: name.into() };
                    range == known && here == heard.view.pods.contains_key(&key)
                })
        });
    }
}
