//! Frames with a label: only nodes may send them, and a node is known by its MAC address as soon as it says it, also while no
//! agent runs.
//!
//! "It did not arrive" cannot be awaited. So each forged frame is seen to come in by the device of its sender, then
//! controls are sent that may pass, and the application must have received nothing but the controls. At the end the
//! guards are taken away, and the same frames arrive.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::lab::{Attach, Families, LabSpec, PodSpec};
use integration::traffic::packet::{ETHERTYPE_MPLS, Ipv4, Ipv6};
use integration::traffic::{FrameSender, Sniffer};
use integration::world::echo::load_modules;
use integration::world::{World, WorldSpec, eventually};
use nix::sys::signal::Signal;
use tokio::net::UdpSocket;
use tunnel_router::model::Mode;

/// `--mpls-label` and `--mpls-label-base`
const POP: u32 = 100;
const BASE: u32 = 65_536;
const PORT: u16 = 4000;
const PATIENCE: Duration = Duration::from_secs(8);

/// Two pods on one bridge, one of them behind the VIP.
struct Site {
    world: World,
    vip: IpAddr,
    application: UdpSocket,
}

impl Site {
    async fn build(families: Families, vip: &str) -> Result<Site> {
        load_modules();
        let flags = vec!["--resync".to_owned(), "1s".to_owned()];
        let lab = LabSpec { families, ..LabSpec::default() };
        let mut world = World::build(WorldSpec { flags, lab, ..WorldSpec::new(Mode::Mpls) }).await?;
        let pod = |name| PodSpec { attach: Attach::Bridge, ..PodSpec::new(name, "wrk1") };
        world.add_pods(vec![(pod("victim"), "victim"), (pod("attacker"), "attacker")]).await?;
        world.add_dual_service("victim", "victim", &[("cmd.nu/tunnel", vip)])?;
        world.start_agents()?;
        world.converged().await?;
        let address: IpAddr = vip.parse()?;
        world.lab.route_vip(address, &["ing1"]).await?;
        world.perfect(vip, 8).await?;
        let application = world.lab.pod("victim")?.netns().udp_socket(SocketAddr::new(address, PORT))?;
        Ok(Site { world, vip: address, application })
    }

    /// A datagram from a client to the application, behind a label.
    fn labelled(&self, label: u32, data: &str) -> Result<Vec<u8>> {
        let (to, data) = (SocketAddr::new(self.vip, PORT), data.as_bytes());
        Ok(match to {
            SocketAddr::V4(to) => Ipv4::udp("198.51.100.77:4444".parse()?, to, data).behind_label(label, 64),
            SocketAddr::V6(to) => Ipv6::udp("[2001:db8:51::77]:4444".parse()?, to, data).behind_label(label, 64),
        })
    }

    /// The label by which other nodes address the pod.
    fn pod_label(&self) -> Result<u32> {
        let pod = self.world.lab.pod("victim")?;
        let low =
            |bytes: &[u8]| bytes.iter().rev().zip([1, 256]).map(|(byte, unit)| u32::from(*byte) * unit).sum::<u32>();
        let first = pod.addresses().into_iter().next().context("the pod has no address")?;
        Ok(BASE
            + match first {
                IpAddr::V4(v4) => low(&v4.octets()),
                IpAddr::V6(v6) => low(&v6.octets()),
            })
    }

    /// A stranger on the nodes' link sends what a node would, and a pod what its node would. Returns when both have been
    /// seen to come in.
    async fn forge(&self, name: &str) -> Result<()> {
        let lab = &self.world.lab;
        let (node, victim, attacker) = (lab.node("wrk1")?, lab.pod("victim")?, lab.pod("attacker")?);
        let (to_node, to_pod) = (node.stack().mac("eth0").await?, victim.stack().mac("eth0").await?);
        let attempts = [
            ("stranger", lab.stranger(), "eth1", "eth0", to_node, self.pod_label()?),
            ("pod", attacker.netns(), "eth0", attacker.host_device(), to_pod, POP),
        ];
        for (who, from, device, door, to, label) in attempts {
            let data = format!("{name} {who}");
            let mut witness = Sniffer::open(node.netns(), door)?;
            FrameSender::open(from, device)?.send(to, ETHERTYPE_MPLS, &self.labelled(label, &data)?)?;
            witness.find(|packet| packet.contains(data.as_bytes())).await.context(data)?;
        }
        Ok(())
    }

