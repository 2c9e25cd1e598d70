//! What a port lets pass: a bucket a direction, which all workers that have queues of the port share.
//!
//! What is beyond the limit is dropped, not delayed: the egress of whoever is behind the port as soon as it is received, before anything
//! is decided of it, its ingress when it would leave. All frames count, with their Ethernet header and without FCS, those that the router
//! itself sends or answers among them; a large segment counts as it lies in memory.

use std::sync::Arc;

use meter::{Bucket, Limit};
use pipeline::Tick;
use proto::dataplane::Limits;

use crate::clock;
use crate::io::{Received, Staged};

/// The buckets of a port; a copy shares them.
#[derive(Clone, Debug, Default)]
pub(crate) struct PortLimits {
    /// Of what is sent by the port.
    pub(crate) ingress: Option<Arc<Bucket>>,
    /// Of what is received by the port.
    pub(crate) egress: Option<Arc<Bucket>>,
}

impl PortLimits {
    /// Full buckets.
    pub(crate) fn new(limits: Limits) -> Self {
        let now = clock::now();
        let bucket = |limit: Option<proto::dataplane::Limit>| {
            let proto::dataplane::Limit { rate, burst } = limit?;
            Some(Arc::new(Bucket::new(Limit { rate, burst }, now.0)))
        };
        Self { ingress: bucket(limits.ingress), egress: bucket(limits.egress) }
    }
}

/// What was cut off the end of a burst.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Excess {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

/// Takes out of a burst that was received what the bucket does not let pass. Apart, so that ports without a limit pay one branch.
#[inline(never)]
pub(crate) fn police_received(bucket: &Bucket, now: Tick, received: &mut Received) -> Excess {
    let passed = bucket.take(now.0, received.lengths());
    received.truncate(passed)
}

/// Takes out of a burst that is about to be sent what the bucket does not let pass; gives how many frames.
#[inline(never)]
pub(crate) fn police_staged(bucket: &Bucket, staged: &mut Staged) -> u64 {
    let passed = bucket.take(clock::now().0, staged.lengths());
    staged.truncate(passed)
}
