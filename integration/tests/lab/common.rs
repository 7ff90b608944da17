//! What the tests of the lab share.

use std::net::SocketAddr;

use integration::lab::{Attach, Families, Lab, LabSpec, PodSpec};
use integration::netns::Netns;
use integration::pod::{DEFAULT_PORT, Servers};

/// A lab with the default nodes, and the binary that this test run built in its pods.
pub async fn lab() -> Lab {
    lab_of(Families::default()).await
}

/// The same, of other families.
pub async fn lab_of(families: Families) -> Lab {
    let program = env!("CARGO_BIN_EXE_kst-lab").into();
    let spec = LabSpec { families, pod_program: Some(program), ..LabSpec::default() };
    Lab::build(spec).await.expect("the lab comes up")
}

/// The default lab with one pod of each attachment on two nodes.
pub async fn lab_with_pods() -> Lab {
    with_pods(lab().await).await
}

/// Adds one pod of each attachment on two nodes.
pub async fn with_pods(mut lab: Lab) -> Lab {
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

/// Echo servers in a namespace.
pub fn serve(netns: &Netns, name: &str, address: SocketAddr) -> Servers {
    let start = || Servers::start(name, &[address]).map_err(std::io::Error::other);
    netns.run_in_runtime("serve", start).expect("the servers start")
}

/// The echo server of a pod, at the pod's own address.
pub fn echo_of(lab: &Lab, pod: &str) -> SocketAddr {
    SocketAddr::from((lab.pod(pod).expect("the pod exists").ip(), DEFAULT_PORT))
}
