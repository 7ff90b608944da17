//! How far this node has followed the map of each VIP, see [`model::staged`](crate::model::staged).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::Instant;

use crate::model::{Circumstances, Cluster, Flows, Stage};
use crate::state::Reported;

/// The progress of all VIPs.
#[derive(Debug, Default)]
pub struct Stages {
    /// By VIP, with the UID of the Service that has it.
    stages: BTreeMap<IpAddr, (String, Stage)>,
    /// When the next step is due.
    due: Option<Instant>,
}

impl Stages {
    /// Writes into each VIP with a stored map what this node does now. Without a stored map nothing drains.
    pub fn stage(&mut self, cluster: &mut Cluster, reported: &Reported, default: Flows, now: Instant) {
        let nobody = BTreeMap::new();
        let ingress = cluster.nodes.values().filter(|node| node.ingress).map(|node| node.name.clone()).collect();
        let mut old = std::mem::take(&mut self.stages);
        self.due = None;
        for (address, vip) in &mut cluster.vips {
            let Some(stored) = &vip.shared else { continue };
            let known = old.remove(address).filter(|(uid, _)| *uid == vip.service.uid);
            let new = || (vip.service.uid.clone(), Stage::new(vip.bucket_map(default)));
            let (uid, mut stage) = known.unwrap_or_else(new);
            let around = Circumstances {
                endpoints: &vip.endpoints,
                limit: vip.drain_limit,
                reported: reported.get(&vip.service.uid).unwrap_or(&nobody),
                ingress: &ingress,
                now: now.into_std(),
            };
            let (staged, due) = stage.step(stored, &around);
            vip.staged = Some(Arc::new(staged));
            self.due = [self.due, due.map(Instant::from_std)].into_iter().flatten().min();
            self.stages.insert(*address, (uid, stage));
        }
    }

    /// When to stage again although nothing changes.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }
}
