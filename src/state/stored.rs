//! How a bucket map is stored: one ConfigMap per Service in the agent's own namespace, named after the Service's UID.
//!
//! ```yaml
//! metadata: { name: map-<UID>, namespace: kube-service-tunnel, labels: { cmd.nu/tunnel-object: bucket-map } }
//! data:
//!   map.json: |
//!     { "version": 1, "generation": 17,          which form this is, and which decision
//!       "service": { "namespace": "default", "name": "echo", "uid": "<UID>" },
//!       "buckets": 64, "seed": 1802728497,       what the map was made for: nodes hash accordingly
//!       "endpoints": ["<pod UID>", …],           every endpoint that is mentioned below
//!       "owners": [0, 2, null, …],               for each bucket the index of its owner, null without one
//!       "previous": { "7": [                     for a bucket, who had it before and may have connections, the first one first
//!         { "endpoint": 1,                       index of the pod
//!           "since": 1790000000,                 when the bucket went on to the next one, in seconds since 1970 (UTC)
//!           "generation": 17,                    the decision by which it did
//!           "datagrams": true } ] } }            what is no TCP still goes there, too
//! ```
//!
//! A reader takes all of it or nothing: a map that it does not understand in full is none.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::model::{Bucket, BucketCount, Drain, EndpointId, Flows, ServiceRef, SharedMap};

/// Label of the ConfigMaps that are bucket maps, and its value.
pub const MAP_LABEL: (&str, &str) = ("cmd.nu/tunnel-object", "bucket-map");
/// The key of the map in the ConfigMap's data.
pub const MAP_KEY: &str = "map.json";
/// The version that this code writes, and the only one that it reads.
pub const MAP_VERSION: u64 = 1;
const PREFIX: &str = "map-";

/// Name of the ConfigMap of a Service.
pub fn map_name(service_uid: &str) -> String {
    format!("{PREFIX}{service_uid}")
}

/// UID of the Service whose ConfigMap has this name.
pub(super) fn uid_of(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX).filter(|uid| !uid.is_empty())
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    version: u64,
    generation: u64,
    service: WireService,
    buckets: u32,
    seed: u32,
    endpoints: Vec<String>,
    owners: Vec<Option<usize>>,
    #[serde(default)]
    previous: BTreeMap<u32, Vec<WireDrain>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireService {
    namespace: String,
    name: String,
    uid: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireDrain {
    endpoint: usize,
    since: u64,
    generation: u64,
    datagrams: bool,
}

#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

/// The value of [`MAP_KEY`].
pub fn encode(service: &ServiceRef, map: &SharedMap) -> String {
    let mentioned: BTreeSet<&EndpointId> = map
        .owners
        .owners()
        .iter()
        .flatten()
        .chain(map.previous.values().flatten().map(|drain| &drain.endpoint))
        .collect();
    let endpoints: Vec<&EndpointId> = mentioned.into_iter().collect();
    let index = |id: &EndpointId| endpoints.binary_search(&id).ok();
    let drain = |drain: &Drain| {
        let Drain { since, generation, datagrams, .. } = *drain;
        Some(WireDrain { endpoint: index(&drain.endpoint)?, since, generation, datagrams })
    };
    let wire = Wire {
        version: MAP_VERSION,
        generation: map.generation,
        service: WireService {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            uid: service.uid.clone(),
        },
        buckets: map.flows.buckets.get(),
        seed: map.flows.seed,
        endpoints: endpoints.iter().map(ToString::to_string).collect(),
        owners: map.owners.owners().iter().map(|owner| index(owner.as_ref()?)).collect(),
        previous: map
            .previous
            .iter()
            .map(|(b, drains)| (b.number(), drains.iter().filter_map(drain).collect()))
            .collect(),
    };
    serde_json::to_string(&wire).unwrap_or_default()
}

/// Why a stored map is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MapFault {
    /// There is nothing under [`MAP_KEY`].
    #[error("it has no {MAP_KEY}")]
    Empty,
    /// A later version of the program wrote it.
    #[error("it has version {0}, this is {MAP_VERSION}")]
    Version(u64),
    /// It is not in the form above.
    #[error("it cannot be read: {0}")]
    Malformed(String),
    /// It is older than one that was there before.
    #[error("it has generation {found}, and {known} was there already")]
    Stale {
        /// That of the map.
        found: u64,
        /// That of the last good one.
        known: u64,
    },
    /// It says that it is another Service's.
    #[error("it belongs to another Service ({0})")]
    Foreign(String),
}

