//! One Event, two APIs: core/v1 and events.k8s.io/v1 show the same stored object under different field names.
//!
//! The stored form is that of core/v1. Everything here is renaming; nothing is checked.

use serde_json::Value;

/// core/v1 name, events.k8s.io/v1 name.
const NAMES: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// From events.k8s.io/v1 to the stored form.
pub fn to_storage(object: Value) -> Value {
    rename(object, "v1", |(core, events)| (events, core))
}

/// From the stored form to events.k8s.io/v1.
pub fn from_storage(object: Value) -> Value {
    rename(object, "events.k8s.io/v1", |names| names)
}

type Pair = (&'static str, &'static str);

fn rename(mut object: Value, api_version: &str, direction: fn(Pair) -> Pair) -> Value {
    if let Value::Object(map) = &mut object {
        for names in NAMES {
            let (from, to) = direction(*names);
            if let Some(value) = map.remove(from) {
                map.insert(to.to_owned(), value);
            }
        }
        map.insert("apiVersion".into(), api_version.into());
    }
    object
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_two_forms_are_renamings_of_each_other() {
        let stored =
            json!({"apiVersion": "v1", "involvedObject": {"name": "a"}, "message": "m", "count": 2, "reason": "R"});
        let shown = from_storage(stored.clone());
        let expected = json!({"apiVersion": "events.k8s.io/v1", "regarding": {"name": "a"}, "note": "m",
            "deprecatedCount": 2, "reason": "R"});
        assert_eq!(shown, expected);
        assert_eq!(to_storage(shown), stored);
    }
}
