//! Frames on a Unix stream: a length (u32, big endian), then that many bytes of JSON. Descriptors travel with the
//! first byte of the frame they belong to (unix(7), SCM_RIGHTS).

use std::io::{self, BufReader, BufWriter, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Serialize, de::DeserializeOwned};

/// Longest frame that is read, in bytes: ten times a million routes.
pub const MAX_FRAME: u32 = 1 << 30;

/// A message up to this size, in bytes, is held whole; a longer one, as of a million routes, passes by.
const KEPT: usize = 1 << 20;

/// So many bytes of a long message are written and read at once.
const CHUNK: usize = 64 << 10;

/// Most descriptors in one frame.
const MAX_FDS: usize = 4;

/// Why a frame could not be sent or read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer closed the connection between two frames.
    #[error("the peer closed the connection")]
    Closed,
    /// The socket failed, or the peer vanished within a frame.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The length is beyond [`MAX_FRAME`]: not our protocol.
    #[error("a frame of {0} bytes is longer than {MAX_FRAME}: the peer does not speak this protocol")]
    TooLong(u64),
    /// Bytes that are not the message expected; the text names line, column and field.
    #[error("a message could not be read: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// One end of a connection. Blocking; a time-out can be set.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// As `connect(2)`.
    pub fn connect(path: &Path) -> io::Result<Self> {
        UnixStream::connect(path).map(Self::new)
    }

    /// Wraps a stream that is connected already.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// The stream itself, for polling and for a second handle.
    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Most time that one read or write may take.
    ///
    /// # Errors
    /// As `setsockopt(2)`.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(timeout)?;
        self.stream.set_write_timeout(timeout)
    }

    /// Sends `message` with descriptors beside it. One that is long is written twice, first to learn how long it is: nobody holds it whole.
    ///
    /// # Errors
    /// [`FrameError::Io`] when the peer is gone; [`FrameError::TooLong`] before anything was sent.
    pub fn send<T: Serialize>(&mut self, message: &T, fds: &[BorrowedFd<'_>]) -> Result<(), FrameError> {
        self.buffer.clear();
        self.buffer.extend_from_slice(&[0; 4]);
        let mut measured = Measured { start: &mut self.buffer, length: 0 };
        serde_json::to_writer(&mut measured, message)?;
        let length = measured.length;
        let head = u32::try_from(length).ok().filter(|&n| n <= MAX_FRAME);
        let head = head.ok_or(FrameError::TooLong(length))?.to_be_bytes();
        if length > KEPT as u64 {
            // The descriptors go with the first byte.
            let sent = self.send_with_fds(&head, fds)?;
            let mut rest = BufWriter::with_capacity(CHUNK, &self.stream);
            rest.write_all(&head[sent..])?;
            let mut counted = Counted { to: rest, left: length };
            let written = serde_json::to_writer(&mut counted, message).map_err(io::Error::from);
            return counted.end(written);
        }
        self.buffer[..4].copy_from_slice(&head);
        let sent = self.send_with_fds(&self.buffer, fds)?;
        self.stream.write_all(&self.buffer[sent..])?;
        Ok(())
    }

    fn send_with_fds(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors in one message"));
        }
        loop {
            match sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                sent => return Ok(sent?),
            }
        }
    }

    /// Reads the next message and the descriptors that came with it. One that is long is read as it comes: nobody holds it whole.
    ///
    /// # Errors
    /// [`FrameError::Closed`] at the end, [`FrameError::Malformed`] for what is not a `T`; after any other error the
    /// connection is of no more use.
    pub fn receive<T: DeserializeOwned>(&mut self) -> Result<(T, Vec<OwnedFd>), FrameError> {
        let mut fds = Vec::new();
        let mut head = [0; 4];
        let mut have = 0;
        while have < head.len() {
            match self.read_with_fds(&mut head[have..], &mut fds) {
                Ok(0) if have == 0 => return Err(FrameError::Closed),
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(n) => have += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        let length = u32::from_be_bytes(head);
        if length > MAX_FRAME {
            return Err(FrameError::TooLong(length.into()));
        }
        let mut body = (&self.stream).take(length.into());
        if length as usize > KEPT {
            let mut body = BufReader::with_capacity(CHUNK, body);
            let message = serde_json::from_reader(&mut body);
            if let Err(error) = &message
                && error.is_io()
            {
                return message.map(|message| (message, fds)).map_err(|error| io::Error::from(error).into());
            }
            // What is left of one that could not be read is not the next one.
            io::copy(&mut body, &mut io::sink())?;
            return match body.into_inner().limit() {
                0 => Ok((message?, fds)),
                _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            };
        }
        self.buffer.clear();
        // `take` grows the buffer as bytes arrive: a length alone reserves nothing.
        let read = body.read_to_end(&mut self.buffer)?;
        if read < length as usize {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok((serde_json::from_slice(&self.buffer)?, fds))
    }

    /// Sends a request and reads the answer.
    ///
    /// # Errors
    /// As [`Self::send`] and [`Self::receive`].
    pub fn call<Q: Serialize, A: DeserializeOwned>(
        &mut self,
        request: &Q,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(A, Vec<OwnedFd>), FrameError> {
        self.send(request, fds)?;
        self.receive()
    }

    fn read_with_fds(&self, into: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let message =
            recvmsg(&self.stream, &mut [IoSliceMut::new(into)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        for item in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = item {
                fds.extend(rights);
            }
        }
        if message.flags.contains(ReturnFlags::CTRUNC) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "more descriptors than one message may carry",
            ));
        }
        Ok(message.bytes)
    }
}

/// Keeps what is written while that is short, and learns how long it is.
struct Measured<'a> {
    start: &'a mut Vec<u8>,
    length: u64,
}

