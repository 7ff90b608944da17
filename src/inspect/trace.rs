//! The way of one flow, computed here and asked of the kernel.
//!
//! The computation takes the hash, the rules and the routes one after the other, each as it was read back, and compares the
//! result with what the agent means to do and with what the kernel itself answers (`ip route get VIP mark M`). Whoever
//! disagrees is named.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use super::report::{EndpointStatus, NodeStatus, VipStatus};
use super::seen::{Seen, Way};
use crate::kernel::{KernelError, MarkedRoute};
use crate::model::handover::{Finds, FlowHash, Known, Name, Packet, TunnelId, Verdict, decide};
use crate::model::hash::bucket as bucket_of;
use crate::model::second_chance::VipNames;
use crate::model::{Bucket, Family, Flow, Mode, Protocol, TracedFlow};
use crate::plan::Nexthop;

/// What has to be asked of the kernel while tracing.
pub trait Ask {
    /// `ip route get VIP mark M`
    ///
    /// # Errors
    /// [`KernelError::NoRoute`], or a failure of the socket.
    fn marked_route(&self, vip: IpAddr, mark: u32) -> Result<MarkedRoute, KernelError>;

    /// Largest packet to an address outside any tunnel, in bytes, and the device that it leaves through.
    ///
    /// # Errors
    /// [`KernelError::NoRoute`], or a failure of the socket.
    fn underlay(&self, to: IpAddr) -> Result<(u32, String), KernelError>;

    /// What the program with this id has in its tables for a VIP; `None` if no pod of this node has the VIP.
    ///
    /// # Errors
    /// What stands in the way, in words.
    fn names(&self, program: u32, vip: IpAddr) -> Result<Option<VipNames>, String>;
}

/// The way of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Trace {
    /// The flow.
    pub flow: String,
    /// `namespace/name` of the VIP's Service; `None` if no agent has been asked.
    pub service: Option<String>,
    /// `gre`, `mpls` or `vxlan`.
    pub mode: Option<String>,
    /// What is hashed, and how.
    pub hash: String,
    /// The bucket that it comes to.
    pub bucket: u32,
    /// Where its packets go.
    pub owner: Hop,
    /// New connections are refused there.
    pub refused: bool,
    /// Who is asked after that, one after the other: each passes on what is not its own.
    pub then: Vec<String>,
    /// The tables of the program on this node lead to the same pods; `None` if they say nothing about this VIP.
    pub tables_agree: Option<bool>,
    /// Who disagrees with whom, a line each; empty: all agree.
    pub disagreements: Vec<String>,
}

/// The way to one endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Hop {
    /// The mark that leads there.
    pub mark: Option<u32>,
    /// The routing table that the mark leads to.
    pub table: Option<u32>,
    /// The endpoint: a pod, or what the kernel knows of it.
    pub endpoint: Option<String>,
    /// Its node.
    pub node: Option<String>,
    /// The encapsulation as `ip` writes it.
    pub encapsulation: Option<String>,
    /// Path MTU for the packet inside, in bytes.
    pub mtu: Option<u32>,
    /// Why it is that.
    pub mtu_reason: Option<String>,
}

/// Why there is nothing to trace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// The destination is no VIP.
    #[error("{0} is no VIP on this node; VIPs are: {1}")]
    NoVip(IpAddr, String),
    /// The flow has no ports.
    #[error(
        "flows of {protocol} to {vip} are hashed with their ports: write {src}:PORT and {vip}:PORT, IPv6 addresses in brackets"
    )]
    NoPorts {
        /// The protocol.
        protocol: Protocol,
        /// The VIP.
        vip: IpAddr,
        /// The client.
        src: IpAddr,
    },
    /// This node hashes nothing.
    #[error("this node takes in no packets of VIPs{0}")]
    NoIngress(String),
    /// There is a VIP, but nothing that hashes its flows.
    #[error("no rule in the kernel hashes the flows of {0}: is the agent still setting the node up?")]
    NoHash(IpAddr),
}

