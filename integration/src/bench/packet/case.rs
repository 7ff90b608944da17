//! What there is to measure, by name.

use std::fmt;
use std::str::FromStr;

use super::pod::case::PodCase;
use super::way::{self, Forwarding};

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// A node forwards packets.
    Node(Forwarding),
    /// A pod receives packets.
    Pod(PodCase),
}

impl Case {
    /// What it is compared with.
    fn references(self) -> Vec<Case> {
        match self {
            Case::Node(forwarding) => [forwarding.plain(), forwarding.ipvs()].map(Case::Node).to_vec(),
            Case::Pod(pod) => vec![Case::Pod(pod.reference())],
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Case::Node(forwarding) => forwarding.fmt(f),
            Case::Pod(pod) => pod.fmt(f),
        }
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let names = || all().map(|case| case.to_string()).collect::<Vec<_>>().join(" ");
        all().find(|case| case.to_string() == name).ok_or_else(|| format!("there are only: {}", names()))
    }
}

/// Every case, those that others are compared with first.
pub fn all() -> impl Iterator<Item = Case> {
    way::all().map(Case::Node).chain(PodCase::all().map(Case::Pod))
}

/// The cases asked for and those that they are compared with, in the order of [`all`]; everything if none is asked for.
pub fn selection(asked: &[Case]) -> Vec<Case> {
    let needed = |case: &Case| asked.iter().any(|a| a == case || a.references().contains(case));
    all().filter(|case| asked.is_empty() || needed(case)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(names: &[&str]) -> Vec<String> {
        let asked: Vec<Case> = names.iter().map(|name| name.parse().unwrap()).collect();
        selection(&asked).iter().map(Case::to_string).collect()
    }

    #[test]
    fn every_case_is_found_by_its_name() {
        for case in all() {
            assert_eq!(case.to_string().parse(), Ok(case));
        }
        assert_eq!(all().count(), 26 + 24);
        assert!("gre-v4-32".parse::<Case>().unwrap_err().contains(" gre-v4-64-sources "));
    }

    #[test]
    fn what_a_case_is_compared_with_is_measured_too_and_first() {
        assert_eq!(selected(&["mpls-v6-64"]), ["plain-v6", "ipvs-tun-mh-v6", "mpls-v6-64"]);
        assert_eq!(selected(&["pod-vxlan-v6-steady"]), ["pod-vxlan-v6-none", "pod-vxlan-v6-steady"]);
        assert_eq!(selected(&["pod-gre-v4-syn"]), ["pod-gre-v4-none-syn", "pod-gre-v4-syn"]);
        assert_eq!(selection(&[]).len(), all().count());
    }
}
