//! A pod as a round of the agent sets it up, with `tc`, `ip` and packets as witnesses. What needs GRE is in modules named
//! `gre…`.

mod contested;
mod lab;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tunnel_router::model::{Family, Mode, Reason};
use tunnel_router::netns::{PodSearch, ProcFinder};
use tunnel_router::plan::{Observed, Step};
use tunnel_router::reconcile::target::{Report, Shared, State, run};
use tunnel_router::reconcile::{Execution, Goal, Memory, Order, Places, Site, clear, reconcile};

use crate::second_chance::packet::Flow;
use crate::support::{PREFIX, observe_in, sh};
use lab::{Lab, Sender, Tunnel, VXLAN_PORT, client, received, settings, vip};

/// One test per tunnel.
macro_rules! in_each_tunnel {
    ($($test:ident)*) => {
        in_each_tunnel!(@vxlan Vxlan V4: $($test)*);
        in_each_tunnel!(@vxlan_over_ipv6 Vxlan V6: $($test)*);
        in_each_tunnel!(@gre Gre V4: $($test)*);
        in_each_tunnel!(@gre_over_ipv6 Gre V6: $($test)*);
    };
    (@$module:ident $mode:ident $outer:ident: $($test:ident)*) => {
        mod $module {
            use super::{Family, Lab, Mode, Tunnel};

            $(#[test] fn $test() {
                super::$test(Lab::new(Tunnel { mode: Mode::$mode, outer: Family::$outer }));
            })*
        }
    };
}

in_each_tunnel! {
    the_program_is_attached_before_the_device_is_up
    another_program_replaces_the_one_that_is_there
    a_pod_without_its_program_is_served_and_gets_it_later
    a_program_that_the_kernel_refuses_holds_nothing_else_up
    a_removed_program_is_put_back
    clearing_leaves_nothing
    nodes_and_peers_may_send_and_strangers_may_not
    a_client_cannot_send_a_packet_inside_a_packet
    a_mode_that_fails_holds_up_no_other
}

fn the_program_is_attached_before_the_device_is_up(mut lab: Lab) {
    let program = lab.load();
    let input = lab.input(Some(program.id()), &[]);
    let first = lab.round(input.clone());
    assert!(first.program && first.notes.is_empty(), "{:?}", first.notes);
    let at = |step: Step| first.plan.steps.iter().position(|other| *other == step).unwrap();
    let device = lab.tunnel.device().to_owned();
    let attach = Step::AttachFilter { dev: device.clone(), program: program.id() };
    assert!(at(attach) < at(Step::LinkUp(device)), "{}", first.plan);
    let shown = lab.tc();
    assert!(shown.contains(&format!("id {} ", program.id())) && shown.contains("direct-action"), "{shown}");
    let second = lab.round(input);
    assert!(second.plan.is_empty() && second.program, "{}", second.plan);
}

fn another_program_replaces_the_one_that_is_there(mut lab: Lab) {
    let (one, two) = (lab.load(), lab.load());
    lab.round(lab.input(Some(one.id()), &[]));
    let plan = lab.round(lab.input(Some(two.id()), &[])).plan;
    assert_eq!(plan.steps, [Step::AttachFilter { dev: lab.tunnel.device().to_owned(), program: two.id() }]);
    let shown = lab.tc();
    assert!(shown.contains(&format!("id {} ", two.id())) && shown.matches("handle").count() == 1, "{shown}");
    let plan = lab.round(lab.input(None, &[])).plan;
    assert_eq!(plan.steps, [Step::DetachFilter(lab.tunnel.device().to_owned())]);
    assert_eq!(lab.tc(), "");
}

fn a_pod_without_its_program_is_served_and_gets_it_later(mut lab: Lab) {
    let program = lab.load();
    let input = lab.input(Some(program.id()), &[]);
    lab.programs.remove(program.id());
    let first = lab.round(input.clone());
    assert!(!first.program && !first.plan.is_empty());
    assert_eq!(first.notes.iter().map(|note| note.reason).collect::<Vec<_>>(), [Reason::NoSecondChance]);
    let why = format!("attach the BPF program to {}: the BPF program {} is not", lab.tunnel.device(), program.id());
    assert!(first.notes[0].text.starts_with(&why), "{:?}", first.notes);
    let server = lab.server(Family::V4);
    lab.send(Sender::Node, &client(Family::V4).udp(b"served"));
    assert_eq!(received(&server), "served");
    let second = lab.round(input.clone());
    assert!(second.plan.is_empty() && !second.program && second.notes == first.notes, "{}", second.plan);
    lab.programs.insert(program.handle());
    let third = lab.round(input);
    assert!(third.program && third.notes.is_empty() && third.plan.steps.len() == 1, "{}", third.plan);
}