/// Traces a flow on a node of which `status` was said, by the agent or else by the kernel, and `seen` was read back.
///
/// # Errors
/// See [`TraceError`].
pub fn trace(traced: &TracedFlow, status: &NodeStatus, seen: &Seen<'_>, kernel: &dyn Ask) -> Result<Trace, TraceError> {
    let vip = find(traced.dst, status)?;
    if !status.ingress {
        let others = status.ingress_nodes.join(", ");
        let remedy = if others.is_empty() { String::new() } else { format!("; these do: {others}") };
        return Err(TraceError::NoIngress(remedy));
    }
    let hash = vip.hash().ok_or(TraceError::NoHash(vip.address))?;
    let ports = traced.ports.filter(|_| traced.protocol.has_ports() && !vip.client_ip_affinity);
    if ports.is_none() && traced.protocol.has_ports() && !vip.client_ip_affinity {
        return Err(TraceError::NoPorts { protocol: traced.protocol, vip: vip.address, src: traced.src });
    }
    let flow = Flow { src: traced.src, dst: traced.dst, ports };
    let bucket = bucket_of(&flow, hash.buckets, hash.seed);
    let inputs = if ports.is_some() { "addresses and ports" } else { "addresses" };
    let mut tracer = Tracer { vip, hash, seen, kernel, disagreements: Vec::new() };
    if let Some(difference) = hash_difference(vip.address, hash, seen) {
        tracer.disagree(&difference);
    }
    let owner = tracer.hop(bucket, vip.owner(bucket.number()));
    let program = status.second_chances.as_ref().map(|loaded| loaded.program);
    let names = program.and_then(|program| tracer.names(program));
    let then = tracer.asked(bucket, traced.protocol);
    let tables_agree = names.map(|names| tracer.compare_tables(bucket, traced.protocol, &then, &names));
    Ok(Trace {
        flow: traced.to_string(),
        service: vip.service.clone(),
        mode: vip.mode.clone(),
        hash: format!("jhash of {inputs} mod {} seed {:#x}", hash.buckets, hash.seed),
        bucket: bucket.number(),
        owner,
        refused: vip.refuses_new,
        then: then.iter().map(|name| called(vip, *name)).collect(),
        tables_agree,
        disagreements: tracer.disagreements,
    })
}

/// The endpoint of a name, for people.
fn called(vip: &VipStatus, name: Name) -> String {
    vip.named(name).map_or_else(|| format!("name {name}"), EndpointStatus::name)
}

fn find(address: IpAddr, status: &NodeStatus) -> Result<&VipStatus, TraceError> {
    status.vips.iter().find(|vip| vip.address == address).ok_or_else(|| {
        let all: Vec<String> = status.vips.iter().map(|vip| vip.address.to_string()).collect();
        TraceError::NoVip(address, if all.is_empty() { "none".to_owned() } else { all.join(", ") })
    })
}

/// The differences between what `status` says of every VIP and what was read back, a line each.
pub fn differences(status: &NodeStatus, seen: &Seen<'_>) -> Vec<String> {
    let of = |vip: &VipStatus| {
        let Some(hash) = vip.hash() else { return Vec::new() };
        let mut alike: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
        for bucket in hash.buckets.iter() {
            let Some(mark) = mark(vip.address, seen, hash, bucket) else { continue };
            let table = seen.table_of(vip.address, mark);
            let meant = Meant { owner: vip.owner(bucket.number()), id: vip.tunnel_id(bucket) };
            if let Some(difference) = owner_difference(vip.address, seen, &meant, table) {
                alike.entry(difference).or_default().push(bucket.to_string());
            }
        }
        let lines = alike.iter().map(|((meant, found), buckets)| unlike(&buckets.join(", "), meant, found));
        hash_difference(vip.address, hash, seen)
            .into_iter()
            .chain(lines)
            .map(|line| about(vip.address, &line))
            .collect()
    };
    status.vips.iter().flat_map(of).collect()
}

fn about(vip: IpAddr, line: &str) -> String {
    format!("{vip}: {line}")
}

fn unlike(buckets: &str, meant: &str, found: &str) -> String {
    format!("bucket {buckets} belongs to {meant}, and the route in the kernel {found}")
}

fn hash_difference(vip: IpAddr, meant: FlowHash, seen: &Seen<'_>) -> Option<String> {
    if !seen.takes_in(vip) {
        return Some("the kernel does not take its packets in: it is not in the set of VIPs".to_owned());
    }
    match seen.flows(vip) {
        Some(found) if found == meant => None,
        Some(found) => Some(format!(
            "flows are hashed into {} buckets with seed {:#x} by the kernel, and are to be into {} with {:#x}",
            found.buckets, found.seed, meant.buckets, meant.seed
        )),
        None => Some("no rule in the kernel hashes its flows".to_owned()),
    }
}

fn mark(vip: IpAddr, seen: &Seen<'_>, hash: FlowHash, bucket: Bucket) -> Option<u32> {
    Some(seen.mark_field(Family::of(vip), hash.buckets)?.mark(bucket))
}

/// Where a bucket's packets are to go.
struct Meant<'a> {
    owner: Option<&'a EndpointStatus>,
    id: TunnelId,
}