/// Reads the value of [`MAP_KEY`] in the ConfigMap of the Service with this UID.
///
/// # Errors
/// Whatever is not exactly right.
pub fn decode(text: Option<&str>, service_uid: &str) -> Result<SharedMap, MapFault> {
    let text = text.ok_or(MapFault::Empty)?;
    let malformed = |error: &dyn ToString| MapFault::Malformed(error.to_string());
    // The version first: what a later one has beyond it is not malformed.
    let Versioned { version } = serde_json::from_str(text).map_err(|e| malformed(&e))?;
    if version != MAP_VERSION {
        return Err(MapFault::Version(version));
    }
    let wire: Wire = serde_json::from_str(text).map_err(|e| malformed(&e))?;
    if wire.service.uid != service_uid {
        return Err(MapFault::Foreign(wire.service.uid));
    }
    let buckets = BucketCount::new(wire.buckets).map_err(|e| malformed(&e))?;
    if wire.owners.len() != buckets.iter().len() {
        return Err(malformed(&format!("{} owners for {buckets} buckets", wire.owners.len())));
    }
    let ids: Vec<EndpointId> = wire.endpoints.iter().map(|uid| uid.as_str().into()).collect();
    let id = |index: usize| ids.get(index).cloned().ok_or_else(|| malformed(&format!("there is no endpoint {index}")));
    let bucket = |number: u32| {
        let found = Bucket::new(number).filter(|b| b.number() < buckets.get());
        found.ok_or_else(|| malformed(&format!("there is no bucket {number}")))
    };
    let owners: Vec<Option<EndpointId>> =
        wire.owners.into_iter().map(|index| index.map(id).transpose()).collect::<Result<_, _>>()?;
    let drain = |wire: WireDrain| {
        let WireDrain { endpoint, since, generation, datagrams } = wire;
        Ok(Drain { endpoint: id(endpoint)?, since, generation, datagrams })
    };
    let previous = wire.previous.into_iter().map(|(number, drains)| {
        Ok((bucket(number)?, drains.into_iter().map(drain).collect::<Result<Vec<Drain>, MapFault>>()?))
    });
    Ok(SharedMap {
        generation: wire.generation,
        flows: Flows { buckets, seed: wire.seed },
        owners: owners.into_iter().collect(),
        previous: previous.collect::<Result<BTreeMap<_, Vec<_>>, MapFault>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> ServiceRef {
        ServiceRef { namespace: "default".into(), name: "echo".into(), uid: "u-1".into() }
    }

    fn map() -> SharedMap {
        let owner = |n: u32| (n != 3).then(|| EndpointId::from(["a", "c"][usize::from(n % 2 == 1)]));
        let flows = Flows { buckets: BucketCount::new(16).unwrap(), seed: 0xffff_ffff };
        let drain = Drain { endpoint: "b".into(), since: 9, generation: 5, datagrams: true };
        let previous = [(Bucket::new(15).unwrap(), vec![drain])].into();
        SharedMap { generation: 5, flows, owners: (0..16).map(owner).collect(), previous }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let text = encode(&service(), &map());
        assert_eq!(decode(Some(&text), "u-1").unwrap(), map());
        let expected = r#"{"version":1,"generation":5,"service":{"namespace":"default","name":"echo","uid":"u-1"},"buckets":16,"seed":4294967295,"endpoints":["a","b","c"],"owners":[0,2,0,null,0,2,0,2,0,2,0,2,0,2,0,2],"previous":{"15":[{"endpoint":1,"since":9,"generation":5,"datagrams":true}]}}"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn a_map_of_the_largest_service_fits_into_a_configmap_many_times() {
        let owner = |n: u32| Some(EndpointId::from(format!("{n:08x}-0000-4000-8000-000000000000").as_str()));
        let flows = Flows { buckets: BucketCount::new(128).unwrap(), seed: 1 };
        let largest =
            SharedMap { generation: 1, flows, owners: (0..128).map(owner).collect(), previous: BTreeMap::new() };
        // The API takes 1 MiB.
        assert!(encode(&service(), &largest).len() < 8 << 10);
    }

    #[test]
    fn whatever_is_not_exactly_right_is_refused_by_name() {
        let good = encode(&service(), &map());
        let fault = |from: &str, to: &str| {
            assert!(good.contains(from), "{from}");
            decode(Some(&good.replacen(from, to, 1)), "u-1").unwrap_err().to_string()
        };
        assert_eq!(decode(None, "u-1"), Err(MapFault::Empty));
        assert_eq!(decode(Some(&good), "u-2"), Err(MapFault::Foreign("u-1".into())));
        assert_eq!(fault("\"version\":1", "\"version\":2,\"new\":{}"), "it has version 2, this is 1");
        assert!(fault("{", "").starts_with("it cannot be read"));
        assert!(fault("\"buckets\":16", "\"buckets\":17").contains("17 buckets"));
        assert!(fault("\"buckets\":16", "\"buckets\":32").contains("16 owners for 32 buckets"));
        assert!(fault("[0,2", "[3,2").contains("no endpoint 3"));
        assert!(fault("\"15\"", "\"16\"").contains("no bucket 16"));
        assert!(fault("\"endpoint\":1", "\"endpoint\":9").contains("no endpoint 9"));
        assert!(fault("\"seed\"", "\"extra\":1,\"seed\"").contains("unknown field"));
    }
}
