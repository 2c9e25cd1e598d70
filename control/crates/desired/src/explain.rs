//! Why each endpoint of a Service is used on this node, or is not.
//!
//! In words, by what [`crate::endpoints`] decides: nothing is decided here.

use std::net::{IpAddr, SocketAddr};

use proto::control::EndpointUse;
use proto::dataplane::BackendState;

use crate::build::{About, Desired};
use crate::endpoints::{Endpoints, Place, Reach, Topology, backends, endpoints, topology};
use crate::objects::{EndpointSlice, ObjectName, Service, SliceEndpoint};
use crate::services::is_ours;
use crate::view::ClusterView;

impl Desired {
    /// Of a Service: what is to be said of it as a whole, and each endpoint of each of its ports. [`None`]: there is no such Service.
    #[must_use]
    pub fn explain(
        &self,
        name: &ObjectName,
        view: &ClusterView,
        node: &str,
    ) -> Option<(Vec<String>, Vec<EndpointUse>)> {
        let service = view.services.get(name)?;
        let mut says: Vec<String> = not_served(service).map(str::to_owned).into_iter().collect();
        says.extend(self.warnings_about(&About::Service(name.clone())).map(str::to_owned));
        let zone = view.nodes.get(node).map_or("", |own| &own.zone);
        let place = Place { node, zone };
        let slices: Vec<&EndpointSlice> = self.slices_of(name, view).collect();
        if slices.is_empty() {
            says.push("it has no EndpointSlice".to_owned());
        }
        let mut uses = Vec::new();
        for port in &service.ports {
            let named = (&*port.name, &port.protocol);
            for v4 in [true, false] {
                let all = endpoints(named.0, named.1, v4, &slices, place);
                let [cluster, world] = [Reach::Cluster, Reach::World]
                    .map(|reach| backends(service, reach, named, v4, &slices, place).0);
                let state = |of: &[proto::dataplane::Backend], key: (IpAddr, u16)| {
                    let found = of.iter().find(|own| (own.address, own.port) == key);
                    found.map(|own| own.state)
                };
                for (key, endpoint) in &all {
                    let own = state(&cluster, *key);
                    let others = state(&world, *key);
                    let takes = |state: Option<BackendState>| {
                        matches!(state, Some(BackendState::Serving | BackendState::ServingOthers))
                    };
                    uses.push(EndpointUse {
                        port: title(&port.name, port.port),
                        protocol: port.protocol.number().unwrap_or(proto::dataplane::Protocol(0)),
                        endpoint: SocketAddr::new(key.0, key.1),
                        node: endpoint.node.to_string(),
                        conditions: conditions(endpoint),
                        cluster: why(takes(own), service.internal_local, endpoint, &all, place),
                        world: why(takes(others), service.external_local, endpoint, &all, place),
                    });
                }
            }
        }
        Some((says, uses))
    }
}

fn not_served(service: &Service) -> Option<&'static str> {
    if is_ours(service) {
        None
    } else if service.left_alone {
        Some("its labels leave it to another proxy, or to none: it is not served here")
    } else if service.kind == "ExternalName" {
        Some("it is a name (ExternalName), which DNS answers: nothing is served here")
    } else if service.cluster_ips.iter().any(|own| **own == *"None") {
        Some("it is headless: DNS names its endpoints, and nothing is served here")
    } else {
        Some("it has no cluster address yet")
    }
}

fn title(name: &str, port: u16) -> String {
    if name.is_empty() { port.to_string() } else { format!("{name} ({port})") }
}

fn conditions(endpoint: &SliceEndpoint) -> String {
    let said = [
        (endpoint.ready, "ready"),
        (endpoint.serving && !endpoint.ready, "serving"),
        (endpoint.terminating, "terminating"),
    ];
    let said: Vec<&str> = said.into_iter().filter(|(is_so, _)| *is_so).map(|(_, name)| name).collect();
    if said.is_empty() { "not ready".to_owned() } else { said.join(", ") }
}

