//! What the cluster asks for, resolved from Kubernetes objects: which VIPs exist, who owns them, which pods serve them.
//!
//! Every node derives the same [`Cluster`] from the same objects; what differs from node to node (is this endpoint
//! local, is this node an ingress node) is asked later, by `plan`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::handover::{Assignment, EndpointState, Intent};
use super::shared::links;
use super::{Addresses, Bucket, Drain, EndpointId, Family, Flows, Mode, Onward, SharedMap, Staged};

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
    /// Whether new connections may be sent to it. One that may not is still configured, so that it can be reached at the
    /// moment it becomes eligible.
    pub eligible: bool,
    /// Whether its pod is about to end: it will not become eligible again.
    pub terminating: bool,
    /// Its conditions.
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
    /// All endpoints, eligible or not, sorted by pod UID, each once.
    pub endpoints: Vec<Endpoint>,
    /// `externalTrafficPolicy: Local`: only nodes with an endpoint of their own announce it.
    pub local_only: bool,
    /// For how long pods keep the connections of buckets that they have lost, if there is a limit; zero: not at all.
    pub drain_limit: Option<Duration>,
    /// The map that the controller has decided on; `None` while it has not spoken.
    pub shared: Option<Arc<SharedMap>>,
    /// What of it this node does now; `None`: all of it, at once.
    pub staged: Option<Arc<Staged>>,
    /// The stored map; `None` while the controller has not written one.
    pub map: Option<Arc<Assignment>>,
    /// What this node does about the Service now; `None` while there is no map.
    pub intent: Option<Arc<Intent>>,
}

impl Vip {
    /// How its flows become buckets; `default` is for Services without a map.
    pub fn flows(&self, default: Flows) -> Flows {
        self.shared.as_ref().map_or(default, |map| map.flows)
    }

    /// Eligible endpoints without a bucket that the controller has yet to give them; those for which there are not enough
    /// buckets do not count.
    pub fn waiting(&self) -> usize {
        let Some(map) = &self.shared else { return 0 };
        let eligible: BTreeSet<&str> =
            self.endpoints.iter().filter(|e| e.eligible).map(|e| e.pod_uid.as_str()).collect();
        let served = map.owners.counts().keys().filter(|id| eligible.contains(id.as_str())).count();
        let room = usize::try_from(map.flows.buckets.get()).unwrap_or(usize::MAX);
        // None of them is left: then nodes give all buckets to those who are there.
        if served == 0 { 0 } else { eligible.len().min(room) - served.min(room) }
    }

    /// Bucket → endpoint: the same on every node that knows the same endpoints and map.
    pub fn bucket_map(&self, default: Flows) -> SharedMap {
        self.with_drains(match &self.shared {
            Some(map) => map.bridge(&self.endpoints),
            None => SharedMap::new(default, &self.endpoints),
        })
    }

    fn with_drains(&self, mut map: SharedMap) -> SharedMap {
        if self.drain_limit == Some(Duration::ZERO) {
            map.previous.clear();
        }
        map
    }

    /// The map that packets follow now.
    pub fn map_in_use(&self, default: Flows) -> SharedMap {
        self.staged.as_ref().map_or_else(|| self.bucket_map(default), |staged| staged.map.clone())
    }

    /// Who of those who drain is asked first for open connections where that is not the owner, see [`Staged::first`].
    pub fn asked_first<'a>(&'a self, bucket: Bucket, drains: &'a [Drain]) -> Option<&'a EndpointId> {
        match &self.staged {
            Some(staged) => staged.first.get(&bucket),
            // Of what is not stored nobody reports that he is prepared.
            None => drains.last().filter(|_| !drains.iter().all(Drain::is_stored)).map(|drain| &drain.endpoint),
        }
    }

    /// Who takes packets that another one passes on, in pairs from the one to the other.
    pub fn admitted(&self, default: Flows) -> BTreeSet<(EndpointId, EndpointId)> {
        let pairs = |onward: Onward| onward.into_iter().map(|((_, from), to)| (from, to)).collect();
        self.staged.as_ref().map_or_else(|| pairs(self.onward(default)), |staged| staged.admitted.clone())
    }

    /// Who passes packets on to whom, see [`SharedMap::onward`].
    pub fn onward(&self, default: Flows) -> Onward {
        if let Some(staged) = &self.staged {
            return staged.onward.clone();
        }
        let map = self.bucket_map(default);
        let mut onward = Onward::new();
        for (bucket, drains) in &map.previous {
            let mut way = map.way(*bucket);
            if self.asked_first(*bucket, drains).is_some() {
                // The owner last.
                way.rotate_left(1);
            }
            onward.extend(links(*bucket, &way));
        }
        onward
    }
}

/// A node of the cluster, as the data path sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Name of the Node object.
    pub name: String,
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
    pub vips: BTreeMap<IpAddr, Vip>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// What was refused, and why. Everything refused is left out above.
    pub problems: Vec<Problem>,
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
    /// A node could not be set up; it is retried.
    NodeFailed,
    /// A firewall of the node drops packets of the Service's VIPs.
    FirewallDrops,
    /// A node does not forward packets of the VIPs' family.
    NotForwarding,
    /// There are more endpoints than buckets: some get no traffic.
    TooManyEndpoints,
    /// The stored bucket map of the Service cannot be used.
    InvalidMap,
    /// No controller gives new pods their share.
    NoController,
    /// The Service is of a kind that has no endpoints of its own (ExternalName).
    UnsupportedService,
}

impl Reason {
    /// CamelCase, as Kubernetes Events want it.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::InvalidVip => "InvalidVIP",
            Reason::VipConflict => "VIPConflict",
            Reason::InvalidMode => "InvalidMode",
            Reason::InvalidOption => "InvalidOption",
            Reason::EndpointRefused => "EndpointRefused",
            Reason::EndpointFailed => "EndpointFailed",
            Reason::NodeFailed => "NodeFailed",
            Reason::FirewallDrops => "FirewallDrops",
            Reason::NotForwarding => "NotForwarding",
            Reason::TooManyEndpoints => "TooManyEndpoints",
            Reason::InvalidMap => "InvalidMap",
            Reason::NoController => "NoController",
            Reason::UnsupportedService => "UnsupportedService",
        }
    }
}

/// Something a user has to know about one Service: becomes a log line and an Event.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Problem {
    /// The Service it is about.
    pub service: ServiceRef,
    /// Machine-readable reason.
    pub reason: Reason,
    /// Names the object, what is wrong with it and the remedy; at most 1,024 bytes (the API's limit for an Event's note).
    pub note: String,
}
