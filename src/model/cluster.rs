//! What the cluster asks for, resolved from Kubernetes objects: which VIPs exist, who owns them, which pods serve them.
//!
//! Every node derives the same [`Cluster`] from the same objects; what differs from node to node (is this endpoint
//! local, is this node an ingress node) is asked later, by `plan`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use super::handover::{Assignment, EndpointState, FlowHash, HashKey, Intent};
use super::{Addresses, Family, Mode, NodeRef, Subject};

/// The Service that an object or a problem belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceRef {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// `metadata.uid`: a Service that is deleted and made anew is another one.
    pub uid: String,
}

impl fmt::Display for ServiceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One pod behind a VIP.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// UID of the pod: its identity, across EndpointSlices and address families.
    pub pod_uid: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Name of the node that the pod runs on.
    pub node: String,
    /// The pod's addresses, at least one: outer destinations of the encapsulation.
    pub addresses: Addresses,
    /// Its conditions. One that is not ready is set up all the same, so that it can be reached at the moment when it is.
    pub state: EndpointState,
}

/// One externally routed address and where its packets go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vip {
    /// The address.
    pub address: IpAddr,
    /// The Service that owns it.
    pub service: ServiceRef,
    /// Encapsulation for all its endpoints.
    pub mode: Mode,
    /// `sessionAffinity: ClientIP`: hash on the addresses only.
    pub client_ip_affinity: bool,
    /// Its packets stay tracked on the nodes (`cmd.nu/tunnel-conntrack: keep`), for firewalls that accept what is tracked.
    pub tracked: bool,
    /// All endpoints, ready or not, sorted by pod UID, each once.
    pub endpoints: Vec<Endpoint>,
    /// `externalTrafficPolicy: Local`: only nodes with an endpoint of their own announce it.
    pub local_only: bool,
    /// For how long pods keep the connections of buckets that they have lost, if there is a limit; zero: not at all.
    pub drain_limit: Option<Duration>,
    /// The stored map; `None` while the controller has not written one.
    pub map: Option<Arc<Assignment>>,
    /// What this node does about the Service now; `None` while there is no map.
    pub intent: Option<Arc<Intent>>,
    /// There has been no map since this agent started: what an earlier one has programmed stays.
    pub holds: bool,
}

impl Vip {
    /// How its flows become buckets; `None` while it has no map.
    pub fn hash(&self) -> Option<FlowHash> {
        self.intent.as_ref().map(|intent| intent.hash)
    }

    /// The same, where a Service without a map takes a default number of buckets and a default seed.
    pub fn flows(&self, default: FlowHash) -> FlowHash {
        let key = if self.client_ip_affinity { HashKey::Addresses } else { HashKey::Ports };
        self.hash().unwrap_or(FlowHash { key, ..default })
    }

    /// Its pods, as they are found on the network: those that slices list, and those that its map names.
    pub fn pods(&self) -> BTreeSet<PodAt<'_>> {
        let listed = self.endpoints.iter().map(|endpoint| PodAt {
            uid: &endpoint.pod_uid,
            node: &endpoint.node,
            addresses: endpoint.addresses,
        });
        let members = self.intent.iter().flat_map(|intent| &intent.members);
        let named = members.map(|(id, member)| PodAt {
            uid: id.as_str(),
            node: member.node.as_str(),
            addresses: member.addresses,
        });
        listed.chain(named).collect()
    }

    /// The pods of a node that must be set up, with their addresses as far as they are listed: those of slices, and those that
    /// the map names.
    pub fn pods_of(&self, node: &str) -> BTreeMap<&str, Addresses> {
        let members = self.intent.iter().flat_map(|intent| &intent.members);
        let members = members.filter(|(_, member)| member.node.as_str() == node);
        let members = members.map(|(id, member)| (id.as_str(), member.addresses));
        let listed = self.endpoints.iter().filter(|e| e.node == node).map(|e| (e.pod_uid.as_str(), e.addresses));
        members.chain(listed).collect()
    }

    /// Ready endpoints that nobody gives packets: all where there is no map, else those of which the controller could know that
    /// they stand, as long as the map has room for them.
    pub fn waiting(&self, stands: impl Fn(&str) -> bool) -> usize {
        let ready = self.endpoints.iter().filter(|e| e.state == EndpointState::Ready).map(|e| e.pod_uid.as_str());
        let Some(map) = &self.map else { return ready.count() };
        // A map names two endpoints for each bucket.
        let room = (2 * map.holdings.len()).saturating_sub(map.members.len());
        ready.filter(|uid| !map.members.contains_key(*uid) && stands(uid)).count().min(room)
    }
}