impl fmt::Display for Meant<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.owner.map_or("nobody".to_owned(), EndpointStatus::name))?;
        if self.id == TunnelId::OWNER_ALONE { Ok(()) } else { write!(f, " with id {}", self.id.bits()) }
    }
}

/// Whom the routes lead to if it is not the endpoint that is meant: the two of them, in words.
fn owner_difference(vip: IpAddr, seen: &Seen<'_>, meant: &Meant<'_>, table: Option<u32>) -> Option<(String, String)> {
    let fits = |nexthop: &Nexthop| {
        nexthop.tunnel_id() == meant.id && meant.owner.is_some_and(|owner| leads_to(nexthop, owner))
    };
    let found = match table.and_then(|table| seen.way(table, vip)) {
        Some(Way::Via { nexthop: Some(nexthop), .. }) if fits(nexthop) => return None,
        Some(Way::Unreachable) if meant.owner.is_none() => return None,
        Some(Way::Via { nexthop: Some(nexthop), .. }) => format!("leads to {nexthop}"),
        Some(Way::Via { id, nexthop: None, .. }) => format!("leads to nexthop {id}, which is not there or not ours"),
        Some(Way::Unreachable) => "says unreachable".to_owned(),
        Some(Way::Foreign) => "is not as we write it".to_owned(),
        None => "is missing".to_owned(),
    };
    Some((meant.to_string(), found))
}

struct Tracer<'a> {
    vip: &'a VipStatus,
    hash: FlowHash,
    seen: &'a Seen<'a>,
    kernel: &'a dyn Ask,
    disagreements: Vec<String>,
}