fn a_program_that_the_kernel_refuses_holds_nothing_else_up(mut lab: Lab) {
    let program = lab.load();
    lab.round(lab.input(None, &[]));
    let device = lab.tunnel.device();
    // Filters of one preference are for one protocol.
    let directory = tempfile::tempdir().unwrap();
    sh(
        &lab.pod,
        &format!(
            "set -e; cd {}; {} bpf-object > theirs.o; tc qdisc add dev {device} clsact
             tc filter add dev {device} ingress pref 1 protocol arp bpf direct-action object-file theirs.o
             ip addr del {}/32 dev {device}",
            directory.path().display(),
            env!("CARGO_BIN_EXE_tunnel-router"),
            vip(Family::V4)
        ),
    );
    let outcome = lab.round(lab.input(Some(program.id()), &[]));
    assert!(!outcome.program && outcome.plan.steps.len() == 1, "{}", outcome.plan);
    assert_eq!(outcome.notes.iter().map(|note| note.reason).collect::<Vec<_>>(), [Reason::NoSecondChance]);
    let server = lab.server(Family::V4);
    lab.send(Sender::Node, &client(Family::V4).udp(b"served"));
    assert_eq!(received(&server), "served");
}

/// What the other mode needs has somebody else: the name of its device, or its UDP port.
fn a_mode_that_fails_holds_up_no_other(mut lab: Lab) {
    let program = lab.load();
    let other = if lab.tunnel.mode == Mode::Vxlan { Mode::Gre } else { Mode::Vxlan };
    let theirs = Tunnel { mode: other, ..lab.tunnel }.device();
    sh(&lab.pod, &format!("ip link add {theirs} type bridge"));
    let mut input = lab.input(Some(program.id()), &[]);
    input.vips.insert("192.0.2.20".parse().unwrap(), other);
    let first = lab.round(input.clone());
    assert_eq!(first.lacking, [other].into());
    let told: Vec<_> = first.notes.iter().map(|note| (note.reason, note.mode)).collect();
    assert_eq!(told, [(Reason::EndpointFailed, Some(other))]);
    assert!(first.notes[0].text.contains(theirs), "{:?}", first.notes);
    assert!(first.program, "the other tunnel has its program");
    let server = lab.server(Family::V4);
    lab.send(Sender::Node, &client(Family::V4).udp(b"served"));
    assert_eq!(received(&server), "served");
    let second = lab.round(input.clone());
    assert!(second.plan.is_empty() && second.notes == first.notes, "{}", second.plan);
    // A pod in which nothing would be left fails.
    input.vips.retain(|_, mode| *mode == other);
    let goal = Goal::Pod(input);
    let alone =
        reconcile(&lab.pod, &goal, &settings(), &mut Memory::default(), Execution::Apply(&lab.programs)).unwrap_err();
    assert!(alone.to_string().contains(theirs), "{alone}");
}

/// The loop around the namespace, which hears of it.
fn a_removed_program_is_put_back(lab: Lab) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(put_back(lab));
}

/// What a target needs, and what it will report. It does not look around by itself.
fn shared(lab: &Lab) -> (Shared, mpsc::UnboundedReceiver<Report>) {
    let (reports, reported) = mpsc::unbounded_channel();
    let shared = Shared {
        settings: Arc::new(settings()),
        resync: Duration::from_secs(3600),
        permits: Arc::new(Semaphore::new(1)),
        search: Arc::new(PodSearch::new(ProcFinder::new("/proc"))),
        programs: lab.programs.clone(),
        places: Places::default(),
        reports,
        shutdown: CancellationToken::new(),
    };
    (shared, reported)
}

