//! Rules as kube-proxy's nftables mode has them (Kubernetes 1.33, `pkg/proxy/nftables/proxier.go`), for IPv4 and ClusterIPs: the table with
//! all of its chains, sets and maps, a chain for each port of a Service, and one for each endpoint of that.
//!
//! kube-proxy names chains by a hash of what follows; a number of the same length stands for it here.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::objects::{Port, Service};

/// Pods' addresses: who asks from elsewhere is masqueraded.
const PODS: &str = "10.200.0.0/16";

/// What there is without any Service (`setupNFTables`). `node`: the address that NodePorts would be on.
pub(super) fn base(node: Ipv4Addr) -> String {
    let tuple = "ipv4_addr . inet_proto . inet_service";
    let mut text = "add table ip kube-proxy { comment \"rules for kube-proxy\" ; }\n".to_owned();
    let mut line = |words: &str| {
        text.push_str(words);
        text.push('\n');
    };
    for (set, comment) in
        [("cluster-ips", "Active ClusterIPs"), ("nodeport-ips", "IPs that accept NodePort traffic")]
    {
        line(&format!("add set ip kube-proxy {set} {{ type ipv4_addr ; comment \"{comment}\" ; }}"));
    }
    for (map, key, comment) in [
        ("firewall-ips", tuple, "destinations that are subject to LoadBalancerSourceRanges"),
        (
            "no-endpoint-nodeports",
            "inet_proto . inet_service",
            "vmap to drop or reject packets to service nodeports with no endpoints",
        ),
        ("no-endpoint-services", tuple, "vmap to drop or reject packets to services with no endpoints"),
        ("service-ips", tuple, "ClusterIP, ExternalIP and LoadBalancer IP traffic"),
        ("service-nodeports", "inet_proto . inet_service", "NodePort traffic"),
    ] {
        line(&format!("add map ip kube-proxy {map} {{ type {key} : verdict ; comment \"{comment}\" ; }}"));
    }
    for chain in [
        "cluster-ips-check",
        "filter-prerouting-pre-dnat { type filter hook prerouting priority -110 ; }",
        "filter-output-pre-dnat { type filter hook output priority -110 ; }",
        "filter-forward { type filter hook forward priority 0 ; }",
        "filter-input { type filter hook input priority 0 ; }",
        "filter-output { type filter hook output priority 0 ; }",
        "firewall-check",
        "mark-for-masquerade",
        "masquerading",
        "nat-output { type nat hook output priority -100 ; }",
        "nat-postrouting { type nat hook postrouting priority 100 ; }",
        "nat-prerouting { type nat hook prerouting priority -100 ; }",
        "nodeport-endpoints-check",
        "reject-chain { comment \"helper for @no-endpoint-services / @no-endpoint-nodeports\" ; }",
        "services",
        "service-endpoints-check",
    ] {
        line(&format!("add chain ip kube-proxy {chain}"));
    }
    for rule in [
        "cluster-ips-check ip daddr @cluster-ips reject comment \"Reject traffic to invalid ports of ClusterIPs\"",
        "cluster-ips-check ip daddr { 10.96.0.0/12 } drop comment \"Drop traffic to unallocated ClusterIPs\"",
        "filter-prerouting-pre-dnat ct state new jump firewall-check",
        "filter-forward ct state new jump service-endpoints-check",
        "filter-forward ct state new jump cluster-ips-check",
        "filter-input ct state new jump nodeport-endpoints-check",
        "filter-input ct state new jump service-endpoints-check",
        "filter-output ct state new jump service-endpoints-check",
        "filter-output-pre-dnat ct state new jump firewall-check",
        "filter-output ct state new jump cluster-ips-check",
        "firewall-check ip daddr . meta l4proto . th dport vmap @firewall-ips",
        "mark-for-masquerade mark set mark or 0x4000",
        "masquerading mark and 0x4000 == 0 return",
        "masquerading mark set mark xor 0x4000",
        "masquerading masquerade fully-random",
        "nat-output jump services",
        "nat-postrouting jump masquerading",
        "nat-prerouting jump services",
        "nodeport-endpoints-check ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports",
        "reject-chain reject",
        "services ip daddr . meta l4proto . th dport vmap @service-ips",
        "services ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports",
        "service-endpoints-check ip daddr . meta l4proto . th dport vmap @no-endpoint-services",
    ] {
        line(&format!("add rule ip kube-proxy {rule}"));
    }
    line(&format!("add element ip kube-proxy nodeport-ips {{ {node} }}"));
    text
}

/// A Service that was not there.
pub(super) fn added(service: &Service) -> String {
    [chains(service), elements(service), rules(service)].concat()
}

