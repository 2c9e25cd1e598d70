//! `bandwidth`: how fast a pod may send and be sent to. The network's own key has the capability's four (CONVENTIONS.md of the CNI
//! project), and says what holds where the runtime says nothing: a direction at a time.

use proto::control::Bandwidth;
use serde_json::{Map, Value};

use super::{Config, asks_nothing, invalid, unsupported};
use crate::error::Failure;

/// Keys of the `bandwidth` plug-in that would leave part of the traffic out.
const SUBNETS: [&str; 2] = ["shapedSubnets", "unshapedSubnets"];

/// Rate and burst of a direction, as they are called.
const DIRECTIONS: [[&str; 2]; 2] = [["ingressRate", "ingressBurst"], ["egressRate", "egressBurst"]];

impl Config {
    /// Of `bandwidth` and `runtimeConfig.bandwidth`; `None`: no limit.
    pub(crate) fn bandwidth(&self) -> Result<Option<Bandwidth>, Failure> {
        let networks = read("bandwidth", self.given("bandwidth"))?;
        let asked = self.given("runtimeConfig").and_then(|keys| keys.get("bandwidth"));
        let runtimes = read("runtimeConfig.bandwidth", asked.filter(|value| !value.is_null()))?;
        let [[ingress_rate, ingress_burst], [egress_rate, egress_burst]] =
            [0, 1].map(|way| if runtimes[way][0] == 0 { networks[way] } else { runtimes[way] });
        let bandwidth = Bandwidth { ingress_rate, ingress_burst, egress_rate, egress_burst };
        Ok((ingress_rate != 0 || egress_rate != 0).then_some(bandwidth))
    }
}

/// Rate and burst by direction, zeros where nothing is asked.
fn read(path: &str, value: Option<&Value>) -> Result<[[u64; 2]; 2], Failure> {
    let keys = match value {
        None => return Ok([[0; 2]; 2]),
        Some(Value::Object(keys)) => keys,
        other => {
            let rule = "write an object with `ingressRate`, `ingressBurst`, `egressRate` and `egressBurst`";
            return Err(invalid(path, other, rule));
        }
    };
    for (key, value) in keys.iter().filter(|(_, value)| !asks_nothing(value)) {
        let named = format!("{path}.{key}");
        if SUBNETS.contains(&key.as_str()) {
            return Err(unsupported(&named, value, "a limit is of all traffic: remove the key"));
        }
        if !DIRECTIONS.as_flattened().contains(&key.as_str()) {
            crate::log(&format!("`{named}` is not known and was ignored"));
        }
    }
    let mut read = [[0; 2]; 2];
    for ([rate, burst], direction) in DIRECTIONS.into_iter().zip(&mut read) {
        *direction = [number(path, keys, rate)?, number(path, keys, burst)?];
        if direction[0] == 0 && direction[1] != 0 {
            let rule = format!("write `{rate}` too: without one there is no limit");
            return Err(invalid(&format!("{path}.{burst}"), keys.get(burst), &rule));
        }
    }
    Ok(read)
}

fn number(path: &str, keys: &Map<String, Value>, key: &str) -> Result<u64, Failure> {
    match keys.get(key) {
        None | Some(Value::Null) => Ok(0),
        Some(value) => value.as_u64().ok_or_else(|| {
            let rule = "write a whole number of bits (a second), 0 for no limit";
            invalid(&format!("{path}.{key}"), Some(value), rule)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::code;
    use serde_json::json;

    fn ask(networks: &Value, runtimes: &Value) -> Result<Option<Bandwidth>, Failure> {
        let keys =
            json!({"cniVersion": "1.0.0", "bandwidth": networks, "runtimeConfig": {"bandwidth": runtimes}});
        Config::decode(keys.to_string().as_bytes())?.bandwidth()
    }

    #[test]
    fn what_the_runtime_says_goes_first_a_direction_at_a_time() {
        let networks = json!({"ingressRate": 1_000_000, "ingressBurst": 80_000, "egressRate": 2_000_000});
        let limit = Bandwidth {
            ingress_rate: 1_000_000,
            ingress_burst: 80_000,
            egress_rate: 2_000_000,
            egress_burst: 0,
        };
        assert_eq!(ask(&networks, &Value::Null), Ok(Some(limit)));
        assert_eq!(ask(&networks, &json!({"ingressRate": 0, "egressRate": 0})), Ok(Some(limit)));
        let most = u64::from(u32::MAX);
        assert_eq!(
            ask(&networks, &json!({"egressRate": 5000, "egressBurst": most, "new": 1})),
            Ok(Some(Bandwidth { egress_rate: 5_000, egress_burst: most, ..limit }))
        );
        // The runtime's rate has the runtime's burst, and none of the network's.
        assert_eq!(
            ask(&networks, &json!({"ingressRate": 9})),
            Ok(Some(Bandwidth { ingress_rate: 9, ingress_burst: 0, ..limit }))
        );
        assert_eq!(ask(&json!({"egressRate": u64::MAX}), &json!({})).unwrap().unwrap().egress_rate, u64::MAX);
    }

    #[test]
    fn nothing_asked_is_no_limit() {
        let nothing = json!({"ingressRate": 0, "ingressBurst": 0, "shapedSubnets": []});
        for (networks, runtimes) in
            [(json!(null), json!(null)), (json!({}), nothing.clone()), (nothing, json!({"egressRate": null}))]
        {
            assert_eq!(ask(&networks, &runtimes), Ok(None));
        }
        let bare = Config::decode(br#"{"cniVersion": "1.0.0"}"#).unwrap();
        assert_eq!(bare.bandwidth(), Ok(None));
    }

    #[test]
    fn a_bad_value_is_named_with_its_key() {
        for (bad, key, code) in [
            (json!("10M"), "", code::INVALID_CONFIG),
            (json!([1]), "", code::INVALID_CONFIG),
            (json!({"ingressRate": "10M"}), ".ingressRate", code::INVALID_CONFIG),
            (json!({"ingressRate": -1}), ".ingressRate", code::INVALID_CONFIG),
            (json!({"egressRate": 1.5}), ".egressRate", code::INVALID_CONFIG),
            (json!({"egressRate": 5, "egressBurst": true}), ".egressBurst", code::INVALID_CONFIG),
            (json!({"egressRate": 5, "ingressBurst": 9}), ".ingressBurst", code::INVALID_CONFIG),
            (json!({"egressBurst": 9}), ".egressBurst", code::INVALID_CONFIG),
            (
                json!({"egressRate": 5, "shapedSubnets": ["10.0.0.0/8"]}),
                ".shapedSubnets",
                code::UNSUPPORTED_FIELD,
            ),
            (json!({"unshapedSubnets": ["10.0.0.0/8"]}), ".unshapedSubnets", code::UNSUPPORTED_FIELD),
        ] {
            for (path, failure) in [
                ("bandwidth", ask(&bad, &Value::Null).unwrap_err()),
                ("runtimeConfig.bandwidth", ask(&Value::Null, &bad).unwrap_err()),
            ] {
                assert_eq!(failure.code, code, "{bad}: {failure:?}");
                assert!(failure.msg.contains(&format!("`{path}{key}` is ")), "{bad}: {failure:?}");
            }
        }
    }
}
