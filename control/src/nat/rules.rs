//! The table in nftables' own words: what is written whole, and what is changed in its sets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use desired::{HostPort, KernelTunnel, NodePort};
use proto::dataplane::FrontendKey;
use wire::IpPrefix;

use super::TABLE;
use crate::peers::DEVICE;
use crate::wanted::{Difference, MARK, Wanted};

// What is inside a datagram, in bits from its UDP header: behind that are eight bytes of VXLAN's, and fourteen of Ethernet's. Where one ends
// before, no rule that asks for it holds.
const INNER_TYPE: &str = "@th,224,16";
const INNER_SOURCE4: &str = "@th,336,32";
const INNER_SOURCE6: &str = "@th,304,128";
const INNER_NEXT_HEADER: &str = "@th,288,8";
const INNER_ICMP6_TYPE: &str = "@th,560,8";

/// The set that a NodePort is in.
fn node_ports(v4: bool) -> &'static str {
    if v4 { "node_ports_ip" } else { "node_ports_ip6" }
}

fn node_port(NodePort { protocol, port, .. }: &NodePort) -> String {
    format!("{protocol} . {port}")
}

/// The set that a Service's port on an external address is in. It has no ranges, of which nft compares each new one with all others.
fn externals(v4: bool) -> &'static str {
    if v4 { "externals_ip" } else { "externals_ip6" }
}

fn external(FrontendKey { address, protocol, port, .. }: &FrontendKey) -> String {
    format!("{address} . {protocol} . {port}")
}

/// The same as an ICMP error quotes it, of a packet that came from there: source, protocol and port.
fn quoted(v4: bool) -> &'static str {
    if v4 { "externals_quoted_ip" } else { "externals_quoted_ip6" }
}

/// What is inside an ICMP message has no name in nftables' words, and is a number.
fn quoted_external(FrontendKey { address, protocol, port, .. }: &FrontendKey) -> String {
    let address = match address {
        IpAddr::V4(own) => u128::from(own.to_bits()),
        IpAddr::V6(own) => own.to_bits(),
    };
    format!("{address} . {} . {port}", protocol.0)
}

/// Errors (RFC 792; RFC 4443, section 2.1), and where they quote a source, a protocol and its port: in bits from the ICMP header, of eight
/// bytes. IPv4's options or IPv6's extension headers are in no packet of a Service's.
const QUOTED4: [&str; 2] = [
    "icmp type { destination-unreachable, time-exceeded, parameter-problem }",
    "@th,160,32 . @th,136,8 . @th,224,16",
];
const QUOTED6: [&str; 2] = ["icmpv6 type 1-4", "@th,128,128 . @th,112,8 . @th,384,16"];

/// The set of nodes' ranges or addresses that a prefix is in. Neither overlap, so that each can be taken out again as it was put in.
fn set_of(prefix: IpPrefix) -> String {
    let family = if prefix.addr().is_ipv4() { "ip" } else { "ip6" };
    format!("{}_{family}", if prefix.is_host() { "addresses" } else { "ranges" })
}

/// One that is no range is not told as one.
fn element(prefix: &IpPrefix) -> String {
    if prefix.is_host() { prefix.addr().to_string() } else { prefix.to_string() }
}

/// The set of what may come in the tunnel that a prefix is in.
fn sources_of(source: IpPrefix) -> &'static str {
    if source.addr().is_ipv4() { "tunnel_sources_ip" } else { "tunnel_sources_ip6" }
}

/// What is inside a datagram has no name in nftables' words, and is a number.
fn source_element(end: IpAddr, source: IpPrefix) -> String {
    let (bits, first) = match source.addr() {
        IpAddr::V4(first) => (32, u128::from(first.to_bits())),
        IpAddr::V6(first) => (128, first.to_bits()),
    };
    let size = 1u128.checked_shl(bits - u32::from(source.len()));
    let last = first | size.map_or(u128::MAX, |size| size - 1);
    if first == last { format!("{end} . {first}") } else { format!("{end} . {first}-{last}") }
}