impl Write for Measured<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.length += bytes.len() as u64;
        if self.length <= KEPT as u64 {
            self.start.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sees to it that a message is as long as was said.
struct Counted<W> {
    to: W,
    left: u64,
}

impl<W: Write> Counted<BufWriter<W>> {
    /// Writes what is left in the buffer, if all went well; otherwise it is not tried again.
    fn end(mut self, written: io::Result<()>) -> Result<(), FrameError> {
        let whole = written.and_then(|()| match self.left {
            0 => self.to.flush(),
            _ => Err(io::Error::other("a message was shorter than it said")),
        });
        if whole.is_err() {
            drop(self.to.into_parts());
        }
        Ok(whole?)
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        let left = self.left.checked_sub(written as u64);
        self.left = left.ok_or_else(|| io::Error::other("a message was longer than it said"))?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn pair() -> (Connection, Connection) {
        let (a, b) = UnixStream::pair().unwrap();
        (Connection::new(a), Connection::new(b))
    }

    #[test]
    fn messages_and_descriptors_arrive_together() {
        let (mut a, mut b) = pair();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"x").unwrap();
        a.send(&vec![1, 2, 3], &[]).unwrap();
        a.send(&"with a file", &[file.as_fd(), file.as_fd()]).unwrap();
        let (numbers, none): (Vec<i32>, _) = b.receive().unwrap();
        assert_eq!((numbers, none.len()), (vec![1, 2, 3], 0));
        let (text, fds): (String, _) = b.receive().unwrap();
        assert_eq!((text.as_str(), fds.len()), ("with a file", 2));
        assert_eq!(std::fs::File::from(fds.into_iter().next().unwrap()).metadata().unwrap().len(), 1);
    }

    #[test]
    fn a_large_message_crosses_while_the_peer_reads() {
        let (mut a, mut b) = pair();
        let big = "x".repeat(3 << 20);
        let sent = big.clone();
        let writer = std::thread::spawn(move || a.send(&sent, &[]).unwrap());
        assert_eq!(b.receive::<String>().unwrap().0, big);
        writer.join().unwrap();
    }

    /// Is written otherwise each time.
    struct Fickle(std::cell::Cell<usize>, usize);

    impl Serialize for Fickle {
        fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            let Self(length, step) = self;
            length.set(length.get().wrapping_add(*step));
            to.serialize_str(&"x".repeat(length.get()))
        }
    }

    #[test]
    fn a_long_message_brings_descriptors_and_leaves_the_next_as_it_is() {
        let (mut a, mut b) = pair();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"x").unwrap();
        let texts: Vec<String> = (0..200_000).map(|n| format!("number \"{n}\"")).collect();
        let sent = texts.clone();
        let writer = std::thread::spawn(move || {
            a.send(&sent, &[file.as_fd()]).unwrap();
            a.send(&sent, &[]).unwrap();
            a.send(&"after it", &[]).unwrap();
            a
        });
        let (received, fds): (Vec<String>, _) = b.receive().unwrap();
        assert_eq!((received == texts, fds.len()), (true, 1));
        // Of one that is something else, the rest is passed over.
        assert!(matches!(b.receive::<Vec<u32>>(), Err(FrameError::Malformed(_))));
        assert_eq!(b.receive::<String>().unwrap().0, "after it");
        drop(writer.join().unwrap());
        assert!(matches!(b.receive::<String>(), Err(FrameError::Closed)));
    }

    #[test]
    fn a_long_message_that_breaks_off_is_none() {
        let (a, mut b) = pair();
        let text = format!("{:?}", "x".repeat(2 << 20));
        let writer = std::thread::spawn(move || {
            (&a.stream).write_all(&u32::try_from(text.len() + 1).unwrap().to_be_bytes()).unwrap();
            (&a.stream).write_all(text.as_bytes()).unwrap();
        });
        assert!(matches!(b.receive::<String>(), Err(FrameError::Io(_))));
        writer.join().unwrap();
    }

    #[test]
    fn a_message_that_is_not_as_long_as_it_said_ends_the_connection() {
        for step in [1, usize::MAX] {
            let (mut a, mut b) = pair();
            let reader = std::thread::spawn(move || b.receive::<String>().is_err());
            let fickle = Fickle(std::cell::Cell::new(2 << 20), step);
            assert!(matches!(a.send(&fickle, &[]), Err(FrameError::Io(_))), "{step}");
            drop(a);
            assert!(reader.join().unwrap());
        }
    }

    #[test]
    fn what_is_not_a_frame_is_refused_by_name() {
        let (a, mut b) = pair();
        (&a.stream).write_all(&u32::MAX.to_be_bytes()).unwrap();
        assert!(matches!(b.receive::<String>(), Err(FrameError::TooLong(_))));
        let (a, mut b) = pair();
        (&a.stream).write_all(&[0, 0, 0, 2, b'{', b'x']).unwrap();
        assert!(matches!(b.receive::<String>(), Err(FrameError::Malformed(_))));
        let (a, mut b) = pair();
        (&a.stream).write_all(&[0, 0, 0, 9, b'{']).unwrap();
        drop(a);
        assert!(matches!(b.receive::<String>(), Err(FrameError::Io(_))));
        let (a, mut b) = pair();
        drop(a);
        assert!(matches!(b.receive::<String>(), Err(FrameError::Closed)));
    }
}
