//! What `nft -j -n list table` prints, as data in the spelling of the plan.
//!
//! Releases of nft list the same table differently. The forms that are known become the same here. Any other stays as it
//! is: it equals nothing that the plan writes, and `reconcile` reports it instead of writing again for ever.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::plan::nft::{Counter, ObservedChain, ObservedHash, ObservedSet, ObservedTable};

use super::error::KernelError;

/// Characters of an unknown form that are kept.
const LONGEST: usize = 200;

/// Reads `{"nftables": [{"set": {…}}, {"chain": {…}}, {"rule": {…}}, …]}`, as nft has printed it since 0.9.
pub(super) fn decode(root: &Value) -> Result<ObservedTable, KernelError> {
    let Some(objects) = root["nftables"].as_array() else {
        return Err(KernelError::Malformed(format!("nft -j lists no objects: {}", brief(root))));
    };
    let mut table = ObservedTable::default();
    let mut rules: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for object in objects.iter().filter_map(Value::as_object).flatten() {
        let (kind, body) = object;
        let name = body["name"].as_str().unwrap_or_default().to_owned();
        match kind.as_str() {
            "set" | "map" => {
                table.sets.insert(name, decode_set(body));
            }
            "ct timeout" => {
                table.timeouts.insert(name);
            }
            "chain" => {
                table.chains.insert(name, ObservedChain { base: decode_base(body), ..ObservedChain::default() });
            }
            "rule" => {
                rules.entry(body["chain"].as_str().unwrap_or_default().to_owned()).or_default().push(body);
            }
            _ => {}
        }
    }
    for (chain, rules) in rules {
        let chain = table.chains.entry(chain).or_default();
        chain.comments = rules.iter().map(|rule| rule["comment"].as_str().unwrap_or_default().to_owned()).collect();
        chain.hash = rules.iter().find_map(|rule| decode_hash(&rule["expr"]));
        for (why, counted) in rules.iter().filter_map(|rule| rule_counter(rule)) {
            let sum = chain.counters.entry(why).or_default();
            // Whoever restores a ruleset may set counters to any number.
            sum.packets = sum.packets.saturating_add(counted.packets);
            sum.bytes = sum.bytes.saturating_add(counted.bytes);
        }
    }
    Ok(table)
}

/// The first `{"jhash": {"mod": 64, "seed": 7, "offset": 128, "expr": …}}` in an expression.
fn decode_hash(expression: &Value) -> Option<ObservedHash> {
    let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
    match expression {
        Value::Object(object) => match object.get("jhash") {
            Some(hash) => Some(ObservedHash { buckets: number(&hash["mod"])?, seed: number(&hash["seed"]) }),
            None => object.values().find_map(decode_hash),
        },
        Value::Array(all) => all.iter().find_map(decode_hash),
        _ => None,
    }
}

fn decode_base(body: &Value) -> Option<(String, String, i32)> {
    let priority = i32::try_from(body["prio"].as_i64()?).ok()?;
    Some((body["type"].as_str()?.to_owned(), body["hook"].as_str()?.to_owned(), priority))
}

fn decode_set(body: &Value) -> ObservedSet {
    let mut kind = type_name(&body["type"]);
    if let Some(value) = body.get("map") {
        kind = format!("{kind} : {}", type_name(value));
    }
    let elements = body["elem"].as_array().into_iter().flatten();
    ObservedSet {
        kind,
        counted: body["stmt"].as_array().is_some_and(|all| all.iter().any(|s| s.get("counter").is_some())),
        counters: elements.clone().filter_map(decode_counter).collect(),
        elements: elements.map(|e| spelled(e, " : ")).collect(),
    }
}

/// `"ipv4_addr"`, `["ipv4_addr", "mark"]`, or since nft 1.1 `{"typeof": expression}` for a set that was declared so.
fn type_name(value: &Value) -> String {
    let joined = |names: Vec<String>| names.join(" . ");
    match (value, value.get("typeof")) {
        (Value::String(name), _) => name.clone(),
        (Value::Array(parts), _) => joined(parts.iter().map(type_name).collect()),
        (_, Some(expression)) => {
            let parts = expression["concat"].as_array().map_or(std::slice::from_ref(expression), Vec::as_slice);
            let names = parts.iter().map(|part| type_of(part).map(str::to_owned)).collect::<Option<_>>();
            names.map_or_else(|| brief(value), joined)
        }
        _ => brief(value),
    }
}

