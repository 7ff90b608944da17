//! IPVS in tunnel mode by firewall mark, as kube-router's direct server return has it.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::Endpoints;
use crate::lab::nft;
use crate::netns::Netns;
use crate::world::World;
use crate::world::echo::VIP;

/// A firewall mark and the table for it; any numbers do.
const MARK: u32 = 0x77;
const TABLE: u32 = 78;

/// What is left of 1,500 bytes without the tunnel's header, IP's and TCP's.
const MSS: u32 = 1500 - 20 - 20 - 20;

/// What an ingress node has once and for all.
pub(super) fn furnish(node: &Netns) -> Result<()> {
    let mark = format!(
        "table ip kube-router {{
            chain prerouting {{
                type filter hook prerouting priority mangle;
                ip daddr {VIP} meta mark set {MARK}
            }}
        }}"
    );
    nft::load(node, &mark)?;
    World::run_in(node, &format!("ip rule add pref 32764 fwmark {MARK} lookup {TABLE}"))?;
    World::run_in(node, &format!("ip route add local default dev lo table {TABLE}"))?;
    restore(node, &format!("-A -f {MARK} -s mh -b mh-port\n"))?;
    let sysctls = ["sloppy_tcp", "expire_nodest_conn", "expire_quiescent_template"];
    Ok(node.set_sysctls(&sysctls.map(|key| (format!("net/ipv4/vs/{key}"), "1")))?)
}

/// What a pod has.
pub(super) fn add(pod: &Netns) -> Result<()> {
    // The module's own device in every namespace, which takes whatever is addressed to the pod.
    World::run_in(pod, "modprobe ipip")?;
    World::run_in(pod, "ip link set tunl0 up")?;
    World::run_in(pod, &format!("ip address add {VIP}/32 dev tunl0"))?;
    // Full segments are too long for the tunnel: kube-router has a rule in the pod announce less, too.
    let default = World::run_in(pod, "ip -4 route show default")?;
    World::run_in(pod, &format!("ip route change {} advmss {MSS}", default.trim()))?;
    Ok(pod.set_sysctl("net/ipv4/conf/tunl0/rp_filter", "2")?)
}

/// Whether this kernel has it; looking loads the module.
pub(super) fn is_here() -> bool {
    let loads =
        |module: &str| Command::new("modprobe").args(["-q", module]).status().is_ok_and(|status| status.success());
    ["ip_vs_mh", "ipip"].into_iter().all(loads)
}

/// Makes these the destinations: those that are not ready keep their connections and get no new ones.
pub(super) fn program(node: &Netns, endpoints: &Endpoints) -> Result<()> {
    let have = World::run_in(node, "ipvsadm -Sn")?;
    let ready = endpoints.ready.iter().map(|pod| (pod, 1));
    let wanted = ready.chain(endpoints.others.iter().map(|pod| (pod, 0)));
    let mut script = String::new();
    let mut known = Vec::new();
    for (pod, weight) in wanted {
        let address = format!("{}:0", pod.ip());
        let verb = if have.contains(&format!("-r {address} ")) { "-e" } else { "-a" };
        script += &format!("{verb} -f {MARK} -r {address} -i -w {weight}\n");
        known.push(address);
    }
    let old = have.lines().filter_map(|line| line.split_whitespace().skip_while(|word| *word != "-r").nth(1));
    for address in old.filter(|address| !known.iter().any(|one| one == address)) {
        script += &format!("-d -f {MARK} -r {address}\n");
    }
    restore(node, &script)
}

/// A kernel that has just booted knows no connections.
pub(super) fn forget(node: &Netns) -> Result<()> {
    World::run_in(node, "ipvsadm -C")?;
    restore(node, &format!("-A -f {MARK} -s mh -b mh-port\n"))
}

fn restore(node: &Netns, script: &str) -> Result<()> {
    let mut command = Command::new("ipvsadm");
    command.arg("-R").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = node.spawn(&mut command)?;
    child.stdin.take().context("a pipe")?.write_all(script.as_bytes())?;
    let output = tokio::task::block_in_place(|| child.wait_with_output())?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ipvsadm: {}\n{script}", complaint.trim_end());
    Ok(())
}
