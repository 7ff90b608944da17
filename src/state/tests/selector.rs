use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::selector::{Selector, SelectorError};

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn matches(selector: &str, pairs: &[(&str, &str)]) -> bool {
    selector.parse::<Selector>().unwrap().matches(&labels(pairs))
}

fn error(selector: &str) -> SelectorError {
    selector.parse::<Selector>().unwrap_err()
}

#[test]
fn an_empty_selector_matches_everything() {
    for selector in ["", "  "] {
        assert!(matches(selector, &[]));
        assert!(matches(selector, &[("node", "tunnel")]));
    }
}

#[test]
fn equality_compares_the_value() {
    for selector in ["node=tunnel", "node==tunnel", " node = tunnel "] {
        assert!(matches(selector, &[("node", "tunnel")]));
        assert!(!matches(selector, &[("node", "other")]));
        assert!(!matches(selector, &[]));
    }
}

#[test]
fn inequality_holds_for_a_label_that_is_missing() {
    for selector in ["node!=tunnel", "node notin (tunnel)"] {
        assert!(!matches(selector, &[("node", "tunnel")]));
        assert!(matches(selector, &[("node", "other")]));
        assert!(matches(selector, &[]));
    }
}

#[test]
fn sets_take_any_of_their_values() {
    let selector = "e in (x, y)";
    assert!(matches(selector, &[("e", "x")]));
    assert!(matches(selector, &[("e", "y")]));
    assert!(!matches(selector, &[("e", "z")]));
    assert!(!matches(selector, &[]));
}

#[test]
fn existence_does_not_look_at_the_value() {
    assert!(matches("g", &[("g", "")]));
    assert!(!matches("g", &[("h", "g")]));
    assert!(matches("!h", &[("g", "")]));
    assert!(!matches("! h", &[("h", "")]));
}

#[test]
fn an_empty_value_is_a_value() {
    assert!(matches("g=", &[("g", "")]));
    assert!(!matches("g=", &[]));
    assert!(matches("g in (,a)", &[("g", "")]));
}

#[test]
fn all_requirements_must_hold() {
    let selector = "a=b,c!=d,e in (x,y),f notin (z),g,!h";
    let good = [("a", "b"), ("c", "-"), ("e", "y"), ("g", "")];
    assert!(matches(selector, &good));
    for broken in [("a", "x"), ("c", "d"), ("e", "z"), ("f", "z"), ("h", "")] {
        let mut all = labels(&good);
        all.insert(broken.0.to_owned(), broken.1.to_owned());
        assert!(!selector.parse::<Selector>().unwrap().matches(&all), "{broken:?}");
    }
}

#[test]
fn keys_may_have_a_dns_prefix() {
    assert!(matches("node-role.kubernetes.io/ingress", &[("node-role.kubernetes.io/ingress", "")]));
    assert!(matches("topology.kubernetes.io/zone in (a,b)", &[("topology.kubernetes.io/zone", "b")]));
}

#[test]
fn an_error_names_the_part_that_is_wrong() {
    for (selector, part) in [
        ("a=b,,c", ""),
        ("a=b,", ""),
        ("a=b,c d", "c d"),
        ("a=b,c=d=e", "d=e"),
        ("a=b,=c", ""),
        ("!", "!"),
        ("a>1", "a>1"),
        ("a=b c", "b c"),
        ("a=-b", "-b"),
        ("Bad_Prefix/a=b", "Bad_Prefix/a"),
        ("a/b/c", "a/b/c"),
        ("/a", "/a"),
        ("a in (x", "a in (x"),
        ("a in x)", "a in x)"),
        ("a in ()", "a in ()"),
        ("a in ((x))", "a in ((x))"),
        ("a in (x)y", "a in (x)y"),
        ("a on (x)", "a on (x)"),
        ("in (x)", "in (x)"),
        ("a in (x,b c)", "b c"),
        ("ä=b", "ä"),
    ] {
        let error = error(selector);
        assert_eq!(error.part, part, "{selector}: {error}");
        assert_eq!(error.selector, selector);
    }
}

#[test]
fn an_error_reads_like_a_sentence() {
    let expected = r#"label selector "a=b,c d": "c d" is no requirement: use key=value, key!=value, key in (a,b), key notin (a,b), key or !key"#;
    assert_eq!(error("a=b,c d").to_string(), expected);
}

#[test]
fn names_and_values_end_at_63_characters() {
    let (longest, too_long) = ("x".repeat(63), "x".repeat(64));
    assert!(format!("{longest}={longest}").parse::<Selector>().is_ok());
    assert_eq!(error(&format!("a={too_long}")).part, too_long);
    assert_eq!(error(&too_long).part, too_long);
}

#[test]
fn a_selector_prints_as_it_can_be_read_again() {
    for text in ["", "a=b", "a!=b", "a in (b,c)", "a notin (b,c)", "a", "!a", "a=", "x.y/a=b,c"] {
        assert_eq!(text.parse::<Selector>().unwrap().to_string(), text);
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>()) {
        let _ = text.parse::<Selector>();
    }

    #[test]
    fn what_is_accepted_prints_and_reads_back_as_the_same(text in "[ab!=, ()/.-]{0,12}|[ab] (in|notin) [(][ab,]{1,5}[)]") {
        if let Ok(selector) = text.parse::<Selector>() {
            prop_assert_eq!(selector.to_string().parse::<Selector>(), Ok(selector));
        }
    }
}
