//! CHECK: whether a pod's interface, addresses and routes are still as its ADD left them (CNI 1.1.0, section 2).
//!
//! What is compared is `prevResult`, the result of the whole chain, with the namespace; what others added to either is
//! accepted. Whether control and data plane are there is asked before, in `main`.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use proto::control::AttachPort;
use serde_json::Value;
use wire::{IpPrefix, MacAddr};

use crate::config::Previous;
use crate::env::{Attachment, shown};
use crate::error::{Failure, code};
use crate::netlink::{self, Seen};
use crate::netns;

/// Compares; a difference is a failure that names it. Enters the namespace for good, so it comes last.
pub(crate) fn check(
    attachment: &Attachment,
    netns: &Path,
    port: AttachPort,
    previous: &Previous,
) -> Result<(), Failure> {
    let name = &attachment.interface;
    let index = previous
        .interfaces
        .iter()
        .position(|entry| entry["name"] == name.as_str() && entry["sandbox"] == shown(netns).as_str())
        .ok_or_else(|| {
            Failure::new(
                code::INVALID_CONFIG,
                format!("`prevResult.interfaces` has no `{name}` in {}", shown(netns)),
            )
        })?;
    match port {
        AttachPort::VhostUser => check_socket(&previous.interfaces[index]),
        AttachPort::Tap => {
            let opened = netns::open(netns)?;
            let seen = netlink::read(opened.as_fd()).map_err(|error| {
                Failure::new(code::IO, format!("cannot look into CNI_NETNS {}: {error}", shown(netns)))
                    .details("CHECK needs CAP_SYS_ADMIN to enter the namespace")
            })?;
            compare(&expected(name, index, previous)?, &seen)
        }
    }
}

/// The socket that a vhost-user peer connects to is there. Connecting to it would cut off the peer that has it.
fn check_socket(entry: &Value) -> Result<(), Failure> {
    // Results before 1.1.0 do not say where the socket is, so there is nothing more to compare.
    let Some(path) = entry.get("socketPath").and_then(Value::as_str) else { return Ok(()) };
    match std::fs::metadata(path) {
        Ok(found) if found.file_type().is_socket() => Ok(()),
        Ok(_) => Err(changed(format!("{path} is no socket"))),
        Err(error) => Err(changed(format!("the vhost-user socket {path} is not there: {error}"))),
    }
}

struct Expected<'a> {
    name: &'a str,
    mac: Option<MacAddr>,
    addresses: Vec<(IpAddr, u8)>,
    routes: Vec<(IpPrefix, Option<IpAddr>)>,
}

fn expected<'a>(name: &'a str, index: usize, previous: &Previous) -> Result<Expected<'a>, Failure> {
    let bad = |key: &str, value: &Value| {
        Failure::new(
            code::INVALID_CONFIG,
            format!("invalid network configuration: `prevResult.{key}` is {value}"),
        )
    };
    let mac = match &previous.interfaces[index]["mac"] {
        Value::Null => None,
        value => {
            Some(value.as_str().and_then(|m| m.parse().ok()).ok_or_else(|| bad("interfaces.mac", value))?)
        }
    };
    let mut addresses = Vec::new();
    for entry in previous.ips.iter().filter(|entry| entry["interface"] == index) {
        let value = &entry["address"];
        let pair = value.as_str().and_then(|text| text.split_once('/'));
        let parsed = pair.and_then(|(address, len)| Some((address.parse().ok()?, len.parse().ok()?)));
        addresses.push(parsed.ok_or_else(|| bad("ips.address", value))?);
    }
    let mut routes = Vec::new();
    for entry in &previous.routes {
        let destination = entry["dst"].as_str().and_then(|text| text.parse().ok());
        let gateway = match &entry["gw"] {
            Value::Null => None,
            value => Some(
                value.as_str().and_then(|text| text.parse().ok()).ok_or_else(|| bad("routes.gw", value))?,
            ),
        };
        routes.push((destination.ok_or_else(|| bad("routes.dst", &entry["dst"]))?, gateway));
    }
    Ok(Expected { name, mac, addresses, routes })
}

