//! What the tests of the lab share.

use std::net::SocketAddr;

use integration::lab::{Attach, Lab, LabSpec, PodSpec};
use integration::pod::DEFAULT_PORT;

/// A lab with the default nodes, and the binary that this test run built in its pods.
pub async fn lab() -> Lab {
    let program = env!("CARGO_BIN_EXE_kst-lab").into();
    Lab::build(LabSpec { pod_program: Some(program), ..LabSpec::default() }).await.expect("the lab comes up")
}

/// The default lab with one pod of each attachment on two nodes.
#[allow(dead_code)]
pub async fn lab_with_pods() -> Lab {
    let mut lab = lab().await;
    let bridged = |name, node| PodSpec { attach: Attach::Bridge, ..PodSpec::new(name, node) };
    let pods = vec![
        PodSpec::new("ptp-ing1", "ing1"),
        bridged("bridged-ing1", "ing1"),
        PodSpec { foreign_objects: true, ..PodSpec::new("ptp-wrk1", "wrk1") },
        bridged("bridged-wrk1", "wrk1"),
    ];
    lab.add_pods(pods).await.expect("the pods start");
    lab
}

/// The echo server of a pod, at the pod's own address.
#[allow(dead_code)]
pub fn echo_of(lab: &Lab, pod: &str) -> SocketAddr {
    SocketAddr::from((lab.pod(pod).expect("the pod exists").ip(), DEFAULT_PORT))
}