/// Where a pod is. One whose addresses have just changed may be in two places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodAt<'a> {
    /// UID of the pod.
    pub uid: &'a str,
    /// Name of the node that it runs on.
    pub node: &'a str,
    /// Its addresses.
    pub addresses: Addresses,
}

/// A node of the cluster, as the data path sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Name of the Node object.
    pub name: String,
    /// `metadata.uid` of the Node object.
    pub uid: String,
    /// `InternalIP` addresses; the first of a family is the outer source of what this node encapsulates in it.
    pub addresses: Vec<IpAddr>,
    /// Whether it matches `--ingress-nodes`.
    pub ingress: bool,
    /// Whether it is to be left alone (`kubectl cordon`): it forwards what comes, and announces nothing.
    pub cordoned: bool,
}

impl Node {
    /// The first address of each family: outer source of the encapsulation, gateway for MPLS.
    pub fn tunnel_addresses(&self) -> Addresses {
        Addresses::first_of(&self.addresses)
    }
}

impl Vip {
    /// Its address family.
    pub fn family(&self) -> Family {
        Family::of(self.address)
    }
}

/// Everything the cluster asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// VIPs that are served, by address.
    pub vips: Vips,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// What was refused, and why. Everything refused is left out above.
    pub problems: Vec<Problem>,
}

impl Cluster {
    /// These VIPs, and nothing else.
    pub fn of_vips(vips: impl IntoIterator<Item = Vip>) -> Cluster {
        let vips = vips.into_iter().map(|vip| (vip.address, Arc::new(vip)));
        Cluster { vips: vips.collect(), ..Cluster::default() }
    }

    /// The VIPs.
    pub fn vips(&self) -> impl Iterator<Item = &Vip> {
        self.vips.values().map(|vip| &**vip)
    }

    /// A node as the subject of a problem.
    pub fn node_ref(&self, name: &str) -> NodeRef {
        let uid = self.nodes.get(name).map(|node| node.uid.clone()).filter(|uid| !uid.is_empty());
        NodeRef { name: name.to_owned(), uid }
    }
}

/// VIPs by address. A change shares all but a few nodes of the tree with what was before it.
pub type Vips = OrdMap<IpAddr, Arc<Vip>>;

/// VIPs that are not in `new` what they are in `old`, as they were and as they are. What both share is not looked at.
pub fn differing<'a>(
    old: &'a Vips,
    new: &'a Vips,
) -> impl Iterator<Item = (Option<&'a Arc<Vip>>, Option<&'a Arc<Vip>>)> {
    old.diff(new).map(|item| match item {
        DiffItem::Add(_, vip) => (None, Some(vip)),
        DiffItem::Update { old: (_, before), new: (_, after) } => (Some(before), Some(after)),
        DiffItem::Remove(_, vip) => (Some(vip), None),
    })
}

