//! Pods: a namespace or a socket, attached and detached by the CNI plug-in itself, with its Pod object beside it.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::manifests;
use crate::netns::Netns;
use crate::node::Node;
use crate::process::Process;
use crate::wait::{PATIENCE, wait_until};

/// Name of the network configuration.
const NETWORK: &str = "podrouter";
/// `CNI_IFNAME` of a pod's first interface.
pub const INTERFACE: &str = "eth0";

/// How a pod is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A TAP in its namespace.
    Kernel,
    /// A vhost-user socket.
    VhostUser,
}

/// A pod's interface, attached. Dropping the last of a pod removes its namespace, not its attachments: that is [`Pod::detach`].
#[derive(Debug)]
pub struct Pod {
    pub name: String,
    /// Its Pod object, without what its node has to say.
    pub object: Value,
    pub kind: Kind,
    pub netns: Netns,
    /// IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// As the plug-in reported it.
    pub mac: String,
    /// The vhost-user socket, for that kind.
    pub socket: Option<PathBuf>,
    /// What ADD printed.
    pub result: Value,
    container: String,
    interface: String,
    /// The configuration that it was attached by.
    configuration: Value,
}

impl Pod {
    /// Makes a namespace and has the plug-in attach it; the Pod object is there before and has its addresses after,
    /// as with kubelet.
    ///
    /// # Errors
    /// When the plug-in fails, or its result lacks what the specification asks for.
    pub fn attach(node: &Node, name: &str, kind: Kind) -> Result<Self> {
        Self::attach_with(node, name, kind, &json!({}))
    }

    /// The same, by a runtime that asks for these capabilities (`runtimeConfig`).
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub fn attach_with(node: &Node, name: &str, kind: Kind, capabilities: &Value) -> Result<Self> {
        let object = manifests::pod("default", name, &json!({"app": name}), &[]);
        Self::attach_object(node, &object, kind, capabilities)
    }

    /// The same of a pod that has an object of its own ([`manifests::pod`]).
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub fn attach_object(node: &Node, object: &Value, kind: Kind, capabilities: &Value) -> Result<Self> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let netns = Netns::create(&node.run, &format!("{name}-{}", node.run.number()))?;
        Self::attach_into(node, netns, object, kind, capabilities)
    }

    /// The same into a namespace that somebody is in already.
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub fn attach_into(
        node: &Node,
        netns: Netns,
        object: &Value,
        kind: Kind,
        capabilities: &Value,
    ) -> Result<Self> {
        let container = netns.name().to_owned();
        node.manifests.write_pod(object, &node.site.name(), &[])?;
        let mut configuration = configured(node, kind);
        configuration["runtimeConfig"] = capabilities.clone();
        let pod = Self::add(node, (object, INTERFACE), kind, configuration, container, netns)?;
        if pod.addresses.len() != 2 || pod.addresses.iter().filter(|address| address.is_ipv4()).count() != 1 {
            bail!("{} should have an address of each family, not {:?}", pod.name, pod.addresses);
        }
        pod.tell(node, object)?;
        Ok(pod)
    }

    /// Has the cluster know the pod, which runs, by this object.
    ///
    /// # Errors
    /// As `rename(2)`.
    pub fn tell(&self, node: &Node, object: &Value) -> Result<()> {
        node.manifests.write_pod(object, &node.site.name(), &self.addresses)
    }

    /// Attaches a further interface of the pod, as Multus does, to the network of these keys of its configuration.
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub fn further(&self, node: &Node, interface: &str, kind: Kind, network: &Value) -> Result<Self> {
        let mut configuration = configured(node, kind);
        for (key, value) in network.as_object().into_iter().flatten() {
            configuration[key] = value.clone();
        }
        let (container, netns) = (self.container.clone(), self.netns.clone());
        Self::add(node, (&self.object, interface), kind, configuration, container, netns)
    }

    fn add(
        node: &Node,
        (object, interface): (&Value, &str),
        kind: Kind,
        configuration: Value,
        container: String,
        netns: Netns,
    ) -> Result<Self> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let path = netns.path();
        let environment = environment("ADD", object, interface, &container, &path.to_string_lossy());
        let pairs: Vec<(&str, &str)> =
            environment.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let finished = node.cni(&pairs, &configuration.to_string())?;
        if !finished.status.success() {
            bail!("CNI ADD of {name} failed: {}{}\n{}", finished.stdout, finished.stderr, node.logs(10));
        }
        let result: Value = serde_json::from_str(&finished.stdout)
            .with_context(|| format!("CNI ADD of {name} printed no JSON: {}", finished.stdout))?;
        let socket = field(&result, interface, "socketPath").ok().filter(|path| !path.is_empty());
        Ok(Self {
            name: name.to_owned(),
            object: object.clone(),
            kind,
            addresses: addresses(&result)?,
            mac: field(&result, interface, "mac")?,
            socket: socket.map(PathBuf::from),
            netns,
            result,
            container,
            interface: interface.to_owned(),
            configuration,
        })
    }

    /// Its endpoint's name in the data plane, unless another has it.
    fn endpoint(&self) -> String {
        let namespace = self.object["metadata"]["namespace"].as_str().unwrap_or_default();
        if self.configuration.get("networkId").is_some() {
            format!("{namespace}/{}@{}", self.name, self.interface)
        } else {
            format!("{namespace}/{}", self.name)
        }
    }

    /// The pod's address: 4 or 6 by `family`.
    ///
    /// # Panics
    /// Never. It is empty where a further interface has none of that family.
    #[must_use]
    pub fn address(&self, family: Family) -> String {
        let found = self.addresses.iter().find(|address| address.is_ipv4() == (family == Family::V4));
        found.map(ToString::to_string).unwrap_or_default()
    }

    /// CNI DEL, as often as one likes.
    ///
    /// # Errors
    /// When the plug-in fails.
    pub fn detach(&self, node: &Node) -> Result<()> {
        let path = self.netns.path();
        let environment =
            environment("DEL", &self.object, &self.interface, &self.container, &path.to_string_lossy());
        let pairs: Vec<(&str, &str)> =
            environment.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let finished = node.cni(&pairs, &self.configuration.to_string())?;
        if !finished.status.success() {
            bail!("CNI DEL of {} failed: {}{}", self.name, finished.stdout, finished.stderr);
        }
        if self.interface == INTERFACE { node.manifests.remove_pod(&self.object) } else { Ok(()) }
    }

    /// Waits until the data plane serves the vhost-user pod's application.
    ///
    /// # Errors
    /// When the application ends, or does not connect.
    pub fn wait_for(&self, node: &Node, application: &mut Process) -> Result<()> {
        let role = self.endpoint();
        let up = wait_until(&format!("the vhost-user port of {} is up", self.name), PATIENCE, || {
            application.check()?;
            let ports = node.query().ports()?;
            let port = ports.iter().find(|port| port.role == role);
            let port = port.ok_or_else(|| anyhow!("no port has the role {role}: {ports:?}"))?;
            if port.up { Ok(()) } else { Err(anyhow!("{port:?}")) }
        });
        node.explain(up)
    }
}

