use std::time::Duration;

use super::*;
use crate::model::{Mode, Problem, Reason, ServiceRef, Subject, Vip};
use crate::plan::tests::support;
use crate::reconcile::Goal;

fn service(name: &str) -> ServiceRef {
    ServiceRef { namespace: "default".into(), name: name.into(), uid: name.into() }
}

fn cluster(service_name: &str, pods: &[u8]) -> Cluster {
    let endpoints = |pods: &[u8]| pods.iter().map(|n| support::endpoint(*n, "n1")).collect::<Vec<_>>();
    // Whoever comes later takes buckets from those before it.
    let vip = support::draining_vip("192.0.2.10", Mode::Gre, endpoints(pods), &endpoints(&pods[..1]));
    let vip = Vip { service: service(service_name), ..vip };
    Cluster::of_vips([vip])
}

fn names() -> BTreeMap<String, String> {
    BTreeMap::from([("pod uid-1".to_owned(), "default/echo-1".to_owned())])
}

fn dispatched(metrics: &Metrics, old: Option<&Cluster>, new: &Cluster) {
    metrics.dispatched(old, new, &names(), &BTreeSet::from([NODE.to_owned()]));
}

fn report(target: &str, state: State) -> Report {
    Report { target: target.to_owned(), took: Duration::from_millis(7), state }
}

fn in_sync(writes: usize) -> State {
    State::InSync {
        writes,
        problems: Vec::new(),
        notes: Vec::new(),
        program: false,
        lacking: BTreeSet::new(),
        goal: Goal::Nothing,
    }
}

fn counts() -> BTreeMap<String, Counts> {
    let counted =
        |packets| BTreeMap::from([(IpAddr::from([192, 0, 2, 10]), Counted { packets, bytes: 100 * packets })]);
    let of_node = Counts { received: counted(5), sent: BTreeMap::new() };
    let of_pod = Counts { received: counted(3), sent: counted(2) };
    let unknown = Counts { received: counted(1), sent: BTreeMap::new() };
    [(NODE, of_node), ("pod uid-1", of_pod), ("pod uid-7", unknown)].map(|(target, c)| (target.to_owned(), c)).into()
}

/// The value of each sample by its name and labels.
fn samples(metrics: &Metrics) -> BTreeMap<String, f64> {
    parsed(&metrics.text(&counts(), &[]).unwrap())
}

