//! `ping` from a namespace, and what it says.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::netns::Netns;
use crate::process::finish;
use crate::wait::PATIENCE;

/// What to send. The default: three echo requests of 56 bytes, 20 ms apart.
#[derive(Debug, Clone)]
pub struct Ping {
    pub count: u32,
    pub interval: Duration,
    /// Bytes of payload.
    pub size: Option<u16>,
    /// TTL or hop limit.
    pub ttl: Option<u8>,
    /// Sets DF, and does not fragment here either.
    pub whole: bool,
    /// Source address.
    pub source: Option<IpAddr>,
    /// How long to wait for the last answer.
    pub patience: Duration,
}

impl Default for Ping {
    fn default() -> Self {
        Self {
            count: 3,
            interval: Duration::from_millis(20),
            size: None,
            ttl: None,
            whole: false,
            source: None,
            patience: Duration::from_secs(5),
        }
    }
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Pinged {
    pub sent: u32,
    pub received: u32,
    /// Mean round trip, in milliseconds, if anything came back.
    pub average_ms: Option<f64>,
    /// All that `ping` printed: errors from routers on the way are in it.
    pub text: String,
}

impl Pinged {
    /// Whether each request was answered, exactly once.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.sent > 0 && self.received == self.sent && !self.text.contains("DUP!")
    }
}

impl Ping {
    /// Pings `to` from inside `from`.
    ///
    /// # Errors
    /// When `ping` cannot run or prints no statistics; loss is not an error.
    pub fn run(&self, from: &Netns, to: &str) -> Result<Pinged> {
        let mut command = from.command("ping");
        command.args(["-n", "-c", &self.count.to_string()]);
        command.args(["-i", &format!("{:.3}", self.interval.as_secs_f64())]);
        command.args(["-W", &format!("{:.3}", self.patience.as_secs_f64())]);
        if let Some(size) = self.size {
            command.args(["-s", &size.to_string()]);
        }
        if let Some(ttl) = self.ttl {
            command.args(["-t", &ttl.to_string()]);
        }
        if self.whole {
            command.args(["-M", "do"]);
        }
        if let Some(source) = self.source {
            command.args(["-I", &source.to_string()]);
        }
        command.arg(to);
        let finished = finish(&mut command, self.interval * self.count + self.patience + PATIENCE)?;
        parse(&format!("{}{}", finished.stdout, finished.stderr))
            .with_context(|| format!("ping from {} to {to}", from.name()))
    }
}

/// Pings three times and wants each answered exactly once.
///
/// # Errors
/// On loss or duplicates, with what `ping` printed.
pub fn reaches(from: &Netns, to: &str) -> Result<Pinged> {
    let pinged = Ping::default().run(from, to)?;
    if !pinged.complete() {
        bail!("{to} from {}: {} of {} answers\n{}", from.name(), pinged.received, pinged.sent, pinged.text);
    }
    Ok(pinged)
}

fn parse(text: &str) -> Result<Pinged> {
    let statistics = text.lines().find(|line| line.contains("packets transmitted"));
    let statistics = statistics.ok_or_else(|| anyhow!("no statistics in: {}", text.trim()))?;
    let before = |word: &str| -> Option<u32> {
        let part = statistics.split(", ").find(|part| part.ends_with(word))?;
        part.split(' ').next()?.parse().ok()
    };
    let sent = before("packets transmitted");
    let received = before("received");
    let (Some(sent), Some(received)) = (sent, received) else { bail!("no counts in `{statistics}`") };
    let times = text.lines().find_map(|line| line.split_once("min/avg/max")?.1.split_once(" = "));
    let average_ms = times.and_then(|(_, times)| times.split('/').nth(1)?.parse().ok());
    Ok(Pinged { sent, received, average_ms, text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_read() {
        let text = "PING 10.0.0.1 (10.0.0.1) 56(84) bytes of data.\n\
            From 10.0.0.9 icmp_seq=3 Time to live exceeded\n\n--- 10.0.0.1 ping statistics ---\n\
            3 packets transmitted, 2 received, +1 errors, 33.3% packet loss, time 41ms\n\
            rtt min/avg/max/mdev = 0.050/0.061/0.072/0.011 ms\n";
        let pinged = parse(text).unwrap();
        assert_eq!((pinged.sent, pinged.received, pinged.average_ms), (3, 2, Some(0.061)));
        assert!(!pinged.complete());
        assert!(parse("ping: connect: Network is unreachable").is_err());
    }
}