/// Adds and deletes elements of sets, in one transaction.
pub(super) fn elements(Difference { gone, new }: &Difference) -> String {
    let mut script = String::new();
    for (verb, part) in [("delete", gone), ("add", new)] {
        let mut sets: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for prefix in &part.cluster {
            sets.entry(set_of(*prefix)).or_default().push(element(prefix));
        }
        for port in &part.node_ports {
            sets.entry(node_ports(port.v4).to_owned()).or_default().push(node_port(port));
        }
        for own in &part.externals {
            let v4 = own.address.is_ipv4();
            sets.entry(externals(v4).to_owned()).or_default().push(external(own));
            sets.entry(quoted(v4).to_owned()).or_default().push(quoted_external(own));
        }
        let ends = part.ends.iter().map(ToString::to_string);
        sets.entry("tunnel_ends".to_owned()).or_default().extend(ends);
        for (end, source) in &part.sources {
            sets.entry(sources_of(*source).to_owned()).or_default().push(source_element(*end, *source));
        }
        for (set, elements) in sets.into_iter().filter(|(_, elements)| !elements.is_empty()) {
            let _ = writeln!(script, "{verb} element inet {TABLE} {set} {{ {} }}", elements.join(", "));
        }
    }
    script
}

/// The table, in place of the one before.
pub(super) fn rules(name: &str, wanted: &Wanted, within: &[IpPrefix]) -> String {
    let mut to_pods = String::new();
    for port in &wanted.ports {
        for v4 in [true, false] {
            if let Some(rule) = rule(port, v4) {
                let _ = writeln!(to_pods, "    {rule} comment \"{}\"", comment(&port.endpoint));
            }
        }
    }
    let mut sets = String::new();
    for v4 in [true, false] {
        let Some(router) = wanted.routers.iter().find(|own| own.is_ipv4() == v4) else { continue };
        let ports = wanted.node_ports.iter().filter(|own| own.v4 == v4).map(node_port).collect();
        sets += &set_text(node_ports(v4), "type inet_proto . inet_service", "", ports);
        if let Some(which) = on_node(v4, within) {
            let set = node_ports(v4);
            let _ = writeln!(
                to_pods,
                "    {which}meta l4proto . th dport @{set} dnat {} to {router}",
                family(v4)
            );
        }
    }
    let by_kernel = &wanted.by_kernel;
    let is_way_out = !by_kernel.cluster.is_empty();
    // What belongs to no connection is not translated by the kernel, and must not leave with an address that nobody knows there.
    let (mut out, mut untracked) = (String::new(), String::new());
    for router in &wanted.routers {
        let family = family(router.is_ipv4());
        let _ = writeln!(
            untracked,
            "    iifname \"{name}\" {family} saddr {router} ct state invalid counter name untranslated drop"
        );
    }
    for v4 in [true, false] {
        let (family, nfproto) = (family(v4), if v4 { "ipv4" } else { "ipv6" });
        if let Some(source) = wanted.sources.iter().find(|own| own.is_ipv4() == v4) {
            // With an uplink of the data plane's, answers to others would leave by that.
            let whose = if is_way_out { "fib saddr type local " } else { "" };
            let _ = writeln!(
                out,
                "    oifname \"{name}\" meta nfproto {nfproto} {whose}ct status dnat snat {family} to {source}"
            );
            if wanted.has_externals(v4) {
                // What asks at an address of the node's has that as its own as well.
                let _ = writeln!(
                    out,
                    "    oifname \"{name}\" meta nfproto {nfproto} meta mark & {MARK:#x} != 0 fib saddr type local \
                     {family} saddr != {source} snat {family} to {source}"
                );
            }
        }
        if !is_way_out {
            continue;
        }
        let of = |own: &&IpPrefix| own.addr().is_ipv4() == v4;
        let (addresses, ranges): (Vec<_>, Vec<_>) =
            by_kernel.cluster.iter().filter(of).partition(|own| own.is_host());
        let outside: Vec<_> = by_kernel.outside.iter().filter(of).collect();
        for (set, flags, elements) in [
            ("addresses", "", addresses),
            ("ranges", "flags interval;", ranges),
            ("outside", "flags interval; auto-merge;", outside),
        ] {
            let elements = elements.into_iter().map(element).collect();
            let of = format!("type {nfproto}_addr");
            sets += &set_text(&format!("{set}_{family}"), &of, flags, elements);
        }
        let known =
            ["addresses", "ranges", "outside"].map(|set| format!("{family} daddr != @{set}_{family} "));
        let known = known.concat();
        let outward = format!("iifname \"{name}\" oifname != \"{name}\" {known}");
        let _ = writeln!(out, "    {outward}masquerade");
        let _ = writeln!(untracked, "    {outward}ct state invalid counter name untranslated drop");
    }
    let (marks, unmarked) = mark_rules(name, wanted);
    let tunnels = tunnel_rules(name, wanted);
    format!(
        "add table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
  counter untranslated {{ }}
{sets}{marks}{tunnels}  chain host_ports {{
{to_pods}  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    iifname != \"{name}\" {unmarked}fib daddr type local jump host_ports
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    {unmarked}fib daddr type local jump host_ports
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
{out}  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
{untracked}  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname \"{name}\" ip daddr 127.0.0.0/8 ct direction original drop
  }}
}}
"
    )
}

