//! The answers: ADD's result in each version's shape, and VERSION's (CNI 1.1.0, section 5).
//!
//! What the plug-ins before us made stays as it came; ours is appended, with `ips[].interface` counted on from theirs.

use std::net::IpAddr;
use std::path::Path;

use proto::control::Attached;
use serde_json::{Map, Value, json};
use wire::IpPrefix;

use crate::config::{Previous, Version};

/// The scope of a destination on the link itself, as rtnetlink(7) numbers it: its route has no gateway, and without the
/// scope a reader would take the gateway in `ips` for it.
const SCOPE_LINK: u8 = 253;

/// ADD's result. `interface` and `netns` are the runtime's words for where the pod's end is.
pub(crate) fn added(
    version: Version,
    interface: &str,
    netns: &Path,
    attached: &Attached,
    dns: Map<String, Value>,
    previous: Option<Previous>,
) -> Value {
    let empty = Previous { keys: Map::new(), interfaces: Vec::new(), ips: Vec::new(), routes: Vec::new() };
    let Previous { keys: mut result, mut interfaces, mut ips, mut routes } = previous.unwrap_or(empty);
    let index = interfaces.len();
    interfaces.push(interface_entry(version, interface, netns, attached));
    ips.extend(
        attached.addresses.iter().map(|&address| ip_entry(version, index, address, &attached.gateways)),
    );
    routes.extend(attached.routes.iter().map(|route| {
        let mut entry = json!({"dst": route.destination.to_string()});
        match route.gateway {
            Some(gateway) => entry["gw"] = json!(gateway),
            None if version >= Version::V1_1_0 => entry["scope"] = json!(SCOPE_LINK),
            None => {}
        }
        entry
    }));
    result.insert("cniVersion".into(), version.text().into());
    result.insert("interfaces".into(), interfaces.into());
    result.insert("ips".into(), ips.into());
    result.insert("routes".into(), routes.into());
    if !dns.is_empty() || !result.get("dns").is_some_and(Value::is_object) {
        result.insert("dns".into(), dns.into());
    }
    Value::Object(result)
}

/// VERSION's result. `asked` is the version that the runtime named.
pub(crate) fn versions(asked: &str) -> Value {
    json!({"cniVersion": asked, "supportedVersions": Version::ALL.map(Version::text)})
}

fn interface_entry(version: Version, name: &str, netns: &Path, attached: &Attached) -> Value {
    let mut entry =
        json!({"name": name, "mac": attached.mac.to_string(), "sandbox": netns.to_string_lossy()});
    // `mtu` and `socketPath` came with 1.1.0.
    if version >= Version::V1_1_0 {
        entry["mtu"] = json!(attached.mtu);
        if let Some(socket) = &attached.socket {
            entry["socketPath"] = json!(socket.to_string_lossy());
        }
    }
    entry
}

fn ip_entry(version: Version, interface: usize, address: IpAddr, gateways: &[IpAddr]) -> Value {
    let mut entry = json!({"interface": interface, "address": IpPrefix::host(address).to_string()});
    if let Some(gateway) = gateways.iter().find(|gateway| gateway.is_ipv4() == address.is_ipv4()) {
        entry["gateway"] = json!(gateway);
    }
    // Until 0.4.0 each entry told its family; 1.0.0 took that away.
    if version < Version::V1_0_0 {
        entry["version"] = json!(if address.is_ipv4() { "4" } else { "6" });
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::control::AttachedRoute;
    use wire::MacAddr;

    fn attached() -> Attached {
        Attached {
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            mtu: 1450,
            addresses: vec!["10.244.1.5".parse().unwrap(), "fd00::5".parse().unwrap()],
            gateways: vec!["169.254.1.1".parse().unwrap(), "fe80::1".parse().unwrap()],
            routes: vec![
                AttachedRoute { destination: "169.254.1.1/32".parse().unwrap(), gateway: None },
                AttachedRoute {
                    destination: "0.0.0.0/0".parse().unwrap(),
                    gateway: Some("169.254.1.1".parse().unwrap()),
                },
            ],
            network_id: 0,
            socket: Some("/run/podrouter/vhost/p1.sock".into()),
        }
    }

    fn result(version: Version, previous: Option<Previous>) -> Value {
        added(version, "eth0", Path::new("/run/netns/a"), &attached(), Map::new(), previous)
    }

    #[test]
    fn the_shape_of_1_1_0() {
        assert_eq!(
            result(Version::V1_1_0, None),
            json!({
                "cniVersion": "1.1.0",
                "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "mtu": 1450, "sandbox": "/run/netns/a",
                                "socketPath": "/run/podrouter/vhost/p1.sock"}],
                "ips": [{"interface": 0, "address": "10.244.1.5/32", "gateway": "169.254.1.1"},
                        {"interface": 0, "address": "fd00::5/128", "gateway": "fe80::1"}],
                "routes": [{"dst": "169.254.1.1/32", "scope": 253}, {"dst": "0.0.0.0/0", "gw": "169.254.1.1"}],
                "dns": {},
            })
        );
    }

    #[test]
    fn older_shapes() {
        let old = result(Version::V0_3_1, None);
        assert_eq!(old["cniVersion"], "0.3.1");
        assert_eq!((&old["ips"][0]["version"], &old["ips"][1]["version"]), (&json!("4"), &json!("6")));
        assert_eq!(
            old["interfaces"],
            json!([{"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/a"}])
        );
        assert_eq!(old["routes"][0], json!({"dst": "169.254.1.1/32"}));
        assert_eq!(result(Version::V0_4_0, None)["ips"], old["ips"]);
        assert_eq!(result(Version::V1_0_0, None)["ips"][0].get("version"), None);
        assert_eq!(result(Version::V1_0_0, None)["interfaces"], old["interfaces"]);
    }

    #[test]
    fn in_a_chain_ours_comes_after_theirs() {
        let theirs = Previous {
            keys: json!({"cniVersion": "1.1.0", "dns": {"domain": "x"}, "other": 1})
                .as_object()
                .unwrap()
                .clone(),
            interfaces: vec![json!({"name": "a"}), json!({"name": "b"})],
            ips: vec![json!({"interface": 1, "address": "192.0.2.1/24"})],
            routes: vec![json!({"dst": "192.0.2.0/24"})],
        };
        let both = result(Version::V1_1_0, Some(theirs.clone()));
        assert_eq!(both["interfaces"][2]["name"], "eth0");
        assert_eq!((&both["ips"][0], &both["ips"][1]["interface"]), (&theirs.ips[0], &json!(2)));
        assert_eq!(both["routes"][0], theirs.routes[0]);
        assert_eq!((&both["dns"], &both["other"]), (&json!({"domain": "x"}), &json!(1)));
        let dns = json!({"domain": "y"}).as_object().unwrap().clone();
        let ours = added(Version::V1_1_0, "eth0", Path::new("/n"), &attached(), dns, Some(theirs));
        assert_eq!(ours["dns"], json!({"domain": "y"}));
    }
}
