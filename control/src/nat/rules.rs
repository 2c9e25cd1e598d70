//! The table in nftables' own words, as it is written whole.

use std::collections::BTreeSet;
use std::fmt::{Display, Write as _};
use std::net::IpAddr;

use desired::{HostPort, KernelTunnel};
use wire::IpPrefix;

use super::TABLE;
use super::sets::{Set, Sets, family, mask, number};
use crate::peers::DEVICE;
use crate::wanted::{MARK, Wanted};

// What is inside a datagram, in bits from its UDP header: behind that are eight bytes of VXLAN's, and fourteen of Ethernet's. Where one ends
// before, no rule that asks for it holds.
const INNER_TYPE: &str = "@th,224,16";
const INNER_SOURCE4: &str = "@th,336,32";
const INNER_SOURCE6: &str = "@th,304,128";
const INNER_NEXT_HEADER: &str = "@th,288,8";
const INNER_ICMP6_TYPE: &str = "@th,560,8";

/// Errors (RFC 792; RFC 4443, section 2.1), and where they quote a source, a protocol and its port: in bits from the ICMP header, of eight
/// bytes. IPv4's options or IPv6's extension headers are in no packet of a Service's.
const QUOTED4: [&str; 2] = [
    "icmp type { destination-unreachable, time-exceeded, parameter-problem }",
    "@th,160,32 . @th,136,8 . @th,224,16",
];
const QUOTED6: [&str; 2] = ["icmpv6 type 1-4", "@th,128,128 . @th,112,8 . @th,384,16"];

