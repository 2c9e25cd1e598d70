//! `runtimeConfig`: what the runtime asks for beside the configuration, by way of its `capabilities`.

use std::net::IpAddr;
use std::path::PathBuf;

use proto::control::{Bandwidth, PortMapping};
use proto::dataplane::Protocol;
use serde_json::Value;
use wire::MacAddr;

use super::{Config, asks_nothing, invalid, unsupported};
use crate::env;
use crate::error::Failure;

/// Keys of `runtimeConfig` that would change what the pod gets, and that podrouter does not do.
const REFUSED_CAPABILITIES: [&str; 3] = ["ipRanges", "infinibandGUID", "infinibandGuid"];

/// Keys of `runtimeConfig` that ask nothing of a network plug-in on Linux: the runtime writes resolv.conf itself, names
/// are the cluster DNS's, and nothing here is kept in a cgroup.
const IGNORED_CAPABILITIES: [&str; 3] = ["dns", "aliases", "cgroupPath"];

/// Keys of `runtimeConfig` that come before those of the configuration itself, and are read with them.
const HEEDED: [&str; 3] = ["bandwidth", "port", "queuePairs"];

/// What the runtime asks for beside the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Capabilities {
    pub(crate) mac: Option<MacAddr>,
    pub(crate) ips: Vec<IpAddr>,
    /// `deviceID`.
    pub(crate) device: Option<String>,
    /// `CNIDeviceInfoFile`.
    pub(crate) device_info: Option<PathBuf>,
    /// The network's own, where the runtime asks for none.
    pub(crate) bandwidth: Option<Bandwidth>,
    pub(crate) port_mappings: Vec<PortMapping>,
}

impl Config {
    /// `runtimeConfig`, once everything else that ADD would have to do and does not is refused.
    pub(crate) fn capabilities(&self) -> Result<Capabilities, Failure> {
        if let Some(value) = self.given("ipMasq").filter(|value| !asks_nothing(value)) {
            let why = "what leaves the cluster is translated on the uplink alone: remove the key";
            return Err(unsupported("ipMasq", value, why));
        }
        let mut asked = Capabilities { bandwidth: self.bandwidth()?, ..Capabilities::default() };
        let capabilities = match self.given("runtimeConfig") {
            None => return Ok(asked),
            Some(Value::Object(keys)) => keys,
            other => return Err(invalid("runtimeConfig", other, "write an object")),
        };
        for (key, value) in capabilities.iter().filter(|(_, value)| !asks_nothing(value)) {
            let path = format!("runtimeConfig.{key}");
            if key == "mac" {
                let parsed = value.as_str().and_then(|text| text.parse::<MacAddr>().ok());
                let usable = parsed.filter(|mac| mac.is_unicast());
                asked.mac = Some(usable.ok_or_else(|| {
                    invalid(&path, Some(value), "write a unicast address as 02:00:00:00:00:01")
                })?);
            } else if key == "ips" {
                if let Some(kind) = self.ipam()? {
                    let why = format!("`ipam` has {kind} choose addresses: take one of the two out");
                    return Err(unsupported(&path, value, &why));
                }
                let rule = "write a list of addresses, with or without a length, as 10.244.1.9/24";
                let ips = value.as_array().and_then(|list| list.iter().map(address).collect::<Option<_>>());
                asked.ips = ips.ok_or_else(|| invalid(&path, Some(value), rule))?;
            } else if key == "deviceID" {
                let device = value.as_str().filter(|device| env::is_identifier(device));
                let rule = "write the name of a directory: only vhost-user devices are attached, none of PCI";
                asked.device = Some(device.ok_or_else(|| invalid(&path, Some(value), rule))?.to_owned());
            } else if key == "portMappings" {
                asked.port_mappings = port_mappings(value)?;
                if self.secondary()?.is_some() && !asked.port_mappings.is_empty() {
                    let why = "a network beside the pods' own is not reached from the node: take one of the two out";
                    return Err(unsupported(&path, value, why));
                }
            } else if key == "CNIDeviceInfoFile" {
                let file = value.as_str().filter(|file| file.starts_with('/') && !file.ends_with('/'));
                asked.device_info =
                    Some(file.ok_or_else(|| invalid(&path, Some(value), "write an absolute path"))?.into());
            } else if REFUSED_CAPABILITIES.contains(&key.as_str()) {
                return Err(unsupported(
                    &path,
                    value,
                    "take the key out of the configuration's `capabilities`",
                ));
            } else if !HEEDED.contains(&key.as_str()) && !IGNORED_CAPABILITIES.contains(&key.as_str()) {
                crate::log(&format!("`{path}` is not known and was ignored"));
            }
        }
        Ok(asked)
    }
}

