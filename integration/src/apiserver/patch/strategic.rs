//! Strategic merge: like a merge patch, but some lists are maps in disguise and are merged by a key.
//!
//! Which lists those are stands in struct tags of the real API; [`merge_key`] has the ones of the kinds served here. A list
//! it does not know is replaced whole. Directives: `$patch: delete|replace`, `$deleteFromPrimitiveList/<field>` and
//! `$setElementOrder/<field>` (the others are ignored).

use serde_json::{Map, Value};

const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// How a list is merged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ListRule {
    Keyed(&'static str),
    /// A set of plain values.
    Set,
    Replace,
}

/// `parent` is the name of the field that holds the object with this list.
fn merge_key(parent: &str, field: &str) -> ListRule {
    match (parent, field) {
        ("metadata", "finalizers") | ("spec", "podCIDRs") => ListRule::Set,
        ("metadata", "ownerReferences") => ListRule::Keyed("uid"),
        ("spec", "ports") => ListRule::Keyed("port"),
        ("containers" | "initContainers", "ports") => ListRule::Keyed("containerPort"),
        (_, "containers" | "initContainers" | "volumes" | "env" | "imagePullSecrets") => ListRule::Keyed("name"),
        (_, "volumeMounts") => ListRule::Keyed("mountPath"),
        ("status", "conditions" | "addresses") => ListRule::Keyed("type"),
        ("status", "podIPs" | "hostIPs") => ListRule::Keyed("ip"),
        _ => ListRule::Replace,
    }
}

/// Merges `patch` into `object`, which is the value of field `parent` (empty at the root).
pub fn merge(object: &mut Value, patch: &Value, parent: &str) {
    let Value::Object(patch) = patch else {
        *object = patch.clone();
        return;
    };
    if patch.get("$patch").is_some_and(|directive| directive == "replace") || !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let Value::Object(map) = object else { return };
    for (field, value) in patch {
        if let Some(list) = field.strip_prefix(DELETE_FROM) {
            delete_values(map.get_mut(list), value);
        } else if field.starts_with('$') {
        } else if value.is_null() || value.get("$patch").is_some_and(|directive| directive == "delete") {
            map.remove(field);
        } else {
            merge_field(map, parent, field, value, patch.get(&format!("{SET_ORDER}{field}")));
        }
    }
}

fn merge_field(map: &mut Map<String, Value>, parent: &str, field: &str, value: &Value, order: Option<&Value>) {
    let slot = map.entry(field).or_insert(Value::Null);
    match (value, merge_key(parent, field)) {
        (Value::Object(_), _) => merge(slot, value, field),
        (Value::Array(items), ListRule::Keyed(key)) => *slot = merge_keyed(slot, items, key, field, order),
        (Value::Array(items), ListRule::Set) => {
            let mut all = slot.as_array().cloned().unwrap_or_default();
            all.extend(items.iter().filter(|item| !all.contains(item)).cloned().collect::<Vec<_>>());
            *slot = Value::Array(all);
        }
        _ => *slot = value.clone(),
    }
}

fn delete_values(list: Option<&mut Value>, gone: &Value) {
    if let (Some(Value::Array(list)), Value::Array(gone)) = (list, gone) {
        list.retain(|value| !gone.contains(value));
    }
}

fn merge_keyed(live: &Value, patch: &[Value], key: &str, field: &str, order: Option<&Value>) -> Value {
    let live = live.as_array().cloned().unwrap_or_default();
    let directive = |item: &Value| item.get("$patch").and_then(Value::as_str).unwrap_or_default().to_owned();
    if patch.iter().any(|item| directive(item) == "replace") {
        return patch.iter().filter(|item| directive(item).is_empty()).cloned().collect();
    }
    let mut patched = Vec::new();
    for item in patch.iter().filter(|item| directive(item) != "delete") {
        let mut merged = live.iter().find(|one| one[key] == item[key]).cloned().unwrap_or(Value::Null);
        merge(&mut merged, item, field);
        patched.push(merged);
    }
    let untouched: Vec<Value> =
        live.iter().filter(|one| !patch.iter().any(|item| item[key] == one[key])).cloned().collect();
    let mut all = interleave(untouched, patched, &live, key);
    if let Some(Value::Array(order)) = order {
        let wanted = |item: &Value| order.iter().position(|one| one[key] == item[key]).unwrap_or(usize::MAX);
        all.sort_by_key(wanted);
    }
    Value::Array(all)
}

