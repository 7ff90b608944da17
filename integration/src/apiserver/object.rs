//! Reading and writing the parts that every Kubernetes object has, on untyped JSON.
//!
//! The double keeps objects as `serde_json::Value`, because it must hold what clients send and not what one client library
//! models. These helpers are the only place that knows where metadata lies, so that nothing else indexes into `Value` by
//! hand for it. They never fail: an absent field reads as empty.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};

use serde_json::{Map, Value, json};

/// The string at a JSON pointer, or `""`.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The list at a JSON pointer, or an empty one.
pub fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// `metadata.name`.
pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

/// `metadata.namespace`, empty for cluster-scoped objects.
pub fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

/// `metadata.uid`.
pub fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

/// `metadata.resourceVersion`; 0 when absent.
pub fn revision(object: &Value) -> u64 {
    text(object, "/metadata/resourceVersion").parse().unwrap_or_default()
}

/// Whether `metadata.deletionTimestamp` is set.
pub fn is_terminating(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some_and(|at| !at.is_null())
}

/// A string map such as labels or a selector.
pub fn string_map(object: &Value, pointer: &str) -> BTreeMap<String, String> {
    let Some(Value::Object(map)) = object.pointer(pointer) else { return BTreeMap::new() };
    map.iter().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// `metadata.labels`.
pub fn labels(object: &Value) -> BTreeMap<String, String> {
    string_map(object, "/metadata/labels")
}

/// The object under `field`, created when absent or of another type.
pub fn child<'a>(object: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    if !object.is_object() {
        *object = json!({});
    }
    let slot = &mut object[field];
    if !slot.is_object() {
        *slot = json!({});
    }
    as_map(slot)
}

/// `metadata`, created when absent.
pub fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    child(object, "metadata")
}

/// Sets a field unless it has a value already.
pub fn set_default(map: &mut Map<String, Value>, field: &str, value: Value) {
    if map.get(field).is_none_or(Value::is_null) {
        map.insert(field.to_owned(), value);
    }
}

/// Writes the version into the object.
pub fn set_revision(object: &mut Value, revision: u64) {
    metadata(object).insert("resourceVersion".into(), json!(revision.to_string()));
}

/// Adds what `defaults` has and `object` lacks, at every level of nested objects (not inside lists).
pub fn fill(object: &mut Value, defaults: &Value) {
    let (Value::Object(object), Value::Object(defaults)) = (object, defaults) else { return };
    for (field, default) in defaults {
        match object.get_mut(field) {
            Some(present) if !present.is_null() => fill(present, default),
            _ => {
                object.insert(field.clone(), default.clone());
            }
        }
    }
}

/// The present as Kubernetes prints it (RFC 3339, whole seconds).
pub fn now() -> String {
    after_seconds(0)
}

/// The time `seconds` from now, as Kubernetes prints it.
pub fn after_seconds(seconds: i64) -> String {
    let at = jiff::Timestamp::now().saturating_add(jiff::SignedDuration::from_secs(seconds));
    at.map_or_else(|_| String::new(), |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// A fresh UID in the form of a random (version 4) UUID.
pub fn new_uid() -> String {
    let (high, low) = (random(), random());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        0x8000 | ((low >> 48) & 0x3fff),
        low & 0xffff_ffff_ffff
    )
}

/// Five characters as Kubernetes appends to a `generateName`: no vowels, so that no words arise.
pub fn new_suffix() -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut bits = random();
    let mut pick = || {
        let index = usize::try_from(bits % 27).unwrap_or_default();
        bits /= 27;
        char::from(ALPHABET[index])
    };
    (0..5).map(|_| pick()).collect()
}

/// 64 random bits. `RandomState` is seeded by the operating system and steps its key at every call, which is enough for
/// names that merely must not collide.
fn random() -> u64 {
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => unreachable!("made an object just before: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fill_adds_what_is_missing_and_keeps_what_is_there() {
        let mut object = json!({"spec": {"type": "NodePort", "ports": null}});
        fill(&mut object, &json!({"spec": {"type": "ClusterIP", "ports": [], "x": 1}, "status": {}}));
        assert_eq!(object, json!({"spec": {"type": "NodePort", "ports": [], "x": 1}, "status": {}}));
    }

    #[test]
    fn uids_look_like_uuids_and_differ() {
        let (one, two) = (new_uid(), new_uid());
        assert_eq!(one.len(), 36);
        assert_eq!(one.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert_ne!(one, two);
        assert_eq!(new_suffix().len(), 5);
    }
}
