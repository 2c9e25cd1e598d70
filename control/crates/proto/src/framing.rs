//! Frames on a Unix stream: a length (u32, big endian), then that many bytes of JSON. Descriptors travel with the
//! first byte of the frame they belong to (unix(7), SCM_RIGHTS).

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
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

/// Longest frame that is read, in bytes: a million routes with room to spare.
pub const MAX_FRAME: u32 = 256 << 20;

/// A connection keeps a buffer up to this size for its next message; one that a million routes needed is let go.
const KEPT: usize = 1 << 20;

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

    /// Sends `message` with descriptors beside it.
    ///
    /// # Errors
    /// [`FrameError::Io`] when the peer is gone.
    pub fn send<T: Serialize>(&mut self, message: &T, fds: &[BorrowedFd<'_>]) -> Result<(), FrameError> {
        self.buffer.clear();
        self.buffer.extend_from_slice(&[0; 4]);
        serde_json::to_writer(&mut self.buffer, message)?;
        let body = self.buffer.len() - 4;
        let length = u32::try_from(body).ok().filter(|&n| n <= MAX_FRAME);
        let length = length.ok_or(FrameError::TooLong(body as u64))?;
        self.buffer[..4].copy_from_slice(&length.to_be_bytes());

        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(
                io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors in one message").into()
            );
        }
        let sent = loop {
            match sendmsg(&self.stream, &[IoSlice::new(&self.buffer)], &mut ancillary, SendFlags::NOSIGNAL) {
                Ok(sent) => break sent,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        };
        // The descriptors went with the first byte; the rest is plain bytes.
        self.stream.write_all(&self.buffer[sent..])?;
        self.let_go();
        Ok(())
    }

    /// Reads the next message and the descriptors that came with it.
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
        self.buffer.clear();
        // `take` grows the buffer as bytes arrive: a length alone reserves nothing.
        let read = (&self.stream).take(length.into()).read_to_end(&mut self.buffer)?;
        if read < length as usize {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let message = serde_json::from_slice(&self.buffer);
        self.let_go();
        Ok((message?, fds))
    }

    fn let_go(&mut self) {
        if self.buffer.capacity() > KEPT {
            self.buffer = Vec::new();
        }
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
