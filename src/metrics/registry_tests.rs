use std::time::Duration;

use super::*;
use crate::model::{Mode, Reason};
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
    Cluster { vips: BTreeMap::from([(vip.address, vip)]), ..Cluster::default() }
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
    State::InSync { writes, problems: Vec::new(), notes: Vec::new(), program: false, goal: Goal::Nothing }
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
    let text = metrics.text(&counts(), &[]).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

#[test]
fn the_page_is_what_prometheus_reads() {
    let metrics = Metrics::default();
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
    let metrics = Metrics::default();
    let (one, two) = (cluster("echo", &[1]), cluster("echo", &[1, 2]));
    let moved = |metrics: &Metrics, service: &str| {
        let labels = format!("{{vip=\"192.0.2.10\",namespace=\"default\",service=\"{service}\"}}");
        samples(metrics).get(&format!("tunnel_router_vip_buckets_moved_total{labels}")).copied()
    };
    dispatched(&metrics, None, &one);
    assert_eq!(moved(&metrics, "echo"), Some(0.0));
    dispatched(&metrics, Some(&one), &two);
    assert_eq!(moved(&metrics, "echo"), Some(8.0), "half of 16");
    dispatched(&metrics, Some(&two), &one);
    assert_eq!(moved(&metrics, "echo"), Some(16.0));
    let other = cluster("other", &[1]);
    dispatched(&metrics, Some(&one), &other);
    assert_eq!((moved(&metrics, "echo"), moved(&metrics, "other")), (None, Some(0.0)));
}

#[test]
fn a_target_that_ends_takes_its_series_along() {
    let metrics = Metrics::default();
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
    let metrics = Metrics::default();
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
    let metrics = Metrics::default();
    metrics.reported(&report("pod uid-9", in_sync(0)));
    assert!(samples(&metrics).keys().all(|name| !name.contains("uid-9")));
}