fn compare(expected: &Expected<'_>, seen: &Seen) -> Result<(), Failure> {
    let name = expected.name;
    let link = seen
        .links
        .iter()
        .find(|link| link.name == name)
        .ok_or_else(|| changed(format!("the pod has no interface `{name}`")))?;
    if let Some(mac) = expected.mac.filter(|&mac| link.mac != Some(mac)) {
        let found = link.mac.map_or_else(|| "none".to_owned(), |mac| mac.to_string());
        return Err(changed(format!("`{name}` should have the MAC address {mac}, and has {found}")));
    }
    for &(address, prefix_len) in &expected.addresses {
        let there = seen
            .addresses
            .iter()
            .any(|a| a.link == link.index && a.address == address && a.prefix_len == prefix_len);
        if !there {
            return Err(changed(format!("`{name}` lacks the address {address}/{prefix_len}")));
        }
    }
    for &(destination, gateway) in &expected.routes {
        // By any device, as later plug-ins of the chain may have routes of their own in the result.
        let there = seen
            .routes
            .iter()
            .any(|r| r.destination == destination && (gateway.is_none() || r.gateway == gateway));
        if !there {
            let via = gateway.map_or_else(String::new, |gateway| format!(" via {gateway}"));
            return Err(changed(format!("the pod lacks the route to {destination}{via}")));
        }
    }
    Ok(())
}

fn changed(what: String) -> Failure {
    Failure::new(code::CHANGED, what).details("delete the pod, so that it is attached anew")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{Address, Link, Route};
    use serde_json::json;

    fn list(value: Value) -> Vec<Value> {
        value.as_array().unwrap().clone()
    }

    fn previous() -> Previous {
        Previous {
            keys: serde_json::Map::new(),
            interfaces: list(
                json!([{"name": "br0"}, {"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/n"}]),
            ),
            ips: list(
                json!([{"interface": 0, "address": "9.9.9.9/8"}, {"interface": 1, "address": "10.0.0.5/32"}]),
            ),
            routes: list(json!([{"dst": "169.254.1.1/32"}, {"dst": "::/0", "gw": "fe80::1"}])),
        }
    }

    fn seen() -> Seen {
        Seen {
            links: vec![Link { index: 4, name: "eth0".into(), mac: Some(MacAddr([2, 0, 0, 0, 0, 1])) }],
            addresses: vec![Address { link: 4, address: "10.0.0.5".parse().unwrap(), prefix_len: 32 }],
            routes: vec![
                Route { destination: "::/0".parse().unwrap(), gateway: Some("fe80::1".parse().unwrap()) },
                Route { destination: "169.254.1.1/32".parse().unwrap(), gateway: None },
            ],
        }
    }

    #[test]
    fn each_difference_is_named() {
        let previous = previous();
        let expected = expected("eth0", 1, &previous).unwrap();
        assert_eq!(compare(&expected, &seen()), Ok(()));
        let differs = |change: &dyn Fn(&mut Seen), named: &str| {
            let mut seen = seen();
            change(&mut seen);
            let failure = compare(&expected, &seen).unwrap_err();
            assert_eq!(failure.code, code::CHANGED);
            assert!(failure.msg.contains(named), "{}", failure.msg);
        };
        differs(&|seen| seen.links.clear(), "no interface `eth0`");
        differs(&|seen| seen.links[0].mac = Some(MacAddr([2; 6])), "02:02:02:02:02:02");
        differs(&|seen| seen.addresses[0].prefix_len = 24, "10.0.0.5/32");
        differs(&|seen| seen.addresses[0].link = 5, "10.0.0.5/32");
        differs(&|seen| seen.routes[0].gateway = None, "::/0 via fe80::1");
        differs(&|seen| seen.routes.truncate(1), "169.254.1.1/32");
    }

    #[test]
    fn a_result_that_cannot_be_read_is_named() {
        let mut bad = previous();
        bad.ips[1]["address"] = json!("10.0.0.5");
        let failure = expected("eth0", 1, &bad).err().unwrap();
        assert_eq!(failure.code, code::INVALID_CONFIG);
        assert!(failure.msg.contains("`prevResult.ips.address` is \"10.0.0.5\""), "{}", failure.msg);
    }
}
