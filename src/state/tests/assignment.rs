//! Stored assignments: written and read back, refused by name, bounded in size.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::testing::thorough;

fn service() -> ServiceRef {
    ServiceRef { namespace: "default".into(), name: "echo".into(), uid: "u-1".into() }
}

fn id(n: u32) -> EndpointId {
    EndpointId::from(format!("{n:08x}-0000-4000-8000-000000000000").as_str())
}

fn member(n: u32) -> Member {
    Member {
        name: Name::new(n + 1).unwrap(),
        node: NodeName::from(format!("ip-10-100-{n:03}-211.eu-central-1.compute.internal").as_str()),
        addresses: Addresses {
            v4: Some(Ipv4Addr::new(10, 200, 100, 200)),
            v6: Some(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0x1234, 0, 0, 0xab12, 0xc000)),
        },
        set_up: !n.is_multiple_of(3),
        program: n.is_multiple_of(2),
        named: n.is_multiple_of(40).then(|| Generation(1_790_000_000_123 - u64::from(n))),
    }
}

/// A map with this many buckets, of which each has an owner and two former owners of its own.
fn map(buckets: u32) -> Assignment {
    let hash = FlowHash { buckets: BucketCount::new(buckets).unwrap(), seed: u32::MAX, key: HashKey::Addresses };
    let generation = Generation(1_790_000_000_123);
    let mut map = Assignment::begin(hash, &"u-1".into(), generation.0, None);
    map.members = (0..3 * buckets).map(|n| (id(n), member(n))).collect();
    map.announced = Generation(generation.0 - 3);
    let knows = |n: u32| (member(n).node, Generation(generation.0 - 3 - u64::from(n.is_multiple_of(8))));
    map.knows = (0..3 * buckets).filter(|n| !n.is_multiple_of(40)).map(knows).collect();
    map.last_name = Name::new(2000).unwrap();
    map.drain_non_tcp = 30;
    map.vips = Some([("192.0.2.10", 9), ("2001:db8::10", 7)].map(|(vip, since)| (vip.parse().unwrap(), since)).into());
    let former = |n: u32, why| Former {
        endpoint: id(n),
        generation: Generation(generation.0 - u64::from(n)),
        since: 1_790_000_000 + u64::from(n),
        held: u64::from(n) * 1000,
        why,
    };
    for (n, holding) in (0..buckets).zip(&mut map.holdings) {
        holding.owner = (n != 3).then(|| id(n));
        (holding.generation, holding.since) = (Generation(generation.0 - 7), 1_790_000_000);
        holding.planned = n % 2 == 0;
        holding.next = (n % 16 == 1).then(|| Next { endpoint: id(n - 1), generation });
        holding.former = vec![former(buckets + 2 * n, Why::Balance), former(buckets + 2 * n + 1, Why::Left)];
    }
    map
}

fn read_back(map: &Assignment) -> Assignment {
    decode(Some(&encode(&service(), map)), "u-1").unwrap().map
}

#[test]
fn what_is_written_is_read_back() {
    for buckets in [16, 32, 64, 128] {
        assert_eq!(read_back(&map(buckets)), map(buckets));
    }
    let (members, knows) = (BTreeMap::new(), BTreeMap::new());
    let empty = Assignment { members, knows, holdings: vec![Holding::default(); 16], ..map(16) };
    assert_eq!(read_back(&empty).holdings.len(), 16);
}

#[test]
fn a_map_of_a_thousand_endpoints_stays_below_64_kib() {
    // The most that can have a name: an owner and two former owners for each of 128 buckets, each on a node of its own.
    let text = encode(&service(), &map(128));
    assert!(text.len() < 64 << 10, "{} bytes", text.len());
}

#[test]
fn the_form_is_as_documented() {
    let mut small = map(16);
    small.members.retain(|id, _| *id == self::id(0));
    for holding in &mut small.holdings {
        (holding.owner, holding.former) = (Some(id(0)), Vec::new());
        holding.next = holding.next.take().map(|next| Next { endpoint: id(0), ..next });
    }
    small.knows.retain(|node, _| *node == member(0).node);
    let text = encode(&service(), &small);
    let expected = concat!(
        r#"{"version":2,"revision":2,"generation":1790000000123,"at":1790000000,"#,
        r#""service":{"namespace":"default","name":"echo","uid":"u-1"},"buckets":16,"seed":4294967295,"key":"addresses","#,
        r#""vips":[["192.0.2.10",9],["2001:db8::10",7]],"#,
        r#""lastName":2000,"refusesNew":false,"drainNonTcp":30,"nodes":["ip-10-100-000-211.eu-central-1.compute.internal"],"#,
        r#""endpoints":{"name":[1],"uid":["00000000-0000-4000-8000-000000000000"],"node":[0],"#,
        r#""addresses":["10.200.100.200 fd00:10:244:1234::ab12:c000"],"eligible":[0],"program":[1]},"#,
        r#""holdings":{"owner":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"generation":[7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7],"#,
        r#""since":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0],"planned":[1,0,1,0,1,0,1,0,1,0,1,0,1,0,1,0]},"#,
        r#""former":{"bucket":[],"name":[],"generation":[],"since":[],"held":[],"why":[]},"#,
        r#""next":{"bucket":[1],"name":[1],"generation":[0]},"announced":3,"behind":{"node":[0],"knows":[null]},"#,
        r#""new":{"name":[1],"generation":[0]}}"#
    );
    assert_eq!(text, expected);
}

