//! Every table that we write, in every release of nft that nodes have: it loads, and is read back as it was written.
//!
//! The agent takes the `nft` that is first in PATH. So that another one is, the test of this machine's nft runs once more as a
//! process of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use crate::support::{apply_in, netns, observe_in, sh};
use tunnel_router::model::handover::{FlowHash, HashKey};
use tunnel_router::model::{Addresses, BucketCount, Family, MarkField};
use tunnel_router::netns::Netns;
use tunnel_router::plan::nft::frames::{BridgeTable, FrameTable};
use tunnel_router::plan::nft::node::{Ingress, NodeTable};
use tunnel_router::plan::nft::op::script;
use tunnel_router::plan::nft::pause::{pause, resume};
use tunnel_router::plan::nft::pod::{PodTable, Tunnels};
use tunnel_router::plan::nft::script::{Scripts, scripts};
use tunnel_router::plan::nft::{NftAction, NftOp, Set, SetType, Table, TableFamily};
use tunnel_router::plan::{Mac, NFT_TABLE, Observed, Step};

fn addresses(list: &[&str]) -> BTreeSet<IpAddr> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

fn flows(buckets: u32, key: HashKey) -> FlowHash {
    FlowHash { buckets: BucketCount::new(buckets).unwrap(), seed: 0x6b73_7431, key }
}

fn field() -> MarkField {
    MarkField::new(0xff, BucketCount::new(64).unwrap()).unwrap()
}

fn vips() -> BTreeSet<IpAddr> {
    // The second IPv6 address is a number that JSON can hold.
    addresses(&["192.0.2.10", "192.0.2.11", "2001:db8::10", "::1000", "64:ff9b::1"])
}

fn ingress() -> Ingress {
    let refusing = |text: &str, mark| (text.parse().unwrap(), mark);
    Ingress {
        endpoints: addresses(&["10.244.1.2", "fd00:244::2"]),
        mpls_gateways: addresses(&["10.0.0.2", "fd00::2"]),
        flows: flows(64, HashKey::Ports),
        other_flows: BTreeMap::from([
            (flows(16, HashKey::Ports), addresses(&["192.0.2.11", "64:ff9b::1"])),
            (flows(64, HashKey::Addresses), addresses(&["192.0.2.10", "2001:db8::10"])),
        ]),
        refusing: BTreeSet::from([refusing("192.0.2.10", 0x85), refusing("2001:db8::10", 0xbf)]),
        ranges: BTreeSet::from(["192.0.2.0/24", "198.51.100.7/32", "2001:db8::/32"].map(|net| net.parse().unwrap())),
        mark: field(),
        gre6_source: Some("fd00::1".parse().unwrap()),
    }
}

fn node() -> Table {
    let table = NodeTable {
        node: "n1".into(),
        nodes: addresses(&["10.0.0.1", "10.0.0.2", "fd00::1"]),
        own: addresses(&["10.0.0.1"]),
        vips: vips(),
        tracked_vips: addresses(&["192.0.2.10", "2001:db8::10"]),
        ingress: Some(ingress()),
        pods: addresses(&["10.244.1.2", "fd00:244::2"]),
        endpoint_devices: ["veth1".to_owned(), "1bond.100".into()].into(),
        link_prefix: "kst-".into(),
        vxlan_port: 4790,
        unbucketed: None,
    };
    let mut table = table.table();
    let saved = Set::new(SetType::IfnameToMark, ["lo : 1", ". : 1048575", "bond0.100 : 0"]);
    table.sets.insert("saved_rp_filter".into(), saved);
    table
}

fn serving_node() -> Table {
    let table = NodeTable {
        node: "n1".into(),
        nodes: addresses(&["10.0.0.1", "fd00::1"]),
        own: addresses(&["10.0.0.1", "fd00::1"]),
        vips: vips(),
        tracked_vips: BTreeSet::new(),
        ingress: None,
        pods: addresses(&["10.244.1.2"]),
        endpoint_devices: BTreeSet::new(),
        link_prefix: "kst-".into(),
        vxlan_port: 4790,
        unbucketed: Some(0x40),
    };
    table.table()
}

fn pod() -> Table {
    let pod = Addresses { v4: Some("10.244.1.2".parse().unwrap()), v6: Some("fd00:244::2".parse().unwrap()) };
    let table = PodTable {
        node: "n1".into(),
        vips: vips(),
        nodes: addresses(&["10.0.0.1", "fd00::1"]),
        pod,
        tunnels: Tunnels { gre: Family::ALL.into(), vxlan: Some(4790), mpls: true },
        udp_timeout: Some(5),
        mss: BTreeMap::from([(Family::V4, 1414), (Family::V6, 1394)]),
        link_prefix: "kst-".into(),
        peers: addresses(&["10.244.2.2", "fd00:244:2::2"]),
    };
    table.table()
}

fn frames() -> BTreeMap<TableFamily, Table> {
    let netdev = FrameTable {
        node: "n1".into(),
        devices: ["eth0".to_owned(), "bond0.100".into()].into(),
        nodes: addresses(&["10.0.0.2", "fd00::2"]),
        known: [Mac([2, 0, 0, 0, 0, 0x2a])].into(),
        complete: true,
    };
    BTreeMap::from([(TableFamily::Netdev, netdev.table())])
}

fn table_of(observed: &Observed, family: TableFamily) -> Option<&tunnel_router::plan::nft::ObservedTable> {
    if family == TableFamily::Inet { observed.nft.as_ref() } else { observed.frames.get(&family) }
}

