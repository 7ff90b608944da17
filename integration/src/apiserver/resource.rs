//! The table of resources that the double serves: everything that differs between kinds and is not code.
//!
//! A row says what discovery prints, which selectors exist, and how writes behave. A new kind is a new row, a type for
//! [`super::shape`] and, where it has defaults or validation of its own, an arm in [`super::admission`].

use serde_json::Value;

use super::shape;

/// Which change raises `metadata.generation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// The kind has no generation.
    None,
    /// A change of `spec`.
    Spec,
    /// A change of anything outside metadata, or of the labels (EndpointSlice).
    Content,
}

/// Which names the kind accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 label.
    Label,
    /// RFC 1123 subdomain.
    Subdomain,
}

/// One row: a resource in one group and version.
#[derive(Debug)]
pub struct Resource {
    /// API group, empty for core.
    pub group: &'static str,
    /// API version, always `v1` so far.
    pub version: &'static str,
    /// Name in paths.
    pub plural: &'static str,
    /// Name for one of them.
    pub singular: &'static str,
    /// Kind of the object.
    pub kind: &'static str,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Short names of kubectl.
    pub short: &'static [&'static str],
    /// Whether `kubectl get all` shows it.
    pub in_all: bool,
    /// Whether there is a status subresource.
    pub status: bool,
    /// When the generation rises.
    pub generation: Generation,
    /// Which names are accepted.
    pub names: NameRule,
    /// Field selectors besides metadata.name and metadata.namespace.
    pub fields: &'static [&'static str],
    /// DELETE answers with the object instead of a Status.
    pub returns_deleted: bool,
    /// PUT without resourceVersion is accepted.
    pub unconditional_update: bool,
    /// PUT creates what does not exist.
    pub create_on_update: bool,
    /// Whether `deletecollection` is a verb.
    pub delete_collection: bool,
    /// Under which name objects are stored: both kinds of Event are the same objects.
    pub storage: &'static str,
    /// Hash in discovery, as the real server prints it; empty where none was recorded.
    pub storage_hash: &'static str,
    /// Reads and prints the object as the typed struct would.
    pub round_trip: fn(Value) -> Result<Value, serde_json::Error>,
}

impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        (self.group, self.version, self.plural) == (other.group, other.version, other.plural)
    }
}

impl Resource {
    /// `apiVersion` of the kind.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The verbs in discovery.
    pub fn verbs(&self) -> Vec<&'static str> {
        let mut verbs = vec!["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
        if !self.delete_collection {
            verbs.retain(|verb| *verb != "deletecollection");
        }
        verbs
    }

    /// Whether a field selector on this label is supported.
    pub fn selects(&self, field: &str) -> bool {
        field == "metadata.name" || (field == "metadata.namespace" && self.namespaced) || self.fields.contains(&field)
    }
}

/// What most rows have in common.
const BASE: Resource = Resource {
    group: "",
    version: "v1",
    plural: "",
    singular: "",
    kind: "",
    namespaced: true,
    short: &[],
    in_all: false,
    status: false,
    generation: Generation::None,
    names: NameRule::Subdomain,
    fields: &[],
    returns_deleted: false,
    unconditional_update: true,
    create_on_update: false,
    delete_collection: true,
    storage: "",
    storage_hash: "",
    round_trip: Ok,
};

const POD_FIELDS: &[&str] = &[
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.podIPs",
    "status.nominatedNodeName",
];

const CORE_EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

const EVENT_FIELDS: &[&str] = &[
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "regarding.apiVersion",
    "regarding.resourceVersion",
    "regarding.fieldPath",
    "reason",
    "reportingController",
    "type",
];

