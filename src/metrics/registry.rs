//! Everything that is measured, and its text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::accounting::Counts;
use super::labels::{BuildLabels, FateLabels, PodVipLabels, ProblemLabels, RoundLabels, TargetLabels};
use super::services::Services;
use super::totals::Totals;
use crate::model::{Cluster, Problem, second_chance};
use crate::plan::nft::Counter as Counted;
use crate::reconcile::target::{NODE, Report, State};

/// Upper bounds in seconds: a round that has nothing to do takes some milliseconds, a first one up to a second.
const ROUND: [f64; 11] = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0];

type Histograms = Family<TargetLabels, Histogram, fn() -> Histogram>;

/// Packets and bytes of pods that only grow.
#[derive(Debug, Clone, Default)]
struct Traffic {
    packets: Family<PodVipLabels, Counter>,
    bytes: Family<PodVipLabels, Counter>,
}

impl Traffic {
    fn replace(&self, counts: impl Iterator<Item = (PodVipLabels, Counted)>) {
        self.packets.clear();
        self.bytes.clear();
        for (labels, counted) in counts {
            // A pod and its successor of the same name may be there at once.
            self.packets.get_or_create(&labels).inc_by(counted.packets);
            self.bytes.get_or_create(&labels).inc_by(counted.bytes);
        }
    }
}

/// Names of pods as `(namespace, name)`, by target.
type Names = BTreeMap<String, (String, String)>;

/// All metrics of one agent, or of one controller.
///
/// Single series are about what this node serves: its own namespace and its pods. Everything else an agent shows in totals, for every
/// node sees the whole cluster; what is about single Services is shown by the controller that leads.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    services: Services,
    totals: Totals,
    rounds: Family<RoundLabels, Counter>,
    durations: Histograms,
    pending: Family<TargetLabels, Gauge>,
    problems: Family<ProblemLabels, Gauge>,
    unread: Family<TargetLabels, Counter>,
    pod_received: Traffic,
    pod_sent: Traffic,
    second_chances: Family<FateLabels, Counter>,
    names: Mutex<Names>,
}

impl Metrics {
    /// Of an agent.
    pub fn of_agent() -> Self {
        let mut metrics = Self::empty();
        metrics.register();
        metrics
    }

    /// Of a controller.
    pub fn of_controller() -> Self {
        let mut metrics = Self::empty();
        metrics.services.register(&mut metrics.registry);
        metrics
    }

