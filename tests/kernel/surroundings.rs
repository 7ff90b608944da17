//! What others have set up in nft, read by netlink, with `nft` as the one who has made it.

use tunnel_router::kernel::{drops, hooked};

use crate::support::{netns, sh};

const RULES: &str = "
table inet fw {
    chain in { type filter hook input priority 0; policy drop; ct state untracked accept; }
    chain forward { type filter hook forward priority 0; policy drop; }
    chain out { type filter hook output priority 0; policy drop; }
    chain nobody_hooks { drop; }
}
table ip nat {
    chain pre { type nat hook prerouting priority -100; policy accept; }
}
table ip6 raw {
    chain pre { type filter hook prerouting priority -300; }
}
table netdev guard {
    chain in { type filter hook ingress device lo priority 0; policy drop; }
}
table inet kube_service_tunnel {
    chain forward { type filter hook forward priority 0; policy drop; }
}
";

#[test]
fn chains_of_others_are_found_with_family_table_hook_and_policy() {
    let netns = netns();
    assert_eq!(netns.run(|| (drops().unwrap(), hooked().unwrap())).unwrap(), (vec![], vec![]));
    sh(&netns, &format!("nft -f - <<'END'\n{RULES}\nEND"));

    let (drops, hooked) = netns.run(|| (drops().unwrap(), hooked().unwrap())).unwrap();

    let drops: Vec<String> = drops
        .iter()
        .map(|c| format!("{} {} {} {} {}", c.family, c.table, c.name, c.hook, c.accepts_untracked))
        .collect();
    assert_eq!(drops, ["inet fw in input true", "inet fw forward forward false"]);
    let hooked: Vec<String> = hooked.iter().map(ToString::to_string).collect();
    assert_eq!(
        hooked,
        [
            "chain in of table inet fw (input)",
            "chain forward of table inet fw (forward)",
            "chain out of table inet fw (output)",
            "chain pre of table ip6 raw (prerouting)",
            "chain in of table netdev guard (ingress)",
        ]
    );
}