fn parsed(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

#[test]
fn the_page_is_what_prometheus_reads() {
    let metrics = Metrics::of_agent();
    dispatched(&metrics, None, &cluster("echo", &[1, 2]));
    metrics.reported(&report(NODE, in_sync(9)));
    metrics.problems(&BTreeSet::from([Problem {
        subject: (&service("echo")).into(),
        reason: Reason::EndpointFailed,
        note: "a \"note\"".into(),
    }]));
    let text = metrics.text(&counts(), &["pod uid-1".to_owned()]).unwrap();
    insta::assert_snapshot!(text.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
}

#[test]
fn buckets_that_change_hands_are_counted_and_those_of_another_owner_are_not() {
    let metrics = Metrics::of_agent();
    let (one, two) = (cluster("echo", &[1]), cluster("echo", &[1, 2]));
    let moved = |metrics: &Metrics| samples(metrics)["tunnel_router_buckets_moved_total"];
    dispatched(&metrics, None, &one);
    assert_eq!(moved(&metrics), 0.0);
    dispatched(&metrics, Some(&one), &two);
    assert_eq!(moved(&metrics), 8.0, "half of 16");
    dispatched(&metrics, Some(&two), &one);
    assert_eq!(moved(&metrics), 16.0);
    dispatched(&metrics, Some(&one), &cluster("other", &[2]));
    assert_eq!(moved(&metrics), 16.0);
}

/// Packets and bytes of the node's total, after its counters were read with these packets by last octet of the VIP.
fn received(metrics: &Metrics, vips: &[(u8, u64)]) -> [f64; 2] {
    let counted = |(vip, packets): &(u8, u64)| {
        (IpAddr::from([192, 0, 2, *vip]), Counted { packets: *packets, bytes: 100 * packets })
    };
    let of_node = Counts { received: vips.iter().map(counted).collect(), sent: BTreeMap::new() };
    let text = metrics.text(&[(NODE.to_owned(), of_node)].into(), &[]).unwrap();
    ["packets", "bytes"].map(|what| parsed(&text)[&format!("tunnel_router_received_{what}_total")])
}

#[test]
fn the_total_of_a_node_never_falls_whichever_vips_come_and_go() {
    let metrics = Metrics::of_agent();
    assert_eq!(received(&metrics, &[(1, 1000), (2, 10)]), [0.0, 0.0], "an earlier agent's");
    assert_eq!(received(&metrics, &[(1, 1005), (2, 11)]), [6.0, 600.0]);
    assert_eq!(received(&metrics, &[(2, 12)]), [7.0, 700.0], "the first one has gone with its counter");
    assert_eq!(received(&metrics, &[(2, 12), (3, 4)]), [11.0, 1100.0], "a new one counts from nothing");
    assert_eq!(received(&metrics, &[(2, 5), (3, 4)]), [16.0, 1600.0], "its counter was made anew");
}

/// Number of series on the page of node `n1` of 50, which serves some of so many VIPs, each with a pod of its own there.
fn series(vips: u8, served: u8) -> usize {
    let address = |n: u8| format!("192.0.2.{n}");
    let elsewhere = |n: u8| (0..10).map(move |i| support::endpoint(i + 100, &format!("n{}", 2 + (n + i) % 49)));
    let endpoints = |n: u8| elsewhere(n).chain((n < served).then(|| support::endpoint(n, "n1"))).collect::<Vec<_>>();
    let vips: Vec<Vip> = (0..vips).map(|n| support::vip(&address(n), Mode::Gre, endpoints(n))).collect();
    let cluster = support::cluster(vips);
    let target = |n: u8| format!("pod uid-{n}");
    let pods = (0..served).map(|n| (target(n), format!("default/echo-{n}"))).collect();
    let metrics = Metrics::of_agent();
    metrics.dispatched(None, &cluster, &pods, &pods.keys().cloned().collect());
    let targets = pods.keys().cloned().chain([NODE.to_owned()]);
    targets.for_each(|target| metrics.reported(&report(&target, in_sync(1))));
    let problem = |service: &ServiceRef| Problem {
        subject: service.into(),
        reason: Reason::EndpointFailed,
        note: format!("one of {service}"),
    };
    metrics.problems(&cluster.vips().map(|vip| problem(&vip.service)).collect());
    let counted = |vip: IpAddr| [(vip, Counted { packets: 1, bytes: 1 })].into();
    let of_node = cluster.vips.keys().map(|vip| (*vip, Counted { packets: 1, bytes: 1 })).collect();
    let of_pod = |n| {
        let vip = support::ip(&address(n));
        (target(n), Counts { received: counted(vip), sent: counted(vip) })
    };
    let of_pods = (0..served).map(of_pod);
    let all = of_pods.chain([(NODE.to_owned(), Counts { received: of_node, sent: BTreeMap::new() })]).collect();
    metrics.text(&all, &[]).unwrap().lines().filter(|line| !line.starts_with('#')).count()
}

#[test]
fn the_series_of_a_node_grow_with_what_it_serves_and_not_with_the_cluster() {
    assert_eq!(series(100, 4), series(10, 4), "VIPs that others serve");
    let per_pod = series(100, 5) - series(100, 4);
    assert_eq!(series(100, 9) - series(100, 4), 5 * per_pod);
    assert_eq!(series(100, 100), series(100, 0) + 100 * per_pod);
}

#[test]
fn what_is_told_is_counted_by_reason_and_by_what_it_is_about() {
    let metrics = Metrics::of_agent();
    let node = Subject::Node(support::cluster(Vec::new()).node_ref("n1"));
    let problem = |subject, reason, note: &str| Problem { subject, reason, note: note.into() };
    metrics.problems(&BTreeSet::from([
        problem((&service("a")).into(), Reason::InvalidVip, "one"),
        problem((&service("b")).into(), Reason::InvalidVip, "two"),
        problem(node, Reason::NotForwarding, "three"),
    ]));
    let samples = samples(&metrics);
    assert_eq!(samples["tunnel_router_problems{about=\"service\",reason=\"InvalidVIP\"}"], 2.0);
    assert_eq!(samples["tunnel_router_problems{about=\"node\",reason=\"NotForwarding\"}"], 1.0);
}

#[test]
fn a_target_that_ends_takes_its_series_along() {
    let metrics = Metrics::of_agent();
    dispatched(&metrics, None, &cluster("echo", &[1]));
    let of_the_pod = |metrics: &Metrics| samples(metrics).keys().filter(|name| name.contains("echo-1")).count();
    metrics.reported(&report("pod uid-1", State::Pending { failures: 1, error: "no".into() }));
    assert!(of_the_pod(&metrics) > 4);
    let pending = "tunnel_router_pending{target=\"pod default/echo-1\"}";
    assert_eq!(samples(&metrics).get(pending), Some(&1.0));
    metrics.reported(&report("pod uid-1", in_sync(0)));
    assert_eq!(samples(&metrics).get(pending), Some(&0.0));
    metrics.reported(&report("pod uid-1", State::Gone));
    assert_eq!(of_the_pod(&metrics), 0);
}

#[test]
fn a_pod_keeps_its_series_when_its_predecessor_of_the_same_name_ends() {
    let metrics = Metrics::of_agent();
    dispatched(&metrics, None, &cluster("echo", &[1]));
    let successor = BTreeMap::from([("pod uid-7".to_owned(), "default/echo-1".to_owned())]);
    metrics.dispatched(None, &cluster("echo", &[7]), &successor, &BTreeSet::new());
    metrics.reported(&report("pod uid-7", in_sync(1)));
    let of_pod =
        "tunnel_router_pod_vip_received_packets_total{vip=\"192.0.2.10\",namespace=\"default\",pod=\"echo-1\"}";
    assert_eq!(samples(&metrics)[of_pod], 3.0 + 1.0, "both count");
    metrics.reported(&report("pod uid-1", State::Gone));
    let rounds = "tunnel_router_reconciles_total{target=\"pod default/echo-1\",result=\"changed\"}";
    assert_eq!(samples(&metrics)[rounds], 1.0);
    assert_eq!(samples(&metrics)[of_pod], 1.0);
}

#[test]
fn a_pod_that_never_served_anything_is_not_shown() {
    let metrics = Metrics::of_agent();
    metrics.reported(&report("pod uid-9", in_sync(0)));
    assert!(samples(&metrics).keys().all(|name| !name.contains("uid-9")));
}
