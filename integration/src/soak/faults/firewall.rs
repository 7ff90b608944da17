//! Others who write rules on a node: a host firewall that is reloaded, and a kube-proxy that is busy.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::lab::nft;
use crate::netns::Netns;
use crate::soak::stage::{Stage, WORKERS};

/// How often the firewall is reloaded.
const RELOADS: u32 = 5;
/// Between two times that kube-proxy's rules are written.
const REWRITE: Duration = Duration::from_millis(100);
/// How many services kube-proxy's table has.
const SERVICES: u8 = 100;

/// What firewalld has loaded: final rejects behind policies that accept. The rule for untracked packets is what the Event
/// `FirewallDrops` asks for. Devices of pods are in the trusted zone.
const FIREWALL: &str = r#"
table inet firewalld {
    chain filter_INPUT {
        type filter hook input priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname "lo" accept
        ct state invalid drop
        meta l4proto { icmp, ipv6-icmp } accept
        tcp dport { 22, 179 } accept
        udp dport { 3784, 3785, 4784, 4790 } accept
        reject with icmpx admin-prohibited
    }
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        ct state untracked accept
        iifname { "lo", "cali*" } accept
        oifname "cali*" accept
        ct state invalid drop
        reject with icmpx admin-prohibited
    }
}
"#;

/// What firewalld has loaded while it reloads: only what is established gets through.
const RELOADING: &str = "
table inet firewalld_policy_drop {
    chain filter_input {
        type filter hook input priority filter + 9; policy drop;
        ct state { established, related } accept
    }
    chain filter_forward {
        type filter hook forward priority filter + 9; policy drop;
        ct state { established, related } accept
    }
}
";

/// A kube-proxy's table without its rules.
const KUBE_PROXY: &str = "
table ip kube-proxy {
    chain services {
        type nat hook prerouting priority dstnat; policy accept;
    }
}
flush chain ip kube-proxy services
";

impl Stage {
    pub(in crate::soak) async fn firewall_reloaded(&mut self) -> Result<()> {
        let nodes = self.ingress_and_worker()?;
        for node in &nodes {
            self.traffic.fault_now();
            nft::load_async(node, FIREWALL.to_owned()).await?;
        }
        self.observe(self.pace.observe).await?;
        for _ in 0..RELOADS {
            self.traffic.fault_now();
            for node in &nodes {
                nft::load_async(node, RELOADING.to_owned()).await?;
                nft::load_async(node, format!("delete table inet firewalld\n{FIREWALL}")).await?;
                nft::load_async(node, "delete table inet firewalld_policy_drop\n".to_owned()).await?;
            }
            self.observe(self.pace.observe / RELOADS).await?;
        }
        for node in &nodes {
            nft::load_async(node, "delete table inet firewalld\n".to_owned()).await?;
        }
        Ok(())
    }

    pub(in crate::soak) async fn rules_rewritten(&mut self) -> Result<()> {
        let nodes = self.ingress_and_worker()?;
        let until = Instant::now() + self.pace.churn;
        for turn in (0..=u8::MAX).cycle() {
            if Instant::now() >= until {
                break;
            }
            for node in &nodes {
                nft::load_async(node, kube_proxy(turn)).await?;
            }
            self.observe(REWRITE).await?;
        }
        for node in &nodes {
            nft::load_async(node, "delete table ip kube-proxy\n".to_owned()).await?;
        }
        Ok(())
    }

    fn ingress_and_worker(&mut self) -> Result<Vec<Netns>> {
        let (ingress, _) = self.pick_ingress();
        let worker = WORKERS[self.rng.usize(..WORKERS.len())];
        [ingress, worker].into_iter().map(|node| Ok(self.world.lab.node(node)?.netns().clone())).collect()
    }
}

/// All rules of a kube-proxy, in one transaction; each turn sends its services elsewhere.
fn kube_proxy(turn: u8) -> String {
    let mut script = KUBE_PROXY.to_owned();
    for service in 1..=SERVICES {
        // Writing to a String cannot fail.
        let _ = writeln!(
            script,
            "add rule ip kube-proxy services ip daddr 10.97.0.{service} tcp dport 80 dnat to 10.98.{turn}.{service}"
        );
    }
    script
}