/// Those that ask for a port of the node; a `hostPort` of 0 does not.
fn port_mappings(value: &Value) -> Result<Vec<PortMapping>, Failure> {
    let Value::Array(list) = value else {
        return Err(invalid("runtimeConfig.portMappings", Some(value), "write a list of objects"));
    };
    let mut mappings: Vec<PortMapping> = Vec::new();
    for (i, entry) in list.iter().enumerate().filter(|(_, entry)| !asks_nothing(&entry["hostPort"])) {
        let bad = |key: &str, rule: &str| {
            Err(invalid(&format!("runtimeConfig.portMappings[{i}].{key}"), entry.get(key), rule))
        };
        let port = |key: &str| {
            entry[key].as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)
        };
        let rule = "write a number from 1 to 65535";
        let Some(host_port) = port("hostPort") else { return bad("hostPort", rule) };
        let Some(container_port) = port("containerPort") else { return bad("containerPort", rule) };
        let name = entry["protocol"].as_str().filter(|name| !name.is_empty()).unwrap_or("tcp");
        let protocol = match name.to_ascii_lowercase().as_str() {
            "tcp" => wire::protocol::TCP,
            "udp" => wire::protocol::UDP,
            "sctp" => wire::protocol::SCTP,
            _ => return bad("protocol", "write tcp, udp or sctp"),
        };
        let host = match entry.get("hostIP").filter(|value| !asks_nothing(value)) {
            None => None,
            Some(value) => match value.as_str().and_then(|text| text.parse().ok()) {
                None => return bad("hostIP", "write an address of the node, or leave it out for all"),
                address => address,
            },
        };
        mappings.push(PortMapping { host, host_port, container_port, protocol: Protocol(protocol) });
    }
    Ok(mappings)
}

