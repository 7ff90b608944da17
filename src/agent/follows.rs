//! What this node does about each Service: its stored map, followed at this node's own pace.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant as StdInstant, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::model::Cluster;
use crate::model::handover::{Endpoint, Follow, Intent, Moment, Offered};

/// The maps that this node follows.
#[derive(Debug, Default)]
pub struct Follows {
    /// By UID of the Service.
    services: BTreeMap<String, (Follow, Arc<Intent>)>,
    /// VIPs without a map since the start, with the UID of their Service; `None` before the first look.
    unheard: Option<BTreeMap<IpAddr, String>>,
    /// When the next step is due.
    due: Option<Instant>,
}

impl Follows {
    /// Writes into each VIP of a Service with a map what this node does now. A Service that is gone is forgotten.
    pub fn follow(&mut self, cluster: &mut Cluster, now: Moment) {
        self.hold(cluster);
        let mut before = std::mem::take(&mut self.services);
        self.due = None;
        for vip in cluster.vips.values_mut() {
            let (uid, Some(map)) = (&vip.service.uid, &vip.map) else { continue };
            // A Service has a VIP of each family, or more.
            let (_, intent) = self.services.entry(uid.clone()).or_insert_with(|| {
                let endpoints: Vec<Endpoint> = vip.endpoints.iter().map(Endpoint::from).collect();
                let (follow, known) = match before.remove(uid) {
                    Some((mut follow, intent)) => {
                        // The index never offers an older one.
                        let (Offered::Followed | Offered::Older(_)) = follow.offer(map, now);
                        follow.see(&endpoints, now);
                        (follow, Some(intent))
                    }
                    None => (Follow::new(map.as_ref().clone(), endpoints, now), None),
                };
                let due = follow.next_deadline(now).map(Instant::from_std);
                self.due = [self.due, due].into_iter().flatten().min();
                let intent = Intent::of(&follow);
                let intent = known.filter(|known| **known == intent).unwrap_or_else(|| Arc::new(intent));
                (follow, intent)
            });
            vip.intent = Some(intent.clone());
        }
    }

    /// Where there has been no map since this agent started, an earlier one may have followed it.
    fn hold(&mut self, cluster: &mut Cluster) {
        let unmapped = cluster.vips.values_mut().filter(|vip| vip.map.is_none());
        let unheard = unmapped.filter_map(|vip| {
            let uid = &vip.service.uid;
            vip.holds = self.unheard.as_ref().is_none_or(|unheard| unheard.get(&vip.address) == Some(uid));
            vip.holds.then(|| (vip.address, uid.clone()))
        });
        self.unheard = Some(unheard.collect());
    }

    /// When to look again although nothing changes.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }
}

/// Now.
pub fn moment() -> Moment {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Moment { instant: StdInstant::now(), unix }
}
