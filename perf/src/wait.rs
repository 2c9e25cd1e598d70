//! Waiting for something to become true, with a limit and the reason why it is not true yet.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::signals;

/// Generous for whatever normally takes milliseconds: a shared machine stalls for seconds at times.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How often a probe is repeated.
const PAUSE: Duration = Duration::from_millis(25);

/// Repeats `probe` until it succeeds and returns what it found.
///
/// # Errors
/// After `limit`, with `what` and the last error of `probe`; at once after a signal.
pub fn wait_until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        let error = match probe() {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        signals::check()?;
        if start.elapsed() >= limit {
            return Err(anyhow!("{what}: not within {} s; at last: {error:#}", limit.as_secs()));
        }
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_returns_what_the_probe_finds() {
        let mut left = 3;
        let found = wait_until("three tries", PATIENCE, || {
            left -= 1;
            if left == 0 { Ok(7) } else { Err(anyhow!("{left} left")) }
        });
        assert_eq!(found.unwrap(), 7);
    }

    #[test]
    fn it_says_what_was_missing() {
        let error = wait_until::<()>("the moon", Duration::ZERO, || Err(anyhow!("made of cheese")));
        let text = format!("{:#}", error.unwrap_err());
        assert!(text.contains("the moon") && text.contains("made of cheese"), "{text}");
    }
}
