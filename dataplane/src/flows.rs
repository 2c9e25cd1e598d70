//! Where flows are kept: in a file that the next process takes over, or in memory of this one.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use flow::{Flows, FlowsConfig};

use crate::args::Args;

/// Takes over the flows that an earlier process left, or begins without.
pub(crate) fn open(args: &Args, seats: usize) -> anyhow::Result<Arc<Flows>> {
    let timeouts = args.timeouts()?;
    let config = FlowsConfig { v4: args.flows, v6: args.flows6, seats, seeds: seeds()?, timeouts };
    let words = Flows::words(&config);
    let storage = match &args.flow_file {
        Some(path) => shm::file(path, words)
            .with_context(|| format!("--flow-file {}: use another file, or `none`", path.display()))?,
        None => shm::anonymous(words).context("memory for the flow table: ask for fewer with --flows")?,
    };
    let (flows, adopted) = Flows::adopt(storage, &config).context("--flows, --flows6")?;
    if adopted.known {
        tracing::info!(v4 = adopted.v4, v6 = adopted.v6, "flows of an earlier process go on");
    }
    Ok(Arc::new(flows))
}

/// What a key's place depends on: nobody outside may foresee it, or one bucket gets all flows.
fn seeds() -> anyhow::Result<[u64; 3]> {
    let mut bytes = [0; 24];
    std::fs::File::open(Path::new("/dev/urandom"))
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("reading /dev/urandom")?;
    let (words, _) = bytes.as_chunks::<8>();
    Ok(std::array::from_fn(|at| u64::from_le_bytes(words[at])))
}
