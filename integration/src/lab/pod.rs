//! A pod: a namespace joined to its node by a veth, and a process in it that serves and is accounted as a kubelet's.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::address::{Place, host_prefix, host6, of_family};
use super::family::{Families, Family};
use super::node::{Node, POD_BRIDGE, base_sysctls, strict_sysctls};
use super::spec::{Attach, PodSpec};
use super::stack::{Stack, VethEnd, net};
use super::{Lab, cgroup, foreign, nft, register};
use crate::netns::Netns;

/// Calico's gateway: no device has it, the node's end answers for it.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Its like in IPv6: every node's end has it.
pub(super) const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// How long a server may take to start; emulated processors are slow.
const START_LIMIT: Duration = Duration::from_secs(120);

/// A specification with all blanks filled in.
#[derive(Debug)]
pub(super) struct Plan {
    pub spec: PodSpec,
    pub ip: Ipv4Addr,
    pub ipv6: Ipv6Addr,
    families: Families,
    netns: String,
    uid: String,
    container_id: String,
    host_device: String,
}

impl Plan {
    pub fn new(prefix: &str, serial: u32, spec: PodSpec, node: &Node, ip: Ipv4Addr) -> Self {
        let digits = hex(&(prefix, serial, &spec.name, std::process::id()));
        let uuid = || {
            format!("{}-{}-4{}-8{}-{}", &digits[..8], &digits[8..12], &digits[12..15], &digits[15..18], &digits[18..30])
        };
        let [.., number] = ip.octets();
        Self {
            ip,
            ipv6: spec.ipv6.unwrap_or_else(|| host6(node.pod_cidr6().0, number)),
            families: node.families(),
            netns: format!("{prefix}-pod-{}", spec.name),
            uid: spec.uid.clone().unwrap_or_else(uuid),
            host_device: format!("cali{}", &digits[..11]),
            container_id: digits,
            spec,
        }
    }
}

impl Plan {
    /// Its addresses, with the prefixes of its node's pod networks.
    fn place(&self) -> Place {
        [(self.ip.into(), 24), (self.ipv6.into(), 64)]
    }
}

/// A running pod. Dropping it ends its process; the rest goes with [`Lab::remove_pod`] or the lab.
#[derive(Debug)]
pub struct Pod {
    plan: Plan,
    stack: Stack,
    process: Process,
    cgroups: Vec<PathBuf>,
}

impl Pod {
    /// Name.
    pub fn name(&self) -> &str {
        &self.plan.spec.name
    }

    /// What it was made from.
    pub fn spec(&self) -> &PodSpec {
        &self.plan.spec
    }

    /// UID, as the API server would have it.
    pub fn uid(&self) -> &str {
        &self.plan.uid
    }

    /// IPv4 address of `eth0`; in a lab without IPv4 nobody has it.
    pub fn ip(&self) -> Ipv4Addr {
        self.plan.ip
    }

    /// IPv6 address of `eth0`.
    pub fn ipv6(&self) -> Ipv6Addr {
        self.plan.ipv6
    }

    /// The addresses that its kubelet would report, that of the primary family first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.plan.families.published().iter().map(|family| of_family(self.plan.place(), *family).0).collect()
    }

    /// Id of its container: 64 hexadecimal digits.
    pub fn container_id(&self) -> &str {
        &self.plan.container_id
    }

    /// The node's end of its veth.
    pub fn host_device(&self) -> &str {
        &self.plan.host_device
    }

    /// The device on the node that leads to it: the veth, or the bridge it is a port of.
    pub fn route_device(&self) -> &str {
        match self.plan.spec.attach {
            Attach::PointToPoint => self.host_device(),
            Attach::Bridge => POD_BRIDGE,
        }
    }

    /// Process id of its server.
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// Directories of its control groups.
    pub fn cgroups(&self) -> &[PathBuf] {
        &self.cgroups
    }

    /// Its namespace.
    pub fn netns(&self) -> &Netns {
        self.stack.netns()
    }

    /// Its stack.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// Ends the server with SIGTERM, as a kubelet does, and leaves the network as it is.
    pub async fn stop_process(&mut self) -> Result<()> {
        self.process.stop().await
    }

    pub(super) async fn start(lab: &Lab, plan: Plan) -> Result<Pod> {
        let about = format!("start pod {}", plan.spec.name);
        let node = lab.node(&plan.spec.node)?;
        let stack = connect(&plan, node).await.with_context(|| about.clone())?;
        if plan.spec.foreign_objects {
            nft::load_async(stack.netns(), foreign::POD_RULES.to_owned()).await?;
        }
        let process = Process::start(&lab.pod_program, &plan, stack.netns(), lab.spec.detached)?;
        let mut pod = Pod { plan, stack, process, cgroups: Vec::new() };
        pod.place().with_context(|| about.clone())?;
        pod.process.ready().await.with_context(|| about.clone())?;
        pod.stack.settle().await?;
        node.stack().settle().await?;
        Ok(pod)
    }

    fn place(&mut self) -> Result<()> {
        let cgroup = &self.plan.spec.cgroup;
        let group = cgroup.path(self.plan.spec.qos, &self.plan.uid, &self.plan.container_id);
        for mount in cgroup::mounts(cgroup.hierarchy)? {
            register::place(self.process.child.id(), &mount, &group)?;
            self.cgroups.push(mount.join(&group));
        }
        Ok(())
    }

    pub(super) async fn remove(mut self, node: &Stack) -> Result<()> {
        self.process.stop().await?;
        node.del_link(&self.plan.host_device).await?;
        Netns::delete(&self.plan.netns)?;
        register::sweep()
    }

    /// Gives the process up without ending it.
    pub(super) fn leave(mut self) {
        self.process.left = true;
    }
}