/// The IP families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// Both, in the order in which pairs of addresses are written here.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// This family's of a pair.
    #[must_use]
    pub fn of(self, pair: [&'static str; 2]) -> &'static str {
        match self {
            Self::V4 => pair[0],
            Self::V6 => pair[1],
        }
    }
}

/// The CNI configuration for a pod of this kind.
#[must_use]
pub fn configuration(node: &Node, kind: Kind) -> String {
    configured(node, kind).to_string()
}

fn configured(node: &Node, kind: Kind) -> Value {
    let port = match kind {
        Kind::Kernel => "tap",
        Kind::VhostUser => "vhost-user",
    };
    let mut configuration = json!({
        "cniVersion": "1.1.0", "name": NETWORK, "type": "podrouter-cni",
        "socket": node.control_socket(), "port": port,
    });
    if let Some(mtu) = node.options.pod_mtu {
        configuration["mtu"] = mtu.into();
    }
    configuration
}

fn environment(
    command: &str,
    pod: &Value,
    interface: &str,
    container: &str,
    netns: &str,
) -> [(&'static str, String); 5] {
    let name = |key: &str| pod["metadata"][key].as_str().unwrap_or_default();
    let pod = format!("K8S_POD_NAMESPACE={};K8S_POD_NAME={}", name("namespace"), name("name"));
    [
        ("CNI_COMMAND", command.to_owned()),
        ("CNI_CONTAINERID", container.to_owned()),
        ("CNI_NETNS", netns.to_owned()),
        ("CNI_IFNAME", interface.to_owned()),
        ("CNI_ARGS", format!("IgnoreUnknown=1;{pod}")),
    ]
}

/// The addresses of a CNI result (CNI 1.1.0, section 5), without their prefix lengths.
fn addresses(result: &Value) -> Result<Vec<IpAddr>> {
    let ips = result["ips"].as_array().ok_or_else(|| anyhow!("a CNI result without `ips`: {result}"))?;
    let mut addresses = Vec::new();
    for ip in ips {
        let text = ip["address"].as_str().unwrap_or_default();
        let bare = text.split('/').next().unwrap_or_default();
        addresses.push(bare.parse().with_context(|| format!("a CNI result's address: `{text}`"))?);
    }
    addresses.sort();
    Ok(addresses)
}

fn field(result: &Value, interface: &str, field: &str) -> Result<String> {
    let interfaces = result["interfaces"].as_array().map(Vec::as_slice).unwrap_or_default();
    let named = interfaces.iter().find(|entry| entry["name"] == interface);
    let value = named.and_then(|entry| entry[field].as_str());
    value.map(str::to_owned).ok_or_else(|| anyhow!("a CNI result without {interface}'s `{field}`: {result}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_read() {
        let result = json!({
            "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "socketPath": "/run/x.sock"}],
            "ips": [{"address": "fd00::2/128"}, {"address": "10.0.0.2/32"}],
        });
        let addresses = addresses(&result).unwrap();
        assert_eq!(addresses, ["10.0.0.2".parse::<IpAddr>().unwrap(), "fd00::2".parse().unwrap()]);
        assert_eq!(field(&result, "eth0", "mac").unwrap(), "02:00:00:00:00:01");
        assert!(field(&result, "eth0", "mtu").is_err());
    }
}
