//! Destination NAT as kube-proxy's nftables mode has it, for an address from outside (`externalTrafficPolicy: Cluster`).
//!
//! ```text
//! VIP . protocol . port ─► masquerade mark ─► numgen random ─► dnat to a pod      connection tracking remembers it
//! ```
//!
//! Every node chooses by itself, and only it knows what it has chosen. The rules that a change asks for are loaded in one
//! transaction. Connections to a pod that is not ready any more go on, as for kube-proxy; its UDP flows are forgotten.

use std::fmt::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::Endpoints;
use crate::lab::nft;
use crate::netns::Netns;
use crate::pod::DEFAULT_PORT;
use crate::world::echo::VIP;

/// What never changes. `flush table` leaves maps alone.
const FRAME: &str = "
table ip kube-proxy {
    map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
    map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }
}
flush table ip kube-proxy
flush map ip kube-proxy service-ips
flush map ip kube-proxy no-endpoint-services
table ip kube-proxy {
    chain mark-for-masquerade { meta mark set meta mark or 0x4000; }
    chain masquerading {
        meta mark & 0x4000 == 0 return
        meta mark set meta mark xor 0x4000
        masquerade fully-random
    }
    chain reject-chain { reject; }
    chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
    chain service-endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }
    chain filter-forward {
        type filter hook forward priority -110;
        ct state new jump service-endpoints-check
    }
    chain nat-prerouting {
        type nat hook prerouting priority dstnat;
        jump services
    }
    chain nat-postrouting {
        type nat hook postrouting priority srcnat;
        jump masquerading
    }
}
";

/// Makes the pods that are ready the only ones that new connections go to.
pub(super) async fn program(node: &Netns, endpoints: &Endpoints<'_>) -> Result<()> {
    let ready: Vec<String> = endpoints.ready.iter().map(|pod| pod.ip().to_string()).collect();
    nft::load_async(node, rules(&ready)).await?;
    for pod in &endpoints.others {
        let address = pod.ip().to_string();
        conntrack(node, &["-D", "-p", "udp", "--orig-dst", VIP, "--reply-src", &address])?;
    }
    Ok(())
}

/// A kernel that has just booted knows no connections.
pub(super) fn forget(node: &Netns) -> Result<()> {
    conntrack(node, &["-F"])
}

/// All rules, for the addresses of these pods.
fn rules(ready: &[String]) -> String {
    let mut script = FRAME.to_owned();
    let mut choices = Vec::new();
    for (n, address) in ready.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = writeln!(
            script,
            "table ip kube-proxy {{
                chain endpoint-{address} {{
                    ip saddr {address} jump mark-for-masquerade
                    meta l4proto {{ tcp, udp }} dnat to {address}
                }}
            }}"
        );
        choices.push(format!("{n} : goto endpoint-{address}"));
    }
    let (map, verdict) = match ready.len() {
        0 => ("no-endpoint-services", "reject-chain"),
        count => {
            let choices = choices.join(", ");
            let _ = writeln!(
                script,
                "table ip kube-proxy {{
                    chain service-echo {{ numgen random mod {count} vmap {{ {choices} }}; }}
                    chain external-echo {{
                        jump mark-for-masquerade
                        goto service-echo
                    }}
                }}"
            );
            ("service-ips", "external-echo")
        }
    };
    for protocol in ["tcp", "udp"] {
        let element = format!("{VIP} . {protocol} . {DEFAULT_PORT} : goto {verdict}");
        let _ = writeln!(script, "add element ip kube-proxy {map} {{ {element} }}");
    }
    script
}

/// It is a failure for the tool to find nothing, and none for us.
fn conntrack(node: &Netns, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("conntrack");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = tokio::task::block_in_place(|| node.spawn(&mut command)?.wait_with_output().context("wait"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() || said.contains(" 0 flow entries"),
        "conntrack {arguments:?}: {}",
        said.trim_end()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_connections_go_to_one_of_the_ready_pods() {
        let text = rules(&["10.244.3.2".to_owned(), "10.244.4.2".to_owned()]);
        let choice = "numgen random mod 2 vmap { 0 : goto endpoint-10.244.3.2, 1 : goto endpoint-10.244.4.2 }";
        assert!(text.contains(choice) && text.contains("dnat to 10.244.4.2"), "{text}");
        assert!(
            text.contains("add element ip kube-proxy service-ips { 192.0.2.10 . tcp . 12345 : goto external-echo }")
        );
        assert!(!text.contains("add element ip kube-proxy no-endpoint-services"), "{text}");
    }

    #[test]
    fn without_a_ready_pod_new_connections_are_refused() {
        let text = rules(&[]);
        let refusal = "add element ip kube-proxy no-endpoint-services { 192.0.2.10 . udp . 12345 : goto reject-chain }";
        assert!(text.contains(refusal) && !text.contains("add element ip kube-proxy service-ips"), "{text}");
    }
}
