//! The two forms in which a flow is met.

use super::protocol::WITH_PORTS;
use crate::model::Family;
use crate::model::hash::hash_expr;
use crate::plan::icmp::{error_hash_expr, quotes_ports};

/// Whether packets speak for themselves, or quote another one in an ICMP error. An error goes where the flow goes that it
/// quotes, or path-MTU discovery never reaches the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Packet,
    Error,
}

impl Form {
    /// The beginning of what a rule is for.
    pub fn about(self) -> &'static str {
        match self {
            Form::Packet => "",
            Form::Error => "about ",
        }
    }

    /// What nft hashes.
    pub fn hash_expr(self, family: Family, ports: bool) -> &'static str {
        match self {
            Form::Packet => hash_expr(family, ports),
            Form::Error => error_hash_expr(family, ports),
        }
    }

    /// Matches protocols with ports; of errors, behind [`crate::plan::icmp::error_match`].
    pub fn has_ports(self, family: Family) -> &'static str {
        match self {
            Form::Packet => WITH_PORTS,
            Form::Error => quotes_ports(family),
        }
    }
}
