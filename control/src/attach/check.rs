//! What of an ADD is refused before anything is made: values that cannot be, each named, and ports of the node that are another pod's.

use proto::control::{AttachPort, AttachRequest, Secondary};

use super::{Failure, MOST_QUEUE_PAIRS, code, failure};
use crate::args::interface_name_fault;
use crate::store::Store;

/// Smallest MTU that carries IPv6 (RFC 8200, section 5).
const LEAST_MTU: u16 = 1280;

/// Most subnets of a secondary network: as many as a guest is told of.
const MOST_SUBNETS: usize = 16;

/// What no state of the node can make right.
pub(super) fn request(request: &AttachRequest) -> Result<(), Failure> {
    for (field, value) in [
        ("the network's name", &request.network),
        ("CNI_CONTAINERID", &request.container),
        ("CNI_IFNAME", &request.interface),
    ] {
        if value.is_empty() {
            return Err(failure(code::INVALID_ENVIRONMENT, format!("{field} is empty"), ""));
        }
    }
    let name = &request.interface;
    if let Some(why) = interface_name_fault(name) {
        return Err(failure(code::INVALID_ENVIRONMENT, format!("CNI_IFNAME `{name}`: {why}"), ""));
    }
    let most = if request.port == AttachPort::VhostUser { MOST_QUEUE_PAIRS } else { 1 };
    if let Some(pairs) = request.queue_pairs.filter(|pairs| !(1..=most).contains(pairs)) {
        let details = "a vhost-user pod has 1 to 128, a kernel pod none to choose";
        return Err(failure(code::INVALID_CONFIG, format!("queue pairs `{pairs}` cannot be"), details));
    }
    if let Some(mtu) = request.mtu.filter(|mtu| *mtu < LEAST_MTU) {
        let details = format!("at least {LEAST_MTU} (RFC 8200, section 5)");
        return Err(failure(code::INVALID_CONFIG, format!("mtu `{mtu}` is too small"), details));
    }
    if let Some(network) = &request.secondary {
        self::network(network)?;
    }
    if let Some(mac) = request.mac.filter(|mac| !mac.is_unicast() || *mac == desired::ROUTER_MAC) {
        let reason = format!("mac `{mac}` cannot be a pod's");
        return Err(failure(code::INVALID_CONFIG, reason, "a unicast address, and not the router's"));
    }
    Ok(())
}

fn network(Secondary { id, subnets }: &Secondary) -> Result<(), Failure> {
    let bad = |reason: String, rule: &str| Err(failure(code::INVALID_CONFIG, reason, rule));
    if *id == 0 {
        return bad("network id `0` is the pods' own network's".to_owned(), "choose one from 1 to 65535");
    }
    if !(1..=MOST_SUBNETS).contains(&subnets.len()) {
        let reason = format!("network {id} has {} subnets", subnets.len());
        return bad(reason, &format!("write from 1 to {MOST_SUBNETS}"));
    }
    for (i, subnet) in subnets.iter().enumerate() {
        if let Some(why) = desired::range_fault(*subnet) {
            return bad(format!("subnet `{subnet}` of network {id} {why}"), "choose another range");
        }
        if subnets[..i].contains(subnet) {
            return bad(format!("subnet `{subnet}` of network {id} is there twice"), "take one out");
        }
    }
    Ok(())
}

/// A port of the node is one pod's.
pub(super) fn host_ports(store: &Store, request: &AttachRequest) -> Result<(), Failure> {
    for other in store.attachments() {
        for mapping in &request.port_mappings {
            let Some(theirs) = other.request.port_mappings.iter().find(|own| own.conflicts_with(mapping))
            else {
                continue;
            };
            let host = theirs.host.map(|host| format!("{host} ")).unwrap_or_default();
            let reason =
                format!("hostPort {host}{}/{} is {}'s", theirs.host_port, theirs.protocol, other.endpoint);
            // It may end, and this one be tried again.
            return Err(failure(
                code::TRY_AGAIN_LATER,
                reason,
                "delete that pod, or choose another hostPort",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::control::AttachAddresses;

    #[test]
    fn what_cannot_be_is_refused_with_its_value() {
        let good = AttachRequest {
            network: "pods".into(),
            container: "c".into(),
            interface: "eth0".into(),
            netns: "/run/netns/x".into(),
            port: AttachPort::Tap,
            port_chosen: false,
            device: None,
            queue_pairs: None,
            mtu: Some(1280),
            mac: None,
            addresses: AttachAddresses::Any,
            pod: None,
            bandwidth: None,
            secondary: None,
            port_mappings: vec![],
        };
        assert_eq!(request(&good), Ok(()));
        let on = |id, subnets: &[&str]| {
            let subnets = subnets.iter().map(|text| text.parse().unwrap()).collect();
            AttachRequest { secondary: Some(Secondary { id, subnets }), ..good.clone() }
        };
        assert_eq!(request(&on(1, &["10.5.0.0/16", "fd05::/64"])), Ok(()));
        let many: Vec<String> = (0..17).map(|n| format!("10.{n}.0.0/16")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for (bad, code, named) in [
            (AttachRequest { container: String::new(), ..good.clone() }, 4, "CNI_CONTAINERID"),
            (AttachRequest { interface: "a/b".into(), ..good.clone() }, 4, "`a/b`"),
            (AttachRequest { interface: "sixteen-bytes-xx".into(), ..good.clone() }, 4, "`sixteen-bytes-xx`"),
            (AttachRequest { interface: "lo".into(), ..good.clone() }, 4, "`lo`"),
            (AttachRequest { queue_pairs: Some(2), ..good.clone() }, 7, "queue pairs `2`"),
            (AttachRequest { queue_pairs: Some(0), port: AttachPort::VhostUser, ..good.clone() }, 7, "`0`"),
            (
                AttachRequest { queue_pairs: Some(129), port: AttachPort::VhostUser, ..good.clone() },
                7,
                "`129`",
            ),
            (AttachRequest { mtu: Some(68), ..good.clone() }, 7, "`68`"),
            (on(0, &["10.5.0.0/16"]), 7, "network id `0`"),
            (on(1, &[]), 7, "0 subnets"),
            (on(1, &many), 7, "17 subnets"),
            (on(1, &["10.5.0.0/16", "10.5.0.0/16"]), 7, "`10.5.0.0/16` of network 1 is there twice"),
            (on(1, &["0.0.0.0/0"]), 7, "`0.0.0.0/0`"),
            (on(1, &["169.254.0.0/24"]), 7, "link-local"),
            (on(1, &["fe80::/64"]), 7, "link-local"),
            (AttachRequest { mac: Some(wire::MacAddr::BROADCAST), ..good.clone() }, 7, "ff:ff"),
        ] {
            let failure = request(&bad).unwrap_err();
            assert!(failure.code == code && failure.reason.contains(named), "{failure:?}");
        }
    }
}
