//! The `nft` program: one transaction as text on its standard input, one table as JSON.
//!
//! Text, because no library can express all that we need (verdict maps, `socket wildcard`), and because what is run can
//! be printed and pasted. The child inherits the namespace of the thread that spawns it.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::plan::nft::{Counter, ObservedChain, ObservedHash, ObservedSet, ObservedTable, TableFamily};
use crate::plan::{NFT_TABLE, PAUSED_TABLE, WITHDRAWN_TABLE};

use super::error::KernelError;
use super::netlink::Netlink;
use super::wire::{Request, attribute, text, u8_at};

/// Bytes of `nft`'s complaint that are kept: it repeats the script.
const COMPLAINT: usize = 2000;

/// Runs one transaction: all of it or nothing.
///
/// # Errors
/// [`KernelError::NftSpawn`], or [`KernelError::Nft`] with what `nft` said.
pub(super) fn run(script: &str) -> Result<(), KernelError> {
    succeed(&["-f", "-"], script).map(drop)
}

/// Our table of family inet; `None` if there is none.
///
/// # Errors
/// As `run`, [`KernelError::Malformed`] for JSON that is none, and the errors of a netlink socket.
pub fn list() -> Result<Option<ObservedTable>, KernelError> {
    let ours = (TableFamily::Inet, NFT_TABLE.to_owned());
    if existing()?.contains(&ours) { list_family(TableFamily::Inet) } else { Ok(None) }
}

/// What there is of ours.
pub(super) struct Tables {
    /// Our tables.
    pub tables: BTreeMap<TableFamily, ObservedTable>,
    /// `drain-node` has left its own.
    pub withdrawn: bool,
    /// A change of the rules has left its own.
    pub paused: bool,
}

/// Our tables of all families.
///
/// # Errors
/// As [`list`].
pub(super) fn list_all() -> Result<Tables, KernelError> {
    let existing = existing()?;
    let exists = |table: &str| existing.iter().any(|(_, name)| name == table);
    let (withdrawn, paused) = (exists(WITHDRAWN_TABLE), exists(PAUSED_TABLE));
    let mut tables = BTreeMap::new();
    for (family, _) in existing.iter().filter(|(_, name)| name == NFT_TABLE) {
        // It may have gone meanwhile.
        tables.extend(list_family(*family)?.map(|table| (*family, table)));
    }
    Ok(Tables { tables, withdrawn, paused })
}

/// `enum nf_inet_hooks`' families (include/uapi/linux/netfilter.h).
pub(super) fn family_of(number: u8) -> Option<TableFamily> {
    match number {
        1 => Some(TableFamily::Inet),
        2 => Some(TableFamily::Ip),
        5 => Some(TableFamily::Netdev),
        7 => Some(TableFamily::Bridge),
        10 => Some(TableFamily::Ip6),
        _ => None,
    }
}

/// The tables that there are in families of ours, by name: starting `nft` to be told that there is none is dear.
fn existing() -> Result<Vec<(TableFamily, String)>, KernelError> {
    const GETTABLE: u16 = (10 << 8) | 1;
    const NFGENMSG: usize = 4;
    const NAME: u16 = 1;
    let request = Request { kind: GETTABLE, flags: 0, payload: vec![0; NFGENMSG] };
    Netlink::netfilter()?.dump("nft tables", &request, |tables: &mut Vec<_>, _, payload| {
        let name = attribute(payload, NFGENMSG, NAME).map(text);
        tables.extend(u8_at(payload, 0).and_then(family_of).zip(name));
    })
}

fn list_family(family: TableFamily) -> Result<Option<ObservedTable>, KernelError> {
    match succeed(&["-j", "-n", "list", "table", &family.to_string(), NFT_TABLE], "") {
        Ok(json) => decode(&json).map(Some),
        // ENOENT in the C locale; there is no machine-readable form of it.
        Err(KernelError::Nft(complaint)) if complaint.contains("No such file or directory") => Ok(None),
        Err(error) => Err(error),
    }
}

/// All chains of all tables, without their rules, as `nft -j list chains` has them.
///
/// # Errors
/// As [`list`].
pub(super) fn chains() -> Result<Value, KernelError> {
    parse(&succeed(&["-j", "list", "chains"], "")?)
}