/// A Service whose endpoints have changed: all of its chains anew, those of endpoints that are gone empty (a partial sync). To delete the
/// latter, which kube-proxy does a second or more after, is left out: nobody waits for it.
pub(super) fn changed(before: &Service, after: &Service) -> String {
    let flush = |chain| format!("flush chain ip kube-proxy {chain}\n");
    let stale: String = stale(before, after).into_iter().map(flush).collect();
    [chains(after), rules(after), stale].concat()
}

fn chains(service: &Service) -> String {
    let ensure = |chain| format!("add chain ip kube-proxy {chain}\nflush chain ip kube-proxy {chain}\n");
    let of = |port: &Port| endpoint_chains(service, port).into_iter().chain([service_chain(service, port)]);
    service.ports.iter().flat_map(|port| of(port).map(ensure).collect::<Vec<_>>()).collect()
}

fn elements(service: &Service) -> String {
    let address = service.cluster_ip();
    let mut text = format!("add element ip kube-proxy cluster-ips {{ {address} }}\n");
    for port in &service.ports {
        let (number, chain) = (port.port, service_chain(service, port));
        let element = format!("{address} . tcp . {number} : goto {chain}");
        text += &format!("add element ip kube-proxy service-ips {{ {element} }}\n");
    }
    text
}

fn rules(service: &Service) -> String {
    let mut text = String::new();
    let mut add = |chain: &str, rule: &str| text += &format!("add rule ip kube-proxy {chain} {rule}\n");
    let address = service.cluster_ip();
    for port in &service.ports {
        let (own, chains) = (service_chain(service, port), endpoint_chains(service, port));
        let asked = format!("ip daddr {address} tcp dport {}", port.port);
        add(&own, &format!("{asked} ip saddr != {PODS} jump mark-for-masquerade"));
        let verdicts: Vec<String> =
            chains.iter().enumerate().map(|(i, chain)| format!("{i} : goto {chain}")).collect();
        let verdicts = verdicts.join(" , ");
        add(&own, &format!("numgen random mod {} vmap {{ {verdicts} }}", chains.len()));
        for (endpoint, chain) in port.endpoints.iter().zip(&chains) {
            add(chain, &format!("ip saddr {endpoint} jump mark-for-masquerade"));
            add(chain, &format!("meta l4proto tcp dnat to {endpoint}:{}", port.target));
        }
    }
    text
}

/// Chains of endpoints that are gone.
fn stale(before: &Service, after: &Service) -> BTreeSet<String> {
    let all = |service: &Service| -> BTreeSet<String> {
        service.ports.iter().flat_map(|port| endpoint_chains(service, port)).collect()
    };
    &all(before) - &all(after)
}

fn service_chain(service: &Service, port: &Port) -> String {
    format!("service-{:08}-{}", service.number, path(service, port))
}

fn endpoint_chains(service: &Service, port: &Port) -> Vec<String> {
    let path = path(service, port);
    let chain =
        |address: &Ipv4Addr| format!("endpoint-{:08X}-{path}__{address}/{}", address.to_bits(), port.target);
    port.endpoints.iter().map(chain).collect()
}

fn path(service: &Service, port: &Port) -> String {
    format!("{}/{}/tcp/{}", service.namespace(), service.name(), port.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_service_has_its_chains_anew_and_the_stale_one_empty() {
        let (before, after) = (Service::other(7, 0), Service::other(7, 1));
        let text = changed(&before, &after);
        let count = |words: &str| text.lines().filter(|line| line.starts_with(words)).count();
        assert_eq!((count("add chain"), count("flush chain"), count("add rule")), (11, 12, 22));
        assert_eq!(count("add element"), 0);
        let gone = "endpoint-0A800046-team-007/service-00007/tcp/web__10.128.0.70/8080";
        assert!(text.contains(&format!("flush chain ip kube-proxy {gone}\n")), "{text}");
    }

    #[test]
    fn a_service_has_an_element_a_port_that_leads_to_a_chain_that_is_there() {
        let text = added(&Service::measured(["10.200.1.3", "10.200.1.4"].map(|text| text.parse().unwrap())));
        let element = "add element ip kube-proxy service-ips { 10.96.0.1 . tcp . 80 : goto service-00000000-team-000/service-00000/tcp/web }";
        let chain = "add chain ip kube-proxy service-00000000-team-000/service-00000/tcp/web\n";
        assert!(text.find(chain).unwrap() < text.find(element).unwrap(), "{text}");
        assert!(text.contains("numgen random mod 2 vmap { 0 : goto endpoint-0AC80103-"), "{text}");
    }
}
