//! Rows about a late ingress node: it sends packets to an earlier owner, whose node knows the present one.

use std::collections::BTreeMap;

use tunnel_router::model::handover::{Finds, FlowHash, HashKey, Known, Packet, Taken, TunnelId, Verdict, decide};
use tunnel_router::model::hash::{self, Flow};
use tunnel_router::model::second_chance::{Count, Name, Present, VipNames};
use tunnel_router::model::{Addresses, Bucket, BucketCount, Family};

use super::lab::{C, DATAGRAMS, Lab, P, PODS, Q, all_names, ask, ghost, list, name, pod_address, text, vip};
use super::packet::{self, ACK, RST};
use super::rows::{each_family, knows, stray};

pub const HASH: FlowHash = FlowHash { buckets: BucketCount::DEFAULT, seed: 0x6b73_7401, key: HashKey::Ports };

/// All buckets with the same owners.
pub fn present(hash: FlowHash, owners: &[u32]) -> Option<Present> {
    let owners: Vec<Name> = owners.iter().copied().map(name).collect();
    Present::new(hash, &hash.buckets.iter().map(|bucket| (bucket, owners.clone())).collect())
}

fn names(owners: &[u32]) -> VipNames {
    VipNames { present: present(HASH, owners), ..all_names() }
}

/// What an ingress node finds for packets that a flow's client sends to the VIP.
fn bucket_of(flow: packet::Flow, hash: FlowHash) -> Bucket {
    let ports = (hash.key == HashKey::Ports).then_some((flow.port, flow.vip_port));
    hash::bucket(&Flow { src: flow.client, dst: flow.vip, ports }, hash.buckets, hash.seed)
}

pub fn a_packet_sent_to_an_earlier_owner_reaches_the_present_owner(lab: &mut Lab) {
    knows(lab, &names(&[C, P]));
    lab.steer("c", 0);
    let mut streams = Family::ALL.map(|family| lab.connect(family));
    assert_eq!(streams.each_mut().map(ask), ["c", "c"]);
    let before = lab.counts();
    lab.steer("p", 0);
    assert_eq!(streams.each_mut().map(ask), ["c", "c"]);
    each_family(lab, |lab, family| drop(lab.trace(&stray(family), &["to p -", "to c - passed", "from c R"])));
    // One name leaves room for another.
    lab.steer("p", list(Q, 0));
    assert_eq!(streams.each_mut().map(ask), ["c", "c"]);
    let way = ["to p 3", "to q 1 passed", "to c - passed", "from c R"];
    each_family(lab, |lab, family| drop(lab.trace(&stray(family), &way)));
    let counted = lab.counts().since(&before);
    assert!(counted.of(Count::Completed) >= 8, "{counted}");
    // It is not a name of the packet that was skipped.
    assert_eq!([Count::OwnName, Count::Exhausted].map(|kind| counted.of(kind)), [0, 0], "{counted}");
}

pub fn without_a_change_of_owners_a_packet_without_a_list_is_taken_unread(lab: &mut Lab) {
    lab.steer("c", 0);
    let mut streams = Family::ALL.map(|family| lab.connect(family));
    let read = |lab: &Lab| [Count::Connection, Count::Completed].map(|kind| lab.counts().of(kind));
    assert_eq!(streams.each_mut().map(ask), ["c", "c"]);
    assert_eq!(read(lab), [0, 0]);
    // A change at one VIP leaves the other one as it is, and ends alone.
    let (moved, resting) = (vip(Family::V4), vip(Family::V6));
    lab.program.write_vip(moved, Some(&names(&[P]))).unwrap();
    lab.trace(&stray(Family::V4), &["to c -", "to p - passed", "from p R"]);
    lab.trace(&stray(Family::V6), &["to c -", "from c R"]);
    ask(&mut streams[1]);
    assert_eq!(read(lab), [0, 1]);
    ask(&mut streams[0]);
    assert!(read(lab)[0] > 0);
    lab.program.write_vip(resting, Some(&names(&[P]))).unwrap();
    lab.program.write_vip(moved, Some(&all_names())).unwrap();
    lab.trace(&stray(Family::V4), &["to c -", "from c R"]);
    lab.trace(&stray(Family::V6), &["to c -", "to p - passed", "from p R"]);
    lab.program.write_vip(resting, None).unwrap();
    lab.trace(&stray(Family::V6), &["to c -", "from c R"]);
    assert_eq!(streams.each_mut().map(ask), ["c", "c"]);
}

