//! The network configuration on standard input (CNI 1.1.0, section 1, "Plugin configuration objects").
//!
//! Decoding proves only that there is a JSON object. Each key is checked when it is asked for, because DEL must not fail
//! over a key that only ADD needs: a pod whose ADD was refused could then never end. Keys that are not ours, `args`,
//! `capabilities` and those under `cni.dev/` among them, are left alone.

mod bandwidth;
mod capabilities;
mod network;

use std::path::PathBuf;

use proto::control::{AttachPort, AttachmentName};
use serde_json::{Map, Value};

use crate::env;
use crate::error::{Failure, code};

/// Longest configuration that is read, in bytes. A `prevResult` of a long chain has some kilobytes.
pub(crate) const MAX_CONFIG: u64 = 4 << 20;

/// Most queue pairs of a guest that the data plane serves.
const MAX_QUEUE_PAIRS: u16 = 128;

/// Smallest MTU: pods have IPv6, whose links carry 1,280 bytes (RFC 8200, section 5).
const MIN_MTU: u16 = 1280;

/// Longest path of a Unix socket: `sun_path` has 108 bytes, one of them the final zero (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

/// The versions of the specification that we answer in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    pub(crate) const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }
}

/// What errors and `VERSION` carry when the runtime named no version.
pub(crate) const NEWEST: &str = Version::V1_1_0.text();

/// A configuration, decoded but not yet checked.
#[derive(Debug)]
pub(crate) struct Config {
    keys: Map<String, Value>,
    version: String,
}

