//! Somebody who keeps deleting what is ours slows a target down, and does not make it deaf to new goals.
//!
//! After some rounds the target does not heed for seconds what the kernel tells. Here that time stands still: what is done then has not
//! waited for its end.

use std::process::{Child, Command};
use std::sync::mpsc::channel;
use std::time::Duration;

use tokio::sync::watch;
use tunnel_router::model::{Family, Mode};
use tunnel_router::reconcile::target::{Report, State, run};
use tunnel_router::reconcile::{Goal, Order, Site};

use super::lab::{Lab, Sender, Tunnel, client, received, vip};
use super::shared;

/// Rounds in a row that had to put something back, before the target slows down.
const CONTESTED_AFTER: usize = 8;
/// A hang is no answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Deletes the IPv4 VIP of a pod, more often than the target looks.
struct Deleter(Child);

impl Deleter {
    fn start(lab: &Lab) -> Deleter {
        let (vip, device) = (vip(Family::V4), lab.tunnel.device());
        let line = format!("while :; do ip addr del {vip}/32 dev {device}; sleep 0.005; done 2> /dev/null");
        Deleter(lab.pod.run(|| Command::new("sh").args(["-c", &line]).spawn()).unwrap().unwrap())
    }
}

impl Drop for Deleter {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).expect("it runs");
    }
}

/// The families of the VIPs that a round was for, and how much it wrote.
fn done(report: Report) -> (Vec<Family>, usize) {
    match report.state {
        State::InSync { writes, goal: Goal::Pod(input), .. } => {
            (input.vips.keys().map(|vip| Family::of(*vip)).collect(), writes)
        }
        state => panic!("{state:?}"),
    }
}

#[test]
fn somebody_who_keeps_deleting_does_not_hold_a_new_vip_up() {
    let lab = Lab::new(Tunnel { mode: Mode::Vxlan, outer: Family::V4 });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(contested(&lab));
    let server = lab.server(Family::V6);
    lab.send(Sender::Node, &client(Family::V6).udp(b"new"));
    assert_eq!(received(&server), "new");
}

async fn contested(lab: &Lab) {
    let (shared, mut reported) = shared(lab);
    let shutdown = shared.shutdown.clone();
    let order = |families: &[Family]| {
        let mut input = lab.input(None, &[]);
        input.vips.retain(|vip, _| families.contains(&Family::of(*vip)));
        Order { goal: Goal::Pod(input), site: Site::Node(lab.pod.clone()) }
    };
    let (orders, ordered) = watch::channel(order(&[Family::V4]));
    let target = tokio::spawn(run("pod".to_owned(), ordered, shared));
    let deleter = Deleter::start(lab);
    let mut in_a_row = 0;
    while in_a_row < CONTESTED_AFTER {
        let (_, writes) = done(reported.recv().await.expect("the target runs"));
        in_a_row = if writes == 0 { 0 } else { in_a_row + 1 };
    }

    // A paused clock goes on by itself when there is nothing to do, but not while a blocking task runs.
    let (release, released) = channel::<()>();
    let mut held = tokio::task::spawn_blocking(move || released.recv_timeout(PATIENCE));
    tokio::time::pause();
    orders.send(order(&Family::ALL)).expect("the target runs");
    tokio::task::yield_now().await;
    // The target waits for the end of a burst of orders.
    tokio::time::advance(Duration::from_millis(100)).await;
    let report = tokio::select! {
        report = reported.recv() => report.expect("the target runs"),
        _ = &mut held => panic!("the target is deaf to its new goal"),
    };
    assert_eq!(done(report).0, Family::ALL);

    drop((deleter, release));
    shutdown.cancel();
    target.await.unwrap();
}