pub fn a_full_list_gets_no_name(lab: &mut Lab) {
    let mut full = names(&[C]);
    full.endpoints.insert(name(4), full.endpoints[&name(Q)]);
    knows(lab, &full);
    lab.steer("p", list(Q, 4));
    each_family(lab, |lab, family| drop(lab.trace(&stray(family), &["to p 3,4", "to q 4 passed", "from q R"])));
    assert_eq!(lab.counts().of(Count::Completed), 0);
}

pub fn a_packet_that_was_passed_on_gets_no_name(lab: &mut Lab) {
    knows(lab, &names(&[C]));
    for (id, way) in [
        (list(P, 0), &["to c 2", "to p - passed", "from p R"][..]),
        (list(P, Q), &["to c 2,3", "to p 3 passed", "to q - passed", "from q R"]),
    ] {
        lab.steer("c", id);
        each_family(lab, |lab, family| drop(lab.trace(&stray(family), way)));
    }
    assert_eq!(lab.counts().of(Count::Completed), 0);
}

pub fn a_retired_name_makes_room_for_the_present_owner(lab: &mut Lab) {
    knows(lab, &names(&[C]));
    lab.steer("p", list(Q, 2047));
    let way = ["to p 3,2047", "to q 1 passed", "to c - passed", "from c R"];
    each_family(lab, |lab, family| drop(lab.trace(&stray(family), &way)));
}

pub fn datagrams_stay_with_an_earlier_owner(lab: &mut Lab) {
    knows(lab, &names(&[C]));
    for (id, way) in [
        (0, &["to p -", "from p UDP"][..]),
        (Q, &["to p 3", "from p UDP"]),
        (Q | DATAGRAMS, &["to p 3 datagrams", "to q - passed", "from q UDP"]),
        (P | DATAGRAMS, &["to p 2 datagrams", "from p UDP"]),
    ] {
        lab.steer("p", id);
        each_family(lab, |lab, family| drop(lab.trace(&ghost(family, 4000).udp(b"?"), way)));
    }
    assert_eq!(lab.counts().of(Count::Completed), 0);
}

pub fn an_error_follows_its_connection_to_the_present_owner(lab: &mut Lab) {
    each_family(lab, |lab, family| {
        let flow = ghost(family, 4000);
        lab.steer("c", 0);
        let next = lab.syn(flow, &["to c -", "from c SA"]);
        lab.trace(&flow.tcp(ACK, 1001, next, b""), &["to c -"]);
        // Only the bucket of the flow, so that the addresses of the error itself would lead nowhere.
        let owners = BTreeMap::from([(bucket_of(flow, HASH), vec![name(C)])]);
        knows(lab, &VipNames { present: Present::new(HASH, &owners), ..all_names() });
        lab.steer("p", 0);
        lab.trace(&flow.too_big(next), &["to p -", "to c - passed"]);
        lab.trace(&flow.tcp(RST, 1001, 0, b""), &["to p -", "to c - passed"]);
        knows(lab, &all_names());
    });
    assert_eq!(lab.counts().of(Count::Completed), 4);
}

pub fn later_fragments_follow_a_first_one_that_got_a_name(lab: &mut Lab) {
    knows(lab, &names(&[C]));
    lab.steer("p", 0);
    each_family(lab, |lab, family| {
        let [first, later] = ghost(family, 4000).ack_in_fragments(79, &[b'?'; 40]);
        lab.trace(&first, &["to p -", "to c - passed"]);
        lab.trace(&later, &["to p -", "to c - passed", "from c R"]);
    });
    assert_eq!(lab.counts().of(Count::Fragment), 2);
}

pub fn with_affinity_only_addresses_find_the_bucket(lab: &mut Lab) {
    lab.steer("p", 0);
    each_family(lab, |lab, family| {
        // Many ports in one bucket, which is another one for each seed.
        for seed in 0..8 {
            let hash = FlowHash { seed, key: HashKey::Addresses, ..HASH };
            let owners = BTreeMap::from([(bucket_of(ghost(family, 0), hash), vec![name(C)])]);
            knows(lab, &VipNames { present: Present::new(hash, &owners), ..all_names() });
            let way = |port| (ghost(family, port).tcp(ACK, 1, 1, b""), vec!["to p -", "to c - passed", "from c R"]);
            lab.trace_each(&[4000, 4001, 4002, 4003].map(way));
        }
    });
}

/// The second name tells which bucket the program has found.
fn each_bucket_named(hash: FlowHash) -> VipNames {
    let mut names = all_names();
    let row = |bucket: Bucket| (bucket, vec![name(C), name(100 + bucket.number())]);
    names.present = Present::new(hash, &hash.buckets.iter().map(row).collect());
    let to_c = names.endpoints[&name(C)];
    names.endpoints.extend(hash.buckets.iter().map(|bucket| (name(100 + bucket.number()), to_c)));
    names
}