#[test]
fn maps_of_other_versions_are_told_apart() {
    let text = encode(&service(), &map(16));
    let with = |from: &str, to: &str| decode(Some(&text.replacen(from, to, 1)), "u-1");
    let old = r#"{"version":1,"generation":5,"service":{"namespace":"default","name":"echo","uid":"u-1"},"buckets":16,"seed":1,"endpoints":[],"owners":[]}"#;
    let old = decode(Some(old), "u-1").unwrap_err();
    assert_eq!((old.clone(), old.may_be_replaced()), (AssignmentFault::Old, true));
    let later = with("\"version\":2", "\"version\":3").unwrap_err();
    assert_eq!((later.clone(), later.may_be_replaced()), (AssignmentFault::Later(3), false));
    assert!(later.to_string().contains("left as it is"));
    let grown = with("\"revision\":2", "\"revision\":3,\"colour\":[1]").unwrap();
    assert_eq!((grown.map.clone(), grown.may_be_replaced()), (map(16), false), "followed, and not overwritten");
    let before = with("\"vips\":[[\"192.0.2.10\",9],[\"2001:db8::10\",7]],", "").unwrap();
    assert_eq!(before.map, Assignment { vips: None, ..map(16) }, "a map from before they were stored");
}

#[test]
fn whatever_is_not_exactly_right_is_refused_by_name() {
    let text = encode(&service(), &map(16));
    let fault = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        decode(Some(&text.replacen(from, to, 1)), "u-1").unwrap_err().to_string()
    };
    assert_eq!(decode(None, "u-1"), Err(AssignmentFault::Empty));
    assert_eq!(decode(Some(&text), "u-2"), Err(AssignmentFault::Foreign("u-1".into())));
    for (from, to, why) in [
        ("{", "", "cannot be read"),
        ("\"version\":2", "\"version\":0", "no version 0"),
        ("\"generation\":1790000000123", "\"generation\":18446744073709551615", "no decision could follow"),
        ("\"buckets\":16", "\"buckets\":17", "17 buckets"),
        ("\"buckets\":16", "\"buckets\":32", "32 rows"),
        ("\"name\":[1,", "\"name\":[2,", "given twice"),
        ("\"name\":[1,", "\"name\":[0,", "0 is not the name"),
        ("\"name\":[1,", "\"name\":[", "different lengths"),
        ("\"owner\":[1,", "\"owner\":[99,", "no endpoint has the name 99"),
        ("\"node\":[0,", "\"node\":[99,", "no node 99"),
        ("10.200.100.200 ", "10.200.100.256 ", "10.200.100.256"),
        ("\"bucket\":[0,", "\"bucket\":[16,", "no bucket 16"),
        ("\"bucket\":[0,0,1,", "\"bucket\":[0,0,0,", "more than 2 former owners"),
        ("\"lastName\":2000", "\"lastName\":2048", "lastName"),
        ("\"next\":{\"bucket\":[1", "\"next\":{\"bucket\":[16", "no bucket 16"),
        ("\"next\":{\"bucket\":[1", "\"next\":{\"bucket\":[1,2", "columns of next"),
        ("00000001-0000", "00000000-0000", "two names"),
    ] {
        assert!(fault(from, to).contains(why), "{}", fault(from, to));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: thorough(20_000, 100), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_map_is_read_back(
        owners in proptest::collection::vec(0..12_u32, 16),
        former in proptest::collection::vec((0..12_u32, 0..12_u32, 0..100_000_u64, 0..5_usize), 16),
        flags in any::<(bool, bool, u32, u64)>(),
    ) {
        let mut any = map(16);
        any.members.retain(|id, _| (0..12).any(|n| *id == self::id(n)));
        let members = &any.members;
        any.knows.retain(|node, _| members.values().any(|member| member.node == *node));
        (any.refuses_new, any.hash.seed, any.drain_non_tcp) = (flags.0, flags.2, flags.3);
        any.hash.key = if flags.1 { HashKey::Ports } else { HashKey::Addresses };
        for ((holding, owner), (first, second, since, why)) in any.holdings.iter_mut().zip(owners).zip(former) {
            let lost = |n: u32| Former {
                endpoint: id(n), generation: Generation(since), since, held: since * 2, why: WHYS[why].1,
            };
            holding.owner = (owner > 0).then(|| id(owner));
            holding.next = (owner == 3).then(|| Next { endpoint: id(4), generation: Generation(since) });
            holding.former = [first, second].iter().filter(|n| **n != owner).map(|n| lost(*n)).collect();
            holding.former.dedup_by(|a, b| a.endpoint == b.endpoint);
        }
        prop_assert_eq!(read_back(&any), any);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in ".{0,200}", at in any::<prop::sample::Index>(), with in "[-0-9a-z\"\\[\\]{},:]{0,4}") {
        let _ = decode(Some(&text), "u-1");
        let mut good = encode(&service(), &map(16));
        let at = at.index(good.len());
        good.replace_range(at..(at + 2).min(good.len()), &with);
        let _ = decode(Some(&good), "u-1");
    }

    #[test]
    fn no_numbers_make_the_reader_or_the_next_decision_panic(generation in any::<u64>(), at in any::<u64>(), back in any::<u64>()) {
        let text = encode(&service(), &map(16))
            .replacen("1790000000123", &generation.to_string(), 1)
            .replacen("\"since\":[", &format!("\"since\":[{back},"), 1)
            .replacen("\"at\":1790000047", &format!("\"at\":{at}"), 1);
        if let Ok(read) = decode(Some(&text), "u-1") {
            let _ = encode(&service(), &read.map);
        }
    }
}
