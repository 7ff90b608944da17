//! What the agent hears, and what is to be done about it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::drains::Draining;
use crate::model::handover::NodeReport;
use crate::model::second_chance::Forwarding;
use crate::model::{Cluster, Problem};
use crate::netns::PodQuery;
use crate::reconcile::Order;
use crate::reconcile::target::Report;
use crate::state::Change;

/// What the agent hears.
#[derive(Debug)]
pub(super) enum AgentEvent {
    /// The API has news.
    Changed(Change),
    /// A target has come to the end of a round.
    Reported(Report),
    /// An [`Effect::Prepare`] is done.
    Prepared(Prepared),
    /// An [`Effect::LookAtForwards`] is done.
    Forwarded(Forwarding),
    /// What is told of packets that come and get no further.
    Lost(BTreeSet<Problem>),
    /// A time has come that [`super::machine::Agent::due`] has named.
    Time,
}

/// What is to be done, in this order.
#[derive(Debug, PartialEq)]
pub(super) enum Effect {
    /// Ask the kernel for what goals of pods depend on, and answer with [`AgentEvent::Prepared`].
    Prepare(Prepare),
    /// A target of this name begins.
    Start(String, Order),
    /// A target gets an order; it may be the one that it has.
    Order(String, Order),
    /// A target ends, if it has not, and leaves everything as it is.
    Release(String),
    /// Say this to the other nodes and to the controller; what is over (`over`) is said by others.
    Report(NodeReport),
    /// Look at these until they are over.
    Drain(Vec<Draining>),
    /// Tell users of these problems, and of no others.
    Tell(BTreeSet<Problem>),
    /// Show why the agent is not ready; nothing: it is.
    Unready(Vec<String>),
    /// Look at what pods pass on to each other, and answer with [`AgentEvent::Forwarded`].
    LookAtForwards(Cluster),
}

/// What goals of pods depend on, and this node's kernel knows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Prepare {
    /// The VIPs with pods on this node, and all nodes.
    pub here: Cluster,
    /// These pods.
    pub pods: Vec<PodQuery>,
}

/// The answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Prepared {
    /// The MTU of the ways from this node to the others, by address; what cannot be asked for is left out.
    pub underlay: BTreeMap<IpAddr, u32>,
    /// The kernel's id of the program to be attached to pods; its tables are as the VIPs ask for.
    pub program: Option<u32>,
    /// Why there is none, or why its tables are not.
    pub failed: Option<String>,
}