pub fn the_program_finds_the_bucket_that_the_ingress_node_finds(lab: &mut Lab) {
    lab.steer("p", 0);
    each_family(lab, |lab, family| {
        for (buckets, seed) in [(16, 0), (64, HASH.seed), (128, u32::MAX)] {
            let hash = FlowHash { buckets: BucketCount::new(buckets).unwrap(), seed, key: HashKey::Ports };
            lab.program.write_vip(vip(family), Some(&each_bucket_named(hash))).unwrap();
            let ways: Vec<_> = (0..32)
                .map(|number: u16| {
                    let (port, vip_port) = (number.wrapping_mul(2053), 80 + number * 257);
                    let flow = packet::Flow { vip_port, ..ghost(family, port) };
                    let found = format!("to c {} passed", 100 + bucket_of(flow, hash).number());
                    (flow.tcp(ACK, 5000, 6000, b""), vec!["to p -".to_owned(), found, "from c R".to_owned()])
                })
                .collect();
            lab.trace_each(&ways);
        }
    });
}

/// The way of a packet that belongs to no pod, as [`decide`] says.
fn way(packet: Packet, pod: &str, id: u32, names: &VipNames, owners: &[Name], outer: Family) -> Vec<String> {
    let own = PODS.iter().zip(1..).find(|(other, _)| **other == pod).map(|(_, number)| name(number));
    let known = Known { own, names: &names.endpoints, last: Some(names.last), outer, present: owners };
    let mut texts = vec![format!("to {pod} {}", text(id))];
    match decide(packet, TunnelId::from_bits(id), &known) {
        Verdict::Take(Taken::NonTcp) => texts.push(format!("from {pod} UDP")),
        Verdict::Take(_) => {
            texts.push(format!("from {pod} {}", if matches!(packet, Packet::Tcp(_)) { "R" } else { "UDP" }));
        }
        Verdict::Drop(_) => {}
        Verdict::Forward { to, id } => {
            let pod = PODS[usize::from(to.get()) - 1];
            texts.extend(way(packet, pod, id.bits(), names, owners, outer));
        }
    }
    texts
}

pub fn the_program_decides_as_its_twin(lab: &mut Lab) {
    const AHEAD: u32 = 4;
    const RETIRED: u32 = 2047;
    const NO_ADDRESS: u32 = 2046;
    const LISTS: [(u32, u32); 13] = [
        (0, 0),
        (Q, 0),
        (0, Q),
        (Q, C),
        (P, 0),
        (P, Q),
        (C, P),
        (AHEAD, Q),
        (Q, AHEAD),
        (RETIRED, AHEAD),
        (NO_ADDRESS, C),
        (RETIRED, P),
        (Q, NO_ADDRESS),
    ];
    const OWNERS: [&[u32]; 7] = [&[], &[C], &[P, Q], &[P, C, Q], &[Q, P, C], &[AHEAD, RETIRED, C], &[NO_ADDRESS, Q, C]];
    let outer = lab.tunnel.outer();
    let other = if outer == Family::V4 { Family::V6 } else { Family::V4 };
    let owners = |bucket: Bucket| OWNERS[bucket.index() % OWNERS.len()].iter().copied().map(name).collect();
    let owners: BTreeMap<Bucket, Vec<Name>> = HASH.buckets.iter().map(|bucket| (bucket, owners(bucket))).collect();
    let mut names = VipNames { present: Present::new(HASH, &owners), ..all_names() };
    names.endpoints.insert(name(NO_ADDRESS), Addresses::from(pod_address("c", other)));
    knows(lab, &names);
    // Of each family one flow for each of the seven.
    let flows = Family::ALL.map(|family| {
        let owned_by = |at| move |flow: &packet::Flow| bucket_of(*flow, HASH).index() % OWNERS.len() == at;
        (0..OWNERS.len()).map(move |at| (4000..).map(|port| ghost(family, port)).find(owned_by(at)).unwrap())
    });
    let flows = flows.map(Iterator::collect::<Vec<_>>);
    for (at, (first, second)) in LISTS.into_iter().enumerate() {
        let id = list(first, second) | if at % 2 == 1 { DATAGRAMS } else { 0 };
        lab.steer("p", id);
        for of_one_family in &flows {
            let ways = of_one_family.iter().flat_map(|flow| {
                let way = |packet| way(packet, "p", id, &names, &owners[&bucket_of(*flow, HASH)], outer);
                let tcp = (flow.tcp(ACK, 5000, 6000, b""), way(Packet::Tcp(Finds::Nothing)));
                [tcp, (flow.udp(b"?"), way(Packet::NonTcp(Finds::Nothing)))]
            });
            lab.trace_each(&ways.collect::<Vec<_>>());
        }
    }
}
