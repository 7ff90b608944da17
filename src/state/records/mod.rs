//! The part of each object that matters, one file per kind.
//!
//! A record keeps what was written, parsed where that cannot lose anything that a user must be told about. Two objects
//! with equal records are the same to us: that is how heartbeats and foreign status changes are ignored.

mod map;
mod node;
mod pod;
mod report;
mod service;
mod service_cidr;
mod slice;

use std::net::IpAddr;

use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::ObjectKey;
use super::settings::{conntrack_annotation, drain_annotation, mode_annotation};

pub(super) use map::MapRecord;
pub(super) use node::NodeRecord;
pub(super) use pod::PodRecord;
pub(super) use report::ReportRecord;
pub(super) use service::ServiceRecord;
pub(super) use service_cidr::ServiceCidrRecord;
pub(super) use slice::{AddressType, Condition, EndpointRecord, PodRef, SliceRecord};

/// Names of the annotations that are kept.
#[derive(Debug, Clone)]
pub(super) struct Annotations {
    /// Lists the VIPs.
    pub(super) vips: String,
    /// Names the mode.
    pub(super) mode: String,
    /// Says whether packets stay tracked.
    pub(super) conntrack: String,
    /// Limits draining.
    pub(super) drain: String,
}

impl Annotations {
    pub(super) fn new(annotation: &str) -> Self {
        Self {
            vips: annotation.to_owned(),
            mode: mode_annotation(annotation),
            conntrack: conntrack_annotation(annotation),
            drain: drain_annotation(annotation),
        }
    }
}

/// How an object becomes a record.
pub(super) trait Reduce: Sized {
    /// The object as the API has it.
    type Object: Metadata<Ty = ObjectMeta>;

    /// Keeps what matters.
    fn reduce(object: &Self::Object, annotations: &Annotations) -> Self;

    /// The object's name; `None` when it has none.
    fn key(object: &Self::Object) -> Option<ObjectKey> {
        ObjectKey::of(object.metadata())
    }
}

/// The members that are IP addresses, in their order. The rest ("None", host names) means nothing to us.
fn addresses<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<IpAddr> {
    texts.into_iter().filter_map(|text| text.parse().ok()).collect()
}