impl Config {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Failure> {
        if bytes.len() as u64 > MAX_CONFIG {
            return Err(Failure::new(
                code::DECODE,
                format!("the network configuration on standard input is longer than {MAX_CONFIG} bytes"),
            ));
        }
        let value: Value = serde_json::from_slice(bytes).map_err(|error| {
            Failure::new(
                code::DECODE,
                format!("the network configuration on standard input is not JSON: {error}"),
            )
        })?;
        let Value::Object(keys) = value else {
            return Err(Failure::new(
                code::DECODE,
                format!("the network configuration on standard input is no JSON object: {}", brief(&value)),
            ));
        };
        let version = match keys.get("cniVersion") {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(version)) => version.clone(),
            Some(other) => {
                return Err(Failure::new(
                    code::DECODE,
                    format!("`cniVersion` is {}: write a string", brief(other)),
                ));
            }
        };
        Ok(Self { keys, version })
    }

    /// `cniVersion` as it came, for the error object and `VERSION`; our newest if there was none.
    pub(crate) fn version_text(&self) -> &str {
        if self.version.is_empty() { NEWEST } else { &self.version }
    }

    /// The version to answer in, for a command that came with `since`.
    pub(crate) fn version(&self, command: &str, since: Version) -> Result<Version, Failure> {
        let known = Version::ALL.into_iter().find(|v| v.text() == self.version).ok_or_else(|| {
            let found = if self.version.is_empty() {
                "`cniVersion` is missing, which means 0.1.0".to_owned()
            } else {
                format!("`cniVersion` is {}", brief(&Value::from(self.version.as_str())))
            };
            let ours = Version::ALL.map(Version::text).join(", ");
            Failure::new(code::INCOMPATIBLE_VERSION, format!("incompatible CNI version: {found}"))
                .details(format!("this plug-in answers {ours}"))
        })?;
        if known < since {
            return Err(Failure::new(
                code::INCOMPATIBLE_VERSION,
                format!("`cniVersion` {} has no {command}: it came with {}", known.text(), since.text()),
            ));
        }
        Ok(known)
    }

    /// `name`, the network's.
    pub(crate) fn name(&self) -> Result<String, Failure> {
        match self.keys.get("name") {
            Some(Value::String(name)) if env::is_identifier(name) => Ok(name.clone()),
            other => Err(invalid("name", other, env::IDENTIFIER)),
        }
    }

    /// `socket`, where control listens.
    pub(crate) fn socket(&self) -> Result<PathBuf, Failure> {
        match self.given("socket") {
            None => Ok(proto::CONTROL_SOCKET.into()),
            Some(Value::String(path))
                if path.starts_with('/') && path.len() <= MAX_SOCKET_PATH && !path.contains('\0') =>
            {
                Ok(path.into())
            }
            other => Err(invalid("socket", other, "write an absolute path of at most 107 bytes")),
        }
    }

    /// `spool`, where a DEL is left while control is away.
    pub(crate) fn spool(&self) -> Result<PathBuf, Failure> {
        match self.given("spool") {
            None => Ok(proto::SPOOL.into()),
            Some(Value::String(path)) if path.starts_with('/') && !path.contains('\0') => Ok(path.into()),
            other => {
                Err(invalid("spool", other, "write the absolute path of `detached` in control's --state-dir"))
            }
        }
    }

    /// `ipam.type`, the delegated plug-in; missing or empty: control gives addresses itself.
    pub(crate) fn ipam(&self) -> Result<Option<&str>, Failure> {
        let rule = "write an object with the `type` of an IPAM plug-in, or take it out";
        let Some(value) = self.given("ipam").filter(|value| !asks_nothing(value)) else { return Ok(None) };
        match value.get("type").and_then(Value::as_str) {
            Some(kind) if env::is_identifier(kind) => Ok(Some(kind)),
            _ => Err(invalid("ipam", Some(value), rule)),
        }
    }

    /// `cni.dev/valid-attachments`, of GC.
    pub(crate) fn valid_attachments(&self) -> Result<Vec<AttachmentName>, Failure> {
        const KEY: &str = "cni.dev/valid-attachments";
        let rule = "write a list of objects with `containerID` and `ifname`";
        let list = match self.keys.get(KEY) {
            Some(Value::Array(list)) => list,
            // Without the list, everything would be stale; that must be said, not left out.
            other => return Err(invalid(KEY, other, rule)),
        };
        let name = |entry: &Value| {
            let text = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
            Some(AttachmentName { container: text("containerID")?, interface: text("ifname")? })
        };
        list.iter().map(name).collect::<Option<_>>().ok_or_else(|| invalid(KEY, self.keys.get(KEY), rule))
    }

    /// `port`, the kind that the pod gets.
    pub(crate) fn port(&self) -> Result<Port, Failure> {
        let (key, value, chosen) = self.wish("port");
        let kind = match value.map(Value::as_str) {
            None | Some(Some("tap")) => AttachPort::Tap,
            Some(Some("vhost-user")) => AttachPort::VhostUser,
            Some(_) => return Err(invalid(&key, value, "write \"tap\" or \"vhost-user\"")),
        };
        Ok(Port { kind, chosen })
    }

    /// `queuePairs` that a vhost-user pod may have; missing: one.
    pub(crate) fn queue_pairs(&self) -> Result<Option<u16>, Failure> {
        let (key, Some(value), _) = self.wish("queuePairs") else { return Ok(None) };
        if self.port()?.kind != AttachPort::VhostUser {
            return Err(invalid(&key, Some(value), "take it out: only port \"vhost-user\" has queues"));
        }
        match value.as_u64().map(u16::try_from) {
            Some(Ok(pairs)) if (1..=MAX_QUEUE_PAIRS).contains(&pairs) => Ok(Some(pairs)),
            _ => Err(invalid(&key, Some(value), "write a number from 1 to 128")),
        }
    }

    /// A key that a pod's own wish comes before: the runtime's (`runtimeConfig`), or Multus' `cni-args` (`args.cni`). Gives where
    /// it stands, its value, and whether it is such a wish.
    fn wish(&self, key: &str) -> (String, Option<&Value>, bool) {
        for path in [["runtimeConfig", key].as_slice(), ["args", "cni", key].as_slice()] {
            let outer = self.keys.get(path[0]);
            let found = path[1..].iter().try_fold(outer, |at, name| Some(at?.get(name))).flatten();
            if let Some(value) = found.filter(|value| !asks_nothing(value)) {
                return (path.join("."), Some(value), true);
            }
        }
        (key.to_owned(), self.given(key), false)
    }

    /// `mtu`, in bytes of IP packet; missing or 0: what the uplink allows.
    pub(crate) fn mtu(&self) -> Result<Option<u16>, Failure> {
        let Some(value) = self.given("mtu") else { return Ok(None) };
        match value.as_u64().map(u16::try_from) {
            Some(Ok(0)) => Ok(None),
            Some(Ok(mtu)) if mtu >= MIN_MTU => Ok(Some(mtu)),
            _ => Err(invalid("mtu", Some(value), "write a number from 1280 to 65535, or 0 for the uplink's")),
        }
    }

    /// `dns`, handed on in the result as the specification has it; its four keys alone.
    pub(crate) fn dns(&self) -> Result<Map<String, Value>, Failure> {
        let Some(value) = self.given("dns") else { return Ok(Map::new()) };
        let rule = "write an object with `nameservers`, `search`, `options` (lists of strings) and `domain`";
        let Value::Object(keys) = value else { return Err(invalid("dns", Some(value), rule)) };
        let strings = |v: &Value| v.as_array().is_some_and(|list| list.iter().all(Value::is_string));
        let mut dns = Map::new();
        for (key, value) in keys.iter().filter(|(_, value)| !asks_nothing(value)) {
            let right = match key.as_str() {
                "nameservers" | "search" | "options" => strings(value),
                "domain" => value.is_string(),
                _ => continue,
            };
            if !right {
                return Err(invalid(&format!("dns.{key}"), Some(value), rule));
            }
            dns.insert(key.clone(), value.clone());
        }
        Ok(dns)
    }

    /// `prevResult`, from the plug-ins before us in the chain, or for CHECK from the whole chain's ADD.
    pub(crate) fn previous(&self) -> Result<Option<Previous>, Failure> {
        let keys = match self.given("prevResult") {
            None => return Ok(None),
            Some(Value::Object(keys)) => keys.clone(),
            other => {
                return Err(invalid("prevResult", other, "write the result object of the plug-in before"));
            }
        };
        let list = |key: &str| match keys.get(key) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(list)) if list.iter().all(Value::is_object) => Ok(list.clone()),
            other => Err(invalid(&format!("prevResult.{key}"), other, "write a list of objects")),
        };
        let (interfaces, ips, routes) = (list("interfaces")?, list("ips")?, list("routes")?);
        Ok(Some(Previous { keys, interfaces, ips, routes }))
    }

    /// A key's value; `null` counts as missing.
    fn given(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }
}

