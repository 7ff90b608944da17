//! Policy-routing rules.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::rule::{RuleAction as Act, RuleAttribute, RuleMessage};

use crate::model::Family;
use crate::plan::observed::ObservedRule;
use crate::plan::{PROTOCOL, RuleAction, RuleSpec};

use super::error::KernelError;
use super::netlink::Netlink;
use super::route::protocol;
use super::wire::{Request, address_family, attribute, attributes, family_of, rtm, u8_at, u32_at};

/// `struct fib_rule_hdr`: family, dst_len, src_len, tos, table, reserved × 2, action, flags.
const FIB_RULE_HDR: usize = 12;
const FRA_GOTO: u16 = 4;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_PROTOCOL: u16 = 21;
const FIB_RULE_INVERT: u32 = 2;

/// `ip rule add SPEC`. With `exclusive` the kernel refuses a rule that it takes for an existing one.
pub(super) fn add(spec: &RuleSpec, exclusive: bool) -> Request {
    let flags = if exclusive { NLM_F_CREATE | NLM_F_EXCL } else { NLM_F_CREATE };
    Request::new(&RouteNetlinkMessage::NewRule(message(spec)), flags)
}

/// `ip rule del SPEC`
pub(super) fn del(spec: &RuleSpec) -> Request {
    Request::new(&RouteNetlinkMessage::DelRule(message(spec)), 0)
}

fn message(spec: &RuleSpec) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = address_family(spec.family);
    message.attributes = vec![RuleAttribute::Priority(spec.priority), RuleAttribute::Protocol(protocol())];
    if let Some((value, mask)) = spec.mark {
        message.attributes.push(RuleAttribute::FwMark(value));
        message.attributes.push(RuleAttribute::FwMask(mask));
    }
    match spec.action {
        RuleAction::Lookup(table) => {
            message.header.action = Act::ToTable;
            message.attributes.push(RuleAttribute::Table(table));
        }
        RuleAction::Goto(priority) => {
            message.header.action = Act::Goto;
            message.attributes.push(RuleAttribute::Goto(priority));
        }
        RuleAction::Nop => message.header.action = Act::Nop,
    }
    message
}

/// All IPv4 and IPv6 rules of the namespace, each in the kernel's order.
pub(super) fn dump(netlink: &mut Netlink) -> Result<Vec<ObservedRule>, KernelError> {
    // Unspecified: all families.
    let request = Request::new(&RouteNetlinkMessage::GetRule(RuleMessage::default()), 0);
    netlink.dump("rules", &request, |rules: &mut Vec<_>, kind, payload| {
        if let (rtm::NEWRULE, Some(family)) = (kind, family_of(payload)) {
            rules.push(decode(family, payload));
        }
    })
}

/// Whether a rule message carries our protocol number.
pub(super) fn is_ours(payload: &[u8]) -> bool {
    attribute(payload, FIB_RULE_HDR, FRA_PROTOCOL).and_then(|v| u8_at(v, 0)) == Some(PROTOCOL)
}

pub(super) fn decode(family: Family, payload: &[u8]) -> ObservedRule {
    let number = |kind| attribute(payload, FIB_RULE_HDR, kind).and_then(|v| u32_at(v, 0));
    let mark = match (number(FRA_FWMARK), number(FRA_FWMASK)) {
        (None, None) => None,
        // The kernel leaves the value 0 out, but not its mask.
        (value, mask) => Some((value.unwrap_or(0), mask.unwrap_or(u32::MAX))),
    };
    let priority = number(FRA_PRIORITY).unwrap_or(0);
    let action = match u8_at(payload, 7).map_or(Act::Unspec, Act::from) {
        Act::ToTable => number(FRA_TABLE).map(RuleAction::Lookup),
        Act::Goto => number(FRA_GOTO).map(RuleAction::Goto),
        Act::Nop => Some(RuleAction::Nop),
        _ => None,
    };
    let spec = action.filter(|_| is_plain(payload)).map(|action| RuleSpec { family, priority, mark, action });
    ObservedRule { spec, priority, mark, ours: is_ours(payload) }
}

/// No selector but the mark: no address, TOS, device, port, user, and not inverted.
fn is_plain(payload: &[u8]) -> bool {
    let header_plain = payload.get(1..4).is_some_and(|lengths| lengths.iter().all(|b| *b == 0));
    let inverted = u32_at(payload, 8).is_none_or(|flags| flags & FIB_RULE_INVERT != 0);
    let known = attributes(payload, FIB_RULE_HDR).all(|(kind, value)| match kind {
        FRA_GOTO | FRA_PRIORITY | FRA_FWMARK | FRA_TABLE | FRA_FWMASK | FRA_PROTOCOL => true,
        // Always there; -1 is "does not suppress".
        FRA_SUPPRESS_PREFIXLEN => u32_at(value, 0) == Some(u32::MAX),
        _ => false,
    });
    header_plain && !inverted && known
}
