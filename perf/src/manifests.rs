//! The directory that control watches: Node and Pod objects as `kubectl get nodes,pods -A -o yaml` prints them.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// The first node, as its Node object names it.
pub const NODE: &str = "node-a";

/// Another node, whose part the outside host plays.
pub const OTHER_NODE: &str = "node-b";

/// A directory of manifests. Files change by rename, so that control never reads half of one.
#[derive(Debug, Clone)]
pub struct Manifests {
    dir: PathBuf,
}

/// What a Node object says that matters here.
#[derive(Debug, Clone, Copy)]
pub struct NodeObject<'a> {
    pub name: &'a str,
    pub pod_cidrs: [&'a str; 2],
    pub addresses: [&'a str; 2],
    /// Value of `podrouter.io/router-addresses`: where this node's pods are reached.
    pub router_addresses: Option<&'a str>,
}

impl Manifests {
    /// An empty directory.
    ///
    /// # Errors
    /// As `mkdir(2)`.
    pub fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
        Ok(Self { dir: dir.to_path_buf() })
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes or replaces a file.
    ///
    /// # Errors
    /// As `rename(2)`.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.dir.join(file);
        let fresh = self.dir.join(format!(".{file}.new"));
        fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, &path))
            .with_context(|| format!("{} cannot be written", path.display()))
    }

    /// Removes a file; it may be gone already.
    ///
    /// # Errors
    /// As `unlink(2)`.
    pub fn remove(&self, file: &str) -> Result<()> {
        let path = self.dir.join(file);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("{} cannot be removed", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Writes the nodes, as one list.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_nodes(&self, nodes: &[NodeObject<'_>]) -> Result<()> {
        let items: String = nodes.iter().map(node).collect();
        self.write("nodes.yaml", &format!("apiVersion: v1\nkind: List\nitems:\n{items}"))
    }

    /// Writes a pod's object, scheduled to a node and, with `addresses`, running.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_pod(&self, object: &Value, node: &str, addresses: &[IpAddr]) -> Result<()> {
        let mut object = object.clone();
        object["spec"]["nodeName"] = json!(node);
        object["status"] = match addresses.first() {
            Some(first) => {
                let ips: Vec<Value> = addresses.iter().map(|address| json!({"ip": address})).collect();
                json!({"phase": "Running", "podIP": first, "podIPs": ips})
            }
            None => json!({"phase": "Pending"}),
        };
        self.write(&pod_file(&object), &object.to_string())
    }

    /// Removes a pod.
    ///
    /// # Errors
    /// As [`Self::remove`].
    pub fn remove_pod(&self, object: &Value) -> Result<()> {
        self.remove(&pod_file(object))
    }
}

/// A Pod object as it is before anybody has seen to it. Ports are told as name, protocol, number.
#[must_use]
pub fn pod(namespace: &str, name: &str, labels: &Value, ports: &[(&str, &str, u16)]) -> Value {
    let ports: Vec<Value> = ports
        .iter()
        .map(|(name, protocol, port)| json!({"name": name, "protocol": protocol, "containerPort": port}))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"containers": [{"image": "images.test/agnhost:2.63.0", "name": "main", "ports": ports}]},
    })
}

fn pod_file(object: &Value) -> String {
    let name = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
    format!("pod-{}-{}.json", name("namespace"), name("name"))
}

fn node(object: &NodeObject<'_>) -> String {
    let NodeObject { name, pod_cidrs: [pods4, pods6], addresses: [address4, address6], .. } = object;
    let annotations = object
        .router_addresses
        .map(|value| format!("    annotations:\n      podrouter.io/router-addresses: \"{value}\"\n"))
        .unwrap_or_default();
    format!(
        "- apiVersion: v1\n  kind: Node\n  metadata:\n{annotations}    labels:\n      \
         kubernetes.io/hostname: {name}\n      kubernetes.io/os: linux\n    name: {name}\n  spec:\n    \
         podCIDR: {pods4}\n    podCIDRs:\n    - {pods4}\n    - {pods6}\n  status:\n    addresses:\n    \
         - address: {address4}\n      type: InternalIP\n    - address: {address6}\n      type: InternalIP\n    \
         - address: {name}\n      type: Hostname\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_look_as_kubectl_prints_them() {
        let text = node(&NodeObject {
            name: "node-b",
            pod_cidrs: ["10.244.2.0/24", "fd00:10:244:2::/64"],
            addresses: ["192.168.77.12", "fd00:77::12"],
            router_addresses: Some("192.168.78.1"),
        });
        assert!(
            text.starts_with("- apiVersion: v1\n  kind: Node\n  metadata:\n    annotations:\n"),
            "{text}"
        );
        assert!(text.contains("\n  spec:\n    podCIDR: 10.244.2.0/24\n    podCIDRs:\n    - 10.244.2.0/24\n"));
        let dir = tempfile::tempdir().unwrap();
        let manifests = Manifests::create(dir.path()).unwrap();
        let object = pod("shop", "a", &json!({"app": "a"}), &[("web", "TCP", 80)]);
        manifests.write_pod(&object, NODE, &["10.244.1.2".parse().unwrap()]).unwrap();
        let text = fs::read_to_string(dir.path().join("pod-shop-a.json")).unwrap();
        let read: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["spec"]["nodeName"], NODE);
        assert_eq!(read["spec"]["containers"][0]["ports"][0]["containerPort"], 80);
        assert_eq!(read["status"]["podIPs"], json!([{"ip": "10.244.1.2"}]));
        manifests.remove_pod(&object).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
