//! The configurations: for the nodes the very one that `manifests/bird/tunnel-router-bird.yaml` ships, so that what is tested is
//! what is installed; for the router its counterpart.

use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

/// Between two BFD packets, as the manifest has it.
pub const BFD_INTERVAL: Duration = Duration::from_millis(100);

const MANIFEST: &str = include_str!("../../../../manifests/bird/tunnel-router-bird.yaml");
/// The line of the manifest that the nodes' configuration follows, and how far it is indented.
const START: &str = "  bird.conf: |";
const INDENT: &str = "    ";

/// The configuration of every node. Its addresses and AS numbers are those of the lab.
pub(super) fn of_nodes() -> String {
    let block = MANIFEST.lines().skip_while(|line| *line != START).skip(1);
    let inside = block.take_while(|line| line.is_empty() || line.starts_with(INDENT));
    inside.map(|line| format!("{}\n", line.strip_prefix(INDENT).unwrap_or_default())).collect()
}

/// The router's part that does not depend on the nodes.
///
/// The nodes call, the router waits: two calls that cross would have to be sorted out first. The hold time is long, so that only
/// BFD can be what finds a silent node in a test. `graceful restart` is off on both sides: with it, the router would keep the
/// routes of a node whose daemon died, in the hope that the node forwards on; but the other nodes serve the same flows in the
/// same way, and a daemon that died may be the first sign of a node that does.
const ROUTER: &str = r#"router id 10.0.0.1;
log stderr all;

# BIRD 2.0.12 puts some work off until it is woken up, by a timer if by nothing else, or after 3 s.
protocol device {
  scan time 1;
}

# All next hops that are equally good become one route.
protocol kernel kernel4 {
  merge paths on;
  ipv4 {
    import none;
    export where source = RTS_BGP;
  };
}
protocol kernel kernel6 {
  merge paths on;
  ipv6 {
    import none;
    export where source = RTS_BGP;
  };
}

protocol bfd {
  interface "fabric" {
    min rx interval BFD ms;
    min tx interval BFD ms;
    multiplier 3;
  };
}

template bgp node {
  local as 64513;
  passive on;
  hold time 240;
  error wait time 1, 2;
  graceful restart off;
  bfd on;
}
"#;

/// Which routes the router takes from nodes.
const VIPS: [(&str, &str); 2] = [("ipv4", "192.0.2.0/24{32,32}"), ("ipv6", "2001:db8:2::/64{128,128}")];

/// The router's configuration, for nodes with these names and addresses. A session carries the family that it runs over.
pub(super) fn of_router<'a>(interval: Duration, nodes: impl Iterator<Item = (&'a str, [IpAddr; 2])>) -> String {
    let mut text = ROUTER.replace("BFD", &interval.as_millis().to_string());
    for (name, addresses) in nodes {
        for (address, (family, vips)) in addresses.into_iter().zip(VIPS) {
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "protocol bgp '{name}.{family}' from node {{\n  neighbor {address} as 64512;\n  {family} {{\n    \
                 import where net ~ [ {vips} ];\n    export none;\n  }};\n}}\n"
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_configuration_is_the_whole_one_of_the_manifest() {
        let conf = of_nodes();
        assert!(conf.starts_with("# The router's addresses"), "{conf}");
        assert!(conf.ends_with("    next hop self;\n  };\n}\n"), "{conf}");
    }

    #[test]
    fn router_and_nodes_agree_on_what_a_vip_is() {
        VIPS.iter().for_each(|(_, range)| assert!(of_nodes().contains(&format!("[ {range} ]")), "{range}"));
    }

    #[test]
    fn the_router_knows_every_node_in_both_families() {
        let conf = of_router(
            BFD_INTERVAL,
            [("ing1", ["10.0.0.11".parse().unwrap(), "fd00:10::11".parse().unwrap()])].into_iter(),
        );
        for line in [
            "min rx interval 100 ms;",
            "'ing1.ipv4' from node",
            "neighbor 10.0.0.11 as",
            "'ing1.ipv6' from node",
            "neighbor fd00:10::11 as",
        ] {
            assert!(conf.contains(line), "{line}: {conf}");
        }
    }
}
