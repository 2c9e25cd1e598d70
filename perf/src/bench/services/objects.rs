//! Services as both contestants are told of them, and as an API server has them.

use std::net::Ipv4Addr;

use lab::manifests::NODE;
use lab::node::{HOST, POD_CIDRS};
use serde_json::{Value, json};

/// Namespaces that Services are spread over.
const NAMESPACES: u32 = 500;

/// Endpoints of each Service but the measured one.
const ENDPOINTS: u32 = 10;

/// The port that is connected to, and the endpoints'.
pub(super) const WEB: (u16, u16) = (80, 8080);

/// Where iperf3 listens.
const IPERF: u16 = 5201;

/// The measured Service's address.
pub(super) const MEASURED: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// A Service with a ClusterIP. TCP alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) number: u32,
    pub(super) ports: Vec<Port>,
}

/// One of its ports, and who serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) name: &'static str,
    pub(super) port: u16,
    pub(super) target: u16,
    pub(super) endpoints: Vec<Ipv4Addr>,
}

impl Service {
    /// The one that is talked to: two pods by one port; by another, for iperf3, one alone, since its two connections must reach the
    /// same server.
    pub(super) fn measured([first, second]: [Ipv4Addr; 2]) -> Self {
        let web = Port { name: "web", port: WEB.0, target: WEB.1, endpoints: vec![first, second] };
        let iperf = Port { name: "iperf", port: IPERF, target: IPERF, endpoints: vec![first] };
        Self { number: 0, ports: vec![web, iperf] }
    }

    /// One whose endpoints are addresses of nobody, of which the first is another one in each odd round.
    pub(super) fn other(number: u32, round: u32) -> Self {
        let endpoint = |i: u32| {
            let moved = if i == 0 && !round.is_multiple_of(2) { 1 << 20 } else { 0 };
            Ipv4Addr::from_bits(Ipv4Addr::new(10, 128, 0, 0).to_bits() + number * ENDPOINTS + i + moved)
        };
        let endpoints = (0..ENDPOINTS).map(endpoint).collect();
        Self { number, ports: vec![Port { name: "web", port: WEB.0, target: WEB.1, endpoints }] }
    }

    pub(super) fn cluster_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(MEASURED.to_bits() + self.number)
    }

    pub(super) fn namespace(&self) -> String {
        format!("team-{:03}", self.number % NAMESPACES)
    }

    pub(super) fn name(&self) -> String {
        format!("service-{:05}", self.number)
    }

    /// The Service and its slices, one a port.
    pub(super) fn objects(&self) -> Vec<Value> {
        std::iter::once(self.object()).chain(self.ports.iter().map(|port| self.slice(port))).collect()
    }

    fn object(&self) -> Value {
        let address = self.cluster_ip().to_string();
        let port = |port: &Port| json!({"name": port.name, "protocol": "TCP", "port": port.port, "targetPort": port.target});
        json!({
            "kind": "Service", "apiVersion": "v1",
            "metadata": {"namespace": self.namespace(), "name": self.name()},
            "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ipFamilies": ["IPv4"],
                "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
                "ports": self.ports.iter().map(port).collect::<Vec<_>>()},
        })
    }

    fn slice(&self, port: &Port) -> Value {
        let endpoint = |address: &Ipv4Addr| {
            json!({"addresses": [address.to_string()],
                "conditions": {"ready": true, "serving": true, "terminating": false}})
        };
        json!({
            "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
            "metadata": {"namespace": self.namespace(), "name": format!("{}-{}", self.name(), port.name),
                "labels": {"kubernetes.io/service-name": self.name()}},
            "addressType": "IPv4", "endpoints": port.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
            "ports": [{"name": port.name, "protocol": "TCP", "port": port.target}],
        })
    }
}

/// This node.
pub(super) fn node() -> Value {
    let addresses = HOST.map(|address| json!({"type": "InternalIP", "address": address}));
    json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": NODE},
        "spec": {"podCIDR": POD_CIDRS[0], "podCIDRs": POD_CIDRS}, "status": {"addresses": addresses}})
}

/// A pod of this node.
pub(super) fn pod(name: &str, addresses: &[std::net::IpAddr]) -> Value {
    let ips: Vec<Value> = addresses.iter().map(|address| json!({"ip": address.to_string()})).collect();
    json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"namespace": "default", "name": name},
        "spec": {"nodeName": NODE, "containers": []},
        "status": {"phase": "Running", "podIP": ips[0]["ip"], "podIPs": ips}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_have_an_address_or_an_endpoint_in_common() {
        let many: Vec<Service> =
            (1..20_000).flat_map(|n| [Service::other(n, 0), Service::other(n, 1)]).collect();
        let addresses: BTreeSet<Ipv4Addr> = many.iter().map(Service::cluster_ip).collect();
        assert_eq!(addresses.len(), 19_999);
        let endpoints: BTreeSet<_> = many.iter().flat_map(|service| &service.ports[0].endpoints).collect();
        assert_eq!(endpoints.len(), 19_999 * 11);
    }
}