impl Tracer<'_> {
    fn disagree(&mut self, what: &str) {
        self.disagreements.push(about(self.vip.address, what));
    }

    /// The way of packets of a bucket to its owner.
    fn hop(&mut self, bucket: Bucket, owner: Option<&EndpointStatus>) -> Hop {
        let address = self.vip.address;
        let mut hop = Hop { endpoint: owner.map(EndpointStatus::name), ..Hop::default() };
        hop.node = owner.and_then(|endpoint| endpoint.node.clone());
        let meant = Meant { owner, id: self.vip.tunnel_id(bucket) };
        let Some(mark) = mark(address, self.seen, self.hash, bucket) else {
            self.disagree("no ip rule in the kernel compares a mark of ours");
            return hop;
        };
        let table = self.seen.table_of(address, mark);
        (hop.mark, hop.table) = (Some(mark), table);
        if let Some((meant, found)) = owner_difference(address, self.seen, &meant, table) {
            self.disagree(&unlike(&bucket.to_string(), &meant, &found));
        }
        let way = table.and_then(|table| self.seen.way(table, address));
        self.compare_kernel(mark, table, way);
        if let Some(Way::Via { nexthop: Some(nexthop), mtu, .. }) = way {
            hop.encapsulation = Some(nexthop.to_string());
            self.explain_mtu(&mut hop, nexthop, mtu);
        }
        hop
    }

    /// Whether the kernel itself comes to the same route as the walk over its rules.
    fn compare_kernel(&mut self, mark: u32, table: Option<u32>, way: Option<Way<'_>>) {
        let address = self.vip.address;
        let agrees = |route: &MarkedRoute| {
            (route.table.is_none() || route.table == table)
                && matches!(way, Some(Way::Via { id, .. }) if route.nexthop == Some(id))
        };
        match self.kernel.marked_route(address, mark) {
            Ok(route) if agrees(&route) => {}
            Ok(route) => {
                let from = route.table.map_or(String::new(), |table| format!(" from table {table}"));
                let by = route.nexthop.map_or("without a nexthop object".to_owned(), |id| format!("by nexthop {id}"));
                let table = table.map_or("no table of ours".to_owned(), |table| format!("table {table}"));
                self.disagree(&format!(
                    "`ip route get {address} mark {mark:#x}` answers{from} {by}, and our rules lead to {table}"
                ));
            }
            Err(KernelError::NoRoute { .. }) if matches!(way, Some(Way::Unreachable)) => {}
            Err(error) => self.disagree(&format!("`ip route get {address} mark {mark:#x}` fails: {error}")),
        }
    }

    /// The tables of a program for the VIP, if it has any.
    fn names(&mut self, program: u32) -> Option<VipNames> {
        let found = self.kernel.names(program, self.vip.address);
        found.unwrap_or_else(|error| {
            self.disagree(&format!("the tables of program {program} cannot be read: {error}"));
            None
        })
    }

    /// Whom the pods ask for packets of a bucket after its owner, by the id that they carry.
    fn asked(&self, bucket: Bucket, protocol: Protocol) -> Vec<Name> {
        let id = self.vip.tunnel_id(bucket);
        // Of anything but TCP it cannot be told which belongs to whom.
        let most = if protocol == Protocol::Tcp { 2 } else { usize::from(id.datagrams()) };
        id.list().take(most).collect()
    }

    /// Whether the program asks the same pods, at the same addresses. It may ask more: those that have the bucket now.
    fn compare_tables(&mut self, bucket: Bucket, protocol: Protocol, then: &[Name], names: &VipNames) -> bool {
        let before = self.disagreements.len();
        for name in then {
            let meant = self.vip.named(*name);
            match (names.endpoints.get(name), meant) {
                (None, _) => self.disagree(&format!(
                    "bucket {bucket} names {}, and the program of this node knows nobody of name {name}",
                    called(self.vip, *name)
                )),
                (Some(found), Some(meant)) if !found.iter().any(|address| meant.addresses.contains(&address)) => self
                    .disagree(&format!(
                        "name {name} is {}, and the program of this node sends what is for it to {found}",
                        meant.name()
                    )),
                _ => {}
            }
        }
        let asked = self.asked_by(bucket, protocol, names);
        if self.disagreements.len() == before && !then.iter().all(|name| asked.contains(name)) {
            let all = |names: &[Name]| names.iter().map(|name| called(self.vip, *name)).collect::<Vec<_>>().join(", ");
            let text =
                format!("bucket {bucket} is to ask {}, and by its tables the program asks {}", all(then), all(&asked));
            self.disagree(&text);
        }
        self.disagreements.len() == before
    }

    /// Whom the program asks one after the other with these tables, for a packet that no pod knows.
    fn asked_by(&self, bucket: Bucket, protocol: Protocol, names: &VipNames) -> Vec<Name> {
        let packet = match protocol {
            Protocol::Tcp => Packet::Tcp(Finds::Nothing),
            _ => Packet::NonTcp(Finds::Nothing),
        };
        let present = names.present.as_ref().map_or(&[][..], |present| present.names(bucket));
        let owner = self.vip.owner(bucket.number());
        // Of two families that both ends have, the outer header is IPv4's.
        let has_v4 = owner.is_none_or(|owner| owner.addresses.iter().any(IpAddr::is_ipv4));
        let outer = if has_v4 { Family::V4 } else { Family::V6 };
        let (mut at, mut id) = (owner.and_then(EndpointStatus::named), self.vip.tunnel_id(bucket));
        let mut asked = Vec::new();
        loop {
            let known = Known { own: at, names: &names.endpoints, last: Some(names.last), outer, present };
            match decide(packet, id, &known) {
                Verdict::Forward { to, id: rest } => {
                    asked.push(to);
                    (at, id) = (Some(to), rest);
                }
                Verdict::Take(_) | Verdict::Drop(_) => return asked,
            }
        }
    }

    fn explain_mtu(&mut self, hop: &mut Hop, nexthop: &Nexthop, metric: Option<u32>) {
        let family = Family::of(self.vip.address);
        let (to, overhead, what) = match nexthop {
            Nexthop::EncapIp { dst, .. } => {
                let Some(mode) = self.seen.mode(nexthop) else { return };
                let outer = Family::of(*dst);
                (*dst, mode.overhead(outer), format!("{mode} over {outer}"))
            }
            Nexthop::Mpls { via, .. } => (*via, Mode::Mpls.overhead(family), "a label".to_owned()),
        };
        let (link, dev) = match self.kernel.underlay(to) {
            Ok(found) => found,
            Err(error) => return self.disagree(&format!("the way to {to}: {error}")),
        };
        let inside = link.saturating_sub(overhead).max(family.min_mtu());
        // Of an MPLS route the kernel takes the labels away itself, and what draining buckets travel in counts, too.
        let expected = if matches!(nexthop, Nexthop::Mpls { .. }) { metric.unwrap_or(link).min(link) } else { inside };
        if metric != Some(expected) {
            let metric = metric.map_or("none".to_owned(), |mtu| mtu.to_string());
            self.disagree(&format!("the route's MTU is {metric}, and the way to {to} asks for {expected}"));
        }
        hop.mtu = Some(inside);
        hop.mtu_reason = Some(format!("{link} on the way to {to} by {dev}, less {overhead} for {what}"));
    }
}

/// Whether a nexthop leads to an endpoint.
fn leads_to(nexthop: &Nexthop, endpoint: &EndpointStatus) -> bool {
    match nexthop {
        Nexthop::EncapIp { dst, .. } => endpoint.addresses.contains(dst),
        Nexthop::Mpls { label, via, .. } => endpoint.label == Some(*label) || endpoint.addresses.contains(via),
    }
}
