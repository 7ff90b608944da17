//! Label selectors in the syntax of Kubernetes: `a=b,c!=d,e in (x,y),f notin (z),g,!h`.
//!
//! They come from a flag, so an error names the part that is wrong, and nothing is guessed: a selector that meant fewer
//! nodes than it says would take ingress nodes away silently.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// Requirements on labels, all of which must hold. Without any, everything matches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    Missing,
}

/// A selector that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("label selector {selector:?}: {part:?} {why}")]
pub struct SelectorError {
    /// The whole selector.
    pub selector: String,
    /// The part of it that is wrong.
    pub part: String,
    /// What is wrong with it, and what would be right.
    pub why: &'static str,
}

const REQUIREMENT: &str = "is no requirement: use key=value, key!=value, key in (a,b), key notin (a,b), key or !key";
const KEY: &str = "is no label key: use [prefix/]name, the name with at most 63 of A-Z a-z 0-9 - _ .";
const VALUE: &str = "is no label value: use at most 63 of A-Z a-z 0-9 - _ . that begin and end with a letter or digit";
const SET: &str = "is no set of values: use (a,b)";

impl Selector {
    /// Whether labels meet every requirement.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(labels))
    }
}

impl Requirement {
    /// As in Kubernetes, `!=` and `notin` hold for a label that is not there.
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match &self.test {
            Test::In(values) => value.is_some_and(|value| values.contains(value)),
            Test::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Test::Exists => value.is_some(),
            Test::Missing => value.is_none(),
        }
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(selector: &str) -> Result<Self, Self::Err> {
        if selector.trim().is_empty() {
            return Ok(Self::default());
        }
        let error =
            |(part, why): Wrong<'_>| SelectorError { selector: selector.to_owned(), part: part.to_owned(), why };
        let parts = split(selector).map_err(error)?;
        let requirements =
            parts.into_iter().map(|part| requirement(part.trim()).map_err(error)).collect::<Result<_, _>>()?;
        Ok(Self { requirements })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.requirements.iter().map(ToString::to_string).collect();
        f.write_str(&parts.join(","))
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        let list = |values: &BTreeSet<String>| values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        match &self.test {
            Test::In(values) if values.len() == 1 => write!(f, "{key}={}", list(values)),
            Test::In(values) => write!(f, "{key} in ({})", list(values)),
            Test::NotIn(values) if values.len() == 1 => write!(f, "{key}!={}", list(values)),
            Test::NotIn(values) => write!(f, "{key} notin ({})", list(values)),
            Test::Exists => f.write_str(key),
            Test::Missing => write!(f, "!{key}"),
        }
    }
}

/// The part that is wrong, and why.
type Wrong<'a> = (&'a str, &'static str);

/// Splits at the commas outside parentheses.
fn split(selector: &str) -> Result<Vec<&str>, Wrong<'_>> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut inside = false;
    for (at, c) in selector.char_indices() {
        match c {
            '(' if inside => return Err((&selector[start..], SET)),
            ')' if !inside => return Err((&selector[start..=at], SET)),
            '(' | ')' => inside = !inside,
            ',' if !inside => {
                parts.push(&selector[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err((&selector[start..], SET));
    }
    parts.push(&selector[start..]);
    Ok(parts)
}

fn requirement(part: &str) -> Result<Requirement, Wrong<'_>> {
    if let Some((left, set)) = part.split_once('(') {
        return set_based(part, left.trim(), set);
    }
    if let Some((key, value)) = part.split_once("!=") {
        return equality(key, value, Test::NotIn);
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return equality(key, value, Test::In);
    }
    let (name, test) = match part.strip_prefix('!') {
        Some(name) => (name.trim(), Test::Missing),
        None => (part, Test::Exists),
    };
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err((part, REQUIREMENT));
    }
    Ok(Requirement { key: key(name)?, test })
}

fn set_based<'a>(part: &'a str, left: &'a str, set: &'a str) -> Result<Requirement, Wrong<'a>> {
    let (name, operator) = left.rsplit_once(char::is_whitespace).ok_or((part, REQUIREMENT))?;
    let set = set.strip_suffix(')').ok_or((part, SET))?;
    if set.trim().is_empty() {
        return Err((part, SET));
    }
    let values = set.split(',').map(|v| value(v.trim())).collect::<Result<BTreeSet<_>, _>>()?;
    let test = match operator {
        "in" => Test::In(values),
        "notin" => Test::NotIn(values),
        _ => return Err((part, REQUIREMENT)),
    };
    Ok(Requirement { key: key(name.trim())?, test })
}

fn equality<'a>(name: &'a str, text: &'a str, test: fn(BTreeSet<String>) -> Test) -> Result<Requirement, Wrong<'a>> {
    Ok(Requirement { key: key(name.trim())?, test: test(BTreeSet::from([value(text.trim())?])) })
}

fn key(text: &str) -> Result<String, Wrong<'_>> {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    let prefix_is_good = prefix.is_none_or(|prefix| prefix.len() <= 253 && prefix.split('.').all(is_dns_label));
    match prefix_is_good && !name.is_empty() && is_label(name) {
        true => Ok(text.to_owned()),
        false => Err((text, KEY)),
    }
}

fn value(text: &str) -> Result<String, Wrong<'_>> {
    match text.is_empty() || is_label(text) {
        true => Ok(text.to_owned()),
        false => Err((text, VALUE)),
    }
}

fn is_label(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && ends(text.chars().next())
        && ends(text.chars().last())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

fn is_dns_label(text: &str) -> bool {
    is_label(text) && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}