/// One chain as text.
///
/// # Errors
/// [`KernelError::NftSpawn`], or [`KernelError::Nft`] with what `nft` said.
pub(super) fn chain(family: &str, table: &str, name: &str) -> Result<String, KernelError> {
    let text = succeed(&["list", "chain", family, table, name], "")?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The version as `nft --version` prints it, `(1, 0, 6)`.
pub(super) fn version() -> Result<(u32, u32, u32), KernelError> {
    let output = spawn(&["--version"], "")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let word = text.split_whitespace().find_map(|word| word.strip_prefix('v'));
    let mut parts = word.unwrap_or_default().split('.').map(|part| part.parse::<u32>().ok());
    match (parts.next().flatten(), parts.next().flatten(), parts.next().unwrap_or(Some(0))) {
        (Some(major), Some(minor), Some(patch)) => Ok((major, minor, patch)),
        _ => Err(KernelError::Malformed(format!("nft --version said {:?}", text.trim()))),
    }
}

/// Standard output of a run that succeeds; else [`KernelError::Nft`] with the complaint.
fn succeed(arguments: &[&str], input: &str) -> Result<Vec<u8>, KernelError> {
    let output = spawn(arguments, input)?;
    if output.status.success() { Ok(output.stdout) } else { Err(KernelError::Nft(complaint(&output))) }
}

fn parse(json: &[u8]) -> Result<Value, KernelError> {
    serde_json::from_slice(json).map_err(|e| KernelError::Malformed(format!("nft -j: {e}")))
}

fn spawn(arguments: &[&str], input: &str) -> Result<Output, KernelError> {
    let mut child = Command::new("nft")
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(KernelError::NftSpawn)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A child that ends before it has read everything says why on its standard error.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output().map_err(KernelError::NftSpawn)
}

fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let text: String = text.trim().chars().take(COMPLAINT).collect();
    if text.is_empty() { output.status.to_string() } else { text }
}

/// Reads `{"nftables": [{"set": {…}}, {"chain": {…}}, {"rule": {…}}, …]}`, as nft has printed it since 0.9.
fn decode(json: &[u8]) -> Result<ObservedTable, KernelError> {
    let root = parse(json)?;
    let mut table = ObservedTable::default();
    let mut rules: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for object in root["nftables"].as_array().into_iter().flatten().filter_map(Value::as_object).flatten() {
        let (kind, body) = object;
        let name = body["name"].as_str().unwrap_or_default().to_owned();
        match kind.as_str() {
            "set" | "map" => {
                table.sets.insert(name, decode_set(body));
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
    let mut kind = spelled(&body["type"], " . ");
    if let Some(value) = body.get("map") {
        kind = format!("{kind} : {}", spelled(value, " . "));
    }
    let elements = body["elem"].as_array().into_iter().flatten();
    ObservedSet {
        kind,
        counted: body["stmt"].as_array().is_some_and(|all| all.iter().any(|s| s.get("counter").is_some())),
        counters: elements.clone().filter_map(decode_counter).collect(),
        elements: elements.map(|e| spelled(e, " : ")).collect(),
    }
}

/// `{"elem": {"val": "192.0.2.10", "counter": {"packets": 3, "bytes": 252}}}`
fn decode_counter(element: &Value) -> Option<(String, Counter)> {
    let counter = element["elem"].get("counter")?;
    let counter = Counter { packets: counter["packets"].as_u64()?, bytes: counter["bytes"].as_u64()? };
    Some((spelled(element, " : "), counter))
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
            // A verdict without argument: {"accept": null}.
            Some((key, _)) => key.clone(),
            None => String::new(),
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

    fn elements(table: &ObservedTable, set: &str) -> Vec<String> {
        table.sets[set].elements.iter().cloned().collect()
    }

    #[test]
    fn a_listed_table_comes_back_in_the_spelling_of_the_plan() {
        let table = decode(LISTED.as_bytes()).unwrap();
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
    fn what_is_no_json_is_an_error() {
        assert!(matches!(decode(b"segfault"), Err(KernelError::Malformed(_))));
    }
}
