//! The lab on one screen, for people who want to look around with `ip netns exec`.

use std::fmt::Write;

use super::{Lab, Node, STRANGER};

/// Prints what is where.
pub fn print_topology(lab: &Lab) {
    println!("{}", topology(lab));
}

/// The text that [`print_topology`] prints.
pub fn topology(lab: &Lab) -> String {
    let clients: Vec<String> = lab.client_addresses().iter().map(ToString::to_string).collect();
    let mut text = format!("lab {}: ip netns exec {0}-<name> …\n", lab.prefix());
    let mut line = |name: &str, what: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name:<16} {what}");
    };
    line("client", clients.join(" "));
    line("router", format!("198.51.100.1 203.0.113.1; fabric 10.0.0.1, MTU {}", lab.spec().underlay_mtu));
    line("stranger", format!("{STRANGER}; on the fabric {}", super::INTRUDER));
    line("api", super::API.to_string());
    for node in lab.nodes() {
        let role = if node.is_ingress() { "ingress" } else { "worker" };
        let (network, length) = node.pod_cidr();
        line(node.name(), format!("{} {role}, pods {network}/{length}", node.address()));
        pods_of(lab, node).for_each(|(name, what)| line(&name, what));
    }
    text
}

fn pods_of<'a>(lab: &'a Lab, node: &'a Node) -> impl Iterator<Item = (String, String)> + 'a {
    lab.pods().filter(|pod| pod.spec().node == node.name()).map(|pod| {
        let what = format!("  {} by {}, pid {}, uid {}", pod.ip(), pod.route_device(), pod.pid(), pod.uid());
        (format!("pod-{}", pod.name()), what)
    })
}