/// Makes the namespace and joins it to the node in the wanted style.
async fn connect(plan: &Plan, node: &Node) -> Result<Stack> {
    let stack = Stack::create(&plan.netns, &[base_sysctls(), strict_sysctls()].concat()).await?;
    let (mtu, device) = (plan.spec.mtu, plan.host_device.as_str());
    let bridge = (plan.spec.attach == Attach::Bridge).then_some(POD_BRIDGE);
    node.stack().add_veth(VethEnd { name: device, mtu, bridge }, &stack, VethEnd::new("eth0", mtu)).await?;
    match plan.spec.attach {
        Attach::PointToPoint => point_to_point(plan, &stack, node).await?,
        Attach::Bridge => bridged(plan, &stack, node).await?,
    }
    Ok(stack)
}

/// Host routes on both ends.
async fn point_to_point(plan: &Plan, stack: &Stack, node: &Node) -> Result<()> {
    let device = plan.host_device.as_str();
    for (address, _) in node.there(plan.place()) {
        let (address, prefix) = host_prefix(address);
        stack.add_address("eth0", address, prefix).await?;
        node.stack().add_route_dev((address, prefix), device).await?;
    }
    node.stack().add_address(device, GATEWAY6.into(), 64).await?;
    stack.add_default_route_on(Family::V6, GATEWAY6.into(), "eth0").await?;
    if !plan.families.has_ipv4() {
        return stack.add_default_route_on(Family::V4, GATEWAY6.into(), "eth0").await;
    }
    stack.add_route_dev(net(GATEWAY, 32), "eth0").await?;
    stack.add_default_route(GATEWAY.into()).await?;
    // Without the second the kernel would delay each answer by up to 0.8 s.
    let proxy =
        [(format!("net/ipv4/conf/{device}/proxy_arp"), "1"), (format!("net/ipv4/neigh/{device}/proxy_delay"), "0")];
    Ok(node.netns().set_sysctls(&proxy)?)
}

/// Addresses in the networks of the bridge.
async fn bridged(plan: &Plan, stack: &Stack, node: &Node) -> Result<()> {
    for (address, prefix) in node.there(plan.place()) {
        stack.add_address("eth0", address, prefix).await?;
    }
    let [(v4, _), (v6, _)] = node.pod_gateway();
    stack.add_default_route(v6).await?;
    let gateway = if plan.families.has_ipv4() { v4 } else { v6 };
    stack.add_default_route_on(Family::V4, gateway, "eth0").await
}

/// The pod's server.
#[derive(Debug)]
struct Process {
    child: Child,
    stdout: Option<ChildStdout>,
    left: bool,
}

impl Process {
    /// The server holds a pipe from us as its standard input and ends when the pipe does: nothing survives a lab whose
    /// owner is killed, unless it is meant to.
    fn start(program: &Path, plan: &Plan, netns: &Netns, detached: bool) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(["pod", "--name", &plan.spec.name]);
        plan.spec.ports.iter().for_each(|port| {
            command.args(["--port", &port.to_string()]);
        });
        plan.spec.bind.iter().map(IpAddr::to_string).for_each(|address| {
            command.args(["--bind", &address]);
        });
        if plan.spec.raw {
            command.arg("--raw");
        }
        if detached {
            // Nor may it hold our standard error open: somebody may wait for its end.
            command.arg("--detached").stdin(Stdio::null()).stderr(Stdio::null());
        } else {
            command.stdin(Stdio::piped());
        }
        let mut child = netns.spawn(command.stdout(Stdio::piped()))?;
        let stdout = child.stdout.take();
        Ok(Self { child, stdout, left: false })
    }

    /// Waits for the line that says that the servers listen.
    async fn ready(&mut self) -> Result<()> {
        let stdout = self.stdout.take().context("readiness is waited for once")?;
        let first_line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).map(|_| line)
        });
        let line =
            tokio::time::timeout(START_LIMIT, first_line).await.context("the server does not get ready")???;
        if line.trim_end() != crate::pod::READY {
            bail!("the server ended before it was ready; its messages are on the standard error output");
        }
        Ok(())
    }

    async fn stop(&mut self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).map(Pid::from_raw)?;
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        kill(pid, Signal::SIGTERM).context("SIGTERM to the pod's server")?;
        tokio::task::block_in_place(|| self.child.wait()).context("wait for the pod's server")?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.left {
            // Both fail only if it is gone already.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The `kst-lab` binary: as told, or this program, or its neighbour (a test lies in `deps/` below it).
pub(super) fn program(told: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = told {
        return Ok(path.to_owned());
    }
    let own = std::env::current_exe().context("find this program")?;
    let places = own.ancestors().skip(1).take(2).map(|directory| directory.join("kst-lab"));
    places
        .into_iter()
        .find(|path| path.is_file())
        .with_context(|| format!("no kst-lab near {}: build it", own.display()))
}

/// 64 hexadecimal digits that depend on `seed`.
fn hex(seed: &impl Hash) -> String {
    let word = |n: u8| {
        let mut hasher = DefaultHasher::new();
        (n, seed).hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    };
    (0..4).map(word).collect()
}