/// The type of an expression that sets are declared by, see `SetType::declaration`.
fn type_of(expression: &Value) -> Option<&'static str> {
    let payload = &expression["payload"];
    if payload["base"].is_string() {
        return Some("integer");
    }
    match (payload["protocol"].as_str(), payload["field"].as_str(), expression["meta"]["key"].as_str()) {
        (Some("ip"), Some("saddr"), None) => Some("ipv4_addr"),
        (Some("ip6"), Some("saddr"), None) => Some("ipv6_addr"),
        (Some("ether"), Some("saddr"), None) => Some("ether_addr"),
        (None, None, Some("iifname")) => Some("ifname"),
        (None, None, Some("mark")) => Some("mark"),
        _ => None,
    }
}

/// A form that we do not know, as it is; it equals nothing that we write.
fn brief(value: &Value) -> String {
    value.to_string().chars().take(LONGEST).collect()
}

/// `{"elem": {"val": "192.0.2.10", "counter": {"packets": 3, "bytes": 252}}}`
fn decode_counter(element: &Value) -> Option<(String, Counter)> {
    Some((spelled(element, " : "), counter(&element["elem"])?))
}

/// `{"counter": {"packets": 3, "bytes": 252}}`
fn counter(value: &Value) -> Option<Counter> {
    let counter = value.get("counter")?;
    Some(Counter { packets: counter["packets"].as_u64()?, bytes: counter["bytes"].as_u64()? })
}

/// What a rule is for, and what it has counted.
fn rule_counter(rule: &Value) -> Option<(String, Counter)> {
    let counted = rule["expr"].as_array()?.iter().find_map(counter)?;
    let (why, _tag) = rule["comment"].as_str()?.rsplit_once(" #")?;
    Some((why.to_owned(), counted))
}