/// What is sent to a Service's port on an external address is marked, and routed by that (`netlink/marks.rs`), as is what tells of a packet
/// that came from there, such as that it was too big; and how what is not is told.
fn mark_rules(name: &str, wanted: &Wanted) -> (String, String) {
    let (mut sets, mut rules) = (String::new(), String::new());
    for v4 in [true, false].into_iter().filter(|v4| wanted.has_externals(*v4)) {
        let (set, family) = (externals(v4), family(v4));
        let elements =
            wanted.externals.iter().filter(|own| own.address.is_ipv4() == v4).map(external).collect();
        let of = format!("type ip{}_addr . inet_proto . inet_service", if v4 { "v4" } else { "v6" });
        sets += &set_text(set, &of, "", elements);
        let mark = format!("meta mark set meta mark | {MARK:#x}");
        let _ = writeln!(rules, "    {family} daddr . meta l4proto . th dport @{set} {mark}");
        let [errors, what] = if v4 { QUOTED4 } else { QUOTED6 };
        let elements = wanted.externals.iter().filter(|own| own.address.is_ipv4() == v4);
        let elements = elements.map(quoted_external).collect();
        sets += &set_text(quoted(v4), &format!("typeof {what}"), "", elements);
        let _ = writeln!(rules, "    {errors} {what} @{} {mark}", quoted(v4));
    }
    if rules.is_empty() {
        return (String::new(), String::new());
    }
    let chains = format!(
        "{sets}  chain externals {{
{rules}  }}
  chain externals_prerouting {{
    type filter hook prerouting priority mangle; policy accept;
    iifname != \"{name}\" jump externals
  }}
  chain externals_output {{
    type route hook output priority mangle; policy accept;
    jump externals
  }}
"
    );
    (chains, format!("meta mark & {MARK:#x} == 0 "))
}

fn set_text(name: &str, of: &str, flags: &str, elements: Vec<String>) -> String {
    let elements = match elements.is_empty() {
        true => String::new(),
        false => format!("elements = {{ {} }}", elements.join(", ")),
    };
    format!("  set {name} {{\n    {of}; {flags}\n    {elements}\n  }}\n")
}

