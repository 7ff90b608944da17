use proptest::prelude::*;

use super::super::problems::{Limited, MAX_NAMED, problem, shown};
use super::*;
use crate::model::ServiceRef;

fn service() -> ServiceRef {
    ServiceRef { namespace: "shop".to_owned(), name: "echo".to_owned(), uid: "uid-echo".to_owned() }
}

#[test]
fn a_note_says_what_is_wrong_and_then_the_remedy() {
    let problem = problem(&service(), Reason::InvalidVip, "\"banana\" is not an IP address", "write an address");
    assert_eq!(problem.note, "\"banana\" is not an IP address: write an address");
}

#[test]
fn a_note_that_is_too_long_keeps_its_remedy() {
    let problem = problem(&service(), Reason::InvalidVip, "ä".repeat(2000), "write an address");
    assert!(problem.note.len() <= MAX_NOTE && problem.note.len() > MAX_NOTE - 4, "{}", problem.note.len());
    assert!(problem.note.ends_with("ä…: write an address"));
}

#[test]
fn what_others_have_written_cannot_write_lines_of_its_own() {
    let problem = problem(&service(), Reason::InvalidVip, "unknown variant `p\u{7f}rts\n`, ä", "write another");
    assert_eq!(problem.note, "unknown variant `p\\u{7f}rts\\n`, ä: write another");
}

#[test]
fn the_tenth_refusal_is_named_and_the_others_are_counted() {
    let reason = Reason::EndpointRefused;
    let mut limited = Limited::new(&service(), reason);
    for n in 0..MAX_NAMED {
        limited.push(format!("endpoint {n} is bad"), "mend it");
    }
    assert_eq!(limited.finish("endpoints").len(), MAX_NAMED);

    let mut limited = Limited::new(&service(), reason);
    for n in 0..MAX_NAMED + 37 {
        limited.push(format!("endpoint {n} is bad"), "mend it");
    }
    let all = limited.finish("endpoints");
    assert_eq!(all.len(), MAX_NAMED + 1);
    let rest = "Service shop/echo: and 37 more endpoints are refused: see the other events of the Service";
    assert_eq!(all[MAX_NAMED].note, rest);
}

#[test]
fn foreign_text_is_quoted_and_short_text_is_whole() {
    assert_eq!(shown("banana"), r#""banana""#);
    assert_eq!(shown("a\"b\\c\0"), r#""a\"b\\c\0""#);
    assert_eq!(shown(&"x".repeat(48)), format!("{:?}", "x".repeat(48)));
    assert_eq!(shown(&"x".repeat(49)), format!("\"{}…\" (49 bytes)", "x".repeat(48)));
}

proptest! {
    #[test]
    fn no_note_is_longer_than_the_api_allows(what in "\\PC{0,1200}", remedy in "\\PC{0,1200}") {
        let problem = problem(&service(), Reason::InvalidVip, what, &remedy);
        prop_assert!(problem.note.len() <= MAX_NOTE);
    }
}
