//! How an assignment is stored: one ConfigMap per Service in our own namespace, named after the Service's UID.
//!
//! ```yaml
//! metadata: { name: map-<UID>, namespace: kube-service-tunnel, labels: { cmd.nu/tunnel-object: bucket-map } }
//! data:
//!   map.json: |
//!     { "version": 2, "revision": 1,            a reader needs to know this version; the writer knew this revision of it
//!       "generation": 1790000000123,            which decision
//!       "service": { "namespace": "default", "name": "echo", "uid": "<UID>" },
//!       "buckets": 64, "seed": 1802728497, "key": "ports",
//!       "vips": [["192.0.2.10", 1790000000]],   the addresses that the Service holds, and since when (revision 2)
//!       "lastName": 7, "refusesNew": false, "drainNonTcp": 30,
//!       "nodes": ["n1", "n2"],                  every node that is mentioned below, by its index from 0
//!       "endpoints": {                          one column each, in the order of names
//!         "name": [5, 6, 7], "uid": ["…", "…", "…"], "node": [0, 1, 1],
//!         "addresses": ["10.244.1.5", "10.244.2.7 fd00::7", "10.244.2.8"],
//!         "eligible": [1, 1, 0],                set up by its node; eligible while it is ready
//!         "program": [1, 1, 0] },
//!       "holdings": {                           one column each, one row for each bucket
//!         "owner": [5, 6, 0, …],                a name, 0 without an owner
//!         "generation": […], "since": […], "planned": [0, 1, …] },
//!       "former": {                             one column each; the last owner of a bucket comes first
//!         "bucket": [7, 7], "name": [6, 7], "generation": […], "since": […], "held": […], "why": ["b", "n"] },
//!       "next": { "bucket": [9], "name": [5], "generation": [0] },   moves that are announced
//!       "announced": 0,                         the last decision that announced a move or named somebody
//!       "behind": { "node": [1], "knows": [3] },     nodes that have not said that their pods know it, and what they said
//!       "new": { "name": [7], "generation": [0] } }  endpoints that some nodes do not know yet
//! ```
//!
//! Generations in columns are counted back from that of the map, `since` back from the latest one (`at`). A map of 1,000
//! endpoints stays below 64 KiB because only those have a name that own a bucket, owned it, or may soon own it.
//!
//! The form grows by keys, which older readers ignore. A writer that knows more raises `revision`, and older writers leave its
//! map alone; one that changes the meaning of a key raises `version`, and older readers do, too. An older writer that leaves out
//! what is announced costs nothing but that it is announced anew: those keys raise nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::model::handover::{
    Assignment, FlowHash, Former, Generation, HashKey, Holding, MOST_FORMER, Member, Name, Next, NodeName, Why,
};
use crate::model::{Addresses, BucketCount, EndpointId, ServiceRef};

/// Label of the ConfigMaps that are bucket maps, and its value.
pub const MAP_LABEL: (&str, &str) = ("cmd.nu/tunnel-object", "bucket-map");
/// The key of the map in the ConfigMap's data.
pub const MAP_KEY: &str = "map.json";
/// The version that this code reads and writes.
pub const VERSION: u64 = 2;
/// That of tunnel-router 0.1.
const OLD_VERSION: u64 = 1;
/// What this code knows of it.
pub const REVISION: u64 = 2;

/// The last decision that is believed. Decisions count milliseconds since 1970, and one near the end of the numbers could never be
/// followed by another. It is none of the numbers that damage is likely to leave: what follows it is not believed, either.
pub(super) const LAST_GENERATION: u64 = 1 << 60;

const PREFIX: &str = "map-";

/// Name of the ConfigMap of a Service.
pub fn map_name(service_uid: &str) -> String {
    format!("{PREFIX}{service_uid}")
}

/// UID of the Service whose ConfigMap has this name.
pub fn uid_of(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX).filter(|uid| !uid.is_empty())
}

/// A map that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAssignment {
    /// The map.
    pub map: Assignment,
    /// The revision of its writer.
    pub revision: u64,
}

