//! demo
use anyhow::Result;
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Leave the node up and say what to try.
    #[arg(long)]
    pub keep: bool,
}
pub(crate) fn run(_a: &Arguments) -> Result<()> {
    Ok(())
}
