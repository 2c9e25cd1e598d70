//! Asks an API server for one pod: the watch of this node's pods may be late when a runtime attaches one.

use std::time::Duration;

use desired::Pod;
use kube::{Client, Config};
use tokio::time::timeout;

use super::objects::Trimmed;
use super::reach::told;

/// Longest wait for the answer, within what runtimes give a plug-in.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whom to ask.
#[derive(Debug, Clone)]
pub(crate) struct Ask(Config);

impl Ask {
    pub(crate) const fn new(config: Config) -> Self {
        Self(config)
    }

    /// The pod as it is now, on the calling thread; `None`: there is none of that name.
    ///
    /// # Errors
    /// In words: the server did not answer, or would not tell.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(async {
            let asked = timeout(PATIENCE, self.text(namespace, name)).await;
            match asked.map_err(|_| format!("no answer for {PATIENCE:?}"))? {
                Ok(text) => Pod::read(&text).map(Some),
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
                Err(error) => Err(told(&error)),
            }
        })
    }

    async fn text(&self, namespace: &str, name: &str) -> kube::Result<String> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        let request = http::Request::get(path).body(vec![]).map_err(kube::Error::HttpError)?;
        Client::try_from(self.0.clone())?.request_text(request).await
    }
}