/// Why something was refused: the `reason` of the Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The annotation, or one of its members, is not an address that can be a VIP.
    InvalidVip,
    /// The address is already the VIP of an older Service.
    VipConflict,
    /// The mode annotation names no mode.
    InvalidMode,
    /// Another annotation of ours has a value that means nothing.
    InvalidOption,
    /// An endpoint cannot be served (hostNetwork, no pod, FQDN, no address, …).
    EndpointRefused,
    /// An endpoint's pod could not be configured; it is retried.
    EndpointFailed,
    /// A pod could not be given the program for second chances; it is retried.
    NoSecondChance,
    /// A node cannot do what VIPs need; it is retried.
    NodeFailed,
    /// A node's nft lists what was written in an unknown form; everything is done, as far as can be known.
    UnknownListing,
    /// A firewall of the node drops packets of VIPs.
    FirewallDrops,
    /// Packets come to one point of a node or pod and never to the next: something in between drops them.
    PacketsLost,
    /// A node does not forward packets of the VIPs' family.
    NotForwarding,
    /// There are more endpoints than buckets: some get no traffic.
    TooManyEndpoints,
    /// The stored bucket map of the Service cannot be used.
    InvalidMap,
    /// No controller gives new pods their share.
    NoController,
    /// Ready endpoints get no traffic because their nodes have not said that they are set up.
    NotSetUp,
    /// Endpoints have less than their share because former owners of buckets still have connections.
    WaitingForBalance,
    /// Endpoints have less than their share because nodes have not said that their pods know of them.
    WaitingForNodes,
    /// A former owner was given up because a bucket had three: its connections of that bucket are lost.
    ConnectionsGivenUp,
    /// What pods pass on to former owners does not arrive: something on the way drops packets between pods.
    ForwardingBlocked,
    /// Something that the Service says has no effect on its VIPs.
    NotEnforced,
    /// The Service has got a VIP.
    VipAssigned,
    /// The Service is of a kind that has no endpoints of its own (ExternalName).
    UnsupportedService,
}

impl Reason {
    /// Whether nothing is wrong: it is told so that a user need not wonder.
    pub fn is_information(self) -> bool {
        matches!(self, Reason::WaitingForBalance | Reason::VipAssigned)
    }

    /// CamelCase, as Kubernetes Events want it.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::InvalidVip => "InvalidVIP",
            Reason::VipConflict => "VIPConflict",
            Reason::InvalidMode => "InvalidMode",
            Reason::InvalidOption => "InvalidOption",
            Reason::EndpointRefused => "EndpointRefused",
            Reason::EndpointFailed => "EndpointFailed",
            Reason::NoSecondChance => "NoSecondChance",
            Reason::NodeFailed => "NodeFailed",
            Reason::UnknownListing => "UnknownListing",
            Reason::FirewallDrops => "FirewallDrops",
            Reason::PacketsLost => "PacketsLost",
            Reason::NotForwarding => "NotForwarding",
            Reason::TooManyEndpoints => "TooManyEndpoints",
            Reason::InvalidMap => "InvalidMap",
            Reason::NoController => "NoController",
            Reason::NotSetUp => "NotSetUp",
            Reason::WaitingForBalance => "WaitingForBalance",
            Reason::WaitingForNodes => "WaitingForNodes",
            Reason::ConnectionsGivenUp => "ConnectionsGivenUp",
            Reason::ForwardingBlocked => "ForwardingBlocked",
            Reason::NotEnforced => "NotEnforced",
            Reason::VipAssigned => "VIPAssigned",
            Reason::UnsupportedService => "UnsupportedService",
        }
    }
}

/// Something a user has to know about one Service or node: becomes a log line and an Event.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Problem {
    /// The object it is about.
    pub subject: Subject,
    /// Machine-readable reason.
    pub reason: Reason,
    /// Names the object, what is wrong with it and the remedy; at most [`MAX_NOTE`] bytes, without control characters.
    pub note: String,
}

/// Longest note of an Event that the API accepts, in bytes.
pub const MAX_NOTE: usize = 1024;

/// Text of which others may have written parts (an error of a parser repeats what it could not read) as a note: control characters are
/// escaped, and what is too long is cut.
pub fn as_note(text: &str) -> String {
    let mut note = printable(text);
    note.truncate(note.floor_char_boundary(MAX_NOTE));
    note
}

/// The text with its control characters escaped.
pub fn printable(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().collect() } else { String::from(c) };
    text.chars().map(escape).collect()
}
