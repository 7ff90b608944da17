//! Which endpoint wants which bucket most: the same on every node.
//!
//! Rendezvous hashing alone cannot be balanced (1.1 to 1.6 times the mean load) and move nothing but what it must, so a map has a
//! history ([`handover`](super::handover)), and this only says who comes first where there is a choice.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use super::bucket::Bucket;
use super::hash::jhash;

/// The identity of an endpoint: the UID of its pod. Cheap to copy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(Arc<str>);

impl EndpointId {
    /// The pod's UID.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for EndpointId {
    fn from(uid: &str) -> Self {
        EndpointId(uid.into())
    }
}

impl Borrow<str> for EndpointId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The candidate that wants a bucket most, whatever becomes of the other buckets; `None` without candidates.
pub(super) fn favourite<'a>(
    bucket: Bucket,
    candidates: impl IntoIterator<Item = &'a EndpointId>,
) -> Option<&'a EndpointId> {
    candidates.into_iter().max_by_key(|endpoint| (weight(endpoint, bucket), *endpoint))
}

/// How much the endpoint wants the bucket: the same on every node, unrelated between buckets.
pub(super) fn weight(endpoint: &EndpointId, bucket: Bucket) -> u32 {
    jhash(endpoint.0.as_bytes(), bucket.number())
}