/// Every resource that is served, in the order of discovery.
pub static RESOURCES: &[Resource] = &[
    Resource {
        plural: "configmaps",
        singular: "configmap",
        kind: "ConfigMap",
        short: &["cm"],
        storage: "configmaps",
        storage_hash: "qFsyl6wFWjQ=",
        round_trip: shape::typed::<k8s_openapi::api::core::v1::ConfigMap>,
        ..BASE
    },
    Resource {
        plural: "events",
        singular: "event",
        kind: "Event",
        short: &["ev"],
        fields: CORE_EVENT_FIELDS,
        create_on_update: true,
        storage: "events",
        storage_hash: "r2yiGXH7wu8=",
        round_trip: shape::typed::<k8s_openapi::api::core::v1::Event>,
        ..BASE
    },
    Resource {
        plural: "namespaces",
        singular: "namespace",
        kind: "Namespace",
        namespaced: false,
        short: &["ns"],
        status: true,
        names: NameRule::Label,
        fields: &["status.phase"],
        returns_deleted: true,
        delete_collection: false,
        storage: "namespaces",
        storage_hash: "Q3oi5N2YM8M=",
        round_trip: shape::typed::<k8s_openapi::api::core::v1::Namespace>,
        ..BASE
    },
    Resource {
        plural: "nodes",
        singular: "node",
        kind: "Node",
        namespaced: false,
        short: &["no"],
        status: true,
        fields: &["spec.unschedulable"],
        storage: "nodes",
        storage_hash: "XwShjMxG9Fs=",
        round_trip: shape::typed::<k8s_openapi::api::core::v1::Node>,
        ..BASE
    },
    Resource {
        plural: "pods",
        singular: "pod",
        kind: "Pod",
        short: &["po"],
        in_all: true,
        status: true,
        generation: Generation::Spec,
        fields: POD_FIELDS,
        returns_deleted: true,
        storage: "pods",
        storage_hash: "xPOwRZ+Yhw8=",
        round_trip: shape::typed::<k8s_openapi::api::core::v1::Pod>,
        ..BASE
    },
    Resource {
        plural: "secrets",
        singular: "secret",
        kind: "Secret",
        fields: &["type"],
        storage: "secrets",
        storage_hash: "S6u1pOWzb84=",
        round_trip: shape::typed::<k8s_openapi::api::core::v1::Secret>,
        ..BASE
    },
    Resource {
        plural: "serviceaccounts",
        singular: "serviceaccount",
        kind: "ServiceAccount",
        short: &["sa"],
        returns_deleted: true,
        storage: "serviceaccounts",
        storage_hash: "pbx9ZvyFpBE=",
        round_trip: shape::typed::<k8s_openapi::api::core::v1::ServiceAccount>,
        ..BASE
    },
    Resource {
        plural: "services",
        singular: "service",
        kind: "Service",
        short: &["svc"],
        in_all: true,
        status: true,
        names: NameRule::Label,
        fields: &["spec.clusterIP", "spec.type"],
        returns_deleted: true,
        storage: "services",
        storage_hash: "0/CO1lhkEBI=",
        round_trip: shape::typed::<k8s_openapi::api::core::v1::Service>,
        ..BASE
    },
    Resource {
        group: "admissionregistration.k8s.io",
        plural: "validatingadmissionpolicies",
        singular: "validatingadmissionpolicy",
        kind: "ValidatingAdmissionPolicy",
        namespaced: false,
        status: true,
        generation: Generation::Spec,
        storage: "validatingadmissionpolicies",
        round_trip: shape::typed::<k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy>,
        ..BASE
    },
    Resource {
        group: "admissionregistration.k8s.io",
        plural: "validatingadmissionpolicybindings",
        singular: "validatingadmissionpolicybinding",
        kind: "ValidatingAdmissionPolicyBinding",
        namespaced: false,
        generation: Generation::Spec,
        storage: "validatingadmissionpolicybindings",
        round_trip: shape::typed::<k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding>,
        ..BASE
    },
    Resource {
        group: "apps",
        plural: "daemonsets",
        singular: "daemonset",
        kind: "DaemonSet",
        short: &["ds"],
        in_all: true,
        status: true,
        generation: Generation::Spec,
        storage: "daemonsets",
        round_trip: shape::typed::<k8s_openapi::api::apps::v1::DaemonSet>,
        ..BASE
    },
    Resource {
        group: "apps",
        plural: "deployments",
        singular: "deployment",
        kind: "Deployment",
        short: &["deploy"],
        in_all: true,
        status: true,
        generation: Generation::Spec,
        storage: "deployments",
        round_trip: shape::typed::<k8s_openapi::api::apps::v1::Deployment>,
        ..BASE
    },
    Resource {
        group: "coordination.k8s.io",
        plural: "leases",
        singular: "lease",
        kind: "Lease",
        unconditional_update: false,
        create_on_update: true,
        storage: "leases",
        storage_hash: "gqkMMb/YqFM=",
        round_trip: shape::typed::<k8s_openapi::api::coordination::v1::Lease>,
        ..BASE
    },
    Resource {
        group: "discovery.k8s.io",
        plural: "endpointslices",
        singular: "endpointslice",
        kind: "EndpointSlice",
        generation: Generation::Content,
        storage: "endpointslices",
        storage_hash: "qgS0xkrxYAI=",
        round_trip: shape::typed::<k8s_openapi::api::discovery::v1::EndpointSlice>,
        ..BASE
    },
    Resource {
        group: "events.k8s.io",
        plural: "events",
        singular: "event",
        kind: "Event",
        short: &["ev"],
        fields: EVENT_FIELDS,
        create_on_update: true,
        storage: "events",
        storage_hash: "r2yiGXH7wu8=",
        round_trip: shape::typed::<k8s_openapi::api::events::v1::Event>,
        ..BASE
    },
    Resource {
        group: "networking.k8s.io",
        plural: "networkpolicies",
        singular: "networkpolicy",
        kind: "NetworkPolicy",
        short: &["netpol"],
        generation: Generation::Spec,
        storage: "networkpolicies",
        storage_hash: "YpfwF18m1G8=",
        round_trip: shape::typed::<k8s_openapi::api::networking::v1::NetworkPolicy>,
        ..BASE
    },
    Resource {
        group: "networking.k8s.io",
        plural: "servicecidrs",
        singular: "servicecidr",
        kind: "ServiceCIDR",
        namespaced: false,
        status: true,
        storage: "servicecidrs",
        storage_hash: "8ufAXOnr3Yg=",
        round_trip: shape::typed::<k8s_openapi::api::networking::v1::ServiceCIDR>,
        ..BASE
    },
    Resource {
        group: "policy",
        plural: "poddisruptionbudgets",
        singular: "poddisruptionbudget",
        kind: "PodDisruptionBudget",
        short: &["pdb"],
        status: true,
        generation: Generation::Spec,
        storage: "poddisruptionbudgets",
        round_trip: shape::typed::<k8s_openapi::api::policy::v1::PodDisruptionBudget>,
        ..BASE
    },
    Resource {
        group: "rbac.authorization.k8s.io",
        plural: "clusterrolebindings",
        singular: "clusterrolebinding",
        kind: "ClusterRoleBinding",
        namespaced: false,
        storage: "clusterrolebindings",
        round_trip: shape::typed::<k8s_openapi::api::rbac::v1::ClusterRoleBinding>,
        ..BASE
    },
    Resource {
        group: "rbac.authorization.k8s.io",
        plural: "clusterroles",
        singular: "clusterrole",
        kind: "ClusterRole",
        namespaced: false,
        storage: "clusterroles",
        round_trip: shape::typed::<k8s_openapi::api::rbac::v1::ClusterRole>,
        ..BASE
    },
    Resource {
        group: "rbac.authorization.k8s.io",
        plural: "rolebindings",
        singular: "rolebinding",
        kind: "RoleBinding",
        storage: "rolebindings",
        round_trip: shape::typed::<k8s_openapi::api::rbac::v1::RoleBinding>,
        ..BASE
    },
    Resource {
        group: "rbac.authorization.k8s.io",
        plural: "roles",
        singular: "role",
        kind: "Role",
        storage: "roles",
        round_trip: shape::typed::<k8s_openapi::api::rbac::v1::Role>,
        ..BASE
    },
];

/// The resource of a path.
pub fn by_path(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|row| (row.group, row.version, row.plural) == (group, version, plural))
}

/// The resource of an object, by its `apiVersion` and `kind`.
pub fn by_kind(api_version: &str, kind: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|row| row.kind == kind && row.api_version() == api_version)
}

/// The resource with this plural; for `events` the one of core/v1.
pub fn by_plural(plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|row| row.plural == plural)
}
