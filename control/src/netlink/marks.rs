//! The rule by which what has a mark asks a table of its own, before the kernel asks whether it has the address itself.
//!
//! That question is a rule as well, the first one (ip-rule(8)), and rules of one priority are asked in the order in which they came. So for a
//! mark to count for the kernel's own addresses too, the kernel's rule is put behind it: added once more, and only then taken from before it.
//! What always holds: there is one at any moment.

use futures_util::TryStreamExt;
use rtnetlink::IpVersion;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rustix::io::Errno;

use super::{Netlink, NetlinkError, errno};

/// The table of the kernel's own addresses (rtnetlink(7), `RT_TABLE_LOCAL`).
const LOCAL: u32 = 255;

impl Netlink {
    /// Whether what has `mark` asks `table`. No fault if it stands so.
    pub(crate) async fn set_mark_rule(
        &self,
        v4: bool,
        mark: u32,
        table: u32,
        protocol: RouteProtocol,
        wanted: bool,
    ) -> Result<(), NetlinkError> {
        let failed = |error| NetlinkError::from(format!("the rule for packets with mark {mark:#x}"), &error);
        let ours = rule(v4, table, protocol, &[RuleAttribute::FwMark(mark), RuleAttribute::FwMask(mark)]);
        let is_ours = |other: &RuleMessage| {
            attributes(&ours).all(|own| other.attributes.contains(own)) && table_of(other) == table
        };
        let mut there = match self.rules(v4).await {
            // IPv6 may be absent.
            Err(error) if matches!(errno(&error), Some(Errno::AFNOSUPPORT | Errno::OPNOTSUPP)) => {
                return Ok(());
            }
            other => other.map_err(failed)?,
        };
        if !wanted {
            for _ in there.iter().filter(|own| is_ours(own)) {
                self.0.rule().del(ours.clone()).execute().await.map_err(failed)?;
            }
            return Ok(());
        }
        if !there.iter().any(is_ours) {
            self.add_rule(&ours).await.map_err(failed)?;
            there = self.rules(v4).await.map_err(failed)?;
        }
        let before = there.iter().take_while(|own| !is_ours(own)).filter(|own| is_local(own)).count();
        let after = there.iter().filter(|own| is_local(own)).count() - before;
        let local = rule(v4, LOCAL, RouteProtocol::Kernel, &[]);
        if before > 0 && after == 0 {
            self.add_rule(&local).await.map_err(failed)?;
        }
        for _ in 0..before {
            // Of those that are alike the first one goes.
            self.0.rule().del(local.clone()).execute().await.map_err(failed)?;
        }
        Ok(())
    }

    /// Those of a family, in the order in which they are asked.
    async fn rules(&self, v4: bool) -> Result<Vec<RuleMessage>, rtnetlink::Error> {
        let version = if v4 { IpVersion::V4 } else { IpVersion::V6 };
        self.0.rule().get(version).execute().try_collect().await
    }

    /// Behind those of its priority, whether there is one like it or not.
    async fn add_rule(&self, rule: &RuleMessage) -> Result<(), rtnetlink::Error> {
        let mut request = self.0.rule().add().replace();
        *request.message_mut() = rule.clone();
        request.execute().await
    }
}

/// Of the first priority.
fn rule(v4: bool, table: u32, protocol: RouteProtocol, which: &[RuleAttribute]) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.action = RuleAction::ToTable;
    let common = [RuleAttribute::Table(table), RuleAttribute::Priority(0), RuleAttribute::Protocol(protocol)];
    message.attributes = common.into_iter().chain(which.iter().cloned()).collect();
    message
}

/// Those that say which rule it is: the first priority is not told.
fn attributes(rule: &RuleMessage) -> impl Iterator<Item = &RuleAttribute> {
    rule.attributes.iter().filter(|own| !matches!(own, RuleAttribute::Priority(_) | RuleAttribute::Table(_)))
}

fn table_of(rule: &RuleMessage) -> u32 {
    let told = rule.attributes.iter().find_map(|own| match own {
        RuleAttribute::Table(table) => Some(*table),
        _ => None,
    });
    told.unwrap_or(rule.header.table.into())
}

/// Whether it is the kernel's first rule: for all packets.
fn is_local(rule: &RuleMessage) -> bool {
    let is_for_all = (rule.header.src_len, rule.header.dst_len, rule.header.tos) == (0, 0, 0);
    let narrows = |own: &RuleAttribute| {
        matches!(
            own,
            RuleAttribute::FwMark(_)
                | RuleAttribute::Iifname(_)
                | RuleAttribute::Oifname(_)
                | RuleAttribute::IpProtocol(_)
                | RuleAttribute::L3MDev(_)
        )
    };
    let is_first = rule.attributes.iter().all(|own| !matches!(own, RuleAttribute::Priority(1..)));
    is_for_all && is_first && table_of(rule) == LOCAL && !rule.attributes.iter().any(narrows)
}