/// For whoever asks at addresses of that reach, and is not this node's own where the world is meant.
fn why(takes: bool, local: bool, own: &SliceEndpoint, all: &Endpoints<'_>, place: Place<'_>) -> String {
    let here = *own.node == *place.node;
    let meant = || match topology(all, place) {
        Topology::SameNode => " (its hints mean it for this node)",
        Topology::SameZone => " (its hints mean it for this zone)",
        Topology::Any => "",
    };
    if takes {
        let how = match (own.ready, local) {
            (true, true) => " (it is on this node)",
            (true, false) => meant(),
            (false, true) => " (none on this node is ready, and it still serves)",
            (false, false) => " (none is ready, and it still serves)",
        };
        return format!("new flows{how}");
    }
    let why = if local && !here {
        "it is on another node, and the policy is Local"
    } else if own.ready && topology(all, place) == Topology::SameNode {
        "hints mean it for other nodes"
    } else if own.ready && topology(all, place) == Topology::SameZone {
        "hints mean it for other zones"
    } else if own.serving && own.terminating {
        "it terminates, and others are ready"
    } else {
        "it is not ready"
    };
    let keeps = if own.serving { "what it has" } else { "nothing" };
    format!("{keeps}: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{Hints, ServicePort, SlicePort};
    use crate::view::Local;

    fn endpoint(address: &str, node: &str, ready: bool, serving: bool) -> SliceEndpoint {
        let terminating = serving && !ready;
        SliceEndpoint {
            address: address.into(),
            node: node.into(),
            ready,
            serving,
            terminating,
            ..SliceEndpoint::default()
        }
    }

    fn explained(service: Service, endpoints: Vec<SliceEndpoint>) -> (Vec<String>, Vec<[String; 2]>) {
        let name = ObjectName { namespace: "shop".into(), name: "web".into() };
        let slice = EndpointSlice {
            service: "web".into(),
            family: "IPv4".into(),
            endpoints,
            ports: vec![SlicePort { port: Some(8080), ..SlicePort::default() }],
        };
        let view = ClusterView {
            services: [(name.clone(), service)].into_iter().collect(),
            endpoint_slices: [(ObjectName { name: "web-1".into(), ..name.clone() }, slice)]
                .into_iter()
                .collect(),
            ..ClusterView::default()
        };
        let local = Local {
            node: "n1".into(),
            router: proto::dataplane::Router {
                gateway4: [169, 254, 1, 1].into(),
                gateway6: "fe80::1".parse().unwrap(),
                dns_servers: vec![],
                dns_search: vec![],
            },
            uplink: None,
            host: None,
            vxlan: None,
            subnets: vec![],
            masquerade: None,
            node_port_addresses: vec![],
            kept: vec![],
            attachments: vec![],
        };
        let (says, uses) = Desired::build(&view, &local).explain(&name, &view, "n1").unwrap();
        (says, uses.into_iter().map(|own| [own.cluster, own.world]).collect())
    }

    fn web() -> Service {
        Service {
            kind: "ClusterIP".into(),
            cluster_ips: vec!["10.96.0.7".into()],
            ports: vec![ServicePort { port: 80, ..ServicePort::default() }],
            external_local: true,
            ..Service::default()
        }
    }

    #[test]
    fn each_endpoint_is_told_why() {
        let all = vec![
            endpoint("10.0.0.1", "n1", true, true),
            endpoint("10.0.0.2", "n2", true, true),
            endpoint("10.0.0.3", "n1", false, true),
            endpoint("10.0.0.4", "n1", false, false),
        ];
        let (says, uses) = explained(web(), all.clone());
        assert_eq!(says, [""; 0]);
        assert_eq!(
            uses,
            [
                ["new flows", "new flows (it is on this node)"],
                ["new flows", "what it has: it is on another node, and the policy is Local"],
                ["what it has: it terminates, and others are ready"; 2],
                ["nothing: it is not ready"; 2],
            ]
        );
        let (_, uses) = explained(web(), all[2..].to_vec());
        assert_eq!(
            uses[0],
            [
                "new flows (none is ready, and it still serves)",
                "new flows (none on this node is ready, and it still serves)"
            ]
        );
        let hinted = |own: &SliceEndpoint, node: &str| SliceEndpoint {
            hints: Some(Box::new(Hints { nodes: vec![node.into()], ..Hints::default() })),
            ..own.clone()
        };
        let (_, uses) = explained(web(), vec![hinted(&all[0], "n1"), hinted(&all[1], "n2")]);
        assert_eq!(
            (&*uses[0][0], &*uses[1][0]),
            ("new flows (its hints mean it for this node)", "what it has: hints mean it for other nodes")
        );
    }

    #[test]
    fn a_service_that_is_not_served_is_told_why() {
        let says = |service: Service| explained(service, vec![]).0[0].clone();
        assert!(says(Service { left_alone: true, ..web() }).contains("another proxy"));
        assert!(says(Service { kind: "ExternalName".into(), ..web() }).contains("DNS"));
        assert!(says(Service { cluster_ips: vec!["None".into()], ..web() }).contains("headless"));
        assert!(says(Service { cluster_ips: vec![], ..web() }).contains("no cluster address"));
        assert!(
            says(Service { external_ips: vec!["x".into()], ..web() }).contains("spec.externalIPs[0] `x`")
        );
    }
}
