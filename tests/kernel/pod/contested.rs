//! Somebody who keeps deleting what is ours slows a target down, and does not make it deaf to new goals.
//!
//! After some rounds the target does not heed for seconds what the kernel tells. Here that time stands still: what is done then has not
//! waited for its end.

use std::sync::mpsc::channel;
use std::time::Duration;

use tokio::sync::watch;
use tunnel_router::model::{Family, Mode};
use tunnel_router::reconcile::target::{Report, State, run};
use tunnel_router::reconcile::{Goal, Order, Site};

use super::lab::{Lab, Sender, Tunnel, client, received, vip};
use super::shared;
use crate::support::sh;

/// Rounds in a row that had to put something back, before the target slows down.
const CONTESTED_AFTER: usize = 8;
/// A hang is no answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Deletes the IPv4 VIP of a pod.
fn delete(lab: &Lab) {
    sh(&lab.pod, &format!("ip addr del {}/32 dev {}", vip(Family::V4), lab.tunnel.device()));
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
    for round in 1..=CONTESTED_AFTER {
        let report = tokio::time::timeout(PATIENCE, reported.recv()).await;
        let report = report.unwrap_or_else(|_| panic!("no report of round {round} within {PATIENCE:?}"));
        let (_, writes) = done(report.expect("the target runs"));
        assert!(writes > 0, "round {round} found nothing to put back");
        // The target shares this thread. Its next round cannot begin before the VIP is gone.
        delete(lab);
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

    drop(release);
    shutdown.cancel();
    target.await.unwrap();
}
