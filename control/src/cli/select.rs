//! Which rows of an answer are shown, and in what order; the same for text and JSON.

use std::cmp::Reverse;
use std::net::IpAddr;

use proto::dataplane::{
    DropStatus, Frontend, NeighbourStatus, PolicyStatus, PortStatus, RouteStatus, WorkerStatus,
};

use crate::args::RouteFilter;

/// By id; with a name that one alone. `Err` tells which names there are.
pub(crate) fn ports(mut ports: Vec<PortStatus>, name: Option<&str>) -> Result<Vec<PortStatus>, String> {
    ports.sort_by_key(|port| port.info.id);
    let Some(name) = name else { return Ok(ports) };
    let (found, others): (Vec<_>, Vec<_>) = ports.into_iter().partition(|port| port.info.spec.name == name);
    if found.is_empty() {
        return Err(format!("there is no port `{name}`; {}", names(&others)));
    }
    Ok(found)
}

fn names(ports: &[PortStatus]) -> String {
    if ports.is_empty() {
        return "there are no ports at all".to_owned();
    }
    let names: Vec<_> = ports.iter().map(|port| port.info.spec.name.as_str()).collect();
    format!("there are {}", names.join(", "))
}

/// By network and prefix; those that match an address from the longest, which is the one used, to the shortest.
pub(crate) fn routes(mut routes: Vec<RouteStatus>, filter: Option<RouteFilter>) -> Vec<RouteStatus> {
    match filter {
        None => {}
        Some(RouteFilter::Matching(address)) => routes.retain(|route| route.prefix.contains(address)),
        Some(RouteFilter::Inside(prefix)) => {
            routes.retain(|route| route.prefix.len() >= prefix.len() && prefix.contains(route.prefix.addr()))
        }
    }
    routes.sort_by_key(|route| (route.network, route.prefix));
    if matches!(filter, Some(RouteFilter::Matching(_))) {
        routes.sort_by_key(|route| (route.network, Reverse(route.prefix.len())));
    }
    routes
}

/// By key; with an address those that have it as their own or a backend's, with a name those of that name, with or without
/// the port's part of it.
pub(crate) fn services(mut services: Vec<Frontend>, filter: Option<&str>) -> Result<Vec<Frontend>, String> {
    services.sort_by_key(|service| service.key);
    let Some(filter) = filter else { return Ok(services) };
    match filter.parse::<IpAddr>() {
        Ok(address) => services.retain(|service| {
            service.key.address == address
                || service.backends.iter().any(|backend| backend.address == address)
        }),
        Err(_) => services.retain(|service| {
            let rest = service.name.strip_prefix(filter);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        }),
    }
    if services.is_empty() {
        Err(format!("there is no service `{filter}`, nor one behind it"))
    } else {
        Ok(services)
    }
}

/// By endpoint; with a name that one alone.
pub(crate) fn policies(
    mut policies: Vec<PolicyStatus>,
    endpoint: Option<&str>,
) -> Result<Vec<PolicyStatus>, String> {
    policies.sort_by(|a, b| a.policy.endpoint.cmp(&b.policy.endpoint));
    let Some(endpoint) = endpoint else { return Ok(policies) };
    policies.retain(|row| row.policy.endpoint == endpoint);
    if policies.is_empty() {
        return Err(format!("endpoint `{endpoint}` has no policy: nothing restricts it"));
    }
    Ok(policies)
}

/// By port and address; with an address that one alone.
pub(crate) fn neighbours(
    mut neighbours: Vec<NeighbourStatus>,
    address: Option<IpAddr>,
) -> Result<Vec<NeighbourStatus>, String> {
    neighbours.sort_by(|a, b| (&a.port, a.address).cmp(&(&b.port, b.address)));
    let Some(address) = address else { return Ok(neighbours) };
    neighbours.retain(|neighbour| neighbour.address == address);
    if neighbours.is_empty() {
        return Err(format!("there is no neighbour {address}; nothing was sent to it of late"));
    }
    Ok(neighbours)
}

/// By id.
pub(crate) fn workers(mut workers: Vec<WorkerStatus>) -> Vec<WorkerStatus> {
    workers.sort_by_key(|worker| worker.id);
    workers
}

/// Most packets first. Reasons that have not happened are left out unless `all`.
pub(crate) fn drops(mut drops: Vec<DropStatus>, all: bool, port: Option<&str>) -> Vec<DropStatus> {
    drops.retain(|drop| (all || drop.packets > 0) && port.is_none_or(|port| drop.port == port));
    drops.sort_by(|a, b| {
        let key =
            |d: &DropStatus| (Reverse(d.packets), d.port.clone(), d.direction.clone(), d.reason.clone());
        key(a).cmp(&key(b))
    });
    drops
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(filter: Option<&str>) -> Vec<String> {
        let all = ["10.244.1.5/32", "0.0.0.0/0", "::/0", "10.244.0.0/16", "10.244.1.0/24", "fd00::/64"];
        let route = |prefix: &str| RouteStatus {
            network: 0,
            prefix: prefix.parse().unwrap(),
            origin: "configured".into(),
            target: String::new(),
        };
        let chosen = routes(all.map(route).to_vec(), filter.map(|text| text.parse().unwrap()));
        chosen.iter().map(|route| route.prefix.to_string()).collect()
    }

    #[test]
    fn routes_by_address_and_prefix() {
        let sorted = ["0.0.0.0/0", "10.244.0.0/16", "10.244.1.0/24", "10.244.1.5/32", "::/0", "fd00::/64"];
        assert_eq!(prefixes(None), sorted);
        let matching = ["10.244.1.5/32", "10.244.1.0/24", "10.244.0.0/16", "0.0.0.0/0"];
        assert_eq!(prefixes(Some("10.244.1.5")), matching);
        assert_eq!(prefixes(Some("10.244.1.0/24")), ["10.244.1.0/24", "10.244.1.5/32"]);
        assert_eq!(prefixes(Some("::/0")), ["::/0", "fd00::/64"]);
        assert!(prefixes(Some("192.0.2.0/24")).is_empty());
    }

    #[test]
    fn drops_that_happened() {
        let drop = |port: &str, reason: &str, packets| DropStatus {
            port: port.into(),
            direction: "rx".into(),
            reason: reason.into(),
            description: String::new(),
            packets,
        };
        let list = vec![drop("a", "x", 1), drop("b", "x", 5), drop("a", "never", 0), drop("a", "w", 1)];
        let show = |all, port| -> Vec<_> {
            drops(list.clone(), all, port).into_iter().map(|d| format!("{}:{}", d.port, d.reason)).collect()
        };
        assert_eq!(show(false, None), ["b:x", "a:w", "a:x"]);
        assert_eq!(show(true, Some("a")), ["a:w", "a:x", "a:never"]);
    }
}
