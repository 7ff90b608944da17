//! A lab comes up as described, alone or beside others, and goes without a trace, however it ends.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::{echo_of, lab, lab_with_pods};
use integration::lab::cgroup::{CgroupSpec, Driver, Hierarchy};
use integration::lab::{Lab, PodSpec, Qos, foreign, namespaces_of, topology};
use integration::netns::Netns;
use integration::traffic::Client;

const KST_LAB: &str = env!("CARGO_BIN_EXE_kst-lab");

#[tokio::test(flavor = "multi_thread")]
async fn every_node_and_pod_filters_strictly_by_reverse_path() {
    let lab = lab_with_pods().await;
    for node in lab.nodes() {
        let devices = lab.pods().filter(|p| p.spec().node == node.name()).map(|p| p.route_device());
        for device in devices.chain(["all", "default", "eth0"]) {
            let value = node.netns().sysctl(&format!("net/ipv4/conf/{device}/rp_filter")).unwrap();
            assert_eq!(value, "1", "{} {device}", node.name());
        }
        assert_eq!(node.netns().sysctl("net/ipv4/ip_forward").unwrap(), "1");
    }
    for pod in lab.pods() {
        for device in ["all", "default", "eth0"] {
            assert_eq!(pod.netns().sysctl(&format!("net/ipv4/conf/{device}/rp_filter")).unwrap(), "1");
        }
    }
    assert_eq!(lab.router().sysctl("net/ipv4/fib_multipath_hash_policy").unwrap(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_carry_the_objects_of_others() {
    let lab = lab().await;
    let netns = lab.node("wrk1").unwrap().netns();
    for (arguments, wanted) in [
        (
            "rule show",
            format!("{}:\tfrom all fwmark 0x80000/0xff0000 lookup {}", foreign::RULE_PRIORITY, foreign::TABLE),
        ),
        ("route show table 52", "blackhole 100.64.0.0/10".to_owned()),
        ("nexthop show", format!("id {} blackhole", foreign::NEXTHOP_ID)),
        ("link show type bridge", format!("{}: <", foreign::BRIDGE)),
    ] {
        let text = output(Command::new("ip").args(["-n", netns.name()]).args(arguments.split(' ')));
        assert!(text.contains(&wanted), "ip {arguments}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_the_one_that_iproute2_shows_and_the_pods_process_lives_in() {
    let lab = lab_with_pods().await;
    let pod = lab.pod("ptp-wrk1").unwrap();
    assert_eq!(Netns::of_process(pod.pid()).unwrap().id(), pod.netns().id());
    let pids = output(Command::new("ip").args(["netns", "pids", pod.netns().name()]));
    assert_eq!(pids.trim(), pod.pid().to_string());
    let text = topology(&lab);
    assert!(text.contains("pod-ptp-wrk1") && text.contains("10.0.0.13 fd00:10::13 worker"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pods_processes_are_in_the_control_groups_that_a_kubelet_would_make() {
    let mut lab = lab().await;
    let hierarchies = [Hierarchy::V2, Hierarchy::V1].into_iter().filter(|h| is_mounted(*h));
    for (hierarchy, kind) in hierarchies.zip(["two", "one"]) {
        let cgroup =
            |driver, root: &str, outer: &str| CgroupSpec { hierarchy, driver, root: root.into(), outer: outer.into() };
        let pods = [
            (format!("sysb-{kind}"), Qos::Burstable, cgroup(Driver::Systemd, "", "")),
            (format!("sysg-{kind}"), Qos::Guaranteed, cgroup(Driver::Systemd, "kubelet", "")),
            (format!("fse-{kind}"), Qos::BestEffort, cgroup(Driver::Cgroupfs, "", "")),
            (format!("fsb-{kind}"), Qos::Burstable, cgroup(Driver::Cgroupfs, "kubelet", "docker/0123456789ab")),
        ];
        let specs = pods.map(|(name, qos, cgroup)| PodSpec { qos, cgroup, ..PodSpec::new(&name, "wrk1") });
        lab.add_pods(specs.to_vec()).await.unwrap();
        for spec in specs {
            let pod = lab.pod(&spec.name).unwrap();
            let path = spec.cgroup.path(spec.qos, pod.uid(), pod.container_id());
            let seen = fs::read_to_string(format!("/proc/{}/cgroup", pod.pid())).unwrap();
            let line = format!(":/{}\n", path.display());
            let (unified, other): (Vec<_>, Vec<_>) = seen.split_inclusive('\n').partition(|l| l.starts_with("0::"));
            let lines = if hierarchy == Hierarchy::V2 { unified } else { other };
            assert!(lines.iter().any(|l| l.ends_with(&line)), "no {line} in {seen}");
        }
    }
    let directories: Vec<PathBuf> = lab.pods().flat_map(|pod| pod.cgroups().to_vec()).collect();
    assert!(directories.len() >= 4 && directories.iter().all(|d| d.is_dir()), "{directories:?}");
    lab.remove().unwrap();
    // The pod's own groups; parents may be in use by a lab of another test.
    assert!(directories.iter().all(|d| !d.exists() && !d.parent().unwrap().exists()), "{directories:?}");
}

/// Machines have either or both; the lab must be able to use what there is.
fn is_mounted(hierarchy: Hierarchy) -> bool {
    let kind = if hierarchy == Hierarchy::V2 { " - cgroup2 " } else { " - cgroup " };
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().any(|line| line.contains(kind))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_pod_leaves_nothing_and_its_name_comes_back_as_another_pod() {
    let mut lab = lab_with_pods().await;
    let (uid, device, groups) = {
        let pod = lab.pod("ptp-wrk1").unwrap();
        (pod.uid().to_owned(), pod.host_device().to_owned(), pod.cgroups().to_vec())
    };
    lab.remove_pod("ptp-wrk1").await.unwrap();
    assert!(lab.pod("ptp-wrk1").is_err());
    assert!(lab.node("wrk1").unwrap().stack().link(&device).await.is_err());
    assert!(groups.iter().all(|group| !group.exists()));
    assert!(!namespaces_of(lab.prefix()).unwrap().iter().any(|name| name.ends_with("pod-ptp-wrk1")));
    assert_ne!(lab.add_pod(PodSpec::new("ptp-wrk1", "wrk1")).await.unwrap().uid(), uid);
    Client::new(lab.client()).tcp_exchanges(5, echo_of(&lab, "ptp-wrk1")).await.unwrap().perfect().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_labs_side_by_side_do_not_notice_each_other() {
    let (one, two) = tokio::join!(lab_with_pods(), lab_with_pods());
    assert_ne!(one.prefix(), two.prefix());
    let uids: BTreeSet<_> = one.pods().chain(two.pods()).map(|pod| pod.uid()).collect();
    assert_eq!(uids.len(), 8);
    let exchange = async |lab: &Lab| {
        Client::new(lab.client()).tcp_exchanges(50, echo_of(lab, "ptp-wrk1")).await.unwrap().perfect().unwrap();
    };
    tokio::join!(exchange(&one), exchange(&two));
    let trace = Trace::of(&one);
    one.remove().unwrap();
    trace.assert_gone();
    exchange(&two).await;
    assert!(two.pods().all(|pod| pod.cgroups().iter().all(|group| group.is_dir())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lab_goes_when_its_owner_panics() {
    let (send, receive) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(async move {
        let lab = lab_with_pods().await;
        assert!(send.send(Trace::of(&lab)).is_err(), "this panic is part of the test");
    });
    let trace = receive.await.unwrap();
    assert!(task.await.unwrap_err().is_panic());
    trace.assert_gone();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lab_whose_owner_was_killed_is_removed_by_the_next() {
    let mut owner = Command::new(KST_LAB).args(["lab", "up"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines().map(Result::unwrap);
    let first = lines.next().unwrap();
    let prefix = first.strip_prefix("lab ").unwrap().split(':').next().unwrap().to_owned();
    lines.find(|line| line.starts_with("Ctrl-C")).unwrap();
    let names = namespaces_of(&prefix).unwrap();
    assert_eq!(names.len(), 12, "{names:?}");
    owner.kill().unwrap();
    owner.wait().unwrap();
    Lab::remove_stale().unwrap();
    // A test next door may have been faster: then it holds the claim until everything is gone.
    if let Ok(claim) = File::open(Path::new("/run/kst-lab").join(&prefix)) {
        claim.lock().unwrap();
    }
    Trace { prefix, cgroups: Vec::new(), pids: Vec::new() }.assert_gone();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_lab_stays_until_it_is_taken_down() {
    let text = output(Command::new(KST_LAB).args(["lab", "up", "--keep", "--ingress", "1", "--workers", "0"]));
    let prefix = text.trim_end().rsplit(' ').next().unwrap();
    Lab::remove_stale().unwrap();
    let pod = Netns::open(&format!("{prefix}-pod-echo-ing1-1")).unwrap();
    let client = Netns::open(&format!("{prefix}-client")).unwrap();
    let target = "10.244.1.2:12345".parse().unwrap();
    Client::new(&client).tcp_exchanges(5, target).await.unwrap().perfect().unwrap();
    drop((pod, client));
    output(Command::new(KST_LAB).args(["lab", "down", prefix]));
    Trace { prefix: prefix.to_owned(), cgroups: Vec::new(), pids: Vec::new() }.assert_gone();
}

#[test]
fn who_is_not_root_is_told_so() {
    let refused = Command::new(KST_LAB).args(["lab", "up"]).uid(65534).gid(65534).output().unwrap();
    let message = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && message.contains("run it as root"), "{message}");
}

/// What a lab could leave behind.
struct Trace {
    prefix: String,
    cgroups: Vec<PathBuf>,
    pids: Vec<u32>,
}

impl Trace {
    fn of(lab: &Lab) -> Self {
        let cgroups = lab.pods().flat_map(|pod| pod.cgroups().to_vec()).collect();
        Self { prefix: lab.prefix().to_owned(), cgroups, pids: lab.pods().map(|pod| pod.pid()).collect() }
    }

    fn assert_gone(&self) {
        assert_eq!(namespaces_of(&self.prefix).unwrap(), Vec::<String>::new());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&format!("/{}-", self.prefix)), "{mounts}");
        assert!(!Path::new("/run/kst-lab").join(&self.prefix).exists());
        assert!(self.cgroups.iter().all(|group| !group.exists()), "{:?}", self.cgroups);
        for pid in &self.pids {
            assert!(!Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is still there");
        }
    }
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