/// The kind of port, and whether it was chosen for this very pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) kind: AttachPort,
    pub(crate) chosen: bool,
}

/// A result that came with the configuration, in the configuration's version. Keys we do not know stay as they are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Previous {
    pub(crate) keys: Map<String, Value>,
    pub(crate) interfaces: Vec<Value>,
    pub(crate) ips: Vec<Value>,
    pub(crate) routes: Vec<Value>,
}

/// False, zero, empty, or made of such: what runtimes write for "not asked".
fn asks_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.iter().all(asks_nothing),
        Value::Object(keys) => keys.values().all(asks_nothing),
    }
}

fn invalid(key: &str, value: Option<&Value>, rule: &str) -> Failure {
    let found = value.map_or_else(|| "missing".to_owned(), brief);
    Failure::new(code::INVALID_CONFIG, format!("invalid network configuration: `{key}` is {found}"))
        .details(rule)
}

fn unsupported(key: &str, value: &Value, why: &str) -> Failure {
    Failure::new(code::UNSUPPORTED_FIELD, format!("unsupported: `{key}` is {}", brief(value))).details(why)
}

/// A value for a message: as JSON, and cut where it is long.
fn brief(value: &Value) -> String {
    const MOST: usize = 120;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn config(keys: &Value) -> Config {
        Config::decode(keys.to_string().as_bytes()).unwrap()
    }

    /// Everything that ADD asks for, in one go.
    fn check(config: &Config) -> Result<(), Failure> {
        config.version("ADD", Version::V0_3_1)?;
        config.name()?;
        config.socket()?;
        config.port()?;
        config.queue_pairs()?;
        config.mtu()?;
        config.dns()?;
        config.capabilities()?;
        config.ipam()?;
        config.secondary()?;
        config.previous()?;
        Ok(())
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let config =
            config(&json!({"cniVersion": "1.1.0", "name": "pods", "mtu": 0, "runtimeConfig": {"mac": ""}}));
        assert_eq!(check(&config), Ok(()));
        assert_eq!(config.socket().unwrap(), PathBuf::from(proto::CONTROL_SOCKET));
        assert_eq!(config.port(), Ok(Port { kind: AttachPort::Tap, chosen: false }));
        assert_eq!((config.mtu(), config.queue_pairs()), (Ok(None), Ok(None)));
        assert_eq!(config.previous(), Ok(None));
    }

    #[test]
    fn the_runtimes_wish_comes_before_multus_args_and_both_before_the_configuration() {
        let ask = |more: Value| {
            let mut keys = json!({"cniVersion": "1.1.0", "name": "n", "port": "tap"});
            keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let config = config(&keys);
            Ok((config.port()?, config.queue_pairs()?))
        };
        let port = |kind, chosen| Port { kind, chosen };
        let args = json!({"cni": {"port": "vhost-user", "queuePairs": 4}});
        assert_eq!(ask(json!({})), Ok((port(AttachPort::Tap, false), None)));
        assert_eq!(ask(json!({"args": args})), Ok((port(AttachPort::VhostUser, true), Some(4))));
        assert_eq!(
            ask(json!({"args": args, "runtimeConfig": {"queuePairs": 2}})),
            Ok((port(AttachPort::VhostUser, true), Some(2)))
        );
        assert_eq!(
            ask(json!({"args": {"cni": {"port": "vhost-user"}}, "runtimeConfig": {"port": "tap"}})),
            Ok((port(AttachPort::Tap, true), None))
        );
        assert_eq!(
            ask(json!({"args": {"cni": 7}, "runtimeConfig": {"port": ""}})),
            Ok((port(AttachPort::Tap, false), None))
        );
        let failure: Failure = ask(json!({"args": {"cni": {"port": "bridge"}}})).unwrap_err();
        assert!(failure.msg.contains("`args.cni.port` is \"bridge\""), "{}", failure.msg);
    }

    #[test]
    fn a_vhost_user_pod_has_1_to_128_queue_pairs() {
        let pairs = |pairs: Value| {
            config(&json!({"cniVersion": "1.1.0", "port": "vhost-user", "queuePairs": pairs})).queue_pairs()
        };
        assert_eq!([1, 128].map(|n| pairs(json!(n))), [Ok(Some(1)), Ok(Some(128))]);
        for bad in [json!(0), json!(129), json!(-1), json!("4"), json!(70_000)] {
            let failure = pairs(bad.clone()).unwrap_err();
            assert!(
                failure.code == code::INVALID_CONFIG && failure.msg.contains("queuePairs"),
                "{bad}: {failure:?}"
            );
        }
    }

    #[test]
    fn each_bad_value_is_named_with_its_key() {
        for (code, key, value) in [
            (code::INVALID_CONFIG, "name", json!("")),
            (code::INVALID_CONFIG, "name", json!("a/b")),
            (code::INVALID_CONFIG, "name", json!(5)),
            (code::INVALID_CONFIG, "socket", json!("run/control.sock")),
            (code::INVALID_CONFIG, "socket", json!(format!("/{}", "x".repeat(107)))),
            (code::INVALID_CONFIG, "port", json!("bridge")),
            (code::INVALID_CONFIG, "port", json!(1)),
            (code::INVALID_CONFIG, "queuePairs", json!(2)),
            (code::INVALID_CONFIG, "mtu", json!(1279)),
            (code::INVALID_CONFIG, "mtu", json!(65536)),
            (code::INVALID_CONFIG, "mtu", json!(-1)),
            (code::INVALID_CONFIG, "mtu", json!("1500")),
            (code::INVALID_CONFIG, "dns", json!("1.1.1.1")),
            (code::INVALID_CONFIG, "prevResult", json!([1])),
            (code::INVALID_CONFIG, "ipam", json!("host-local")),
            (code::INVALID_CONFIG, "ipam", json!({"type": "../host-local"})),
            (code::UNSUPPORTED_FIELD, "ipMasq", json!(true)),
            (code::INVALID_CONFIG, "runtimeConfig", json!("mac")),
            (code::INVALID_CONFIG, "bandwidth", json!(1_000_000)),
        ] {
            let mut keys = json!({"cniVersion": "1.0.0", "name": "pods"});
            keys[key] = value.clone();
            let failure = check(&config(&keys)).unwrap_err();
            assert_eq!(failure.code, code, "{key}");
            let value: String = value.to_string().chars().take(100).collect();
            assert!(
                failure.msg.contains(&format!("`{key}`")) && failure.msg.contains(&value),
                "{}",
                failure.msg
            );
        }
    }

    #[test]
    fn versions_and_the_commands_they_have() {
        let version = |text: &str, since| config(&json!({"cniVersion": text})).version("CHECK", since);
        for known in Version::ALL {
            assert_eq!(version(known.text(), Version::V0_3_1), Ok(known));
        }
        for unknown in ["", "0.2.0", "1.0", "1.2.0", "2.0.0", "v1.0.0"] {
            let failure = version(unknown, Version::V0_3_1).unwrap_err();
            assert_eq!(failure.code, code::INCOMPATIBLE_VERSION);
            assert!(failure.details.contains("0.3.1, 0.4.0, 1.0.0, 1.1.0"));
        }
        assert!(version("0.3.1", Version::V0_4_0).unwrap_err().msg.contains("has no CHECK"));
    }

    #[test]
    fn a_chains_result_keeps_its_shape() {
        let previous =
            json!({"cniVersion": "1.0.0", "interfaces": null, "ips": [{"address": "10.0.0.1/8"}], "x": 1});
        let keys = json!({"cniVersion": "1.0.0", "prevResult": previous});
        let previous = config(&keys).previous().unwrap().unwrap();
        assert_eq!((previous.interfaces.len(), previous.ips.len(), previous.routes.len()), (0, 1, 0));
        assert_eq!(previous.keys["x"], json!(1));
        let failure = config(&json!({"prevResult": {"ips": [1]}})).previous().unwrap_err();
        assert!(failure.msg.contains("`prevResult.ips` is [1]"), "{}", failure.msg);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,200}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-zA-Z]{0,9}", inner, 0..4)
                    .prop_map(|keys| Value::Object(keys.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Whatever stands at a key of ours, the answer is a value or a failure with a known code.
        #[test]
        fn any_value_at_any_key(
            key in prop::sample::select(vec![
                "cniVersion", "name", "socket", "port", "queuePairs", "mtu", "dns", "ipam", "bandwidth", "args",
                "runtimeConfig", "prevResult", "networkId", "subnets",
            ]),
            value in any_json(),
        ) {
            let mut keys = json!({"cniVersion": "1.1.0", "name": "pods"});
            keys[key] = value;
            let failure = Config::decode(keys.to_string().as_bytes()).and_then(|config| check(&config)).err();
            if let Some(failure) = failure {
                prop_assert!([1, 2, 6, 7].contains(&failure.code));
                prop_assert!(serde_json::from_str::<Value>(&failure.in_version("1.1.0")).is_ok());
            }
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Err(failure) = Config::decode(&bytes) {
                prop_assert_eq!(failure.code, code::DECODE);
            }
        }
    }
}
