//! A word from one namespace to another and back, and whom the listener took the speaker for.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::netns::Netns;
use crate::signals;

/// What the word is sent by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Tcp,
    Udp,
}

impl By {
    pub const BOTH: [Self; 2] = [Self::Tcp, Self::Udp];
}

/// Longest wait for the word and its answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// Time between two attempts by UDP, which may lose one.
const AGAIN: Duration = Duration::from_millis(300);

/// Says a word from inside `from` to `address`, which somebody inside `to` has, waits for its answer, and gives the address
/// that the speaker was seen by.
///
/// # Errors
/// When nothing arrives, or the answer comes from somebody else.
pub fn seen(from: &Netns, to: &Netns, address: IpAddr, by: By) -> Result<IpAddr> {
    through(from, to, SocketAddr::new(address, 0), None, by)
}

/// The same by way of another address and port, `dial`, which lead to where somebody inside `to` listens.
///
/// # Errors
/// As [`seen`].
pub fn through(
    from: &Netns,
    to: &Netns,
    listen: SocketAddr,
    dial: Option<SocketAddr>,
    by: By,
) -> Result<IpAddr> {
    let heard = match by {
        By::Tcp => tcp(from, to, listen, dial),
        By::Udp => udp(from, to, listen, dial),
    };
    let at = dial.unwrap_or(listen);
    heard.with_context(|| format!("{by:?} from {} to {at} in {}", from.name(), to.name()))
}

fn tcp(from: &Netns, to: &Netns, listen: SocketAddr, dial: Option<SocketAddr>) -> Result<IpAddr> {
    let listener = inside(to, || TcpListener::bind(listen))??;
    let at = dial.map_or_else(|| listener.local_addr(), Ok)?;
    let mut speaker = inside(from, || TcpStream::connect_timeout(&at, PATIENCE))??;
    let (mut heard, peer) = listener.accept()?;
    for stream in [&speaker, &heard] {
        stream.set_read_timeout(Some(PATIENCE))?;
    }
    let mut word = [0; 4];
    speaker.write_all(b"word")?;
    heard.read_exact(&mut word)?;
    heard.write_all(&word)?;
    speaker.read_exact(&mut word)?;
    ensure!(&word == b"word", "the answer was {word:?}");
    Ok(peer.ip())
}

fn udp(from: &Netns, to: &Netns, listen: SocketAddr, dial: Option<SocketAddr>) -> Result<IpAddr> {
    let any: IpAddr =
        if listen.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let listener = inside(to, || UdpSocket::bind(listen))??;
    let at = dial.map_or_else(|| listener.local_addr(), Ok)?;
    let speaker = inside(from, || UdpSocket::bind((any, 0)))??;
    for socket in [&listener, &speaker] {
        socket.set_read_timeout(Some(AGAIN))?;
    }
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        signals::check()?;
        // That there is no way yet is told by an error here or there.
        let _ = speaker.send_to(b"word", at);
        let Some(peer) = receive(&listener) else { continue };
        listener.send_to(b"word", peer)?;
        if let Some(answered) = receive(&speaker) {
            ensure!(answered == at, "the answer came from {answered}");
            return Ok(peer.ip());
        }
    }
    bail!("no answer within {PATIENCE:?}")
}

fn receive(socket: &UdpSocket) -> Option<SocketAddr> {
    socket.recv_from(&mut [0; 16]).ok().map(|(_, peer)| peer)
}

/// Does something on a thread inside a namespace, such as to make a socket there.
///
/// # Errors
/// The namespace is gone.
pub fn inside<T: Send>(netns: &Netns, make: impl FnOnce() -> T + Send) -> Result<T> {
    let file = std::fs::File::open(netns.path()).with_context(|| format!("{} is gone", netns.name()))?;
    Ok(tap::netns::in_netns(file.as_fd(), make)?)
}