/// The table, in place of the one before.
pub(super) fn rules(name: &str, wanted: &Wanted, all: &Sets, within: &[IpPrefix]) -> String {
    let mut to_pods = String::new();
    for port in &wanted.ports {
        for v4 in [true, false] {
            if let Some(rule) = rule(port, v4) {
                let _ = writeln!(to_pods, "    {rule} comment \"{}\"", comment(&port.endpoint));
            }
        }
    }
    for v4 in [true, false] {
        let Some(router) = wanted.routers.iter().find(|own| own.is_ipv4() == v4) else { continue };
        if let Some(which) = on_node(v4, within) {
            let set = Set::NodePorts { v4 };
            let _ = writeln!(
                to_pods,
                "    {which}meta l4proto . th dport @{set} dnat {} to {router}",
                family(v4)
            );
        }
    }
    let by_kernel = &wanted.by_kernel;
    let ends_v4 = by_kernel.tunnel.is_none_or(|tunnel| tunnel.end.address.is_ipv4());
    let mut sets: String =
        all.iter().map(|(set, elements)| set_text(set, &type_of(*set, ends_v4), elements)).collect();
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
        let outside = by_kernel.outside.iter().filter(|own| own.addr().is_ipv4() == v4);
        let of = format!("type {nfproto}_addr; flags interval; auto-merge");
        sets += &set_text(format!("outside_{family}"), &of, outside);
        let outward = format!("    iifname \"{name}\" oifname != \"{name}\" ");
        let inside = in_cluster(all, &outward, "daddr", v4);
        let beyond = format!("{inside}{outward}{family} daddr != @outside_{family} ");
        let _ = writeln!(out, "{beyond}masquerade");
        let _ = writeln!(untracked, "{beyond}ct state invalid counter name untranslated drop");
    }
    let (marks, unmarked) = mark_rules(name, wanted);
    let tunnels = tunnel_rules(name, wanted, all);
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
    let mut rules = String::new();
    for v4 in [true, false].into_iter().filter(|v4| wanted.has_externals(*v4)) {
        let [errors, what] = if v4 { QUOTED4 } else { QUOTED6 };
        let (asked, quoted) = (Set::Externals { v4 }, Set::Quoted { v4 });
        let mark = format!("meta mark set meta mark | {MARK:#x}");
        let _ = writeln!(rules, "    {} daddr . meta l4proto . th dport @{asked} {mark}", family(v4));
        let _ = writeln!(rules, "    {errors} {what} @{quoted} {mark}");
    }
    if rules.is_empty() {
        return (String::new(), String::new());
    }
    let chains = format!(
        "  chain externals {{
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

fn set_text<T: ToString>(name: impl Display, of: &str, elements: impl IntoIterator<Item = T>) -> String {
    let elements: Vec<String> = elements.into_iter().map(|own| own.to_string()).collect();
    let elements = match elements.is_empty() {
        true => String::new(),
        false => format!("elements = {{ {} }}", elements.join(", ")),
    };
    format!("  set {name} {{\n    {of};\n    {elements}\n  }}\n")
}

/// What a set's elements are, where ends of tunnels are of this family.
fn type_of(set: Set, ends_v4: bool) -> String {
    match set {
        Set::NodePorts { .. } => "type inet_proto . inet_service".to_owned(),
        Set::Externals { v4 } => format!("type {}_addr . inet_proto . inet_service", nfproto(v4)),
        Set::Quoted { v4 } => format!("typeof {}", if v4 { QUOTED4 } else { QUOTED6 }[1]),
        Set::Cluster { v4, .. } => format!("type {}_addr", nfproto(v4)),
        Set::TunnelEnds => format!("type {}_addr", nfproto(ends_v4)),
        Set::TunnelSources { v4, .. } => format!("typeof {} saddr . {}", family(ends_v4), inner_source(v4)),
    }
}

/// Lets pass what is in a range or an address of a node's: by a rule for each length, since one rule has no room for many.
fn in_cluster(all: &Sets, which: &str, address: &str, v4: bool) -> String {
    let mut rules = String::new();
    for set in all.keys() {
        if let Set::Cluster { v4: own, len } = *set
            && own == v4
        {
            let bits = bits(v4, len, |mask| mask.to_string());
            let _ = writeln!(rules, "{which}{} {address}{bits} @{set} accept", family(v4));
        }
    }
    rules
}

/// The first bits of an address, where not all are meant.
fn bits(v4: bool, len: u8, mask_text: impl Fn(IpAddr) -> String) -> String {
    let mask = mask(v4, len);
    if IpPrefix::host(mask).len() == len { String::new() } else { format!(" & {}", mask_text(mask)) }
}

/// Who may send into the tunnel, and what: no datagram is taken but from an end that is known, with a packet in it from an address of that
/// node; none is sent by a pod to one, and what was in one has a source that neither this node has nor a pod of its. As the data plane's own
/// tunnels (pipeline/src/tunnel/open.rs).
fn tunnel_rules(name: &str, wanted: &Wanted, all: &Sets) -> String {
    let Some(KernelTunnel { end, vni, udp_port, .. }) = wanted.by_kernel.tunnel else { return String::new() };
    let family = family(end.address.is_ipv4());
    let [mut sources4, mut sources6] = [String::new(), String::new()];
    for set in all.keys() {
        if let Set::TunnelSources { v4, len } = *set {
            let (source, bits) = (inner_source(v4), bits(v4, len, number));
            let (rules, inner) = if v4 { (&mut sources4, "0x0800") } else { (&mut sources6, "0x86dd") };
            let _ = writeln!(rules, "    {INNER_TYPE} {inner} {family} saddr . {source}{bits} @{set} accept");
        }
    }
    // What this node itself sends may have another address of its, as what kube-proxy masquerades, which nobody would take for this node's.
    let mut own_sources = String::new();
    let first = |v4: bool| wanted.sources.iter().find(|own| own.is_ipv4() == v4);
    for source in [true, false].into_iter().filter_map(first) {
        let (v4, which) = (source.is_ipv4(), format!("    oifname \"{DEVICE}\" "));
        own_sources += &in_cluster(all, &which, "saddr", v4);
        let _ = writeln!(
            own_sources,
            "{which}meta nfproto {} snat {} to {source}",
            nfproto(v4),
            self::family(v4)
        );
    }
    // The VNI is behind eight bytes of UDP and four of VXLAN's flags (RFC 7348, section 5): other tunnels are none of ours.
    let ours = format!("udp dport {udp_port} @th,96,24 {vni}");
    format!(
        "  counter tunnel-peer-unknown {{ }}
  counter tunnel-invalid {{ }}
  counter tunnel-source-spoofed {{ }}
  counter tunnel-port-closed {{ }}
  chain tunnel_inside {{
{sources4}    {INNER_TYPE} 0x86dd {INNER_NEXT_HEADER} 58 {INNER_ICMP6_TYPE} 133-137 counter name tunnel-invalid drop
{sources6}    {INNER_TYPE} {{ 0x0800, 0x86dd }} counter name tunnel-source-spoofed drop
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

fn nfproto(v4: bool) -> &'static str {
    if v4 { "ipv4" } else { "ipv6" }
}

fn inner_source(v4: bool) -> &'static str {
    if v4 { INNER_SOURCE4 } else { INNER_SOURCE6 }
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
    use crate::nat::sets::{changes, whole};
    use crate::netlink::SetChange;
    use desired::NodePort;
    use proto::control::PortMapping;
    use proto::dataplane::{FrontendKey, Protocol, Router};

    fn router() -> Router {
        Router {
            gateway4: [169, 254, 1, 1].into(),
            gateway6: "fe80::1".parse().unwrap(),
            dns_servers: vec![],
            dns_search: vec![],
        }
    }

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
        let rules = rules("podrouter0", &wanted, &whole(&wanted, &router()), &[]);
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
        let (_, told) = changes(&later.since(&wanted, &router()).unwrap());
        let change = |add, set: &str, key| SetChange { add, set: set.to_owned(), keys: vec![key] };
        assert_eq!(
            told,
            [
                change(false, "node_ports_ip", vec![6, 0, 0, 0, 0x75, 0x80, 0, 0]),
                change(true, "node_ports_ip6", vec![6, 0, 0, 0, 0x75, 0x81, 0, 0]),
            ]
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
        let text = rules("podrouter0", &wanted, &whole(&wanted, &router()), &[]);
        for line in [
            "type ipv4_addr . inet_proto . inet_service;",
            "elements = { 203.0.113.7 . udp . 53, 203.0.113.7 . tcp . 80 }",
            "ip daddr . meta l4proto . th dport @externals_ip meta mark set meta mark | 0x1000",
            "elements = { 0xcb007107 . 17 . 53, 0xcb007107 . 6 . 80 }",
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
        let mut later = wanted.clone();
        later.externals.remove(&key("203.0.113.7", 6, 80));
        later.externals.insert(key("203.0.113.8", 6, 80));
        let (_, told) = changes(&later.since(&wanted, &router()).unwrap());
        let change = |add, set: &str, last| {
            let key = vec![203, 0, 113, last, 6, 0, 0, 0, 0, 80, 0, 0];
            SetChange { add, set: set.to_owned(), keys: vec![key] }
        };
        assert_eq!(
            told,
            [
                change(false, "externals_ip", 7),
                change(false, "externals_quoted_ip", 7),
                change(true, "externals_ip", 8),
                change(true, "externals_quoted_ip", 8),
            ]
        );
        later.externals.insert(key("2001:db8::7", 6, 80));
        assert!(later.since(&wanted, &router()).is_none());
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
            let all =
                ["10.2.0.0/24", "10.2.1.64/26", "192.168.0.2/32", "fd00:2::/61", "fd01::2/128"].map(prefix);
            wanted.by_kernel.sources.extend(all.map(|own| (end(other).address, own)));
            wanted.by_kernel.cluster.extend(all);
            wanted.by_kernel.outside.extend(["0.0.0.0/0", "::/0"].map(prefix));
            let words = rules("host0", &wanted, &whole(&wanted, &router()), &[]);
            words.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>()
        };
        let said = text("192.168.0.1", "192.168.0.2");
        let has = |said: &[String], lines: &[&str]| {
            let found = said.windows(lines.len()).any(|own| own == lines);
            assert!(found, "{lines:#?}\nnot in {said:#?}");
        };
        let elements = |said: &[String], set: &str, of: &str, elements: &str| {
            has(
                said,
                &[&format!("set {set} {{"), &format!("{of};"), &format!("elements = {{ {elements} }}"), "}"],
            );
        };
        let (ranges4, own4) = ("0xa020000", "0xc0a80002");
        let (ranges6, own6) = ("0xfd000002000000000000000000000000", "0xfd010000000000000000000000000002");
        let (inside4, inside6) = ("typeof ip saddr . @th,336,32", "typeof ip saddr . @th,304,128");
        elements(&said, "tunnel_ends", "type ipv4_addr", "192.168.0.2");
        let source = |first: &str| format!("192.168.0.2 . {first}");
        elements(&said, "tunnel_sources_ip_24", inside4, &source(ranges4));
        elements(&said, "tunnel_sources_ip_26", inside4, &source("0xa020140"));
        elements(&said, "tunnel_sources_ip_32", inside4, &source(own4));
        elements(&said, "tunnel_sources_ip6_61", inside6, &source(ranges6));
        elements(&said, "tunnel_sources_ip6_128", inside6, &source(own6));
        elements(&said, "cluster_ip_26", "type ipv4_addr", "10.2.1.64");
        elements(&said, "cluster_ip6_61", "type ipv6_addr", "fd00:2::");
        let inside = [
            "chain tunnel_inside {",
            "@th,224,16 0x0800 ip saddr . @th,336,32 & 0xffffff00 @tunnel_sources_ip_24 accept",
            "@th,224,16 0x0800 ip saddr . @th,336,32 & 0xffffffc0 @tunnel_sources_ip_26 accept",
            "@th,224,16 0x0800 ip saddr . @th,336,32 @tunnel_sources_ip_32 accept",
            "@th,224,16 0x86dd @th,288,8 58 @th,560,8 133-137 counter name tunnel-invalid drop",
            "@th,224,16 0x86dd ip saddr . @th,304,128 & 0xfffffffffffffff80000000000000000 @tunnel_sources_ip6_61 accept",
            "@th,224,16 0x86dd ip saddr . @th,304,128 @tunnel_sources_ip6_128 accept",
            "@th,224,16 { 0x0800, 0x86dd } counter name tunnel-source-spoofed drop",
            "counter name tunnel-invalid drop",
            "}",
        ];
        has(&said, &inside);
        has(&said, &["udp dport 4789 @th,96,24 7 goto tunnel_inside"]);
        let own = "oifname \"podrouter.vxlan\"";
        let from_cluster =
            ["& 255.255.255.0 @cluster_ip_24", "& 255.255.255.192 @cluster_ip_26", "@cluster_ip_32"];
        let [a, b, c] = from_cluster.map(|bits| format!("{own} ip saddr {bits} accept"));
        has(&said, &[&a, &b, &c, &format!("{own} meta nfproto ipv4 snat ip to 192.168.0.1")]);
        let outward = "iifname \"host0\" oifname != \"host0\" ip6 daddr";
        let to_cluster = ["& ffff:ffff:ffff:fff8:: @cluster_ip6_61", "@cluster_ip6_128"];
        let [a, b] = to_cluster.map(|bits| format!("{outward} {bits} accept"));
        for end in ["masquerade", "ct state invalid counter name untranslated drop"] {
            has(&said, &[&a, &b, &format!("{outward} != @outside_ip6 {end}")]);
        }
        // By ends of IPv6, the same.
        let said = text("fd01::1", "fd01::2");
        elements(&said, "tunnel_ends", "type ipv6_addr", "fd01::2");
        elements(
            &said,
            "tunnel_sources_ip_24",
            "typeof ip6 saddr . @th,336,32",
            &format!("fd01::2 . {ranges4}"),
        );
    }

    #[test]
    fn a_source_is_told_by_its_bytes() {
        let [end, other] = ["192.168.0.2", "fd01::2"].map(|text| text.parse::<IpAddr>().unwrap());
        let with = |sources: &[(IpAddr, &str)]| {
            let mut wanted = Wanted::default();
            let parsed = sources.iter().map(|(end, source)| (*end, source.parse::<IpPrefix>().unwrap()));
            wanted.by_kernel.sources.extend(parsed);
            wanted
        };
        let before = with(&[(end, "10.2.0.0/24"), (end, "10.2.1.64/26")]);
        let after = with(&[(end, "10.2.0.0/24"), (end, "10.2.0.0/26"), (other, "fd00:2::/61")]);
        let (sets, told) = changes(&after.since(&before, &router()).unwrap());
        assert_eq!(
            told,
            [
                SetChange {
                    add: false,
                    set: "tunnel_sources_ip_26".to_owned(),
                    keys: vec![vec![192, 168, 0, 2, 10, 2, 1, 64]]
                },
                SetChange {
                    add: true,
                    set: "tunnel_sources_ip6_61".to_owned(),
                    keys: vec![[&[0xfd, 1][..], &[0; 13], &[2, 0xfd, 0, 0, 2], &[0; 12]].concat()]
                },
                SetChange {
                    add: true,
                    set: "tunnel_sources_ip_26".to_owned(),
                    keys: vec![vec![192, 168, 0, 2, 10, 2, 0, 0]]
                },
            ]
        );
        let len = |v4, len| Set::TunnelSources { v4, len };
        assert_eq!(sets, [len(true, 26), len(false, 61), len(true, 26)]);
    }

    #[test]
    fn as_many_bits_are_looked_at_as_a_prefix_has() {
        for (v4, most) in [(true, 32), (false, 128)] {
            for len in 0..=most {
                let first = IpPrefix::containing(mask(v4, most), len).unwrap();
                assert_eq!(mask(v4, len), first.addr(), "{first}");
                let text = bits(v4, len, number);
                assert_eq!(text.is_empty(), len == most, "{text}");
            }
        }
    }

    #[test]
    fn a_comment_is_one_that_nft_takes() {
        assert_eq!(comment("shop/front-1.a_b@net1"), "shop/front-1.a_b@net1");
        assert_eq!(comment("a\"; flush ruleset\n\\é"), "a___flush_ruleset___");
        assert_eq!(comment(&"x".repeat(400)).len(), 127);
    }
}