/// A key, a value or a pair of them, as it is written in a script.
fn spelled(value: &Value, separator: &str) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(|part| spelled(part, separator)).collect::<Vec<_>>().join(separator),
        Value::Object(object) => match object.iter().next() {
            Some((key, inner)) if key == "elem" => spelled(&inner["val"], separator),
            Some((key, inner)) if key == "concat" => spelled(inner, " . "),
            Some((key, inner)) if key == "prefix" => format!("{}/{}", spelled(&inner["addr"], ""), inner["len"]),
            Some((key, inner)) if key == "range" => spelled(inner, "-"),
            Some((key, inner)) if inner.get("target").is_some() => format!("{key} {}", spelled(&inner["target"], "")),
            // A verdict without argument.
            Some((key, Value::Null)) => key.clone(),
            _ => brief(value),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = r#"{"nftables": [
        {"metainfo": {"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": 1}},
        {"table": {"family": "inet", "name": "kube_service_tunnel", "handle": 1}},
        {"set": {"family": "inet", "name": "vips", "table": "t", "type": "ipv4_addr", "handle": 5,
                 "elem": ["192.0.2.10", {"elem": {"val": "192.0.2.11", "counter": {"packets": 3, "bytes": 252}}}, {"prefix": {"addr": "198.51.100.0", "len": 24}}],
                 "stmt": [{"counter": null}]}},
        {"map": {"family": "inet", "name": "saved_rp_filter", "table": "t", "type": "ifname", "map": "mark",
                 "elem": [["lo", 2], ["x.1", 4000]]}},
        {"map": {"family": "inet", "name": "empty", "table": "t", "type": "ifname", "map": "mark"}},
        {"map": {"family": "inet", "name": "drain", "table": "t", "type": ["ipv4_addr", "mark"], "map": "verdict",
                 "elem": [[{"concat": ["192.0.2.10", 5]}, {"jump": {"target": "d"}}], [{"range": [1, 2]}, {"accept": null}]]}},
        {"chain": {"family": "inet", "table": "t", "name": "d", "handle": 1}},
        {"chain": {"family": "inet", "table": "t", "name": "pre", "handle": 2, "type": "filter",
                   "hook": "prerouting", "prio": -300, "policy": "accept"}},
        {"rule": {"family": "inet", "table": "t", "chain": "pre", "handle": 10, "comment": "a #1", "expr": []}},
        {"rule": {"family": "inet", "table": "t", "chain": "pre", "handle": 11, "expr": [
            {"mangle": {"key": {"meta": {"key": "mark"}}, "value": {"jhash": {"mod": 64, "seed": 1802728497, "offset": 128,
             "expr": {"concat": [{"payload": {"protocol": "ip", "field": "saddr"}}, {"payload": {"protocol": "ip", "field": "daddr"}}]}}}}},
            {"return": null}]}}]}"#;

    fn listed(json: &str) -> ObservedTable {
        decode(&serde_json::from_str(json).unwrap()).unwrap()
    }

    fn elements(table: &ObservedTable, set: &str) -> Vec<String> {
        table.sets[set].elements.iter().cloned().collect()
    }

    #[test]
    fn a_listed_table_comes_back_in_the_spelling_of_the_plan() {
        let table = listed(LISTED);
        assert_eq!(table.sets["vips"].kind, "ipv4_addr");
        assert_eq!(elements(&table, "vips"), ["192.0.2.10", "192.0.2.11", "198.51.100.0/24"]);
        let counter = Counter { packets: 3, bytes: 252 };
        assert_eq!(table.sets["vips"].counters, [("192.0.2.11".to_owned(), counter)].into());
        assert!(table.sets["vips"].counted && !table.sets["drain"].counted);
        assert_eq!(table.sets["saved_rp_filter"].kind, "ifname : mark");
        assert_eq!(elements(&table, "saved_rp_filter"), ["lo : 2", "x.1 : 4000"]);
        assert!(elements(&table, "empty").is_empty());
        assert_eq!(table.sets["drain"].kind, "ipv4_addr . mark : verdict");
        assert_eq!(elements(&table, "drain"), ["1-2 : accept", "192.0.2.10 . 5 : jump d"]);
        assert_eq!(table.chains["pre"].base, Some(("filter".into(), "prerouting".into(), -300)));
        assert_eq!(table.chains["pre"].comments, ["a #1", ""]);
        assert_eq!(table.chains["pre"].hash, Some(ObservedHash { buckets: 64, seed: Some(0x6b73_7431) }));
        assert_eq!(table.chains["d"], ObservedChain::default());
    }

    #[test]
    fn releases_that_list_a_table_differently_say_the_same() {
        let tables = [
            include_str!("../../tests/fixtures/nft/1.0.6.json"),
            include_str!("../../tests/fixtures/nft/1.1.3.json"),
            include_str!("../../tests/fixtures/nft/1.1.7.json"),
        ];
        let [old, stable, unstable] = tables.map(listed);
        assert_eq!(old.sets["error_source6"].kind, "integer : ipv6_addr");
        assert_eq!(old.sets["vips"].counters["192.0.2.10"], Counter { packets: 2, bytes: 168 });
        assert_eq!(old, stable);
        assert_eq!(old, unstable);
    }

    #[test]
    fn a_set_declared_by_an_expression_has_the_type_of_the_expression() {
        let of = |kind: &str| type_name(&serde_json::from_str(kind).unwrap());
        assert_eq!(of(r#"{"typeof": {"payload": {"base": "th", "offset": 192, "len": 32}}}"#), "integer");
        assert_eq!(of(r#"{"typeof": {"payload": {"protocol": "ip6", "field": "saddr"}}}"#), "ipv6_addr");
        let concatenation =
            r#"{"typeof": {"concat": [{"payload": {"protocol": "ip", "field": "saddr"}}, {"meta": {"key": "mark"}}]}}"#;
        assert_eq!(of(concatenation), "ipv4_addr . mark");
    }

    #[test]
    fn an_unknown_form_stays_as_it_is_and_equals_nothing_that_is_written() {
        let table = listed(
            r#"{"nftables": [{"map": {"name": "m", "type": {"typeof": {"osf": {}}}, "map": {"data": 1},
                "elem": [[{"bits": 3}, "x"]]}}]}"#,
        );
        assert_eq!(table.sets["m"].kind, r#"{"typeof":{"osf":{}}} : {"data":1}"#);
        assert_eq!(elements(&table, "m"), [r#"{"bits":3} : x"#]);
    }

    #[test]
    fn a_listing_without_objects_is_an_error() {
        assert!(matches!(decode(&serde_json::json!({ "ruleset": [] })), Err(KernelError::Malformed(_))));
    }
}