/// Who may send into the tunnel, and what: no datagram is taken but from an end that is known, with a packet in it from an address of that
/// node; none is sent by a pod to one, and what was in one has a source that neither this node has nor a pod of its. As the data plane's own
/// tunnels (pipeline/src/tunnel/open.rs).
fn tunnel_rules(name: &str, wanted: &Wanted) -> String {
    let Some(KernelTunnel { end, vni, udp_port, .. }) = wanted.by_kernel.tunnel else { return String::new() };
    let (family, nfproto) = if end.address.is_ipv4() { ("ip", "ipv4") } else { ("ip6", "ipv6") };
    let ends = wanted.by_kernel.ends.keys().map(ToString::to_string).collect();
    let mut sets = set_text("tunnel_ends", &format!("type {nfproto}_addr"), "", ends);
    let sources = &wanted.by_kernel.sources;
    for (set, bits) in [("tunnel_sources_ip", INNER_SOURCE4), ("tunnel_sources_ip6", INNER_SOURCE6)] {
        let here = sources.iter().filter(|(_, source)| sources_of(*source) == set);
        let elements = here.map(|(end, source)| source_element(*end, *source)).collect();
        sets += &set_text(set, &format!("typeof {family} saddr . {bits}"), "flags interval;", elements);
    }
    // What this node itself sends may have another address of its, as what kube-proxy masquerades, which nobody would take for this node's.
    let mut own_sources = String::new();
    let first = |v4: bool| wanted.sources.iter().find(|own| own.is_ipv4() == v4);
    for source in [true, false].into_iter().filter_map(first) {
        let inside = if source.is_ipv4() { "ip" } else { "ip6" };
        let foreign = ["addresses", "ranges"].map(|set| format!("{inside} saddr != @{set}_{inside} "));
        let foreign = foreign.concat();
        let _ = writeln!(own_sources, "    oifname \"{DEVICE}\" {foreign}snat {inside} to {source}");
    }
    // The VNI is behind eight bytes of UDP and four of VXLAN's flags (RFC 7348, section 5): other tunnels are none of ours.
    let ours = format!("udp dport {udp_port} @th,96,24 {vni}");
    format!(
        "  counter tunnel-peer-unknown {{ }}
  counter tunnel-invalid {{ }}
  counter tunnel-source-spoofed {{ }}
  counter tunnel-port-closed {{ }}
{sets}  chain tunnel_inside {{
    {INNER_TYPE} 0x0800 {family} saddr . {INNER_SOURCE4} @tunnel_sources_ip accept
    {INNER_TYPE} 0x86dd {INNER_NEXT_HEADER} 58 {INNER_ICMP6_TYPE} 133-137 counter name tunnel-invalid drop
    {INNER_TYPE} 0x86dd {family} saddr . {INNER_SOURCE6} @tunnel_sources_ip6 accept
    {INNER_TYPE} {{ 0x0800, 0x86dd }} counter name tunnel-source-spoofed drop
    counter name tunnel-invalid drop
  }}
  chain tunnel_input {{
    type filter hook input priority filter; policy accept;
    {ours} {family} saddr != @tunnel_ends counter name tunnel-peer-unknown drop
    {ours} {family} daddr != {own} counter name tunnel-port-closed drop
    iifname \"{name}\" {ours} counter name tunnel-port-closed drop
    {ours} goto tunnel_inside
  }}
  chain tunnel_forward {{
    type filter hook forward priority filter; policy accept;
    iifname \"{name}\" {ours} {family} daddr @tunnel_ends counter name tunnel-port-closed drop
  }}
  chain tunnel_postrouting {{
    type nat hook postrouting priority srcnat - 1; policy accept;
{own_sources}  }}
  chain tunnel_prerouting {{
    type filter hook prerouting priority filter; policy accept;
    iifname \"{DEVICE}\" fib saddr type local counter name tunnel-source-spoofed drop
    iifname \"{DEVICE}\" fib saddr oifname \"{name}\" counter name tunnel-source-spoofed drop
  }}
",
        own = end.address
    )
}

fn family(v4: bool) -> &'static str {
    if v4 { "ip" } else { "ip6" }
}