    fn empty() -> Self {
        let mut metrics = Metrics {
            registry: Registry::with_prefix("tunnel_router"),
            services: Services::default(),
            totals: Totals::default(),
            rounds: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(ROUND)),
            pending: Family::default(),
            problems: Family::default(),
            unread: Family::default(),
            pod_received: Traffic::default(),
            pod_sent: Traffic::default(),
            second_chances: Family::default(),
            names: Mutex::default(),
        };
        let build = Family::<BuildLabels, Gauge>::default();
        build.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1);
        metrics.registry.register("build_info", "The version of the program", build);
        metrics
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("reconciles", "Comparisons of a namespace with what it must be", self.rounds.clone());
        let duration = "Time for one such comparison and what it led to";
        r.register_with_unit("reconcile_duration", duration, Unit::Seconds, self.durations.clone());
        r.register("pending", "1 while a namespace is not as it must be", self.pending.clone());
        self.totals.register(r);
        r.register(
            "problems",
            "What users have been told by Events, on Services or on this Node",
            self.problems.clone(),
        );
        r.register("counter_read_errors", "Namespaces whose counters could not be read", self.unread.clone());
        let packets = "Packets to a VIP that came out of the tunnel in a pod of this node";
        r.register("pod_vip_received_packets", packets, self.pod_received.packets.clone());
        r.register("pod_vip_received_bytes", "Their bytes, IP headers included", self.pod_received.bytes.clone());
        r.register("pod_vip_sent_packets", "Packets that a pod sent from a VIP", self.pod_sent.packets.clone());
        r.register("pod_vip_sent_bytes", "Their bytes, IP headers included", self.pod_sent.bytes.clone());
        let packets = "Packets of buckets that drain, by what the program in the pods of this node did with them";
        r.register("second_chance_packets", packets, self.second_chances.clone());
    }

    /// A new state of the cluster was dispatched: the pods of this node that serve a VIP are `pods`, `namespace/name` by
    /// target, and `waiting` are the targets that have not been in sync yet.
    pub fn dispatched(
        &self,
        old: Option<&Cluster>,
        new: &Cluster,
        pods: &BTreeMap<String, String>,
        waiting: &BTreeSet<String>,
    ) {
        // Held to the end, here and elsewhere, so that nobody reads what is half written.
        let mut names = self.names();
        self.totals.dispatched(old, new);
        let split = |name: &String| {
            let (namespace, name) = name.split_once('/').unwrap_or_default();
            (namespace.to_owned(), name.to_owned())
        };
        // The names of those that have lost their last VIP are kept until their target ends.
        names.extend(pods.iter().map(|(target, name)| (target.clone(), split(name))));
        for target in waiting {
            if let Some(labels) = target_labels(&names, target) {
                self.pending.get_or_create(&labels).set(1);
            }
        }
    }

    /// What the program in the pods has counted since it was loaded.
    pub fn second_chances(&self, counts: &second_chance::Counts) {
        self.second_chances.clear();
        for kind in second_chance::Count::ALL {
            self.second_chances.get_or_create(&FateLabels { fate: kind.as_str() }).inc_by(counts.of(kind));
        }
    }

    /// A target has done a round.
    pub fn reported(&self, report: &Report) {
        let mut names = self.names();
        let Some(labels) = target_labels(&names, &report.target) else { return };
        let (result, pending) = match &report.state {
            State::InSync { writes: 0, .. } => ("in_sync", 0),
            State::InSync { .. } => ("changed", 0),
            State::Pending { .. } | State::Refused { .. } => ("failed", 1),
            State::Gone => {
                let ended = names.remove(&report.target);
                if !names.values().any(|pod| Some(pod) == ended.as_ref()) {
                    self.forget(&labels);
                }
                return;
            }
        };
        self.rounds.get_or_create(&RoundLabels { target: labels.target.clone(), result }).inc();
        self.durations.get_or_create(&labels).observe(report.took.as_secs_f64());
        self.pending.get_or_create(&labels).set(pending);
    }

    fn forget(&self, labels: &TargetLabels) {
        for result in ["in_sync", "changed", "failed"] {
            self.rounds.remove(&RoundLabels { target: labels.target.clone(), result });
        }
        self.durations.remove(labels);
        self.pending.remove(labels);
        self.unread.remove(labels);
    }

    /// What is being told to users.
    pub fn problems(&self, problems: &BTreeSet<Problem>) {
        let _held = self.names();
        self.problems.clear();
        for problem in problems {
            self.problems.get_or_create(&problem.into()).inc();
        }
    }

    /// What the kernel has counted, of which the node's share becomes part of the totals.
    pub(super) fn received(&self, counts: &BTreeMap<String, Counts>) {
        counts.get(NODE).iter().for_each(|counts| self.totals.received(&counts.received));
    }

    /// The series of single Services.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// The page, with what the kernel has counted, by target, and whose counters could not be read.
    ///
    /// # Errors
    /// A value that cannot be written, which none of ours is.
    pub(super) fn text(&self, counts: &BTreeMap<String, Counts>, unread: &[String]) -> Result<String, fmt::Error> {
        // Of two requests at once each is answered with what it has read.
        let names = self.names();
        self.received(counts);
        let of_pods = |part: fn(&Counts) -> &BTreeMap<IpAddr, Counted>| -> Vec<(PodVipLabels, Counted)> {
            let named = counts.iter().filter_map(|(target, counts)| Some((names.get(target)?, counts)));
            let all =
                named.flat_map(|(pod, counts)| part(counts).iter().map(move |(vip, counted)| (pod, vip, counted)));
            all.map(|(pod, vip, counted)| (pod_labels(*vip, pod), *counted)).collect()
        };
        self.pod_received.replace(of_pods(|counts| &counts.received).into_iter());
        self.pod_sent.replace(of_pods(|counts| &counts.sent).into_iter());
        for labels in unread.iter().filter_map(|target| target_labels(&names, target)) {
            self.unread.get_or_create(&labels).inc();
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(as_prometheus_text(&text))
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn target_labels(names: &Names, target: &str) -> Option<TargetLabels> {
    let target = match names.get(target) {
        Some((namespace, name)) => format!("pod {namespace}/{name}"),
        None if target == NODE => NODE.to_owned(),
        // A pod that served nothing when we started and was looked at once.
        None => return None,
    };
    Some(TargetLabels { target })
}

fn pod_labels(vip: IpAddr, (namespace, pod): &(String, String)) -> PodVipLabels {
    PodVipLabels { vip: vip.to_string(), namespace: namespace.clone(), pod: pod.clone() }
}

pub(super) fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The text format 0.0.4, which everything that scrapes understands: it describes a counter by the name of its samples, and
/// knows neither units nor an end.
fn as_prometheus_text(open_metrics: &str) -> String {
    let counters: BTreeSet<&str> =
        open_metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut text = String::with_capacity(open_metrics.len());
    // For people: series in order, which the registry keeps in none. Those of a histogram have theirs.
    let mut series: Vec<&str> = Vec::new();
    let flush = |series: &mut Vec<&str>, text: &mut String| {
        if !series.iter().any(|line| line.contains("_bucket{")) {
            series.sort_unstable();
        }
        series.drain(..).for_each(|line| text.extend([line, "\n"]));
    };
    for line in open_metrics.lines().filter(|line| *line != "# EOF" && !line.starts_with("# UNIT ")) {
        if !line.starts_with("# ") {
            series.push(line);
            continue;
        }
        flush(&mut series, &mut text);
        match line.split(' ').nth(2).filter(|name| counters.contains(name)) {
            Some(name) => text.push_str(&line.replacen(name, &format!("{name}_total"), 1)),
            None => text.push_str(line),
        }
        text.push('\n');
    }
    flush(&mut series, &mut text);
    text
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
