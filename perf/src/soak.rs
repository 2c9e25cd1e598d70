//! `cargo lab soak`: the system tests again and again, for what shows only once in a hundred rounds.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::artefacts::Artefacts;
use lab::signals;

use crate::say;
use crate::steps::system;

/// Repeats until `limit` has passed; the first failure ends it.
pub(crate) fn run(limit: Duration, filter: Option<&str>) -> Result<()> {
    let artefacts = Artefacts::find()?;
    let start = Instant::now();
    let mut round = 0_u32;
    while round == 0 || start.elapsed() < limit {
        signals::check()?;
        round += 1;
        say(format_args!(
            "==> round {round}, {} of {} min",
            start.elapsed().as_secs() / 60,
            limit.as_secs() / 60
        ))?;
        system(&artefacts, filter).with_context(|| format!("round {round}"))?;
    }
    say(format_args!("==> {round} rounds passed"))?;
    Ok(())
}