/// What is sent to one of the node's addresses that NodePorts are on, if any of the family is.
fn on_node(v4: bool, within: &[IpPrefix]) -> Option<String> {
    if within.is_empty() {
        // What is sent to ::1 cannot leave the loopback.
        return Some(if v4 { "meta nfproto ipv4 " } else { "ip6 daddr != ::1 " }.to_owned());
    }
    // nft takes none that another one holds.
    let held =
        |own: &IpPrefix| within.iter().any(|other| other.len() < own.len() && other.contains(own.addr()));
    let own = within.iter().filter(|own| own.addr().is_ipv4() == v4 && !held(own));
    let own: BTreeSet<String> = own.map(ToString::to_string).collect();
    let list = own.into_iter().collect::<Vec<_>>().join(", ");
    (!list.is_empty()).then(|| format!("{} daddr {{ {list} }} ", family(v4)))
}

/// Whose a rule is: within what `nft` takes, 128 bytes (nft(8)), and nothing that would end the word.
fn comment(endpoint: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "./@_-".contains(c) { c } else { '_' };
    endpoint.chars().take(127).map(plain).collect()
}

/// From an address of the node to the pod's of the same family.
fn rule(port: &HostPort, v4: bool) -> Option<String> {
    let pod = port.backend(v4)?;
    let mapping = port.mapping;
    let (family, nfproto) = if v4 { ("ip", "ipv4") } else { ("ip6", "ipv6") };
    let which = match mapping.host {
        Some(host) if host.is_ipv4() != v4 => return None,
        Some(host) if !host.is_unspecified() => format!("{family} daddr {host}"),
        // What is sent to ::1 cannot leave the loopback.
        _ if !v4 => format!("meta nfproto {nfproto} ip6 daddr != ::1"),
        _ => format!("meta nfproto {nfproto}"),
    };
    let at = std::net::SocketAddr::new(pod, mapping.container_port);
    let protocol = mapping.protocol;
    Some(format!("{which} {protocol} dport {} dnat {family} to {at}", mapping.host_port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::control::PortMapping;
    use proto::dataplane::{Protocol, Router};

    fn port(host: Option<&str>, protocol: u8, addresses: &[&str]) -> HostPort {
        let host = host.map(|text| text.parse().unwrap());
        HostPort {
            mapping: PortMapping { host, host_port: 8080, container_port: 80, protocol: Protocol(protocol) },
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            endpoint: "shop/front".to_owned(),
        }
    }

    #[test]
    fn a_rule_says_which_address_and_where_to() {
        let both = ["10.244.1.2", "fd00::2"];
        let says = |host: Option<&str>, protocol| {
            let port = port(host, protocol, &both);
            [true, false].map(|v4| rule(&port, v4).unwrap_or_default())
        };
        assert_eq!(
            says(None, 6),
            [
                "meta nfproto ipv4 tcp dport 8080 dnat ip to 10.244.1.2:80",
                "meta nfproto ipv6 ip6 daddr != ::1 tcp dport 8080 dnat ip6 to [fd00::2]:80",
            ]
        );
        assert_eq!(
            says(Some("127.0.0.1"), 17),
            ["ip daddr 127.0.0.1 udp dport 8080 dnat ip to 10.244.1.2:80", ""]
        );
        assert_eq!(
            says(Some("0.0.0.0"), 132)[0],
            "meta nfproto ipv4 sctp dport 8080 dnat ip to 10.244.1.2:80"
        );
        assert_eq!(says(Some("::"), 6)[0], "");
        assert_eq!(rule(&port(None, 6, &both[..1]), false), None);
    }

    #[test]
    fn a_node_port_is_on_the_addresses_that_are_meant() {
        let within = |texts: &[&str]| {
            let within: Vec<IpPrefix> = texts.iter().map(|text| text.parse().unwrap()).collect();
            [true, false].map(|v4| on_node(v4, &within).unwrap_or_default())
        };
        assert_eq!(within(&[]), ["meta nfproto ipv4 ", "ip6 daddr != ::1 "]);
        assert_eq!(
            within(&["10.0.0.0/8", "10.1.0.0/16", "192.168.77.11/32", "10.0.0.0/8"]),
            ["ip daddr { 10.0.0.0/8, 192.168.77.11/32 } ", ""]
        );
        let (v4, v6) = (true, false);
        let port = |v4, protocol, port| NodePort { v4, protocol: Protocol(protocol), port };
        let wanted = Wanted {
            node_ports: [port(v4, 6, 30_080), port(v4, 17, 30_053), port(v6, 132, 30_080)]
                .into_iter()
                .collect(),
            routers: vec!["10.244.1.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            ..Wanted::default()
        };
        let rules = rules("podrouter0", &wanted, &[]);
        for line in [
            "elements = { tcp . 30080, udp . 30053 }",
            "elements = { sctp . 30080 }",
            "meta nfproto ipv4 meta l4proto . th dport @node_ports_ip dnat ip to 10.244.1.1",
            "ip6 daddr != ::1 meta l4proto . th dport @node_ports_ip6 dnat ip6 to fd00::1",
        ] {
            assert!(rules.lines().any(|own| own.trim() == line), "{line}:\n{rules}");
        }
        // One comes and one goes: no other is told.
        let mut later = wanted.clone();
        later.node_ports.remove(&port(v4, 6, 30_080));
        later.node_ports.insert(port(v6, 6, 30_081));
        let router = Router {
            gateway4: [169, 254, 1, 1].into(),
            gateway6: "fe80::1".parse().unwrap(),
            dns_servers: vec![],
            dns_search: vec![],
        };
        let script = elements(&later.since(&wanted, &router).unwrap());
        assert_eq!(
            script,
            "delete element inet podrouter node_ports_ip { tcp . 30080 }\n\
             add element inet podrouter node_ports_ip6 { tcp . 30081 }\n"
        );
    }

    #[test]
    fn an_external_address_is_marked_by_its_port_alone() {
        let key = |address: &str, protocol, port| FrontendKey {
            network: 0,
            address: address.parse().unwrap(),
            port,
            protocol: Protocol(protocol),
        };
        let wanted = Wanted {
            externals: [key("203.0.113.7", 6, 80), key("203.0.113.7", 17, 53)].into_iter().collect(),
            sources: vec!["192.168.77.11".parse().unwrap(), "fd00:77::11".parse().unwrap()],
            ..Wanted::default()
        };
        let text = rules("podrouter0", &wanted, &[]);
        for line in [
            "type ipv4_addr . inet_proto . inet_service;",
            "elements = { 203.0.113.7 . udp . 53, 203.0.113.7 . tcp . 80 }",
            "ip daddr . meta l4proto . th dport @externals_ip meta mark set meta mark | 0x1000",
            "elements = { 3405803783 . 17 . 53, 3405803783 . 6 . 80 }",
            "icmp type { destination-unreachable, time-exceeded, parameter-problem } @th,160,32 . @th,136,8 . @th,224,16 \
             @externals_quoted_ip meta mark set meta mark | 0x1000",
            "iifname != \"podrouter0\" meta mark & 0x1000 == 0 fib daddr type local jump host_ports",
            "oifname \"podrouter0\" meta nfproto ipv4 meta mark & 0x1000 != 0 fib saddr type local ip saddr != 192.168.77.11 \
             snat ip to 192.168.77.11",
        ] {
            assert!(text.lines().any(|own| own.trim() == line), "{line}:\n{text}");
        }
        assert!(!text.contains("externals_ip6") && !text.contains("snat ip6 to fd00:77::11\n    oifname"));
        // One of a family that there was already; the first of another makes all anew.
        let router = Router {
            gateway4: [169, 254, 1, 1].into(),
            gateway6: "fe80::1".parse().unwrap(),
            dns_servers: vec![],
            dns_search: vec![],
        };
        let mut later = wanted.clone();
        later.externals.remove(&key("203.0.113.7", 6, 80));
        later.externals.insert(key("203.0.113.8", 6, 80));
        assert_eq!(
            elements(&later.since(&wanted, &router).unwrap()),
            "delete element inet podrouter externals_ip { 203.0.113.7 . tcp . 80 }\n\
             delete element inet podrouter externals_quoted_ip { 3405803783 . 6 . 80 }\n\
             add element inet podrouter externals_ip { 203.0.113.8 . tcp . 80 }\n\
             add element inet podrouter externals_quoted_ip { 3405803784 . 6 . 80 }\n"
        );
        later.externals.insert(key("2001:db8::7", 6, 80));
        assert!(later.since(&wanted, &router).is_none());
    }

    #[test]
    fn a_datagram_is_taken_for_its_end_and_for_what_is_in_it() {
        let prefix = |text: &str| text.parse::<IpPrefix>().unwrap();
        let end = |text: &str| desired::End { address: text.parse().unwrap(), mac: wire::MacAddr([2; 6]) };
        let tunnel = |own: &str| KernelTunnel { end: end(own), vni: 7, udp_port: 4_789, mtu: 1_430 };
        let text = |own: &str, other: &str| {
            let mut wanted = Wanted { sources: vec![own.parse().unwrap()], ..Wanted::default() };
            wanted.by_kernel.tunnel = Some(tunnel(own));
            wanted.by_kernel.ends.insert(end(other).address, "n2".to_owned());
            let sources = ["10.2.0.0/24", "192.168.0.2/32", "fd00:2::/64", "fd01::2/128"];
            wanted.by_kernel.sources.extend(sources.map(|own| (end(other).address, prefix(own))));
            let words = tunnel_rules("host0", &wanted);
            words
                .lines()
                .map(|line| line.trim().to_owned())
                .filter(|line| !line.is_empty())
                .collect::<Vec<_>>()
        };
        let said = text("192.168.0.1", "192.168.0.2");
        let has = |line: &str| assert!(said.iter().any(|own| own == line), "{line}\nnot in {said:#?}");
        has("elements = { 192.168.0.2 }");
        has("typeof ip saddr . @th,336,32; flags interval;");
        has("elements = { 192.168.0.2 . 167903232-167903487, 192.168.0.2 . 3232235522 }");
        has("typeof ip saddr . @th,304,128; flags interval;");
        let (first, last) = (0xfd00_0002_u128 << 96, (0xfd00_0002_u128 << 96) + u128::from(u64::MAX));
        let own = (0xfd01_u128 << 112) + 2;
        has(&format!("elements = {{ 192.168.0.2 . {first}-{last}, 192.168.0.2 . {own} }}"));
        let at = said.iter().position(|line| line == "chain tunnel_inside {").unwrap();
        let inside = [
            "@th,224,16 0x0800 ip saddr . @th,336,32 @tunnel_sources_ip accept",
            "@th,224,16 0x86dd @th,288,8 58 @th,560,8 133-137 counter name tunnel-invalid drop",
            "@th,224,16 0x86dd ip saddr . @th,304,128 @tunnel_sources_ip6 accept",
            "@th,224,16 { 0x0800, 0x86dd } counter name tunnel-source-spoofed drop",
            "counter name tunnel-invalid drop",
        ];
        assert_eq!(said[at + 1..at + 6], inside);
        has("udp dport 4789 @th,96,24 7 goto tunnel_inside");
        has(
            "oifname \"podrouter.vxlan\" ip saddr != @addresses_ip ip saddr != @ranges_ip snat ip to 192.168.0.1",
        );
        // By ends of IPv6, the same.
        let said = text("fd01::1", "fd01::2");
        assert!(
            said.iter().any(|line| line == "typeof ip6 saddr . @th,336,32; flags interval;"),
            "{said:#?}"
        );
        assert!(said.contains(&format!("elements = {{ fd01::2 . {first}-{last}, fd01::2 . {own} }}")));
    }

    #[test]
    fn a_comment_is_one_that_nft_takes() {
        assert_eq!(comment("shop/front-1.a_b@net1"), "shop/front-1.a_b@net1");
        assert_eq!(comment("a\"; flush ruleset\n\\é"), "a___flush_ruleset___");
        assert_eq!(comment(&"x".repeat(400)).len(), 127);
    }
}
