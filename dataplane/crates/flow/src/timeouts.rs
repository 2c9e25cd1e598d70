//! How long a flow is kept without a packet.

use crate::life::Seconds;
use crate::state::State;

/// The protocol of records that are no flow: which backend a client stays with. No packet's transport has it (255, reserved: IANA's
/// protocol numbers). How long each is kept, in seconds, is where others have the first rule's number.
pub const AFFINITY: u8 = 255;

/// In seconds; the defaults are those of Linux (Documentation/networking/nf_conntrack-sysctl.rst). A flow ends within about ten
/// seconds of its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the kernel's nf_conntrack_* settings are")]
pub struct Timeouts {
    pub tcp_syn_sent: u32,
    pub tcp_syn_recv: u32,
    pub tcp_established: u32,
    pub tcp_fin_wait: u32,
    pub tcp_time_wait: u32,
    pub tcp_close: u32,
    pub udp: u32,
    pub udp_stream: u32,
    pub icmp: u32,
    pub sctp_opening: u32,
    pub sctp_established: u32,
    pub sctp_shutdown: u32,
    pub generic: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_syn_sent: 120,
            tcp_syn_recv: 60,
            tcp_established: 432_000,
            tcp_fin_wait: 120,
            tcp_time_wait: 120,
            tcp_close: 10,
            udp: 30,
            udp_stream: 120,
            icmp: 30,
            sctp_opening: 3,
            sctp_established: 210,
            sctp_shutdown: 3,
            generic: 600,
        }
    }
}

impl Timeouts {
    /// The names by which a time-out is set, and its field.
    pub fn named(&mut self) -> [(&'static str, &mut u32); 13] {
        [
            ("tcp-syn-sent", &mut self.tcp_syn_sent),
            ("tcp-syn-recv", &mut self.tcp_syn_recv),
            ("tcp-established", &mut self.tcp_established),
            ("tcp-fin-wait", &mut self.tcp_fin_wait),
            ("tcp-time-wait", &mut self.tcp_time_wait),
            ("tcp-close", &mut self.tcp_close),
            ("udp", &mut self.udp),
            ("udp-stream", &mut self.udp_stream),
            ("icmp", &mut self.icmp),
            ("sctp-opening", &mut self.sctp_opening),
            ("sctp-established", &mut self.sctp_established),
            ("sctp-shutdown", &mut self.sctp_shutdown),
            ("generic", &mut self.generic),
        ]
    }

    /// For a flow of `protocol` in this state.
    #[must_use]
    pub const fn of(&self, protocol: u8, state: State) -> Seconds {
        const TCP: u8 = 6;
        const UDP: u8 = 17;
        const SCTP: u8 = 132;
        Seconds(match (protocol, state) {
            (TCP, State::Opening) => self.tcp_syn_sent,
            (TCP, State::Accepted) => self.tcp_syn_recv,
            (TCP, State::FinishedForward | State::FinishedReply) => self.tcp_fin_wait,
            (TCP, State::Finished) => self.tcp_time_wait,
            (TCP, State::Reset) => self.tcp_close,
            (TCP, _) => self.tcp_established,
            (SCTP, State::Opening | State::Accepted) => self.sctp_opening,
            (SCTP, State::Established) => self.sctp_established,
            (SCTP, _) => self.sctp_shutdown,
            (UDP, State::Replied) => self.udp_stream,
            (UDP, _) => self.udp,
            (1 | 58, _) => self.icmp,
            _ => self.generic,
        })
    }
}