async fn put_back(lab: Lab) {
    let program = lab.load();
    let (shared, mut reported) = shared(&lab);
    let shutdown = shared.shutdown.clone();
    let order = Order { goal: Goal::Pod(lab.input(Some(program.id()), &[])), site: Site::Node(lab.pod.clone()) };
    let (_orders, ordered) = watch::channel(order);
    let target = tokio::spawn(run("pod".to_owned(), ordered, shared));
    rest(&mut reported).await;
    let device = lab.tunnel.device();
    for command in ["tc filter del dev DEV ingress", "tc qdisc del dev DEV clsact"] {
        sh(&lab.pod, &command.replace("DEV", device));
        let writes = rest(&mut reported).await;
        assert_eq!(writes, 1, "{command}");
        assert!(lab.tc().contains(&format!("id {} ", program.id())), "{command}");
    }
    shutdown.cancel();
    target.await.unwrap();
}

/// Waits for a round that writes nothing, and says how much those before it wrote.
async fn rest(reported: &mut mpsc::UnboundedReceiver<Report>) -> usize {
    let mut written = 0;
    loop {
        let report = tokio::time::timeout(Duration::from_secs(60), reported.recv()).await.expect("no report").unwrap();
        match report.state {
            State::InSync { writes: 0, program: true, .. } if written > 0 => return written,
            State::InSync { writes, program: true, .. } => written += writes,
            state => panic!("{state:?}"),
        }
    }
}

fn clearing_leaves_nothing(mut lab: Lab) {
    let before = observe_in(&lab.pod, &[]);
    let program = lab.load();
    lab.round(lab.input(Some(program.id()), &[Sender::Peer]));
    assert!(!observe_in(&lab.pod, &[]).filters.is_empty());
    clear(&lab.pod, PREFIX, false).unwrap();
    let after = observe_in(&lab.pod, &[]);
    // The kernel gives a device its link-local address some time after it is up.
    let addresses = |observed: &Observed| {
        let all = observed.addresses.iter().filter(|(address, ..)| !address.address.to_string().starts_with("fe80:"));
        all.cloned().collect::<Vec<_>>()
    };
    assert_eq!(addresses(&after), addresses(&before));
    assert_eq!((after.links, after.filters), (before.links, before.filters));
    assert_eq!((after.nft, after.frames), (None, before.frames));
}

fn nodes_and_peers_may_send_and_strangers_may_not(mut lab: Lab) {
    let program = lab.load();
    lab.round(lab.input(Some(program.id()), &[]));
    let servers = Family::ALL.map(|family| (client(family), lab.server(family)));
    let send = |lab: &Lab, senders: &[(Sender, &str)]| {
        for (flow, _) in &servers {
            senders.iter().for_each(|(sender, text)| lab.send(*sender, &flow.udp(text.as_bytes())));
        }
    };
    let all = [(Sender::Stranger, "stranger"), (Sender::Peer, "peer"), (Sender::Node, "node")];
    send(&lab, &all);
    servers.iter().for_each(|(_, server)| assert_eq!(received(server), "node"));
    lab.round(lab.input(Some(program.id()), &[Sender::Peer]));
    send(&lab, &all);
    servers.iter().for_each(|(_, server)| assert_eq!([received(server), received(server)], ["peer", "node"]));
}

/// Its source would be whatever the client has written.
fn a_client_cannot_send_a_packet_inside_a_packet(mut lab: Lab) {
    const VXLAN_GPE_IPV4: [u8; 8] = [0x0c, 0, 0, 1, 0, 0, 0, 0];
    const GRE_WITH_KEY_IPV4: [u8; 8] = [0x20, 0, 8, 0, 0, 0, 0, 0];
    const GRE: u8 = 47;
    let program = lab.load();
    lab.round(lab.input(Some(program.id()), &[]));
    let server = lab.server(Family::V4);
    let inner = client(Family::V4).udp(b"inside");
    let flow = client(lab.tunnel.outer);
    let nested = match lab.tunnel.mode {
        Mode::Gre => flow.carrying(GRE, &[&GRE_WITH_KEY_IPV4[..], &inner].concat()),
        _ => Flow { vip_port: VXLAN_PORT, ..flow }.udp(&[&VXLAN_GPE_IPV4[..], &inner].concat()),
    };
    lab.send(Sender::Node, &nested);
    lab.send(Sender::Node, &client(Family::V4).udp(b"outside"));
    assert_eq!(received(&server), "outside");
}