/// An address; the length of its subnet, if it has one, says nothing here.
fn address(value: &Value) -> Option<IpAddr> {
    value.as_str()?.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::code;
    use serde_json::json;

    fn config(keys: &Value) -> Config {
        Config::decode(keys.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn ports_of_the_node_as_runtimes_ask_for_them() {
        let ask = |mappings: Value, more: Value| {
            let mut keys =
                json!({"cniVersion": "1.0.0", "name": "n", "runtimeConfig": {"portMappings": mappings}});
            keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            config(&keys).capabilities().map(|asked| asked.port_mappings)
        };
        let mapping = |host: Option<&str>, host_port, protocol| PortMapping {
            host: host.map(|text| text.parse().unwrap()),
            host_port,
            container_port: 80,
            protocol: Protocol(protocol),
        };
        // As containerd writes them, with all ports of the pod and none asked for among them.
        let asked = json!([
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""},
            {"hostPort": 0, "containerPort": 81, "protocol": "tcp"},
            {"hostPort": 53, "containerPort": 80, "protocol": "UDP", "hostIP": "127.0.0.1"},
            {"hostPort": 9, "containerPort": 80, "protocol": "sctp", "hostIP": "::"},
            {"hostPort": 10, "containerPort": 80},
        ]);
        let expected = [
            mapping(None, 8080, 6),
            mapping(Some("127.0.0.1"), 53, 17),
            mapping(Some("::"), 9, 132),
            mapping(None, 10, 6),
        ];
        assert_eq!(ask(asked, json!({})), Ok(expected.to_vec()));
        for (entry, key) in [
            (json!({"hostPort": 65536, "containerPort": 80}), "hostPort"),
            (json!({"hostPort": "80", "containerPort": 80}), "hostPort"),
            (json!({"hostPort": 80}), "containerPort"),
            (json!({"hostPort": 80, "containerPort": 0}), "containerPort"),
            (json!({"hostPort": 80, "containerPort": 80, "protocol": "icmp"}), "protocol"),
            (json!({"hostPort": 80, "containerPort": 80, "hostIP": "eth0"}), "hostIP"),
        ] {
            let failure = ask(json!([entry]), json!({})).unwrap_err();
            assert_eq!(failure.code, code::INVALID_CONFIG);
            assert!(failure.msg.contains(&format!("portMappings[0].{key}`")), "{}", failure.msg);
        }
        assert_eq!(ask(json!("80:80"), json!({})).unwrap_err().code, code::INVALID_CONFIG);
        let secondary = json!({"networkId": 7, "subnets": ["10.5.0.0/16"]});
        let one = json!([{"hostPort": 80, "containerPort": 80}]);
        assert_eq!(ask(one, secondary).unwrap_err().code, code::UNSUPPORTED_FIELD);
    }

    #[test]
    fn capabilities_are_honoured_refused_or_ignored() {
        let ask = |capabilities: Value| {
            let keys = json!({"cniVersion": "1.0.0", "name": "n", "runtimeConfig": capabilities});
            config(&keys).capabilities()
        };
        let none = Capabilities::default();
        let mac = Some(MacAddr([2, 0, 0, 0, 0, 5]));
        assert_eq!(ask(json!({"mac": "02:00:00:00:00:05"})), Ok(Capabilities { mac, ..none.clone() }));
        let ips = vec!["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        assert_eq!(ask(json!({"ips": ["10.0.0.5/24", "fd00::5"]})), Ok(Capabilities { ips, ..none.clone() }));
        let device = Some("pod-7_a".to_owned());
        assert_eq!(ask(json!({"deviceID": "pod-7_a"})), Ok(Capabilities { device, ..none.clone() }));
        let device_info = Some("/run/x/net1".into());
        assert_eq!(
            ask(json!({"CNIDeviceInfoFile": "/run/x/net1"})),
            Ok(Capabilities { device_info, ..none.clone() })
        );
        let bandwidth = Some(Bandwidth { egress_rate: 1_000, egress_burst: 8, ..Bandwidth::default() });
        assert_eq!(
            ask(json!({"bandwidth": {"egressRate": 1000, "egressBurst": 8}})),
            Ok(Capabilities { bandwidth, ..none.clone() })
        );
        for bad in [
            json!({"ips": "10.0.0.5"}),
            json!({"ips": ["10.0.0"]}),
            json!({"ips": [7]}),
            json!({"CNIDeviceInfoFile": "net1"}),
            json!({"CNIDeviceInfoFile": "/run/"}),
            json!({"deviceID": "0000:3b:00.0"}),
            json!({"deviceID": ".."}),
            json!({"deviceID": 7}),
        ] {
            assert_eq!(ask(bad).unwrap_err().code, code::INVALID_CONFIG);
        }
        let both = json!({"cniVersion": "1.0.0", "name": "n", "ipam": {"type": "host-local"},
            "runtimeConfig": {"ips": ["10.0.0.5"]}});
        assert_eq!(config(&both).capabilities().unwrap_err().code, code::UNSUPPORTED_FIELD);
        assert_eq!(
            ask(json!({"dns": {"servers": ["10.0.0.1"]}, "aliases": ["a"], "cgroupPath": "/x"})),
            Ok(none.clone())
        );
        assert_eq!(
            ask(json!({"portMappings": [], "bandwidth": {"ingressRate": 0}, "new-thing": 3})),
            Ok(none)
        );
        let failure = ask(json!({"ipRanges": [[{"subnet": "10.0.0.0/8"}]]})).unwrap_err();
        assert_eq!(failure.code, code::UNSUPPORTED_FIELD);
        assert!(failure.msg.contains("`runtimeConfig.ipRanges`"), "{}", failure.msg);
        assert_eq!(ask(json!({"mac": "01:00:00:00:00:05"})).unwrap_err().code, code::INVALID_CONFIG);
    }
}
