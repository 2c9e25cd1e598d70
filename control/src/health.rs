//! Answers to probes and to Prometheus, on a TCP port of the node's own.
//!
//! `/healthz`: this process works. `/readyz`: pods can be attached, and changes reach the data plane. `/metrics`: the same in numbers
//! (Prometheus text format 0.0.4). Reads the store and changes nothing; should the port be somebody else's, it is tried again.

use std::convert::Infallible;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::store::{Counted, Store, Warner};

/// Longest that a client may take for its request's head.
const PATIENCE: Duration = Duration::from_secs(5);

/// Those that are answered at a time; others wait. Descriptors are for pods.
const CLIENTS: usize = 64;

/// Pause after which a port that was somebody else's is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Serves for good, on the calling thread.
pub(crate) fn serve(store: &Arc<Store>, address: SocketAddr) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(listen(store, address)),
        Err(error) => tracing::error!("--health-address {address}: {error}; nobody is answered there"),
    }
}

async fn listen(store: &Arc<Store>, address: SocketAddr) {
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => {
                let text = format!(
                    "--health-address {address}: {error}; probes and metrics are not answered: give another address, or `none`"
                );
                store.warn(Warner::Health, vec![text]);
                sleep(RETRY).await;
            }
        }
    };
    store.warn(Warner::Health, vec![]);
    let store = Arc::clone(store);
    accept(listener, move |method, path| answer(&store, method, path)).await;
}

/// Answers whoever comes, for good. Clients keep nobody waiting.
pub(crate) async fn accept<A>(listener: TcpListener, answer: A)
where
    A: Fn(&Method, &str) -> Response<Full<Bytes>> + Clone + Send + Sync + 'static,
{
    let mut clients = JoinSet::new();
    loop {
        while clients.try_join_next().is_some() {}
        if clients.len() >= CLIENTS {
            clients.join_next().await;
        }
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors; those that are busy will give some back.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let answer = answer.clone();
        clients.spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let answer = answer(request.method(), request.uri().path());
                async move { Ok::<_, Infallible>(answer) }
            });
            let mut server = hyper::server::conn::http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(false);
            // That a client hangs up or speaks no HTTP is its own affair.
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn answer(store: &Store, method: &Method, path: &str) -> Response<Full<Bytes>> {
    let (code, text) = match path {
        _ if !matches!(*method, Method::GET | Method::HEAD) => {
            (StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned())
        }
        "/healthz" | "/livez" => (StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => match store.trouble() {
            None => (StatusCode::OK, "ok\n".to_owned()),
            Some(trouble) => (StatusCode::SERVICE_UNAVAILABLE, format!("{trouble}\n")),
        },
        "/metrics" => (StatusCode::OK, metrics(store)),
        _ => (StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = code;
    let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

fn metrics(store: &Store) -> String {
    let status = store.status();
    let Counted { attached, detached, failed, events } = store.counted();
    let mut text = String::new();
    let mut add = |name: &str, kind: &str, help: &str, value: u64| {
        // A string takes whatever is written to it.
        let _ = writeln!(
            text,
            "# HELP podrouter_control_{name} {help}\n# TYPE podrouter_control_{name} {kind}\npodrouter_control_{name} {value}"
        );
    };
    add("synced", "gauge", "1 once everything was listed or read once.", status.synced.into());
    add("dataplane_connected", "gauge", "1 while the data plane answers.", status.connected.into());
    add("committed_generation", "gauge", "Last generation that every worker has.", status.committed);
    add("nodes", "gauge", "Nodes known.", status.nodes.into());
    add(
        "pods",
        "gauge",
        "Pods known: this node's, and all while a policy selects by labels.",
        status.pods.into(),
    );
    add("namespaces", "gauge", "Namespaces known.", status.namespaces.into());
    add("services", "gauge", "Services known.", status.services.into());
    add("endpoint_slices", "gauge", "EndpointSlices known.", status.endpoint_slices.into());
    add("policies", "gauge", "NetworkPolicies known.", status.policies.into());
    add("attachments", "gauge", "Interfaces attached.", status.attachments.into());
    add(
        "warnings",
        "gauge",
        "What is not honoured or went wrong; `podrouter status` has the words.",
        status.warnings.len() as u64,
    );
    add("attached_total", "counter", "CNI ADDs that succeeded.", attached);
    add("attach_failed_total", "counter", "CNI ADDs that failed.", failed);
    add(
        "detached_total",
        "counter",
        "Interfaces detached, by DEL, GC or because their sandbox went.",
        detached,
    );
    add(
        "changes_total",
        "counter",
        "Changes of the cluster that were told, whether or not they made a difference.",
        events,
    );
    text
}

/// `--health-address`.
pub(crate) fn address(text: &str) -> Result<Option<SocketAddr>, String> {
    match text {
        "none" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| "write an address and a port, as in 127.0.0.1:9640, or `none`".to_owned()),
    }
}
