//! The object that a problem is about.
//!
//! What holds for every Service of a node is about the node: one Event tells it, however many Services there are.

use std::fmt;

use super::ServiceRef;

/// A Node object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeRef {
    /// Name of the Node.
    pub name: String,
    /// `metadata.uid`: a Node that is registered anew is another one. `None` while the object is not known.
    pub uid: Option<String>,
}

/// The object that a problem is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// One Service.
    Service(ServiceRef),
    /// A node, whatever its Services.
    Node(NodeRef),
}

impl Subject {
    /// Tells apart objects of one name.
    pub fn identity(&self) -> &str {
        match self {
            Subject::Service(service) => &service.uid,
            Subject::Node(node) => node.uid.as_ref().unwrap_or(&node.name),
        }
    }

    /// Name of the object.
    pub fn name(&self) -> &str {
        match self {
            Subject::Service(service) => &service.name,
            Subject::Node(node) => &node.name,
        }
    }

    /// The Service, if it is one.
    pub fn service(&self) -> Option<&ServiceRef> {
        match self {
            Subject::Service(service) => Some(service),
            Subject::Node(_) => None,
        }
    }
}

impl From<&ServiceRef> for Subject {
    fn from(service: &ServiceRef) -> Self {
        Subject::Service(service.clone())
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Service(service) => service.fmt(f),
            Subject::Node(node) => write!(f, "node {}", node.name),
        }
    }
}