mod gre_devices {
    use super::*;

    const GRE: Tunnel = Tunnel { mode: Mode::Gre, outer: Family::V4 };

    /// What 0.1 made: a device that takes no packets with a key, and what forwarded packets.
    const LEFT: &str = "set -e
        ip link add kst-gre type gre local 10.244.1.2; ip link set kst-gre up
        ip addr add 192.0.2.10/32 dev kst-gre; ip link add kst-vxlan type vxlan external gpe dstport 4790
        ip link set kst-vxlan up; ip addr add 192.0.2.10/32 dev kst-vxlan
        ip nexthop add id 9 encap ip id 0 src 10.244.1.2 dst 10.244.2.3 dev kst-vxlan protocol 107
        ip route add 250.244.2.3/32 table 10000 nhid 9 proto 107
        ip rule add priority 101 lookup 10000 protocol 107; ip -6 rule add priority 101 lookup 10000 protocol 107
        nft add table ip kube_service_tunnel; nft add table ip6 kube_service_tunnel
        nft add table inet kube_service_tunnel
        nft 'add set inet kube_service_tunnel vips { type ipv4_addr; counter; elements = { 192.0.2.10 }; }'
        sysctl -qw net.ipv4.conf.kst-gre.rp_filter=2";

    #[test]
    fn a_pod_of_0_1_changes_over_without_a_gap() {
        let mut lab = Lab::new(GRE);
        sh(&lab.pod, LEFT);
        let program = lab.load();
        let server = lab.server(Family::V4);
        // The ingress nodes know nothing of it: their packets have no key.
        let (src, to) = (Sender::Node.address(Family::V4), vip(Family::V4));
        lab.outside(&format!("ip route replace {to} encap ip id 0 src {src} dst 10.244.1.2 ttl 64 dev tunnel"));
        let goal = Goal::Pod(lab.input(Some(program.id()), &[]));
        let (pod, programs, mut memory) = (lab.pod.clone(), lab.programs.clone(), lab.memory.clone());
        let round = std::thread::spawn(move || {
            reconcile(&pod, &goal, &settings(), &mut memory, Execution::Apply(&programs)).unwrap()
        });
        let (mut sent, mut arrived) = (0, 0);
        server.set_nonblocking(true).unwrap();
        while !round.is_finished() || sent < 100 {
            lab.send_raw(to, &client(Family::V4).udp(b"stream"));
            sent += 1;
            while server.recv(&mut [0; 64]).is_ok() {
                arrived += 1;
            }
        }
        server.set_nonblocking(false).unwrap();
        lab.send_raw(to, &client(Family::V4).udp(b"last"));
        while received(&server) != "last" {
            arrived += 1;
        }
        // What is inside the old device when that is closed is lost (`gro_cells_receive`, net/core/gro_cells.c): one packet, or two.
        assert!((sent - arrived) * 100 <= sent, "{arrived} of {sent} have arrived");
        let plan = round.join().unwrap().plan;
        assert!(plan.steps.contains(&Step::DelLink("kst-gre".into())), "{plan}");
        let plan = lab.round(lab.input(Some(program.id()), &[])).plan;
        assert!(plan.is_empty(), "{plan}");
        let left = observe_in(&lab.pod, &[]);
        assert!(left.frames.is_empty() && left.routes.is_empty() && left.nexthops.is_empty());
        assert!(left.rules.iter().all(|rule| !rule.ours));
        let ours: Vec<_> = left.links.keys().filter(|name| name.starts_with(PREFIX)).collect();
        assert_eq!(ours, ["kst-xgre"]);
    }

    #[test]
    fn the_owner_of_the_only_external_device_is_named() {
        let mut lab = Lab::new(GRE);
        sh(&lab.pod, "ip link add theirs type gre external");
        let goal = Goal::Pod(lab.input(None, &[]));
        let execution = Execution::Apply(&lab.programs);
        let error = reconcile(&lab.pod, &goal, &settings(), &mut lab.memory, execution).unwrap_err();
        assert!(error.to_string().contains("device theirs in the pod already takes"), "{error}");
        assert_eq!(observe_in(&lab.pod, &[]).nft, None);
    }
}
