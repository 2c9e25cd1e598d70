//! Conversations between real kernels: sockets in namespaces, and what each end is to see of the other.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::dataplane::PATIENCE;
use crate::namespace::Namespace;

/// Bytes that repeat nowhere near a segment's length.
pub(crate) fn stream(length: usize) -> Vec<u8> {
    let mut x = 1_u32;
    let next = |_| {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        x.to_le_bytes()[3]
    };
    (0..length).map(next).collect()
}

pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) fn listen(host: &Namespace, address: SocketAddr) -> TcpListener {
    let listener = host.run(|| TcpListener::bind(address).unwrap());
    listener.set_nonblocking(true).unwrap();
    listener
}

/// Both ends of a connection from `client` to `to`, which whoever listens there accepts.
pub(crate) fn connect(client: &Namespace, to: SocketAddr, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let here = client.run(|| TcpStream::connect_timeout(&to, PATIENCE));
    (here.unwrap_or_else(|error| panic!("{to}: {error}")), accept(listener))
}

pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    let began = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).unwrap();
                return stream;
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                assert!(began.elapsed() < PATIENCE, "nobody came");
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// So many bytes each way at once, each of them as it was sent.
pub(crate) fn exchange(one: &TcpStream, other: &TcpStream, length: usize) {
    let sent = &stream(length);
    std::thread::scope(|scope| {
        for (mut from, mut to) in [(one, other), (other, one)] {
            scope.spawn(move || {
                from.set_write_timeout(Some(PATIENCE)).unwrap();
                from.write_all(sent).unwrap();
            });
            scope.spawn(move || {
                let mut got = vec![0; length];
                to.set_read_timeout(Some(PATIENCE)).unwrap();
                to.read_exact(&mut got).unwrap();
                assert!(got == *sent, "what came differs from what was sent");
            });
        }
    });
}

/// A few bytes one way.
pub(crate) fn say(mut from: &TcpStream, mut to: &TcpStream) {
    from.write_all(b"more").unwrap();
    hear(&mut to);
}

/// What [`say`] sends.
pub(crate) fn hear(to: &mut &TcpStream) {
    let mut got = [0; 4];
    to.set_read_timeout(Some(PATIENCE)).unwrap();
    to.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"more");
}

pub(crate) fn udp(host: &Namespace, address: SocketAddr) -> UdpSocket {
    let socket = host.run(|| UdpSocket::bind(address).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A datagram to `to` and its like back, each whole. The client sees `to` as its peer; whom the server sees is the answer.
pub(crate) fn echo(client: &UdpSocket, to: SocketAddr, server: &UdpSocket, length: usize) -> SocketAddr {
    let (sent, mut got) = (stream(length), vec![0; length + 1]);
    client.send_to(&sent, to).unwrap();
    let (n, peer) = receive(server, &mut got);
    assert!(got[..n] == sent, "{n} bytes came of {length}");
    server.send_to(&sent, peer).unwrap();
    let (n, from) = receive(client, &mut got);
    assert!(got[..n] == sent, "{n} bytes came back of {length}");
    assert_eq!(from, to, "the answer has the address that was asked");
    peer
}

/// The next datagram. A socket with a time limit is not asked again by itself after a signal (signal(7)).
pub(crate) fn receive(socket: &UdpSocket, into: &mut [u8]) -> (usize, SocketAddr) {
    loop {
        match socket.recv_from(into) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            other => return other.unwrap_or_else(|error| panic!("{socket:?}: {error}")),
        }
    }
}