fn ops(scripts: Scripts) -> Vec<NftOp> {
    [scripts.prepare, scripts.divert, scripts.enable, scripts.finish].concat()
}

/// What a second round would write.
fn left(netns: &Netns, family: TableFamily, desired: &Table) -> Vec<NftOp> {
    ops(scripts(family, Some(desired), table_of(&observe_in(netns, &[]), family)))
}

fn write_and_read_back(netns: &Netns, family: TableFamily, desired: &Table) {
    apply_in(netns, &[Step::Nft(left(netns, family, desired))]);
    assert_eq!(left(netns, family, desired), [], "{family}: a second round writes");
    // The nft of the host may be older than the one that wrote.
    sh(
        netns,
        &format!("PATH=${{KST_OTHER_PATH:-$PATH}}; nft list ruleset && nft -j -n list table {family} {NFT_TABLE}"),
    );
}

fn namespace() -> Netns {
    let netns = netns();
    for device in ["eth0", "bond0.100"] {
        sh(&netns, &format!("ip link add {device} type veth peer name peer-{device}"));
    }
    netns
}

#[test]
fn every_table_reads_back_as_it_was_written() {
    println!("{}", sh(&namespace(), "nft --version"));
    for table in [node(), serving_node(), pod()] {
        write_and_read_back(&namespace(), TableFamily::Inet, &table);
    }
    for (family, table) in frames() {
        write_and_read_back(&namespace(), family, &table);
    }
    let paused = namespace();
    apply_in(&paused, &[Step::Nft(pause(&vips()))]);
    sh(&paused, "PATH=${KST_OTHER_PATH:-$PATH}; nft list ruleset");
    apply_in(&paused, &[Step::Nft(resume())]);
    // One role after the other in the same namespace, without a table that is made anew.
    let netns = namespace();
    for table in [serving_node(), node(), serving_node()] {
        let ops = left(&netns, TableFamily::Inet, &table);
        assert!(!ops.iter().any(|op| op.action == NftAction::DeleteTable), "{}", script(&ops));
        write_and_read_back(&netns, TableFamily::Inet, &table);
    }
}

mod gre_mpls {
    use super::*;

    #[test]
    fn the_table_of_a_bridge_reads_back_as_it_was_written() {
        let table = BridgeTable { node: "n1".into(), bridges: ["cni0".to_owned()].into(), label: 100 };
        write_and_read_back(&namespace(), TableFamily::Bridge, &table.table());
    }

    #[test]
    fn debian_stables_nft_reads_back_the_table_of_a_bridge() {
        with_nft_of("trixie", &["nft_versions::gre_mpls::the_table_of_a_bridge_reads_back_as_it_was_written"]);
    }
}

const READS_BACK: &str = "nft_versions::every_table_reads_back_as_it_was_written";
const STARTS: &str = "features::this_machine_has_what_every_mode_but_gre_and_mpls_needs";

/// A directory whose `nft` is that of a Debian suite.
fn nft_of(suite: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("hack/lib/nft-versions");
    let output = Command::new(&script).arg(suite).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "no nft of {suite}: run {} {suite}\n{said}", script.display());
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Runs tests of this binary with the nft of a Debian suite.
fn with_nft_of(suite: &str, tests: &[&str]) {
    let own = std::env::var("PATH").unwrap();
    let path = format!("{}:{own}", nft_of(suite));
    passes(Command::new(std::env::current_exe().unwrap()).env("PATH", path).env("KST_OTHER_PATH", own), tests);
}

/// Hides the files by which names become numbers, in a mount namespace of its own.
const WITHOUT_NAMES: &str = r#"
for file in /etc/protocols /etc/services; do
    [ ! -e $file ] || mount --bind /dev/null $file || exit
done
exec "$@"
"#;

fn passes(command: &mut Command, tests: &[&str]) {
    let output = command.arg("--exact").args(tests).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    println!("{said}");
    assert!(output.status.success(), "{command:?}: {said}");
    let ran = |test: &&str| said.contains(&format!("test {test} ... ok"));
    assert!(tests.iter().all(ran), "not all of {tests:?} ran: {said}");
}

const PACKETS: [&str; 4] = [
    "hash_twin::an_error_about_a_packet_to_a_vip_comes_from_the_vip",
    "hash_twin::an_ipv6_error_about_a_packet_to_a_vip_comes_from_the_vip",
    "hash_twin::the_twin_finds_the_kernels_mark_for_a_thousand_ipv4_flows",
    "hash_twin::the_twin_finds_the_kernels_mark_for_ipv6_flows",
];

#[test]
fn debian_stables_nft_reads_back_what_was_written() {
    with_nft_of("trixie", &[&[READS_BACK, STARTS], &PACKETS[..]].concat());
}

#[test]
#[ignore = "KST_TEST_ALL=1 runs it"]
fn debian_unstables_nft_reads_back_what_was_written() {
    with_nft_of("sid", &[&[READS_BACK, STARTS], &PACKETS[..]].concat());
}

#[test]
fn no_table_needs_the_files_that_name_protocols_and_services() {
    for suite in ["", "trixie"] {
        let directory = if suite.is_empty() { String::new() } else { nft_of(suite) + ":" };
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", WITHOUT_NAMES, "sh"]).arg(std::env::current_exe().unwrap());
        command.env("PATH", format!("{directory}{}", std::env::var("PATH").unwrap()));
        passes(&mut command, &[READS_BACK, STARTS]);
    }
}
