//! The network that an interface is on: the pods' own, or a secondary one with addresses of its own (`networkId`, `subnets`).

use proto::control::Secondary;
use serde_json::Value;
use wire::IpPrefix;

use super::{Config, invalid};
use crate::error::Failure;

const SUBNETS: &str = "write a list of ranges, as [\"10.5.0.0/16\", \"fd05::/64\"]";

impl Config {
    /// `networkId`, and `subnets` with it; without them, or 0: the pods' own network. The subnets may be left to a delegated IPAM
    /// plug-in, which tells them with its addresses.
    pub(crate) fn secondary(&self) -> Result<Option<Secondary>, Failure> {
        let subnets = self.subnets()?;
        let id = match self.given("networkId").map(|value| (value, value.as_u64().map(u16::try_from))) {
            None | Some((_, Some(Ok(0)))) => {
                let why =
                    "the pods' own network has the node's podCIDRs: take it out, or choose a `networkId`";
                let asked = self.given("subnets").filter(|_| !subnets.is_empty());
                return asked.map_or(Ok(None), |value| Err(invalid("subnets", Some(value), why)));
            }
            Some((_, Some(Ok(id)))) => id,
            Some((value, _)) => {
                let rule = "write a number from 1 to 65535, or 0 for the pods' own network";
                return Err(invalid("networkId", Some(value), rule));
            }
        };
        if subnets.is_empty() && self.ipam()?.is_none() {
            let rule = "a network with a `networkId` needs its ranges, or an `ipam` that knows them";
            return Err(invalid("subnets", self.given("subnets"), rule));
        }
        Ok(Some(Secondary { id, subnets }))
    }

    fn subnets(&self) -> Result<Vec<IpPrefix>, Failure> {
        let Some(value) = self.given("subnets") else { return Ok(Vec::new()) };
        let subnet = |value: &Value| value.as_str()?.parse().ok();
        let subnets = value.as_array().and_then(|list| list.iter().map(subnet).collect());
        subnets.ok_or_else(|| invalid("subnets", Some(value), SUBNETS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::code;
    use serde_json::json;

    fn secondary(more: &Value) -> Result<Option<Secondary>, Failure> {
        let mut keys = json!({"cniVersion": "1.1.0", "name": "storage"});
        keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Config::decode(keys.to_string().as_bytes()).unwrap().secondary()
    }

    #[test]
    fn a_network_beside_the_pods_own_has_an_id_and_subnets() {
        let subnets = ["10.5.0.0/16", "fd05::/64"].map(|text| text.parse().unwrap()).to_vec();
        let network = |id, subnets: &[IpPrefix]| Ok(Some(Secondary { id, subnets: subnets.to_vec() }));
        let both = json!(["10.5.0.0/16", "fd05::/64"]);
        assert_eq!(secondary(&json!({"networkId": 7, "subnets": both})), network(7, &subnets));
        assert_eq!(
            secondary(&json!({"networkId": 65535, "ipam": {"type": "whereabouts"}})),
            network(65_535, &[])
        );
        for none in [json!({}), json!({"networkId": 0}), json!({"networkId": null, "subnets": []})] {
            assert_eq!(secondary(&none), Ok(None), "{none}");
        }
        for (keys, named) in [
            (json!({"networkId": 65536, "subnets": both}), "`networkId` is 65536"),
            (json!({"networkId": "7", "subnets": both}), "`networkId` is \"7\""),
            (json!({"networkId": -1}), "`networkId` is -1"),
            (json!({"networkId": 7}), "`subnets` is missing"),
            (json!({"networkId": 7, "subnets": []}), "`subnets` is []"),
            (json!({"networkId": 7, "subnets": "10.5.0.0/16"}), "`subnets` is \"10.5.0.0/16\""),
            (json!({"networkId": 7, "subnets": ["10.5.0.1/16"]}), "`subnets` is [\"10.5.0.1/16\"]"),
            (json!({"networkId": 7, "subnets": [5]}), "`subnets` is [5]"),
            (json!({"subnets": both}), "`subnets` is ["),
        ] {
            let failure = secondary(&keys).unwrap_err();
            assert_eq!(failure.code, code::INVALID_CONFIG);
            assert!(failure.msg.contains(named), "{}", failure.msg);
        }
    }
}
