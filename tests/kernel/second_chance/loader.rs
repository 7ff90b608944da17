//! The program in the kernel: loaded, found again, replaced, removed, with `tc` as witness.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use tunnel_router::kernel::bpf::{BpfError, OBJECT, SecondChance, Sizes, attach, detach, observe_filter, own_version};
use tunnel_router::model::Family;
use tunnel_router::model::second_chance::{Count, Tables, Version, VipNames};
use tunnel_router::netns::Netns;
use tunnel_router::plan::filter::{ObservedFilter, filter_step};
use tunnel_router::plan::{Plan, Step};

use super::lab::{C, DATAGRAMS, Lab, P, Tunnel, all_names, ghost, list, name, vip};
use super::packet::{ACK, PORT};
use super::present::{HASH, present};
use crate::support::{load_program, netns, sh};

/// Environment variable of a test that is started by another one, in whose namespace it works.
const IN_THE_CALLERS: &str = "KST_IN_THE_CALLERS_NETNS";
const DEV: &str = "kst-vxlan";
const TUNNEL: Tunnel = Tunnel::Vxlan(Family::V4);

fn device() -> Netns {
    let pod = netns();
    sh(&pod, "ip link add kst-vxlan type vxlan external gpe dstport 4790 nolearning");
    pod
}

fn load() -> SecondChance {
    load_program(OBJECT, Sizes::LEAST)
}

fn attach_in(pod: &Netns, program: &SecondChance) {
    pod.run(|| attach(DEV, &program.handle())).unwrap().unwrap();
}

fn observe_in(pod: &Netns) -> Option<ObservedFilter> {
    pod.run(|| observe_filter(DEV)).unwrap().unwrap()
}

fn tables() -> Tables {
    let names = VipNames { present: present(HASH, &[P, C]), ..all_names() };
    Tables::from([(vip(Family::V4), names), (vip(Family::V6), all_names())])
}

/// What `tc` says about ingress of the device.
fn tc(pod: &Netns) -> String {
    sh(pod, "tc -d filter show dev kst-vxlan ingress")
}

#[test]
fn a_program_is_attached_with_direct_action_and_its_version() {
    let (pod, program) = (device(), load());
    assert_eq!(observe_in(&pod), None);
    attach_in(&pod, &program);
    attach_in(&pod, &program);
    assert_eq!(observe_in(&pod), Some(ObservedFilter { program: program.id(), version: Some(own_version()) }));
    let shown = tc(&pod);
    assert_eq!(shown.matches("handle").count(), 1, "{shown}");
    for part in ["pref 1 ", "handle 0x1 ", "direct-action", "name second_chance", &format!("id {} ", program.id())] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}

#[test]
fn a_restarted_agent_finds_the_program_and_its_tables() {
    let (pod, mut program) = (device(), load_program(OBJECT, Sizes { vips: 512, endpoints: 2048 }));
    program.write(&tables()).unwrap();
    attach_in(&pod, &program);
    let id = program.id();
    drop(program);

    let mut found = SecondChance::open(&observe_in(&pod).unwrap()).unwrap().unwrap();
    assert_eq!((found.id(), found.sizes()), (id, Sizes { vips: 512, endpoints: 2048 }));
    assert_eq!(found.tables(), &tables());
    found.write_vip(vip(Family::V6), None).unwrap();
    found.write_vip(vip(Family::V4), Some(&all_names())).unwrap();
    drop(found);
    let found = SecondChance::open(&observe_in(&pod).unwrap()).unwrap().unwrap();
    assert_eq!(found.tables(), &Tables::from([(vip(Family::V4), all_names())]));
}