/// Puts the untouched items among the patched ones: before the first patched item that stands behind them in the live
/// list. Items that are new come as early as possible, which is why a new condition ends up first.
fn interleave(untouched: Vec<Value>, patched: Vec<Value>, live: &[Value], key: &str) -> Vec<Value> {
    let position = |item: &Value| live.iter().position(|one| one[key] == item[key]);
    let mut untouched = untouched.into_iter().peekable();
    let mut all = Vec::new();
    for item in patched {
        if let Some(at) = position(&item) {
            while let Some(earlier) = untouched.next_if(|one| position(one) < Some(at)) {
                all.push(earlier);
            }
        }
        all.push(item);
    }
    all.extend(untouched);
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(object: Value, patch: Value) -> Value {
        let mut object = object;
        merge(&mut object, &patch, "");
        object
    }

    #[test]
    fn conditions_merge_by_type_and_a_new_one_comes_first() {
        let live =
            json!({"status": {"conditions": [{"type": "A", "status": "False"}, {"type": "B", "status": "False"}]}});
        let patch =
            json!({"status": {"conditions": [{"type": "C", "status": "True"}, {"type": "B", "status": "True"}]}});
        let conditions = &patched(live, patch)["status"]["conditions"];
        let seen: Vec<_> =
            conditions.as_array().unwrap().iter().map(|c| (c["type"].clone(), c["status"].clone())).collect();
        assert_eq!(json!(seen), json!([["C", "True"], ["A", "False"], ["B", "True"]]));
    }

    #[test]
    fn items_are_deleted_by_directive() {
        let live = json!({"spec": {"ports": [{"port": 1, "name": "a"}, {"port": 2}]}});
        let patch = json!({"spec": {"ports": [{"$patch": "delete", "port": 2}, {"port": 1, "protocol": "UDP"}]}});
        let expected = json!([{"port": 1, "name": "a", "protocol": "UDP"}]);
        assert_eq!(patched(live, patch)["spec"]["ports"], expected);
    }

    #[test]
    fn the_order_that_apply_sends_is_kept() {
        let live = json!({"spec": {"ports": [{"port": 1}, {"port": 2}]}});
        let patch = json!({"spec": {"$setElementOrder/ports": [{"port": 2}, {"port": 3}, {"port": 1}], "ports": [{"port": 3}]}});
        assert_eq!(patched(live, patch)["spec"], json!({"ports": [{"port": 2}, {"port": 3}, {"port": 1}]}));
    }

    #[test]
    fn sets_of_values_grow_and_shrink() {
        let live = json!({"metadata": {"finalizers": ["a", "b"]}});
        let patch = json!({"metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"]}});
        assert_eq!(patched(live, patch)["metadata"]["finalizers"], json!(["b", "c"]));
    }

    #[test]
    fn maps_and_lists_can_be_replaced() {
        let live = json!({"spec": {"selector": {"a": "1"}, "ports": [{"port": 1}]}});
        let patch = json!({"spec": {"selector": {"$patch": "replace", "b": "2"}, "ports": [{"$patch": "replace"}, {"port": 9}]}});
        assert_eq!(patched(live, patch)["spec"], json!({"selector": {"b": "2"}, "ports": [{"port": 9}]}));
    }

    #[test]
    fn unknown_lists_are_replaced_whole() {
        let live = json!({"spec": {"taints": [{"key": "a"}]}});
        assert_eq!(patched(live, json!({"spec": {"taints": [{"key": "b"}]}}))["spec"]["taints"], json!([{"key": "b"}]));
    }
}
