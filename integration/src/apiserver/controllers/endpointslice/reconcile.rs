//! How the present slices become the desired endpoint sets, with as few writes as the real controller needs: endpoints stay
//! in their slice, gaps are filled, slices that lost their purpose are reused before new ones are made.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::desired::EndpointSet;
use super::{MANAGED_BY, MANAGER, SERVICE_NAME};
use crate::apiserver::object::{self, text};

/// How many endpoints a slice holds.
const CAPACITY: usize = 100;
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";
const HEADLESS: &str = "service.kubernetes.io/headless";

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// A new slice.
    Create(Value),
    /// The next version of a slice.
    Update(Value),
    /// The name of a slice that has to go.
    Delete(String),
}

/// Endpoints that shall be in one slice: an existing one, or any.
struct Wanted<'a> {
    slice: Option<&'a Value>,
    endpoints: Vec<Value>,
}

/// The writes that make `slices` show `sets`. `time` is when the cause of the change happened, if it is known.
pub fn reconcile(service: &Value, sets: &[EndpointSet], slices: &[Arc<Value>], time: Option<&str>) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut families: Vec<&str> = sets.iter().map(|set| set.address_type.as_str()).collect();
    families.dedup();
    for family in &families {
        let of_family: Vec<&Value> =
            slices.iter().map(Arc::as_ref).filter(|slice| text(slice, "/addressType") == *family).collect();
        let sets: Vec<&EndpointSet> = sets.iter().filter(|set| set.address_type == *family).collect();
        steps.extend(reconcile_family(service, &sets, &of_family, time));
    }
    let foreign = slices.iter().filter(|slice| !families.contains(&text(slice, "/addressType")));
    steps.extend(foreign.map(|slice| Step::Delete(object::name(slice).to_owned())));
    steps
}

fn reconcile_family(service: &Value, sets: &[&EndpointSet], slices: &[&Value], time: Option<&str>) -> Vec<Step> {
    let mut spare: Vec<&Value> = slices.to_vec();
    let mut wanted = Vec::new();
    for set in sets {
        let (own, rest) = spare.into_iter().partition(|slice| same_ports(slice, set));
        spare = rest;
        wanted.push((*set, distribute(set, own, &mut spare)));
    }
    let mut steps = Vec::new();
    for (set, parts) in wanted {
        for part in parts {
            let slice = part.slice.or_else(|| (!spare.is_empty()).then(|| spare.remove(0)));
            steps.extend(write(service, set, &part.endpoints, slice, time));
        }
    }
    steps.extend(spare.iter().map(|slice| Step::Delete(object::name(slice).to_owned())));
    steps
}

/// Order does not matter: the real controller prints ports in no particular one.
fn same_ports(slice: &Value, set: &EndpointSet) -> bool {
    let ports = object::list(slice, "/ports");
    ports.len() == set.ports.len() && set.ports.iter().all(|port| ports.contains(port))
}

/// Leaves endpoints where they are, fills gaps and opens new slices for the rest. Slices without endpoints become spare.
fn distribute<'a>(set: &EndpointSet, own: Vec<&'a Value>, spare: &mut Vec<&'a Value>) -> Vec<Wanted<'a>> {
    let mut left = set.endpoints.clone();
    let mut parts: Vec<Wanted<'a>> = Vec::new();
    for slice in own {
        let mut endpoints = Vec::new();
        for present in object::list(slice, "/endpoints") {
            if let Some(at) = left.iter().position(|endpoint| is_same(endpoint, present)) {
                endpoints.push(left.remove(at));
            }
        }
        parts.push(Wanted { slice: Some(slice), endpoints });
    }
    for part in &mut parts {
        let room = CAPACITY.saturating_sub(part.endpoints.len()).min(left.len());
        part.endpoints.extend(left.drain(..room));
    }
    // A set without endpoints is a placeholder and needs exactly one slice.
    let keep_one = set.endpoints.is_empty();
    let (full, empty): (Vec<_>, Vec<_>) = parts.into_iter().partition(|part| !part.endpoints.is_empty());
    spare.extend(empty.iter().filter_map(|part| part.slice));
    let mut parts = full;
    parts.extend(left.chunks(CAPACITY).map(|chunk| Wanted { slice: None, endpoints: chunk.to_vec() }));
    if keep_one {
        parts.push(Wanted { slice: None, endpoints: Vec::new() });
    }
    parts
}

fn is_same(one: &Value, other: &Value) -> bool {
    one["addresses"] == other["addresses"] && one["targetRef"]["uid"] == other["targetRef"]["uid"]
}

