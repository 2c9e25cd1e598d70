//! The directory that control watches: Node and Pod objects as `kubectl get nodes,pods -A -o yaml` prints them.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

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

    /// Writes a pod, scheduled to a node and, with `addresses`, running.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_pod(&self, name: &str, node: &str, addresses: &[IpAddr]) -> Result<()> {
        self.write(&pod_file(name), &pod(name, node, addresses))
    }

    /// Removes a pod.
    ///
    /// # Errors
    /// As [`Self::remove`].
    pub fn remove_pod(&self, name: &str) -> Result<()> {
        self.remove(&pod_file(name))
    }
}

fn pod_file(name: &str) -> String {
    format!("pod-{name}.yaml")
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

fn pod(name: &str, node: &str, addresses: &[IpAddr]) -> String {
    let ips: String = addresses.iter().map(|address| format!("  - ip: {address}\n")).collect();
    let status = match addresses.first() {
        Some(first) => format!("  phase: Running\n  podIP: {first}\n  podIPs:\n{ips}"),
        None => "  phase: Pending\n".to_owned(),
    };
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  labels:\n    app: {name}\n  name: {name}\n  \
         namespace: default\nspec:\n  containers:\n  - image: images.test/agnhost:2.63.0\n    name: main\n  \
         nodeName: {node}\nstatus:\n{status}"
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
        let text = pod("a", NODE, &["10.244.1.2".parse().unwrap()]);
        assert!(
            text.contains(
                "\nstatus:\n  phase: Running\n  podIP: 10.244.1.2\n  podIPs:\n  - ip: 10.244.1.2\n"
            )
        );
    }
}
