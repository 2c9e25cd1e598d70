//! Answers to load balancers that ask a node for a Service's endpoints on it (`spec.healthCheckNodePort`), as kube-proxy's (Kubernetes,
//! pkg/proxy/healthcheck/service_health.go).
//!
//! A listener for each such port, on the node's own addresses; where the uplink is ours, the data plane passes on what comes by that. Each
//! answer is by what the cluster says then.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use desired::{Desired, HealthCheck};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderName, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use tokio::net::TcpListener;
use tokio::task::{JoinSet, spawn_blocking};

use crate::health;
use crate::store::{Store, Warner};

/// Pause after which a port that was somebody else's is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How many endpoints there are here, for those who share out by it.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// Serves for good, on the calling thread.
pub(crate) fn serve(store: &Arc<Store>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(follow(store)),
        Err(error) => tracing::error!("no healthCheckNodePort is answered: {error}"),
    }
}

async fn follow(store: &Arc<Store>) {
    // Dropped, they end.
    let mut open: BTreeMap<SocketAddr, JoinSet<()>> = BTreeMap::new();
    let mut seen = 0;
    loop {
        let shared = Arc::clone(store);
        let Ok(plan) = spawn_blocking(move || shared.next_plan(seen, RETRY)).await else { return };
        seen = plan.revision;
        let wanted = sockets(&plan.desired, store);
        open.retain(|at, _| wanted.contains(at));
        let mut failed = Vec::new();
        for at in wanted {
            if open.contains_key(&at) {
                continue;
            }
            match bind(at).await {
                Ok(listener) => {
                    let (mut task, shared) = (JoinSet::new(), Arc::clone(store));
                    task.spawn(health::accept(listener, move |_, _| answer(&shared, at.port())));
                    open.insert(at, task);
                }
                // One that others know this node by, and that no interface of its has.
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
                Err(error) => {
                    let service =
                        plan.desired.health_checks.get(&at.port()).map(|own| own.service.to_string());
                    failed.push(format!(
                        "Service {}: spec.healthCheckNodePort {at}: {error}; load balancers are not answered there: it is tried again \
                         every {RETRY:?}",
                        service.unwrap_or_default()
                    ));
                }
            }
        }
        store.warn(Warner::Checks, failed);
    }
}

/// On all addresses of the node, or those that NodePorts are to be on.
fn sockets(desired: &Desired, store: &Store) -> Vec<SocketAddr> {
    let within = &store.config.node_port_addresses;
    let all = [IpAddr::from(Ipv6Addr::UNSPECIFIED)];
    let own = desired.host_addresses.iter().filter(|own| within.iter().any(|prefix| prefix.contains(**own)));
    let addresses: Vec<IpAddr> = if within.is_empty() { all.to_vec() } else { own.copied().collect() };
    let ports = desired.health_checks.keys();
    ports.flat_map(|port| addresses.iter().map(|own| SocketAddr::new(*own, *port))).collect()
}

/// On both families, if it is to be on all addresses and there are both.
async fn bind(at: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(at).await {
        Err(error) if at.ip().is_unspecified() && error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, at.port())).await.map_err(|_| error)
        }
        result => result,
    }
}

fn answer(store: &Store, port: u16) -> Response<Full<Bytes>> {
    let check = store.plan().and_then(|plan| plan.desired.health_checks.get(&port).cloned());
    let healthy = store.trouble().is_none();
    let Some(HealthCheck { service, local_endpoints }) = check else {
        let mut gone = Response::new(Full::from("no Service has this port any more\n"));
        *gone.status_mut() = StatusCode::NOT_FOUND;
        return gone;
    };
    let text = serde_json::json!({
        "service": {"namespace": &*service.namespace, "name": &*service.name},
        "localEndpoints": local_endpoints,
        "serviceProxyHealthy": healthy,
    });
    let mut response = Response::new(Full::from(text.to_string()));
    if local_endpoints == 0 || !healthy {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(WEIGHT, HeaderValue::from(local_endpoints));
    response
}
