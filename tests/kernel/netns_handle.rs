//! Entering a namespace: what follows the thread, and that the caller's own thread stays where it is.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use crate::support::{netns, sh, try_sh};
use tunnel_router::netns::{Netns, NetnsError, all_netns};

#[test]
fn work_runs_inside_and_the_caller_stays_outside() {
    let target = netns();
    let before = Netns::current().unwrap();
    let inside = target.run(|| Netns::current().unwrap().id()).unwrap();
    assert_eq!(inside, target.id());
    assert_ne!(inside, before.id());
    assert_eq!(Netns::current().unwrap().id(), before.id());
}

#[test]
fn sysctls_and_children_follow_the_thread() {
    let target = netns();
    let file = "/proc/sys/net/ipv4/conf/lo/arp_announce";
    let outside = fs::read_to_string(file).unwrap();
    let flipped = if outside.trim() == "2" { "1" } else { "2" };
    target.run(|| fs::write(file, flipped).unwrap()).unwrap();
    assert_eq!(fs::read_to_string(file).unwrap(), outside);
    assert_eq!(target.run(|| fs::read_to_string(file).unwrap()).unwrap().trim(), flipped);
    assert_eq!(sh(&target, "cat /proc/sys/net/ipv4/conf/lo/arp_announce").trim(), flipped);
    sh(&target, "ip link add only-here type veth peer name other-end");
    assert!(!fs::exists("/sys/class/net/only-here").unwrap());
}

#[test]
fn a_panic_inside_is_an_error_outside() {
    let target = netns();
    let error = target.run(|| panic!("one pod's bug")).unwrap_err();
    assert!(matches!(&error, NetnsError::Panicked { message, .. } if message == "one pod's bug"), "{error}");
}

#[test]
fn what_is_no_namespace_cannot_be_entered() {
    let error = Netns::open("/proc/self/ns/none").unwrap_err();
    assert_eq!(error.errno(), Some(nix::errno::Errno::ENOENT as i32));
    let file = Netns::open("/proc/self/status").unwrap();
    let error = file.run(|| ()).unwrap_err();
    assert!(error.to_string().contains("/proc/self/status"), "{error}");
    assert!(matches!(error, NetnsError::Enter { .. }));
}

#[test]
fn a_handle_outlives_the_path_that_it_was_opened_from() {
    let (stop, wait) = std::sync::mpsc::channel::<()>();
    let (tell, told) = std::sync::mpsc::channel();
    let first = netns();
    let thread = std::thread::spawn(move || {
        first.run(move || {
            let id = nix::unistd::gettid();
            tell.send(Netns::open(format!("/proc/{id}/ns/net")).unwrap()).unwrap();
            let _ = wait.recv();
        })
    });
    let held: Netns = told.recv().unwrap();
    drop(stop);
    thread.join().unwrap().unwrap();
    // The thread is joined a moment before it leaves /proc.
    let deadline = Instant::now() + Duration::from_secs(20);
    while held.path().exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!held.path().exists());
    sh(&held, "ip link show lo");
}

#[test]
fn all_namespaces_are_found_once_each() {
    let target = netns();
    // A proc tree in which two "processes" share one namespace, and one has ended.
    let root = tempfile::tempdir().unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), target.as_fd().as_raw_fd());
    for pid in ["11", "12"] {
        fs::create_dir_all(root.path().join(pid).join("ns")).unwrap();
        symlink(&path, root.path().join(pid).join("ns/net")).unwrap();
    }
    fs::create_dir_all(root.path().join("13")).unwrap();
    fs::create_dir_all(root.path().join("self/ns")).unwrap();
    let found = all_netns(root.path());
    assert_eq!(found.iter().filter(|n| n.id() == target.id()).count(), 1);
}

#[test]
fn a_pinned_namespace_is_found() {
    let name = "all-netns-finds-a-pinned-one";
    let here = Netns::current().unwrap();
    try_sh(&here, &format!("ip netns del {name}"));
    sh(&here, &format!("ip netns add {name}"));
    let pinned = Netns::open(format!("/run/netns/{name}")).unwrap();
    let found = all_netns(std::path::Path::new("/proc"));
    sh(&here, &format!("ip netns del {name}"));
    assert!(found.contains(&pinned));
    assert!(found.contains(&here));
}