    /// The same frames from an ingress node, and from the pod's own.
    async fn control(&self) -> Result<()> {
        let lab = &self.world.lab;
        let to_node = lab.node("wrk1")?.stack().mac("eth0").await?;
        let to_pod = lab.pod("victim")?.stack().mac("eth0").await?;
        let remote = self.labelled(self.pod_label()?, "control of another node")?;
        FrameSender::open(lab.node("ing1")?.netns(), "eth0")?.send(to_node, ETHERTYPE_MPLS, &remote)?;
        let own = self.labelled(POP, "control of its node")?;
        let bridge = lab.pod("victim")?.route_device();
        FrameSender::open(lab.node("wrk1")?.netns(), bridge)?.send(to_pod, ETHERTYPE_MPLS, &own)
    }

    /// The next `count` datagrams that the application gets, in alphabetical order.
    async fn received(&self, count: usize) -> Result<Vec<String>> {
        let mut all = Vec::new();
        let mut buffer = [0; 2048];
        while all.len() < count {
            let next = tokio::time::timeout(PATIENCE, self.application.recv_from(&mut buffer)).await;
            let (length, _) = next.with_context(|| format!("only {all:?} arrived"))??;
            all.push(String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned());
        }
        all.sort();
        Ok(all)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        let nodes: Vec<String> = self.world.lab.nodes().map(|node| node.name().to_owned()).collect();
        nodes.iter().try_for_each(|node| self.world.agent(node)?.signal(signal))
    }

    /// The MAC addresses that the serving node takes for nodes', as nft shows them.
    fn believed(&self) -> Result<String> {
        World::run_in(self.world.lab.node("wrk1")?.netns(), "nft list set netdev kube_service_tunnel node_macs")
    }
}

async fn only_nodes_send_labels(families: Families, vip: &str) -> Result<Site> {
    let mut site = Site::build(families, vip).await?;
    site.forge("guarded").await?;
    site.control().await?;
    site.control().await?;
    let (other, own) = ("control of another node", "control of its node");
    let seen = site.received(4).await?;
    ensure!(seen == [other, other, own, own], "the application got {seen:?}");

    // What the guards are worth: without them the same frames arrive.
    site.signal(Signal::SIGSTOP)?;
    let node = site.world.lab.node("wrk1")?.netns();
    let saved = World::run_in(node, "nft list table netdev kube_service_tunnel")?;
    ensure!(saved.contains("counter packets 1 "), "the stranger's frame was not counted: {saved}");
    World::run_in(node, "nft delete table netdev kube_service_tunnel")?;
    World::run_in(node, "nft delete table bridge kube_service_tunnel")?;
    site.forge("open").await?;
    let seen = site.received(2).await?;
    ensure!(seen == ["open pod", "open stranger"], "the application got {seen:?}");

    // And the agents put them back.
    site.signal(Signal::SIGCONT)?;
    site.world.converged().await?;
    site.forge("guarded again").await?;
    site.control().await?;
    let seen = site.received(2).await?;
    ensure!(seen == [other, own], "the application got {seen:?}");
    Ok(site)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mpls_only_nodes_send_labels_and_a_moved_mac_address_is_believed_without_an_agent() -> Result<()> {
    let mut site = only_nodes_send_labels(Families::V4, "192.0.2.10").await?;
    let new = "02:00:5e:10:00:01";
    let ing1 = site.world.lab.node("ing1")?;
    let before = ing1.stack().mac("eth0").await?.map(|byte| format!("{byte:02x}")).join(":");
    ensure!(site.believed()?.contains(&before), "{before} is not believed: {}", site.believed()?);

    site.signal(Signal::SIGSTOP)?;
    let ing1 = site.world.lab.node("ing1")?.netns().clone();
    // As a bond does when it fails over.
    World::run_in(&ing1, "sysctl -w net.ipv4.conf.eth0.arp_notify=1")?;
    World::run_in(&ing1, &format!("ip link set eth0 address {new}"))?;
    site.world.perfect("192.0.2.10", 40).await?;
    ensure!(site.believed()?.contains(new), "{new} is not believed: {}", site.believed()?);

    site.signal(Signal::SIGCONT)?;
    eventually("the old address is forgotten", || {
        let believed = site.believed()?;
        ensure!(believed.contains(new) && !believed.contains(&before), "{believed}");
        Ok(())
    })
    .await?;
    site.world.perfect("192.0.2.10", 8).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the one of IPv4 stands for it; emulated it takes minutes (KST_TEST_ALL=1)"]
async fn mpls_only_nodes_send_labels_where_there_is_no_ipv4() -> Result<()> {
    only_nodes_send_labels(Families::V6, "2001:db8::10").await.map(drop)
}