/// Another process attaches a program in the namespace and exits, after it has run a shell command.
fn attach_in_another_process(pod: &Netns, first: &str) {
    let binary = std::env::current_exe().unwrap();
    let test = "second_chance::loader::the_other_process_of_a_program_that_stays";
    let command = format!("{first} && exec {} --exact {test}", binary.display());
    let mut other = Command::new("unshare");
    other.args(["--mount", "sh", "-c", &command]).env(IN_THE_CALLERS, "1");
    let output = pod.run(|| other.output().unwrap()).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_kernel_without_type_information_gets_the_plain_program() {
    let pod = device();
    attach_in_another_process(&pod, "{ [ ! -d /sys/kernel/btf ] || mount -t tmpfs none /sys/kernel/btf; }");
    let shown = tc(&pod);
    assert!(shown.contains("name second_chance_0 "), "{shown}");
    let found = SecondChance::open(&observe_in(&pod).unwrap()).unwrap().unwrap();
    assert_eq!(found.tables(), &tables());
}

#[test]
fn a_program_stays_when_its_process_exits() {
    let pod = device();
    attach_in_another_process(&pod, "true");
    assert!(tc(&pod).contains("name second_chance "));
    let found = SecondChance::open(&observe_in(&pod).unwrap()).unwrap().unwrap();
    assert_eq!(found.tables(), &tables());
}

/// Other tests start it in a process of its own, in their namespace; started by nobody it makes one.
#[test]
fn the_other_process_of_a_program_that_stays() {
    let attach_one = || {
        let mut program = load();
        program.write(&tables()).unwrap();
        attach(DEV, &program.handle()).unwrap();
    };
    if std::env::var_os(IN_THE_CALLERS).is_some() { attach_one() } else { device().run(attach_one).unwrap() }
}

#[test]
fn another_version_is_recognised_and_replaced() {
    let pod = device();
    // The loader does not look behind the end of the sections.
    let object = [OBJECT, b"another version"].concat();
    let other = load_program(&object, Sizes::LEAST);
    attach_in(&pod, &other);
    let observed = observe_in(&pod).unwrap();
    assert_eq!(observed, ObservedFilter { program: other.id(), version: Some(Version::of(&object)) });
    assert!(SecondChance::open(&observed).unwrap().is_none());
    let own = load();
    attach_in(&pod, &own);
    assert_eq!(observe_in(&pod), Some(ObservedFilter { program: own.id(), version: Some(own_version()) }));
}

#[test]
fn no_packet_is_lost_while_programs_are_replaced() {
    let lab = Lab::new(TUNNEL);
    let mut other = load();
    other.write(&tables()).unwrap();
    lab.steer("c", list(P, 0) | DATAGRAMS);
    let client = lab.node.run(|| std::net::UdpSocket::bind((Ipv4Addr::new(203, 0, 113, 1), 0)).unwrap()).unwrap();
    client.connect((vip(Family::V4), PORT)).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let (done, answered) = (AtomicBool::new(false), AtomicU32::new(0));
    let replaced = thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let mut answer = [0; 1];
            while !done.load(Ordering::Relaxed) {
                client.send(b"?").unwrap();
                client.recv(&mut answer).expect("a datagram was lost");
                assert_eq!(&answer, b"p");
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut replaced = 0;
        while !traffic.is_finished() && (answered.load(Ordering::Relaxed) < 500 || replaced < 100) {
            let program = if replaced % 2 == 0 { &other } else { &lab.program };
            lab.pods["c"].run(|| attach(DEV, &program.handle())).unwrap().unwrap();
            replaced += 1;
        }
        done.store(true, Ordering::Relaxed);
        replaced
    });
    assert!(replaced >= 100, "{replaced}");
    let passed = [lab.counts(), other.counts().unwrap()].map(|counts| counts.of(Count::Passed));
    assert_eq!(passed.iter().sum::<u64>(), u64::from(answered.into_inner()), "{passed:?}");
    assert!(passed.iter().all(|count| *count > 0), "{passed:?}");
}

#[test]
fn a_removed_program_leaves_nothing() {
    let (pod, program) = (device(), load());
    attach_in(&pod, &program);
    let observed = observe_in(&pod).unwrap();
    drop(program);
    for _ in 0..2 {
        pod.run(|| detach(DEV)).unwrap().unwrap();
        assert_eq!(observe_in(&pod), None);
        assert_eq!(tc(&pod), "");
        assert!(!sh(&pod, "tc qdisc show dev kst-vxlan").contains("clsact"));
    }
    // The kernel frees programs a moment later.
    let gone = || matches!(SecondChance::open(&observed), Err(BpfError::Find { .. }));
    assert!((0..100).any(|_| gone() || {
        thread::sleep(Duration::from_millis(20));
        false
    }));
    sh(&pod, "ip link del kst-vxlan");
    pod.run(|| detach(DEV)).unwrap().unwrap();
}

