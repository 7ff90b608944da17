//! Whatever the kernel and nft answer, it is read to its end, and what is read of our own objects is what was written.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::model::Family;
use crate::model::second_chance::{Name, TunnelId};
use crate::plan::net::LinkKind;
use crate::plan::nft::seen::{flows, taken_in};
use crate::plan::nft::{node_counts, pod_counts, received, sent};
use crate::plan::saved::saved;
use crate::plan::{LabelRoute, Nexthop};
use crate::testing::fuzz::documents;

use super::sock_diag;
use super::wire::{Request, family_of, messages};
use super::{address, bpf, label, link, monitor, neighbour, netlink, nexthop, nft_listing, route, route_to, rule};

const DEV: u32 = 7;

/// Datagrams that Linux 6.18 has sent, each of the messages of one kind. GRE and MPLS, which that kernel did not have, are as we
/// write them: the kernel answers in the same form.
fn datagrams() -> Vec<Vec<u8>> {
    macro_rules! recorded {
        ($($name:literal)*) => {
            vec![$(include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/netlink/", $name, ".bin")).to_vec()),*]
        };
    }
    let mut all = recorded!["links" "addresses" "routes" "route-to" "rules" "neighbours" "nexthops" "filters" "connections"
        "refusals" "changes" "nft-changes"];
    all.extend(own().map(|request| {
        let mut datagram = Vec::new();
        request.emit(0, 9, &mut datagram);
        datagram
    }));
    all
}

fn mpls() -> Nexthop {
    Nexthop::Mpls { family: Family::V6, label: 100, via: [10, 0, 0, 2].into(), dev: "dev".into() }
}

fn encap() -> Nexthop {
    let (src, dst) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
    Nexthop::EncapIp { family: Family::V4, dev: "dev".into(), src, dst, id: TunnelId::former(Name::FIRST) }
}

fn swap() -> LabelRoute {
    LabelRoute::Swap { out: 100, via: [10, 0, 0, 2].into(), dev: "dev".into() }
}

fn own() -> [Request; 6] {
    [
        link::add("kst-gre", &LinkKind::GreExternal(Family::V4)),
        link::add("kst-gre", &LinkKind::GreLocal([10, 0, 0, 1].into())),
        nexthop::replace(7, &mpls(), DEV),
        nexthop::replace(7, &encap(), DEV),
        label::replace(1000, &LabelRoute::Pop { dev: "dev".into() }, DEV),
        label::replace(1000, &swap(), DEV),
    ]
}

fn names() -> BTreeMap<u32, String> {
    (0..16).map(|index| (index, if index == DEV { "dev".to_owned() } else { format!("dev{index}") })).collect()
}

#[test]
fn next_hops_and_labels_are_read_as_they_were_written() {
    let [.., mpls_hop, encap_hop, _, swap_label] = own();
    assert_eq!(nexthop::decode(&mpls_hop.payload, &names()), Some(mpls()));
    assert_eq!(nexthop::decode(&encap_hop.payload, &names()), Some(encap()));
    assert_eq!(label::decode(&swap_label.payload, &names()), Some(swap()));
}

/// Each message is offered to every reader, whatever its type says.
#[test]
fn fuzz_netlink() {
    let names = names();
    let links: BTreeMap<_, _> = messages(&datagrams()[0]).filter_map(|message| link::decode(message.payload)).collect();
    let devices = links.iter().map(|(name, link)| (link.index, (name, link))).collect();
    assert!(links.len() > 3);
    documents("netlink", &datagrams(), |datagram| {
        let mut filter = monitor::Filter::default();
        let mut routes = route::Routes::default();
        let all: Vec<_> = messages(datagram).collect();
        assert!(all.iter().map(|message| message.payload.len()).sum::<usize>() <= datagram.len());
        for message in all {
            let payload = message.payload;
            let _ = netlink::acknowledgement(&message);
            let _ = (filter.route(&message), filter.nft(&message));
            let _ = (link::decode(payload), address::decode(payload), neighbour::decode(payload, &names));
            let _ = (nexthop::decode(payload, &names), nexthop::decode_source(payload, &names));
            let _ = (label::decode(payload, &names), bpf::decode_filter(payload), sock_diag::decode(payload));
            let _ = route_to::decode([10, 0, 0, 2].into(), payload, &devices);
            let _ = family_of(payload).map(|family| rule::decode(family, payload));
            route::sort_in(&mut routes, payload);
        }
    });
}

/// A listing is refused, or everything that is made of it is harmless: what it counts, remembers and lets in.
#[test]
fn fuzz_nft() {
    let recorded = [
        include_bytes!("../../tests/fixtures/nft/1.0.6.json").to_vec(),
        include_bytes!("../../tests/fixtures/nft/1.1.7.json").to_vec(),
    ];
    documents("nft", &recorded, |bytes| {
        let Ok(root) = serde_json::from_slice(bytes) else { return };
        let Ok(table) = nft_listing::decode(&root) else { return };
        let _ = (node_counts(&table), pod_counts(&table), received(&table), sent(&table));
        let _ = saved(Some(&table));
        for vip in taken_in(&table).unwrap_or_default() {
            let _ = flows(&table, vip);
        }
    });
}
