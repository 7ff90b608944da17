//! One file per kind of object, and the builders that they share.

mod annotation;
mod fuzz;
mod held;
mod history;
mod index;
mod maps;
mod nodes;
mod one_by_one;
mod order;
mod pods;
mod problems;
mod recorded;
mod reports;
mod scale;
mod selector;
mod services;
mod slices;
mod vips;

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    Node, NodeAddress, NodeSpec, NodeStatus, ObjectReference, Pod, PodIP, PodSpec, PodStatus, Service, ServiceSpec,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use k8s_openapi::api::networking::v1::{ServiceCIDR, ServiceCIDRSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::*;
use crate::model::{MAX_NOTE, Mode, Problem, Reason};

const ANNOTATION: &str = "cmd.nu/tunnel";

/// Settings with which nothing is refused that need not be.
fn settings() -> Settings {
    Settings {
        annotation: ANNOTATION.to_owned(),
        default_mode: Mode::Gre,
        ingress_nodes: None,
        vip_ranges: Vec::new(),
        node_name: "worker-a".to_owned(),
        buckets: 64,
    }
}

fn meta(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some("shop".to_owned()),
        uid: Some(format!("uid-{name}")),
        ..ObjectMeta::default()
    }
}

/// A Service of namespace `shop` with this VIP annotation, as old as all others.
fn mk_service(name: &str, vips: &str) -> Service {
    let mut service = Service { metadata: meta(name), spec: Some(ServiceSpec::default()), ..Service::default() };
    service.metadata.creation_timestamp = Some(Time("2026-01-01T00:00:00Z".parse().unwrap()));
    annotated(service, ANNOTATION, vips)
}

fn annotated(mut service: Service, annotation: &str, value: &str) -> Service {
    service.metadata.annotations.get_or_insert_default().insert(annotation.to_owned(), value.to_owned());
    service
}

fn with_spec(mut service: Service, change: impl FnOnce(&mut ServiceSpec)) -> Service {
    change(service.spec.get_or_insert_default());
    service
}

/// An IPv4 slice of a Service.
fn mk_slice(name: &str, service: &str, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let mut metadata = meta(name);
    metadata.labels = Some([("kubernetes.io/service-name".to_owned(), service.to_owned())].into());
    metadata.generation = Some(1);
    EndpointSlice { metadata, address_type: "IPv4".to_owned(), endpoints: Some(endpoints), ports: None }
}

/// A ready endpoint on `worker-b`; its UID is `uid-<pod>`.
fn mk_endpoint(pod: &str, address: &str) -> Endpoint {
    Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(conditions(true, true, false)),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some("shop".to_owned()),
            name: Some(pod.to_owned()),
            uid: Some(format!("uid-{pod}")),
            ..ObjectReference::default()
        }),
        node_name: Some("worker-b".to_owned()),
        ..Endpoint::default()
    }
}

fn conditions(ready: bool, serving: bool, terminating: bool) -> EndpointConditions {
    EndpointConditions { ready: Some(ready), serving: Some(serving), terminating: Some(terminating) }
}

fn with_conditions(endpoint: Endpoint, ready: bool, serving: bool, terminating: bool) -> Endpoint {
    Endpoint { conditions: Some(conditions(ready, serving, terminating)), ..endpoint }
}

/// A node with one InternalIP and one pod range.
fn mk_node(name: &str, address: &str, pod_cidr: &str) -> Node {
    let mut metadata = meta(name);
    metadata.namespace = None;
    metadata.labels = Some([("kubernetes.io/hostname".to_owned(), name.to_owned())].into());
    Node {
        metadata,
        spec: Some(NodeSpec {
            pod_cidr: Some(pod_cidr.to_owned()),
            pod_cidrs: Some(vec![pod_cidr.to_owned()]),
            ..NodeSpec::default()
        }),
        status: Some(NodeStatus {
            addresses: Some(vec![node_address("InternalIP", address)]),
            ..NodeStatus::default()
        }),
    }
}

fn node_address(type_: &str, address: &str) -> NodeAddress {
    NodeAddress { type_: type_.to_owned(), address: address.to_owned() }
}