#[test]
fn a_device_that_is_not_there_is_named() {
    let (pod, program) = (netns(), load());
    let error = pod.run(|| attach(DEV, &program.handle())).unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the BPF filter of kst-vxlan: no device kst-vxlan");
}

#[test]
fn a_full_table_is_an_error_of_its_own_and_the_rest_is_kept() {
    let mut program = SecondChance::load(Sizes { vips: 16, endpoints: 4 }).unwrap();
    program.write_vip(vip(Family::V4), Some(&all_names())).unwrap();
    let error = program.write_vip(vip(Family::V6), Some(&all_names())).unwrap_err();
    assert!(error.is_full(), "{error}");
    assert_eq!(error.to_string(), "the table endpoints of the BPF program is full: it has room for 4 entries");
    assert_eq!(program.tables(), &Tables::from([(vip(Family::V4), all_names())]));
    assert!(!program.sizes().can_hold(&tables()));
    let larger = Sizes::holding(&tables());
    assert!(larger.can_hold(&tables()) && larger == Sizes::LEAST);
    // Nothing of what did not fit is left: another VIP has the room.
    let one = VipNames {
        last: name(C),
        endpoints: BTreeMap::from([(name(C), all_names().endpoints[&name(C)])]),
        present: None,
    };
    program.write_vip(vip(Family::V6), Some(&one)).unwrap();
}

#[test]
fn the_printed_commands_attach_and_detach_the_program() {
    let (pod, program) = (device(), load());
    let directory = tempfile::tempdir().unwrap();
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_tunnel-router"));
    let attach = Step::AttachFilter { dev: DEV.to_owned(), program: program.id() };
    let commands = Plan { steps: vec![attach.clone(), attach.clone()] };
    let (here, path) = (directory.path().display(), binary.parent().unwrap().display());
    sh(&pod, &format!("set -e; cd {here}; PATH={path}:$PATH\n{commands}"));
    assert_eq!(std::fs::read(directory.path().join("second_chance.o")).unwrap(), OBJECT);
    // Not by an agent: its tables are empty, so the agent replaces it.
    let observed = observe_in(&pod).unwrap();
    assert_eq!(observed.version, None);
    assert!(SecondChance::open(&observed).unwrap().is_none());
    assert_eq!(filter_step(DEV, Some(program.id()), Some(&observed)), Some(attach));
    attach_in(&pod, &program);
    let observed = observe_in(&pod);
    assert_eq!(filter_step(DEV, Some(program.id()), observed.as_ref()), None);
    let step = filter_step(DEV, None, observed.as_ref()).unwrap();
    sh(&pod, &step.to_string());
    assert_eq!(observe_in(&pod), None);
}

#[test]
fn the_object_is_not_written_to_a_terminal() {
    let command =
        format!("script --quiet --return --command '{} bpf-object' /dev/null", env!("CARGO_BIN_EXE_tunnel-router"));
    let output = Command::new("sh").args(["-c", &command]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && text.contains("this is not text"), "{text}");
}

#[test]
fn without_the_kernels_types_a_half_open_connection_takes_everything() {
    let lab = Lab::untyped(TUNNEL);
    lab.steer("c", list(P, 0));
    for family in Family::ALL {
        let flow = ghost(family, 4000);
        let next = lab.syn(flow, &["to c 2", "from c SA"]);
        // The pod's kernel drops or answers it; what matters is that it went no further.
        lab.trace(&flow.tcp(ACK, 1001, next.wrapping_add(7), b""), &["to c 2", "from c R"]);
        lab.trace(&ghost(family, 4001).tcp(ACK, 1001, 5, b""), &["to c 2", "to p - passed", "from p R"]);
    }
    assert_eq!(lab.counts().of(Count::HalfOpen), 2);
}
