//! What a node does about one Service now.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{FlowHash, Follow, Generation, Member, NextHop, Served};
use crate::model::{Bucket, EndpointId};

/// What a node does about one Service now: what [`Follow`] makes of the map at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// The decision that is followed.
    pub generation: Generation,
    /// How flows become buckets.
    pub hash: FlowHash,
    /// Where an ingress node sends the packets of each bucket; the others have no owner, and clients are told.
    pub next_hops: Arc<BTreeMap<Bucket, NextHop>>,
    /// What the pods of a serving node have to know.
    pub served: Served,
    /// Everybody that the map names: their pods are set up, whether slices list them or not.
    pub members: BTreeMap<EndpointId, Member>,
}

impl Intent {
    /// What a node does now.
    pub fn of(follow: &Follow) -> Intent {
        let map = follow.map();
        Intent {
            generation: map.generation,
            hash: map.hash,
            next_hops: follow.next_hops().clone(),
            served: follow.served(),
            members: map.members.clone(),
        }
    }
}
