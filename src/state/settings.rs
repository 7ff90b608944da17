//! What the administrator decided about the whole cluster, as far as resolving it is concerned.

use super::Selector;
use crate::model::Mode;
use crate::model::config::VipRange;

/// Input of [`Index::resolve`](super::Index::resolve) besides the objects. The same on every node, but for `node_name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Annotation of a Service that lists its VIPs, such as `cmd.nu/tunnel`.
    pub annotation: String,
    /// Mode of a Service that names none.
    pub default_mode: Mode,
    /// Labels of the nodes that encapsulate; `None` is every node.
    pub ingress_nodes: Option<Selector>,
    /// Networks that a VIP must be in; empty allows every address that is not refused for another reason.
    pub vip_ranges: Vec<VipRange>,
    /// Name of the Node object that this agent runs on.
    pub node_name: String,
    /// Buckets per VIP: with more eligible endpoints than that some get no traffic.
    pub buckets: u16,
}

impl Settings {
    /// Annotation of a Service that overrides the mode.
    pub fn mode_annotation(&self) -> String {
        mode_annotation(&self.annotation)
    }

    /// Annotation of a Service that decides about connection tracking.
    pub fn conntrack_annotation(&self) -> String {
        conntrack_annotation(&self.annotation)
    }

    /// Annotation of a Service that limits draining.
    pub fn drain_annotation(&self) -> String {
        drain_annotation(&self.annotation)
    }
}

/// The annotation about draining that goes with a VIP annotation.
pub(super) fn drain_annotation(annotation: &str) -> String {
    format!("{annotation}-drain")
}

/// The mode annotation that goes with a VIP annotation.
pub(super) fn mode_annotation(annotation: &str) -> String {
    format!("{annotation}-mode")
}

/// The annotation about connection tracking that goes with a VIP annotation.
pub(super) fn conntrack_annotation(annotation: &str) -> String {
    format!("{annotation}-conntrack")
}
