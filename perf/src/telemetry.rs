//! The telemetry socket that every DPDK program has (DPDK's guide, "Telemetry Library"): counters of its ports.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, send,
    socket_with,
};
use serde_json::Value;

/// Longest answer, by the program's own word (`max_output_len` of its greeting).
const ANSWER: usize = 16_384;

/// A connection.
#[derive(Debug)]
pub struct Telemetry {
    socket: OwnedFd,
}

impl Telemetry {
    /// Where a program with this file prefix, run by root, listens.
    #[must_use]
    pub fn path(file_prefix: &str) -> PathBuf {
        Path::new("/var/run/dpdk").join(file_prefix).join("dpdk_telemetry.v2")
    }

    /// Connects; fails while the program does not listen yet.
    ///
    /// # Errors
    /// As `connect(2)`.
    pub fn connect(path: &Path) -> Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let address = SocketAddrUnix::new(path)?;
        connect(&socket, &address).with_context(|| format!("connecting to {}", path.display()))?;
        let this = Self { socket };
        // It greets first.
        this.receive()?;
        Ok(this)
    }

    /// Packets that a port has sent.
    ///
    /// # Errors
    /// When the program is gone or has no such port.
    pub fn sent(&self, port: u16) -> Result<u64> {
        let command = format!("/ethdev/stats,{port}");
        let sent = send(&self.socket, command.as_bytes(), SendFlags::NOSIGNAL)?;
        if sent != command.len() {
            bail!("`{command}` was cut short");
        }
        let answer: Value = serde_json::from_slice(&self.receive()?)?;
        let packets = answer["/ethdev/stats"]["opackets"].as_u64();
        packets.ok_or_else(|| anyhow!("`{command}` was answered with {answer}"))
    }

    fn receive(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; ANSWER];
        let (length, _) = recv(&self.socket, bytes.as_mut_slice(), RecvFlags::empty())?;
        if length == 0 {
            bail!("the program closed its telemetry socket");
        }
        bytes.truncate(length);
        Ok(bytes)
    }
}
