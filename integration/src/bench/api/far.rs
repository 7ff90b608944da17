//! Endpoints that are objects only: Pods on nodes of the API that have no agents.
//!
//! Their reports are written here, at the occasions at which an agent writes one: its pods stand, a map announces something
//! about them, a drain is over. No agent reads them; only the controllers do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};
use tunnel_router::model::handover::{Assignment, NodeReport, Over, ServiceUid, SetUp};
use tunnel_router::model::{Addresses, EndpointId};

use crate::apiserver::Objects;
use crate::world::map::stored;
use crate::world::{World, objects};

/// How many such nodes there are. With 110 pods on each, as many as a kubelet allows, there is room for all.
const NODES: u8 = 10;
/// After which time without a connection an agent calls a drain over.
const DRAINED: Duration = Duration::from_secs(15);
/// When nothing is to be done, it is looked again after this time.
const IDLE: Duration = Duration::from_secs(3600);

/// The nodes, and what their agents would know.
pub(super) struct Far {
    nodes: BTreeMap<String, BTreeMap<EndpointId, SetUp>>,
}

impl Far {
    /// Creates nodes and pods with a label of `app`.
    pub fn create(world: &World, app: &str, pods: u16) -> Result<Far> {
        let mut nodes: BTreeMap<String, BTreeMap<EndpointId, SetUp>> = BTreeMap::new();
        for n in (1..=NODES).filter(|_| pods > 0) {
            world.api.store().create_with_status(node(n))?;
        }
        for n in 0..pods {
            let (on, number) = (n % u16::from(NODES) + 1, n / u16::from(NODES) + 2);
            let address = IpAddr::from(Ipv4Addr::new(10, 245, u8::try_from(on)?, u8::try_from(number)?));
            let (name, on) = (format!("far-{n}"), format!("far{on}"));
            let uid = world.create_pod(&name, &on, app, json!({}))?;
            world.tell_running(&name, address, "far")?;
            let set_up = SetUp { addresses: Addresses::first_of(&[address]), program: true, ..SetUp::default() };
            nodes.entry(on).or_default().insert(uid.as_str().into(), set_up);
        }
        Ok(Far { nodes })
    }

    /// Writes what the agents of the nodes would, for ever.
    pub async fn report(self, store: Objects, service: String) {
        let mut written: BTreeMap<&String, NodeReport> = BTreeMap::new();
        let mut drains: BTreeMap<Over, Instant> = BTreeMap::new();
        let mut known: Option<Assignment> = None;
        loop {
            for (node, pods) in &self.nodes {
                let report = report(pods, (&service, known.as_ref()), &drains);
                if written.get(node) != Some(&report) {
                    write(&store, node, &report);
                    written.insert(node, report);
                }
            }
            let now = Instant::now();
            let due = drains.values().map(|since| *since + DRAINED).filter(|due| *due > now).min();
            let newer = |store: &Objects| stored(store, &service).filter(|map| known.as_ref() != Some(map));
            // It is over, too, when a drain is.
            let next = timeout_at(due.unwrap_or(now + IDLE), store.wait_for(newer)).await.ok().flatten();
            if let Some(map) = next {
                let present = self.former(&map, &service);
                drains.retain(|over, _| present.contains(over));
                for over in present {
                    drains.entry(over).or_insert_with(Instant::now);
                }
                known = Some(map);
            }
        }
    }

    /// The buckets that pods of these nodes have lost, and have still to serve.
    fn former(&self, map: &Assignment, service: &str) -> BTreeSet<Over> {
        let is_here = |id: &EndpointId| self.nodes.values().any(|pods| pods.contains_key(id));
        let all = map.iter().flat_map(|(bucket, holding)| holding.former.iter().map(move |former| (bucket, former)));
        let over = |(bucket, former): (_, &tunnel_router::model::handover::Former)| Over {
            service: service.into(),
            pod: former.endpoint.clone(),
            generation: former.generation,
            bucket,
        };
        all.filter(|(_, former)| is_here(&former.endpoint)).map(over).collect()
    }
}

/// What the agent of a node with these pods would say.
fn report(
    pods: &BTreeMap<EndpointId, SetUp>,
    (service, map): (&str, Option<&Assignment>),
    drains: &BTreeMap<Over, Instant>,
) -> NodeReport {
    let is_over = |(over, since): &(&Over, &Instant)| since.elapsed() >= DRAINED && pods.contains_key(&over.pod);
    let known = map.filter(|map| map.members.keys().any(|id| pods.contains_key(id)));
    NodeReport {
        pods: pods.clone(),
        over: drains.iter().filter(is_over).map(|(over, _)| over.clone()).collect(),
        knows: Some(known.map(|map| (ServiceUid::from(service), map.announced)).into_iter().collect()),
        ..NodeReport::default()
    }
}

fn write(store: &Objects, node: &str, report: &NodeReport) {
    let object = objects::report(node, report);
    if store.update(&object).is_err()
        && let Err(error) = store.create(&object)
    {
        tracing::error!(node, %error, "no report");
    }
}

fn node(n: u8) -> Value {
    objects::worker(&format!("far{n}"), Ipv4Addr::new(10, 0, 0, 100 + n), &format!("10.245.{n}.0/24"))
}
