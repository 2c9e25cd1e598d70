//! The tests' own API server, where a node's control process can reach it.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result, anyhow};
use apiserver::ApiServer;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::node::Node;

/// Serves in the node's namespace, where control is, from within this process.
///
/// # Errors
/// When the namespace cannot be entered, or has no loopback.
pub fn serve(node: &Node) -> Result<ApiServer> {
    let host = fs::File::open(node.host.path()).context("the node's namespace")?;
    let bind = move || -> Result<TcpListener> {
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&host), Some(LinkNameSpaceType::Network))
            .context("entering the node's namespace")?;
        TcpListener::bind("127.0.0.1:0").context("a port for the API server")
    };
    let listener = thread::spawn(bind).join().map_err(|_| anyhow!("a thread panicked"))??;
    ApiServer::start(listener, 0).context("starting the API server")
}

/// Has the node's control process follow the server from its next start on.
///
/// # Errors
/// As `write(2)`.
pub fn follow(node: &mut Node, server: &ApiServer) -> Result<()> {
    let path: PathBuf = node.run.dir().join(format!("kubeconfig-{}", node.site.name()));
    let text = format!(
        "{{kind: Config, apiVersion: v1, current-context: c, contexts: [{{name: c, context: {{cluster: c, user: u}}}}], \
         users: [{{name: u, user: {{}}}}], clusters: [{{name: c, cluster: {{server: \"{}\"}}}}]}}",
        server.url()
    );
    fs::write(&path, text).with_context(|| path.display().to_string())?;
    node.options.kubeconfig = Some(path);
    Ok(())
}
