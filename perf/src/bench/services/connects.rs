//! Time of TCP connects: from `connect(2)` to its return, which is SYN to SYN/ACK, since kernels at both ends do all of it.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use hdrhistogram::Histogram;
use lab::exchange::inside;
use lab::netns::Netns;
use lab::signals;
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{Shutdown, shutdown};

/// Longest wait for an answer. A lost SYN is sent again after a second (RFC 6298), and shows as that.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who accepts, and where.
pub(super) struct Server<'a> {
    pub(super) netns: &'a Netns,
    pub(super) address: SocketAddr,
}

/// What came of many connects.
pub(super) struct Connects {
    /// Nanoseconds.
    pub(super) took: Histogram<u64>,
    /// By server: how many it accepted.
    pub(super) accepted: Vec<u64>,
}

impl Connects {
    /// Microseconds that so many percent of them did not exceed.
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of seconds")]
    pub(super) fn microseconds(&self, percent: f64) -> f64 {
        self.took.value_at_quantile(percent / 100.0) as f64 / 1e3
    }
}

/// Connects `count` times, one after the other, from inside `client` to each address in turn; `servers` accept meanwhile.
pub(super) fn connects(
    client: &Netns,
    to: &[SocketAddr],
    servers: &[Server<'_>],
    count: usize,
) -> Result<Connects> {
    let listen = |server: &Server<'_>| -> Result<TcpListener> {
        let listener = inside(server.netns, || TcpListener::bind(server.address))?;
        listener.with_context(|| format!("listening on {} in {}", server.address, server.netns.name()))
    };
    let listeners = servers.iter().map(listen).collect::<Result<Vec<_>>>()?;
    thread::scope(|scope| {
        let accepting: Vec<_> = listeners.iter().map(|listener| scope.spawn(|| accept(listener))).collect();
        let took = inside(client, || time(to, count)).and_then(|took| took);
        for listener in &listeners {
            // accept(2) then fails for good, which ends its thread.
            shutdown(listener, Shutdown::Read).context("ending a listener")?;
        }
        let accepted = accepting.into_iter().map(|one| one.join().map_err(|_| anyhow!("a server panicked")));
        let accepted = accepted.collect::<Result<Vec<u64>>>()?;
        Ok(Connects { took: took?, accepted })
    })
}

fn time(to: &[SocketAddr], count: usize) -> Result<Histogram<u64>> {
    let mut took = Histogram::new(3).context("a histogram")?;
    for at in to.iter().cycle().take(count) {
        signals::check()?;
        let began = Instant::now();
        let stream =
            TcpStream::connect_timeout(at, PATIENCE).with_context(|| format!("connecting to {at}"))?;
        let elapsed = began.elapsed();
        took.record(elapsed.as_nanos().try_into()?)?;
        // Closed by RST: no port waits in TIME-WAIT, and the next connect may have it.
        set_socket_linger(&stream, Some(Duration::ZERO)).context("SO_LINGER")?;
    }
    Ok(took)
}

/// Accepts until the listener is shut down, and waits each time for the client to leave, so as to send nothing amid the next connect.
fn accept(listener: &TcpListener) -> u64 {
    let mut accepted = 0;
    loop {
        match listener.accept() {
            Ok((mut stream, _)) => {
                accepted += 1;
                let _ = stream.set_read_timeout(Some(PATIENCE));
                let _ = stream.read(&mut [0]);
            }
            Err(error) if error.kind() == ErrorKind::InvalidInput => return accepted,
            // Who has left before it was accepted.
            Err(_) => {}
        }
    }
}