/// A running pod of namespace `shop` on the own node.
fn mk_pod(name: &str, address: &str) -> Pod {
    Pod {
        metadata: meta(name),
        spec: Some(PodSpec { node_name: Some("worker-a".to_owned()), ..PodSpec::default() }),
        status: Some(PodStatus {
            phase: Some("Running".to_owned()),
            pod_ip: Some(address.to_owned()),
            pod_ips: Some(vec![PodIP { ip: address.to_owned() }]),
            ..PodStatus::default()
        }),
    }
}

/// A cluster in which every kind was listed.
struct World(Index);

impl World {
    fn new() -> Self {
        let mut index = Index::new(ANNOTATION);
        for change in Self::empty() {
            index.apply(change);
        }
        Self(index)
    }

    /// The empty first lists.
    fn empty() -> Vec<Change> {
        vec![
            Change::Service(Watched::Init),
            Change::Service(Watched::InitDone),
            Change::EndpointSlice(Watched::Init),
            Change::EndpointSlice(Watched::InitDone),
            Change::ServiceCidr(Watched::Absent),
            Change::Node(Watched::Init),
            Change::Node(Watched::InitDone),
            Change::Pod(Watched::Init),
            Change::Pod(Watched::InitDone),
            Change::Map(Watched::Init),
            Change::Map(Watched::InitDone),
        ]
    }

    /// Takes a change, and resolves what it concerns.
    fn change(mut self, change: Change) -> Self {
        self.0.apply(change);
        self.0.resolve(&settings());
        self
    }

    fn service(self, service: Service) -> Self {
        self.change(Change::Service(Watched::Apply(Box::new(service))))
    }

    fn slice(self, slice: EndpointSlice) -> Self {
        self.change(Change::EndpointSlice(Watched::Apply(Box::new(slice))))
    }

    fn service_cidr(self, name: &str, cidrs: &[&str]) -> Self {
        let mut metadata = meta(name);
        metadata.namespace = None;
        let spec = Some(ServiceCIDRSpec { cidrs: Some(cidrs.iter().map(|cidr| (*cidr).to_owned()).collect()) });
        let object = ServiceCIDR { metadata, spec, status: None };
        self.change(Change::ServiceCidr(Watched::Apply(Box::new(object))))
    }

    fn node(self, node: Node) -> Self {
        self.change(Change::Node(Watched::Apply(Box::new(node))))
    }

    fn pod(self, pod: Pod) -> Self {
        self.change(Change::Pod(Watched::Apply(Box::new(pod))))
    }

    fn resolve(&self) -> Resolved {
        self.resolve_with(&settings())
    }

    fn resolve_with(&self, settings: &Settings) -> Resolved {
        let resolved = self.0.clone().resolve(settings).unwrap();
        assert_eq!(resolved, whole(&self.0, settings), "resolved Service by Service, and at once");
        resolved
    }
}

/// Everything resolved at once, by links that are made anew.
fn whole(index: &Index, settings: &Settings) -> Resolved {
    index.anew().resolve(settings).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The VIPs that are served.
fn vips(resolved: &Resolved) -> Vec<String> {
    resolved.cluster.vips.keys().map(ToString::to_string).collect()
}

/// Every problem as "reason note".
fn problems(resolved: &Resolved) -> Vec<String> {
    resolved.cluster.problems.iter().map(|p| format!("{} {}", p.reason.as_str(), p.note)).collect()
}

/// The only problem.
fn problem(resolved: &Resolved) -> &Problem {
    let [problem] = &resolved.cluster.problems[..] else { panic!("not one problem: {:#?}", resolved.cluster.problems) };
    problem
}

/// Asserts that there is one problem, for this reason, whose note contains all of these.
fn assert_problem(resolved: &Resolved, reason: Reason, parts: &[&str]) {
    let problem = problem(resolved);
    assert_eq!(problem.reason, reason, "{}", problem.note);
    for part in parts {
        assert!(problem.note.contains(part), "{part:?} is missing in {:?}", problem.note);
    }
}
