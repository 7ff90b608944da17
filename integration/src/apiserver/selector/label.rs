//! Label selectors, equality-based (`a=b`, `a!=b`, `a`, `!a`) and set-based (`a in (b,c)`, `a notin (b)`).

use std::collections::BTreeMap;

use crate::apiserver::error::{ApiError, ApiResult};

/// All requirements must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

impl LabelSelector {
    /// Parses the query parameter; empty selects everything.
    pub fn parse(text: &str) -> ApiResult<Self> {
        split_outside_parentheses(text).into_iter().map(parse_term).collect::<ApiResult<_>>().map(Self)
    }

    /// Whether these labels are selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::Absent(key) => !labels.contains_key(key),
        })
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut terms) = (0_i32, 0, Vec::new());
    for (at, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms.into_iter().map(str::trim).filter(|term| !term.is_empty()).collect()
}

fn parse_term(term: &str) -> ApiResult<Requirement> {
    if let Some((head, values)) = term.strip_suffix(')').and_then(|term| term.split_once('(')) {
        let values = values.split(',').map(|value| value.trim().to_owned()).collect();
        let mut words = head.split_whitespace();
        return match (words.next(), words.next(), words.next()) {
            (Some(key), Some("in"), None) => Ok(Requirement::In(key_of(key)?, values)),
            (Some(key), Some("notin"), None) => Ok(Requirement::NotIn(key_of(key)?, values)),
            _ => Err(unreadable(term)),
        };
    }
    if let Some((key, value)) = term.split_once("!=") {
        return Ok(Requirement::NotIn(key_of(key)?, vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return Ok(Requirement::In(key_of(key)?, vec![value.trim().to_owned()]));
    }
    match term.strip_prefix('!') {
        Some(key) => Ok(Requirement::Absent(key_of(key)?)),
        None => Ok(Requirement::Exists(key_of(term)?)),
    }
}

fn key_of(text: &str) -> ApiResult<String> {
    let key = text.trim();
    let legal = |character: char| character.is_ascii_alphanumeric() || "-_./".contains(character);
    if key.is_empty() || !key.chars().all(legal) { Err(unreadable(text)) } else { Ok(key.to_owned()) }
}

fn unreadable(term: &str) -> ApiError {
    ApiError::BadRequest(format!("unable to parse requirement: found '{term}', expected: identifier"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operator_selects_what_it_says() {
        let labels = BTreeMap::from([("app".to_owned(), "echo".to_owned()), ("tier".into(), "a".into())]);
        for (selector, expected) in [
            ("", true),
            ("app=echo", true),
            ("app==echo,tier=a", true),
            ("app!=echo", false),
            ("missing!=x", true),
            ("app", true),
            ("!app", false),
            ("!missing", true),
            ("tier in (a, b),app", true),
            ("tier notin (a,b)", false),
            ("missing notin (a)", true),
            ("missing in (a)", false),
        ] {
            assert_eq!(LabelSelector::parse(selector).unwrap().matches(&labels), expected, "{selector}");
        }
    }

    #[test]
    fn nonsense_is_a_bad_request() {
        for selector in ["a in b", "a within (b)", "=x", "a b"] {
            assert_eq!(LabelSelector::parse(selector).unwrap_err().code(), 400, "{selector}");
        }
    }
}
