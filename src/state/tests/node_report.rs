//! Stored reports: written and read back; what cannot be read says nothing.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::testing::thorough;

fn pair(from: u8, to: u8) -> Pair {
    let [from, to] = [from, to].map(|n| Ipv4Addr::new(10, 0, 0, n).into());
    Pair { from, to }
}

fn report_of(pods: u8, generation: u64) -> NodeReport {
    let id = |n: u8| EndpointId::from(format!("p{n}").as_str());
    let set_up = |n: u8| SetUp {
        addresses: Addresses::from(Ipv4Addr::new(10, 0, 0, n)),
        program: n.is_multiple_of(2),
        fallen: n.is_multiple_of(3),
        lacks: (0..n / 2).map(|n| ServiceUid::from(format!("s{n}").as_str())).collect(),
    };
    let over = |n: u8| Over {
        service: "s".into(),
        pod: id(n % 3),
        generation: Generation(generation),
        bucket: Bucket::new(u32::from(n)).unwrap(),
    };
    NodeReport {
        pods: (0..pods).map(|n| (id(n), set_up(n))).collect(),
        over: (0..pods).map(over).collect(),
        ended: [id(200)].into(),
        knows: Some([("s-1".into(), Generation(3))].into()),
        holds: [(ServiceUid::from("s"), Generation(generation))].into(),
        forwarding: Forwarding {
            passed: (1..pods).map(|n| pair(n, n + 1)).collect(),
            received: (1..pods).map(|n| pair(n + 1, n)).collect(),
        },
    }
}

#[test]
fn the_form_is_as_documented() {
    let text = encode(&"n1".into(), &report_of(2, 7));
    let expected = concat!(
        r#"{"version":2,"node":"n1","pods":{"p0":{"addresses":["10.0.0.0"],"program":true,"fallen":true},"#,
        r#""p1":{"addresses":["10.0.0.1"],"program":false,"fallen":false}},"#,
        r#""over":[{"service":"s","pod":"p0","generation":7,"buckets":[0]},{"service":"s","pod":"p1","generation":7,"buckets":[1]}],"#,
        r#""ended":["p200"],"holds":{"s":7},"knows":{"s-1":3},"#,
        r#""passed":[["10.0.0.1","10.0.0.2"]],"received":[["10.0.0.2","10.0.0.1"]]}"#
    );
    assert_eq!(text, expected);
}

#[test]
fn no_node_can_hold_a_decision_that_none_could_follow() {
    let holds = |generation| NodeReport {
        holds: [(ServiceUid::from("s"), Generation(generation))].into(),
        ..NodeReport::default()
    };
    let read = |generation| decode(Some(&encode(&"n1".into(), &holds(generation))), "n1").unwrap();
    assert_eq!(read(LAST_GENERATION), holds(LAST_GENERATION));
    assert_eq!(read(u64::MAX), NodeReport { holds: [].into(), ..NodeReport::default() });
}

#[test]
fn services_that_a_pod_lacks_are_named() {
    let text = encode(&"n1".into(), &report_of(3, 7));
    assert!(text.contains(r#""p2":{"addresses":["10.0.0.2"],"program":true,"fallen":false,"lacks":["s0"]}"#), "{text}");
    assert_eq!(decode(Some(&text), "n1"), Ok(report_of(3, 7)));
}

#[test]
fn reports_of_other_versions_are_told_apart() {
    let old = r#"{"version":1,"node":"n1","entered":{},"prepared":{},"followed":{},"drained":[]}"#;
    assert_eq!(decode(Some(old), "n1"), Err(ReportFault::Old));
    assert_eq!(decode(None, "n1"), Err(ReportFault::Empty));
    let text = encode(&"n1".into(), &report_of(1, 7));
    let later = decode(Some(&text.replacen("\"version\":2", "\"version\":3", 1)), "n1").unwrap_err();
    assert_eq!((later.clone(), later.may_be_replaced()), (ReportFault::Later(3), false));
    assert!(!ReportFault::Malformed(String::new()).may_be_replaced() && ReportFault::Old.may_be_replaced());
    let earlier = text.replacen(r#","passed":[],"received":[]"#, "", 1);
    assert!(earlier != text && decode(Some(&earlier), "n1") == Ok(report_of(1, 7)));
    let grown = text.replacen("\"ended\"", "\"colour\":1,\"ended\"", 1);
    assert_eq!(decode(Some(&grown), "n1"), Ok(report_of(1, 7)));
    assert_eq!(decode(Some(&text), "n2"), Err(ReportFault::Foreign("n1".into())));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: thorough(20_000, 100), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_report_is_read_back(pods in 0..100_u8, generation in 0..LAST_GENERATION, node in "[a-z0-9.-]{1,20}") {
        let text = encode(&NodeName::from(node.as_str()), &report_of(pods, generation));
        prop_assert_eq!(decode(Some(&text), &node), Ok(report_of(pods, generation)));
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in ".{0,200}", at in any::<prop::sample::Index>(), with in "[-0-9a-z\"\\[\\]{},:]{0,4}") {
        let _ = decode(Some(&text), "n1");
        let mut good = encode(&"n1".into(), &report_of(3, 7));
        let at = at.index(good.len());
        good.replace_range(at..(at + 2).min(good.len()), &with);
        let _ = decode(Some(&good), "n1");
    }
}
