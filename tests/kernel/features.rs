//! The check at start: everything needed is tried, and nothing is left behind.

use crate::support::{netns, observe_in};
use tunnel_router::kernel::features;
use tunnel_router::model::Mode;

#[test]
fn this_machine_has_what_every_mode_but_gre_and_mpls_needs() {
    let found = features();
    assert_eq!((found.missing, found.limits_udp, found.lacking.get(&Mode::Vxlan)), (vec![], true, None));
}

#[test]
fn probing_leaves_the_callers_namespace_alone() {
    let target = netns();
    let before = observe_in(&target, &[]);
    target.run(features).unwrap();
    assert_eq!(observe_in(&target, &[]), before);
}