impl StoredAssignment {
    /// Whether this code may write in its place: not if a later version would lose keys by it.
    pub fn may_be_replaced(&self) -> bool {
        self.revision <= REVISION
    }
}

/// Why a stored map is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssignmentFault {
    /// There is nothing under the key.
    #[error("it has no {MAP_KEY}")]
    Empty,
    /// Version 0.1 wrote it.
    #[error("it has version {OLD_VERSION}, of tunnel-router 0.1, and is replaced")]
    Old,
    /// A later version wrote it.
    #[error(
        "it has version {0}, this is {VERSION}: a later version of tunnel-router wrote it, and it is left as it is"
    )]
    Later(u64),
    /// It is not in the form above.
    #[error("it cannot be read: {0}")]
    Malformed(String),
    /// It says that it is another Service's.
    #[error("it belongs to another Service ({0})")]
    Foreign(String),
}

impl AssignmentFault {
    /// Whether this code may write in its place.
    pub fn may_be_replaced(&self) -> bool {
        !matches!(self, AssignmentFault::Later(_))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    version: u64,
    revision: u64,
    generation: u64,
    at: u64,
    service: WireService,
    buckets: u32,
    seed: u32,
    key: WireKey,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vips: Option<Vec<(IpAddr, u64)>>,
    last_name: u32,
    #[serde(default)]
    refuses_new: bool,
    #[serde(default)]
    drain_non_tcp: u64,
    nodes: Vec<String>,
    endpoints: Endpoints,
    holdings: Holdings,
    former: Formers,
    #[serde(default)]
    next: Nexts,
    announced: Option<u64>,
    #[serde(default)]
    behind: Behind,
    #[serde(default)]
    new: News,
}

#[derive(Serialize, Deserialize)]
struct WireService {
    namespace: String,
    name: String,
    uid: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WireKey {
    Ports,
    Addresses,
}

#[derive(Default, Serialize, Deserialize)]
struct Endpoints {
    name: Vec<u32>,
    uid: Vec<String>,
    node: Vec<usize>,
    addresses: Vec<String>,
    eligible: Vec<u8>,
    program: Vec<u8>,
}

#[derive(Default, Serialize, Deserialize)]
struct Behind {
    node: Vec<usize>,
    knows: Vec<Option<u64>>,
}

#[derive(Default, Serialize, Deserialize)]
struct News {
    name: Vec<u32>,
    generation: Vec<u64>,
}

#[derive(Default, Serialize, Deserialize)]
struct Holdings {
    owner: Vec<u32>,
    generation: Vec<u64>,
    since: Vec<u64>,
    planned: Vec<u8>,
}

#[derive(Default, Serialize, Deserialize)]
struct Formers {
    bucket: Vec<usize>,
    name: Vec<u32>,
    generation: Vec<u64>,
    since: Vec<u64>,
    held: Vec<u64>,
    why: Vec<String>,
}

#[derive(Default, Serialize, Deserialize)]
struct Nexts {
    bucket: Vec<usize>,
    name: Vec<u32>,
    generation: Vec<u64>,
}

#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

const WHYS: [(&str, Why); 5] =
    [("b", Why::Balance), ("n", Why::NotReady), ("t", Why::Terminating), ("l", Why::Left), ("f", Why::TunnelFell)];

/// The value of [`MAP_KEY`].
pub fn encode(service: &ServiceRef, map: &Assignment) -> String {
    let former = map.holdings.iter().flat_map(|holding| &holding.former).map(|former| former.since);
    let at = map.holdings.iter().map(|holding| holding.since).chain(former).max().unwrap_or_default();
    let nodes: BTreeSet<&NodeName> = map.members.values().map(|member| &member.node).collect();
    let nodes: Vec<&NodeName> = nodes.into_iter().collect();
    let wire = Wire {
        version: VERSION,
        revision: REVISION,
        generation: map.generation.0,
        at,
        service: WireService {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            uid: service.uid.clone(),
        },
        buckets: map.hash.buckets.get(),
        seed: map.hash.seed,
        key: match map.hash.key {
            HashKey::Ports => WireKey::Ports,
            HashKey::Addresses => WireKey::Addresses,
        },
        vips: map.vips.as_ref().map(|vips| vips.iter().map(|(vip, since)| (*vip, *since)).collect()),
        last_name: map.last_name.get().into(),
        refuses_new: map.refuses_new,
        drain_non_tcp: map.drain_non_tcp,
        endpoints: endpoints(map, &nodes),
        holdings: holdings(map, at),
        former: formers(map, at),
        next: nexts(map),
        announced: Some(back(map, map.announced)),
        new: news(map),
        behind: behind(map, &nodes),
        nodes: nodes.into_iter().map(ToString::to_string).collect(),
    };
    serde_json::to_string(&wire).unwrap_or_default()
}

/// How many decisions earlier.
fn back(map: &Assignment, generation: Generation) -> u64 {
    map.generation.0.saturating_sub(generation.0)
}

fn number(map: &Assignment, id: Option<&EndpointId>) -> u32 {
    id.and_then(|id| map.name(id)).map_or(0, |name| name.get().into())
}

fn endpoints(map: &Assignment, nodes: &[&NodeName]) -> Endpoints {
    let mut members: Vec<(&EndpointId, &Member)> = map.members.iter().collect();
    members.sort_by_key(|(_, member)| member.name);
    let mut table = Endpoints::default();
    for (id, member) in members {
        let addresses: Vec<String> = member.addresses.iter().map(|address| address.to_string()).collect();
        table.name.push(member.name.get().into());
        table.uid.push(id.to_string());
        table.node.push(nodes.binary_search(&&member.node).unwrap_or_default());
        table.addresses.push(addresses.join(" "));
        table.eligible.push(member.set_up.into());
        table.program.push(member.program.into());
    }
    table
}

fn holdings(map: &Assignment, at: u64) -> Holdings {
    let mut table = Holdings::default();
    for holding in &map.holdings {
        table.owner.push(number(map, holding.owner.as_ref()));
        table.generation.push(back(map, holding.generation));
        table.since.push(at - holding.since);
        table.planned.push(holding.planned.into());
    }
    table
}

fn formers(map: &Assignment, at: u64) -> Formers {
    let mut table = Formers::default();
    for (bucket, holding) in map.iter() {
        for former in &holding.former {
            let why = WHYS.iter().find(|(_, why)| *why == former.why).map_or("", |(text, _)| text);
            table.bucket.push(bucket.index());
            table.name.push(number(map, Some(&former.endpoint)));
            table.generation.push(back(map, former.generation));
            table.since.push(at - former.since);
            table.held.push(former.held);
            table.why.push(why.to_owned());
        }
    }
    table
}

fn behind(map: &Assignment, nodes: &[&NodeName]) -> Behind {
    let mut table = Behind::default();
    for (index, knows) in nodes.iter().map(|node| map.knows.get(*node).copied()).enumerate() {
        if knows.is_none_or(|knows| knows < map.announced) {
            table.node.push(index);
            table.knows.push(knows.map(|knows| back(map, knows)));
        }
    }
    table
}

fn news(map: &Assignment) -> News {
    let mut table = News::default();
    for (member, named) in map.members.values().filter_map(|member| Some((member, member.named?))) {
        table.name.push(member.name.get().into());
        table.generation.push(back(map, named));
    }
    table
}

fn nexts(map: &Assignment) -> Nexts {
    let mut table = Nexts::default();
    for (bucket, next) in map.moves() {
        table.bucket.push(bucket.index());
        table.name.push(number(map, Some(&next.endpoint)));
        table.generation.push(back(map, next.generation));
    }
    table
}

/// Reads the value of [`MAP_KEY`] in the ConfigMap of the Service with this UID.
///
/// # Errors
/// Whatever is not exactly right; keys that are not known are.
pub fn decode(text: Option<&str>, service_uid: &str) -> Result<StoredAssignment, AssignmentFault> {
    let text = text.ok_or(AssignmentFault::Empty)?;
    let malformed = |error: &dyn ToString| AssignmentFault::Malformed(error.to_string());
    let Versioned { version } = serde_json::from_str(text).map_err(|e| malformed(&e))?;
    match version {
        VERSION => {}
        OLD_VERSION => return Err(AssignmentFault::Old),
        0 => return Err(malformed(&"there is no version 0")),
        later => return Err(AssignmentFault::Later(later)),
    }
    let wire: Wire = serde_json::from_str(text).map_err(|e| malformed(&e))?;
    if wire.service.uid != service_uid {
        return Err(AssignmentFault::Foreign(wire.service.uid));
    }
    let revision = wire.revision;
    let map = read(wire).map_err(AssignmentFault::Malformed)?;
    Ok(StoredAssignment { map, revision })
}

fn read(wire: Wire) -> Result<Assignment, String> {
    if wire.generation > LAST_GENERATION {
        return Err(format!("no decision could follow generation {}", wire.generation));
    }
    let buckets = BucketCount::new(wire.buckets).map_err(|e| e.to_string())?;
    let ids = read_ids(&wire.endpoints)?;
    let mut holdings = read_holdings(&wire, buckets, &ids)?;
    read_formers(&wire, &mut holdings, &ids)?;
    read_nexts(&wire, &mut holdings, &ids)?;
    let announced = Generation(wire.announced.map_or(0, |back| wire.generation.saturating_sub(back)));
    Ok(Assignment {
        generation: Generation(wire.generation),
        hash: FlowHash {
            buckets,
            seed: wire.seed,
            key: match wire.key {
                WireKey::Ports => HashKey::Ports,
                WireKey::Addresses => HashKey::Addresses,
            },
        },
        holdings,
        members: read_members(&wire, &ids)?,
        announced,
        knows: read_knows(&wire, announced),
        vips: wire.vips.as_ref().map(|vips| vips.iter().copied().collect()),
        last_name: Name::new(wire.last_name).map_err(|error| format!("lastName: {error}"))?,
        refuses_new: wire.refuses_new,
        drain_non_tcp: wire.drain_non_tcp,
    })
}

/// The endpoints by their names.
fn read_ids(table: &Endpoints) -> Result<BTreeMap<Name, EndpointId>, String> {
    let rows = table.name.len();
    let columns = [table.uid.len(), table.node.len(), table.addresses.len(), table.eligible.len(), table.program.len()];
    if columns.iter().any(|column| *column != rows) {
        return Err("the columns of endpoints have different lengths".to_owned());
    }
    let mut ids = BTreeMap::new();
    for (number, uid) in table.name.iter().zip(&table.uid) {
        let name = Name::new(*number).map_err(|error| error.to_string())?;
        if ids.insert(name, EndpointId::from(uid.as_str())).is_some() {
            return Err(format!("name {name} is given twice"));
        }
    }
    let distinct: BTreeSet<&EndpointId> = ids.values().collect();
    if distinct.len() == ids.len() { Ok(ids) } else { Err("an endpoint has two names".to_owned()) }
}

fn read_members(wire: &Wire, ids: &BTreeMap<Name, EndpointId>) -> Result<BTreeMap<EndpointId, Member>, String> {
    let table = &wire.endpoints;
    let mut members = BTreeMap::new();
    for row in 0..table.name.len() {
        let name = Name::new(table.name[row]).map_err(|error| error.to_string())?;
        let node = wire.nodes.get(table.node[row]).ok_or_else(|| format!("there is no node {}", table.node[row]))?;
        let addresses: Result<Vec<IpAddr>, _> = table.addresses[row].split_whitespace().map(str::parse).collect();
        let addresses = addresses.map_err(|error| format!("{}: {error}", table.addresses[row]))?;
        let member = Member {
            name,
            node: NodeName::from(node.as_str()),
            addresses: Addresses::first_of(&addresses),
            set_up: table.eligible[row] != 0,
            program: table.program[row] != 0,
            named: named_at(wire, table.name[row]),
        };
        members.insert(named(ids, table.name[row])?, member);
    }
    Ok(members)
}

/// The decision that named an endpoint, if that is new to some nodes.
fn named_at(wire: &Wire, name: u32) -> Option<Generation> {
    let row = wire.new.name.iter().position(|new| *new == name)?;
    Some(Generation(wire.generation.saturating_sub(*wire.new.generation.get(row)?)))
}

fn named(ids: &BTreeMap<Name, EndpointId>, number: u32) -> Result<EndpointId, String> {
    Name::new(number)
        .ok()
        .and_then(|name| ids.get(&name))
        .cloned()
        .ok_or_else(|| format!("no endpoint has the name {number}"))
}

fn read_holdings(wire: &Wire, buckets: BucketCount, ids: &BTreeMap<Name, EndpointId>) -> Result<Vec<Holding>, String> {
    let (table, rows) = (&wire.holdings, buckets.iter().len());
    if [table.owner.len(), table.generation.len(), table.since.len(), table.planned.len()] != [rows; 4] {
        return Err(format!("not every column of holdings has {rows} rows"));
    }
    let row = |row: usize| {
        let owner = (table.owner[row] != 0).then(|| named(ids, table.owner[row])).transpose()?;
        Ok(Holding {
            owner,
            generation: Generation(wire.generation.saturating_sub(table.generation[row])),
            since: wire.at.saturating_sub(table.since[row]),
            planned: table.planned[row] != 0,
            former: Vec::new(),
            next: None,
        })
    };
    (0..rows).map(row).collect()
}

fn read_formers(wire: &Wire, holdings: &mut [Holding], ids: &BTreeMap<Name, EndpointId>) -> Result<(), String> {
    let (table, rows) = (&wire.former, wire.former.bucket.len());
    let columns = [table.name.len(), table.generation.len(), table.since.len(), table.held.len(), table.why.len()];
    if columns != [rows; 5] {
        return Err("the columns of former have different lengths".to_owned());
    }
    for row in 0..rows {
        let bucket = table.bucket[row];
        let holding = holdings.get_mut(bucket).ok_or_else(|| format!("there is no bucket {bucket}"))?;
        let endpoint = named(ids, table.name[row])?;
        let is_listed = holding.former.iter().any(|former| former.endpoint == endpoint);
        if is_listed || holding.former.len() >= MOST_FORMER || holding.owner.as_ref() == Some(&endpoint) {
            return Err(format!("bucket {bucket} has an endpoint twice, or more than {MOST_FORMER} former owners"));
        }
        // A reason that is not known here was found by a later revision.
        let why = WHYS.iter().find(|(text, _)| *text == table.why[row]).map_or(Why::Left, |(_, why)| *why);
        holding.former.push(Former {
            endpoint,
            generation: Generation(wire.generation.saturating_sub(table.generation[row])),
            since: wire.at.saturating_sub(table.since[row]),
            held: table.held[row],
            why,
        });
    }
    Ok(())
}

fn read_nexts(wire: &Wire, holdings: &mut [Holding], ids: &BTreeMap<Name, EndpointId>) -> Result<(), String> {
    let (table, rows) = (&wire.next, wire.next.bucket.len());
    if [table.name.len(), table.generation.len()] != [rows; 2] {
        return Err("the columns of next have different lengths".to_owned());
    }
    for row in 0..rows {
        let bucket = table.bucket[row];
        let holding = holdings.get_mut(bucket).ok_or_else(|| format!("there is no bucket {bucket}"))?;
        let endpoint = named(ids, table.name[row])?;
        let generation = Generation(wire.generation.saturating_sub(table.generation[row]));
        holding.next = Some(Next { endpoint, generation });
    }
    Ok(())
}

fn read_knows(wire: &Wire, announced: Generation) -> BTreeMap<NodeName, Generation> {
    let behind: BTreeMap<usize, Option<u64>> =
        wire.behind.node.iter().copied().zip(wire.behind.knows.clone()).collect();
    let knows = |(index, node): (usize, &String)| {
        let knows = match behind.get(&index) {
            Some(back) => Generation(wire.generation.saturating_sub((*back)?)),
            None => announced,
        };
        Some((NodeName::from(node.as_str()), knows))
    };
    wire.nodes.iter().enumerate().filter_map(knows).collect()
}

#[cfg(test)]
#[path = "tests/assignment.rs"]
mod tests;
