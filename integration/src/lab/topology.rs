//! The lab on one screen, for people who want to look around with `ip netns exec`.

use std::fmt::Write;
use std::net::IpAddr;

use super::{API, API6, Lab, Node, STRANGER, STRANGER6};

/// Prints what is where.
pub fn print_topology(lab: &Lab) {
    println!("{}", topology(lab));
}

/// The text that [`print_topology`] prints.
pub fn topology(lab: &Lab) -> String {
    let mut text = format!("lab {}: ip netns exec {0}-<name> …\n", lab.prefix());
    let mut line = |name: &str, what: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name:<16} {what}");
    };
    line("client", words(&lab.client_addresses()));
    line("router", format!("198.51.100.1 203.0.113.1; fabric 10.0.0.1, MTU {}", lab.spec().underlay_mtu));
    line("", "2001:db8:51::1 2001:db8:113::1; fabric fd00:10::1".to_owned());
    line("stranger", format!("{STRANGER} {STRANGER6}; on the fabric {} {}", super::INTRUDER, super::INTRUDER6));
    line("api", format!("{API} {API6}"));
    for node in lab.nodes() {
        let role = if node.is_ingress() { "ingress" } else { "worker" };
        let networks: Vec<String> =
            node.pod_cidrs().iter().map(|(network, length)| format!("{network}/{length}")).collect();
        line(node.name(), format!("{} {role}, pods {}", words(&node.addresses()), networks.join(" ")));
        pods_of(lab, node).for_each(|(name, what)| line(&name, what));
    }
    text
}

fn words(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn pods_of<'a>(lab: &'a Lab, node: &'a Node) -> impl Iterator<Item = (String, String)> + 'a {
    lab.pods().filter(|pod| pod.spec().node == node.name()).map(|pod| {
        let (addresses, device) = (words(&pod.addresses()), pod.route_device());
        let what = format!("  {addresses} by {device}, pid {}, uid {}", pod.pid(), pod.uid());
        (format!("pod-{}", pod.name()), what)
    })
}
