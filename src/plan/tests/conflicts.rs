//! What the agent refuses to start over.

use std::collections::BTreeSet;

use super::fake::FakeKernel;
use super::support::settings;
use crate::model::{Family, Mode};
use crate::plan::conflict::{Conflict, conflicts};
use crate::plan::observed::ObservedRule;
use crate::plan::{LinkKind, RuleAction, RuleSpec};

fn found(kernel: &FakeKernel, mode: Mode) -> Vec<Conflict> {
    conflicts(&kernel.observed, &settings("n1"), &BTreeSet::from([mode]))
}

fn foreign_rule(priority: u32, mark: Option<(u32, u32)>) -> ObservedRule {
    let spec = RuleSpec { family: Family::V4, priority, mark, action: RuleAction::Lookup(77) };
    ObservedRule { spec: Some(spec), priority, mark, ours: false }
}

fn kernel() -> FakeKernel {
    FakeKernel::new("eth0", "10.0.0.1")
}

#[test]
fn a_node_with_the_usual_rules_of_others_has_no_conflict() {
    let mut kernel = kernel();
    // local, Cilium, AWS VPC CNI, Tailscale, main
    for (priority, mark) in [
        (0, None),
        (9, Some((0x200, 0xf00))),
        (100, None),
        (1024, Some((0x80, 0x80))),
        (5210, Some((0x80000, 0xff0000))),
        (32766, None),
    ] {
        kernel.observed.rules.push(foreign_rule(priority, mark));
    }
    kernel.observed.foreign_routes.insert(254, 12);
    assert_eq!(found(&kernel, Mode::Gre), []);
}

#[test]
fn a_foreign_rule_ahead_that_looks_at_our_mark_is_named() {
    let mut kernel = kernel();
    kernel.observed.rules.push(foreign_rule(50, Some((0x80, 0x80))));
    let messages: Vec<String> = found(&kernel, Mode::Gre).iter().map(ToString::to_string).collect();
    assert_eq!(messages.len(), 1);
    assert!(
        messages[0].contains("ip rule 50 (fwmark 0x80/0x80)") && messages[0].contains("--mark-field"),
        "{messages:?}"
    );
}

#[test]
fn a_foreign_rule_inside_our_block_is_named() {
    for (priority, first) in [(101, 101), (102, 101), (32_869, 32_869), (32_900, 32_869)] {
        let mut kernel = kernel();
        kernel.observed.rules.push(foreign_rule(priority, None));
        let found = found(&kernel, Mode::Gre);
        assert!(
            matches!(found[..], [Conflict::RulePriority { priority: p, first: f, .. }] if (p, f) == (priority, first)),
            "{found:?}"
        );
    }
}

/// Cilium's, in ENI mode, and Submariner's; AWS VPC CNI's; Tailscale's.
#[test]
fn foreign_rules_between_our_entry_and_our_tree_are_in_nobodys_way() {
    let mut kernel = kernel();
    for priority in [109, 111, 149, 150, 512, 1024, 5210, 32_765] {
        kernel.observed.rules.push(foreign_rule(priority, None));
    }
    assert_eq!(found(&kernel, Mode::Gre), []);
}

#[test]
fn foreign_routes_in_our_tables_are_named() {
    let mut kernel = kernel();
    kernel.observed.foreign_routes.insert(10_003, 2);
    assert_eq!(found(&kernel, Mode::Gre), [Conflict::Table { table: 10_003, routes: 2, first: 10_000, last: 10_256 }]);
}

#[test]
fn a_link_with_our_name_or_our_job_is_named() {
    let mut kernel = kernel();
    kernel.device("kst-gre", false, 1500);
    kernel.device("tun0", false, 1476);
    kernel.observed.links.get_mut("tun0").unwrap().kind = Some(LinkKind::GreExternal(Family::V4));
    let kinds = found(&kernel, Mode::Gre);
    assert!(matches!(&kinds[..], [Conflict::LinkName { .. }, Conflict::ExternalGre { .. }]), "{kinds:?}");
    assert_eq!(found(&kernel, Mode::Vxlan), []);
}
