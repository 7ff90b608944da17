//! Maps that the bench writes itself, by the rules of the product, where no controller gets that far.

use std::collections::BTreeSet;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tunnel_router::model::handover::{
    Assignment, DrainLimits, Endpoint as Member, EndpointState, FlowHash, HashKey, Inputs, Moment, NodeReport,
    ServiceUid, SetUp, Witness,
};
use tunnel_router::model::{Addresses, BucketCount, ServiceRef};
use tunnel_router::state::assignment::{MAP_KEY, MAP_LABEL, encode, map_name};

use super::cluster::{Endpoint, name, vip};
use super::site::Site;
use crate::world::NAMESPACE;

/// The default of `--hash-seed`.
const SEED: u32 = 0x6b73_7431;

/// Stores the first map of every Service that has none; returns how many those were.
pub fn seed(site: &Site) -> Result<u32> {
    let (store, mut missing) = (site.world.api.store(), 0);
    for (number, endpoints) in (0..).zip(&site.services) {
        let uid = site.uid(number)?;
        if store.get("configmaps", NAMESPACE, &map_name(&uid)).is_err() {
            store.create(map(number, uid, endpoints)?)?;
            missing += 1;
        }
    }
    Ok(missing)
}

fn map(number: u32, uid: String, endpoints: &[Endpoint]) -> Result<Value> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    let now = Moment { instant: Instant::now(), unix: since.as_secs() };
    let mut witness = Witness::default();
    witness.complete();
    for endpoint in endpoints {
        let set_up = SetUp { addresses: Addresses::first_of(&[endpoint.address]), program: true, ..SetUp::default() };
        let report = NodeReport { pods: [(endpoint.uid.as_str().into(), set_up)].into(), ..NodeReport::default() };
        witness.hear(&endpoint.node.as_str().into(), Some(report), now.instant);
    }
    let hash = FlowHash { buckets: BucketCount::DEFAULT, seed: SEED, key: HashKey::Ports };
    let service = ServiceUid::from(uid.as_str());
    let begun = Assignment::begin(hash, &service, u64::try_from(since.as_millis())?, None);
    let endpoints: Vec<Member> = endpoints.iter().map(member).collect();
    let limits = DrainLimits { limit: None, non_tcp: std::time::Duration::from_secs(30) };
    let lost = BTreeSet::new();
    let inputs =
        Inputs { service: &service, endpoints: &endpoints, witness: &witness, lost: &lost, key: hash.key, limits, now };
    let (mut map, _) = begun.next(&inputs);
    map.hold(&[vip(number).into()].into(), now.unix, begun.generation);
    let service = ServiceRef { namespace: "default".into(), name: name(number), uid };
    let (label, value) = MAP_LABEL;
    Ok(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": map_name(&service.uid), "namespace": NAMESPACE, "labels": { label: value } },
        "data": { MAP_KEY: encode(&service, &map) },
    }))
}

fn member(endpoint: &Endpoint) -> Member {
    Member {
        id: endpoint.uid.as_str().into(),
        node: endpoint.node.as_str().into(),
        addresses: Addresses::first_of(&[endpoint.address]),
        state: EndpointState::Ready,
    }
}