fn write(
    service: &Value,
    set: &EndpointSet,
    endpoints: &[Value],
    slice: Option<&Value>,
    time: Option<&str>,
) -> Option<Step> {
    let labels = labels(service);
    let annotations = time.map_or_else(|| json!({}), |time| json!({ TRIGGER: time }));
    let Some(slice) = slice else {
        let prefix = format!("{}-", object::name(service));
        return Some(Step::Create(json!({"addressType": set.address_type, "endpoints": endpoints, "ports": set.ports,
            "metadata": {"generateName": prefix, "labels": labels, "annotations": annotations,
                "ownerReferences": [owner(service)]}})));
    };
    let same = object::list(slice, "/endpoints") == endpoints
        && same_ports(slice, set)
        && object::labels(slice) == object::string_map(&json!({ "labels": &labels }), "/labels");
    if same {
        return None;
    }
    let mut next = slice.clone();
    next["endpoints"] = json!(endpoints);
    next["ports"] = json!(set.ports);
    let metadata = object::metadata(&mut next);
    metadata.insert("labels".into(), json!(labels));
    metadata.insert("annotations".into(), annotations);
    Some(Step::Update(next))
}

fn labels(service: &Value) -> Map<String, Value> {
    let mut labels = service["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.remove(HEADLESS);
    if text(service, "/spec/clusterIP") == "None" {
        labels.insert(HEADLESS.into(), json!(""));
    }
    labels.insert(SERVICE_NAME.into(), json!(object::name(service)));
    labels.insert(MANAGED_BY.into(), json!(MANAGER));
    labels
}

fn owner(service: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "name": object::name(service), "uid": object::uid(service),
        "controller": true, "blockOwnerDeletion": true})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Value {
        json!({"metadata": {"name": "echo", "uid": "u", "labels": {"app": "echo"}}, "spec": {"clusterIP": "10.96.0.10"}})
    }

    fn set(count: usize) -> EndpointSet {
        let endpoints =
            (0..count).map(|n| json!({"addresses": [format!("10.0.0.{n}")], "targetRef": {"uid": n.to_string()}}));
        let ports = if count == 0 { Vec::new() } else { vec![json!({"name": "", "port": 80, "protocol": "TCP"})] };
        EndpointSet { address_type: "IPv4".into(), ports, endpoints: endpoints.collect() }
    }

    /// What the steps leave behind: the sizes of the slices.
    fn apply(slices: &mut Vec<Arc<Value>>, steps: Vec<Step>) -> Vec<usize> {
        for step in steps {
            match step {
                Step::Create(mut slice) => {
                    slice["metadata"]["name"] = json!(format!("s{}", slices.len()));
                    slices.push(Arc::new(slice));
                }
                Step::Update(slice) => {
                    let at = slices.iter().position(|old| object::name(old) == object::name(&slice)).unwrap();
                    slices[at] = Arc::new(slice);
                }
                Step::Delete(name) => slices.retain(|slice| object::name(slice) != name),
            }
        }
        slices.iter().map(|slice| object::list(slice, "/endpoints").len()).collect()
    }

    fn run(slices: &mut Vec<Arc<Value>>, count: usize) -> Vec<usize> {
        let steps = reconcile(&service(), &[set(count)], slices, None);
        let sizes = apply(slices, steps);
        assert_eq!(reconcile(&service(), &[set(count)], slices, None), [], "a second run has nothing to do");
        sizes
    }

    #[test]
    fn the_placeholder_becomes_the_first_slice_and_the_last_slice_a_placeholder() {
        let mut slices = Vec::new();
        assert_eq!(run(&mut slices, 0), [0]);
        assert_eq!(run(&mut slices, 2), [2]);
        assert_eq!(run(&mut slices, 0), [0]);
        assert_eq!(object::name(&slices[0]), "s0");
        assert!(object::list(&slices[0], "/ports").is_empty());
    }

    #[test]
    fn a_slice_holds_a_hundred_endpoints() {
        let mut slices = Vec::new();
        assert_eq!(run(&mut slices, 205), [100, 100, 5]);
        assert_eq!(run(&mut slices, 150), [100, 50]);
        assert_eq!(run(&mut slices, 201), [100, 100, 1]);
    }

    #[test]
    fn a_changed_label_rewrites_the_slice_and_a_changed_annotation_does_not() {
        let mut slices = Vec::new();
        run(&mut slices, 1);
        let mut changed = service();
        changed["metadata"]["annotations"] = json!({"a": "b"});
        assert_eq!(reconcile(&changed, &[set(1)], &slices, None), []);
        changed["metadata"]["labels"]["x"] = json!("y");
        assert_eq!(reconcile(&changed, &[set(1)], &slices, None).len(), 1);
    }

    #[test]
    fn slices_of_a_family_that_the_service_lost_are_deleted() {
        let mut slices = Vec::new();
        run(&mut slices, 1);
        let other = EndpointSet { address_type: "IPv6".into(), ..set(0) };
        let steps = reconcile(&service(), &[other], &slices, None);
        assert!(matches!(&steps[..], [Step::Create(_), Step::Delete(name)] if name == "s0"), "{steps:?}");
    }
}
