//! A real containerd with runc and CNI plugins on a node of the lab, and the part of a kubelet that asks it for pods.
//!
//! ```text
//!  node's netns ── containerd ── shim ── pause, echo server        /<lab>/kubepods/besteffort/pod<UID>/<container>
//!       └── veth (CNI plugin ptp) ── pod's netns
//! ```
//!
//! Its root, state, socket, configuration, network and image are its own, in a temporary directory; another containerd on the
//! same machine is not touched. `jail` says how nothing survives it.

mod cri;
mod grpc;
mod image;
mod jail;
mod kubelet;
mod messages;

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::PodSpec;
use serde_json::json;
use tempfile::TempDir;

use crate::lab::process::tail;
use crate::lab::{Lab, Node};
use cri::Cri;
use jail::{Inmate, Jail};
use messages::ContainerConfig;

pub use cri::Sandbox;
pub use kubelet::Facts;

/// Where Debian's `containernetworking-plugins` are.
const PLUGINS: &str = "/usr/lib/cni";
/// What must be there, and the Debian package that has it.
const PROGRAMS: [(&str, &str); 7] = [
    ("/usr/bin/containerd", "containerd"),
    ("/usr/bin/ctr", "containerd"),
    ("/usr/sbin/runc", "runc"),
    ("/usr/lib/cni/ptp", "containernetworking-plugins"),
    ("/usr/lib/cni/host-local", "containernetworking-plugins"),
    ("/usr/bin/nsenter", "util-linux"),
    (image::BUSYBOX, "busybox-static"),
];
/// Plugins that need what not every machine has.
const DISABLED: [&str; 5] = [
    "io.containerd.internal.v1.opt",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
];
/// How long containerd may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running containerd. Dropping it ends it and everything that it has started.
pub struct Containerd {
    // In the order in which they have to go.
    cri: Cri,
    daemon: Option<Inmate>,
    jail: Jail,
    home: TempDir,
    cgroup: String,
    program: PathBuf,
}

/// A pod that runs.
#[derive(Debug, Clone)]
pub struct RunningPod {
    /// How it was described.
    pub sandbox: Sandbox,
    /// Id of the sandbox.
    pub id: String,
    /// Id of the echo server's container.
    pub container: String,
    /// Its address.
    pub address: IpAddr,
    /// How often its container was started before.
    pub restarts: u32,
}

/// A pod whose containers run as a manifest describes them.
#[derive(Debug)]
pub struct ManifestPod {
    id: String,
    container: String,
    log: PathBuf,
}

impl ManifestPod {
    /// What its last container has written.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Containerd {
    /// Starts it on a node, whose pod network its pods share with those of the lab.
    pub async fn start(lab: &Lab, node: &Node) -> Result<Containerd> {
        for (program, package) in PROGRAMS {
            ensure!(Path::new(program).exists(), "{program} is missing: install {package} (hack/install)");
        }
        let home = TempDir::new()?;
        write_configuration(home.path(), node)?;
        let image = image::write(home.path())?;
        let jail = Jail::start(node.netns(), lab.prefix())?;
        let daemon = daemon(&jail, home.path())?;
        let cri = answering(home.path()).await?;
        let (cgroup, program) = (lab.prefix().to_owned(), lab.pod_program().to_owned());
        let containerd = Containerd { cri, daemon: Some(daemon), jail, home, cgroup, program };
        containerd.import(&image)?;
        Ok(containerd)
    }

    /// Ends containerd and starts it again; its pods run on.
    pub async fn restart(&mut self) -> Result<()> {
        if let Some(daemon) = self.daemon.take() {
            tokio::task::block_in_place(|| daemon.stop())?;
        }
        self.daemon = Some(daemon(&self.jail, self.home.path())?);
        self.cri = answering(self.home.path()).await?;
        Ok(())
    }

    /// Runs a pod with an echo server. The UID is the one that the kubelet knows it by.
    pub async fn run_pod(&self, name: &str, uid: &str) -> Result<RunningPod> {
        self.run(self.sandbox(name, uid)).await
    }

    /// Imports an image that the node is to have. Those of Kubernetes are in a namespace of their own.
    pub fn import(&self, image: &Path) -> Result<()> {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(socket(self.home.path())).args(["--namespace", "k8s.io", "images", "import"]);
        self.logged(run(command.args(["--snapshotter", "native"]).arg(image)).map(drop))
    }

    /// Runs a pod as a kubelet would: each init container to its end, then the one that stays.
    pub async fn run_manifest(&self, (name, uid): (&str, &str), spec: &PodSpec, facts: &Facts) -> Result<ManifestPod> {
        let sandbox = Sandbox {
            host_network: spec.host_network == Some(true),
            logs: self.home.path().join(name),
            ..self.sandbox(name, uid)
        };
        fs::create_dir_all(&sandbox.logs)?;
        ensure!(spec.containers.len() == 1, "pod {name} has several containers");
        let mut configs = kubelet::containers(spec, facts, &sandbox)?;
        let last = configs.pop().context("a pod has a container")?;
        let id = self.logged(self.cri.run_sandbox(&sandbox).await)?;
        if let Err(error) = self.initialise((&id, &sandbox), configs).await {
            self.remove(&id).await?;
            return Err(error);
        }
        let log = sandbox.logs.join(kubelet::log_name(&spec.containers[0].name));
        let container = self.logged(self.cri.run_container(&id, &sandbox, last).await)?;
        Ok(ManifestPod { id, container, log })
    }

    /// Runs init containers, each to its end.
    async fn initialise(&self, (id, sandbox): (&str, &Sandbox), containers: Vec<ContainerConfig>) -> Result<()> {
        for config in containers {
            let name = config.metadata.clone().unwrap_or_default().name;
            let container = self.logged(self.cri.run_container(id, sandbox, config).await)?;
            let code = self.exit_code(&container).await?;
            let log = sandbox.logs.join(kubelet::log_name(&name));
            ensure!(code == 0, "{name} ended with {code}:\n{}", tail(&log, 20));
        }
        Ok(())
    }

    /// Waits until a pod's container has ended, and says how.
    pub async fn ended(&self, pod: &ManifestPod) -> Result<i32> {
        self.exit_code(&pod.container).await
    }

    /// `kubectl exec`: what a command in the pod's container prints.
    pub async fn exec(&self, pod: &ManifestPod, words: &[&str]) -> Result<String> {
        self.cri.exec(&pod.container, words).await
    }

    /// Kills a pod and removes it.
    pub async fn remove_manifest(&self, pod: ManifestPod) -> Result<()> {
        self.remove(&pod.id).await
    }

    async fn exit_code(&self, container: &str) -> Result<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(code) = self.logged(self.cri.exit_code(container).await)? {
                return Ok(code);
            }
            ensure!(Instant::now() < deadline, "container {container} does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Runs a sandbox without containers and returns its id: a pod that is being started.
    pub async fn run_sandbox(&self, name: &str, uid: &str) -> Result<(String, IpAddr)> {
        let id = self.logged(self.cri.run_sandbox(&self.sandbox(name, uid)).await)?;
        let address = self.cri.address(&id).await?;
        Ok((id, address))
    }

    /// Does what a kubelet does about a sandbox that has died: removes it and makes it again.
    pub async fn make_again(&self, pod: RunningPod) -> Result<RunningPod> {
        self.remove(&pod.id).await?;
        self.run(Sandbox { attempt: pod.sandbox.attempt + 1, ..pod.sandbox }).await
    }

    /// Ends the container of a pod and starts another one.
    pub async fn restart_container(&self, pod: RunningPod) -> Result<RunningPod> {
        self.cri.remove_container(&pod.container).await?;
        let restarts = pod.restarts + 1;
        let container = self.logged(self.cri.run_echo(&pod.id, &pod.sandbox, &self.program, restarts).await)?;
        Ok(RunningPod { container, restarts, ..pod })
    }

    /// Removes a sandbox with its containers and its network.
    pub async fn remove(&self, sandbox: &str) -> Result<()> {
        self.logged(self.cri.stop_sandbox(sandbox).await)?;
        self.logged(self.cri.remove_sandbox(sandbox).await)
    }

    fn sandbox(&self, name: &str, uid: &str) -> Sandbox {
        let class = Path::new("/").join(&self.cgroup).join("kubepods/besteffort");
        let (host_network, logs) = (false, self.home.path().join("logs"));
        Sandbox { name: name.to_owned(), uid: uid.to_owned(), class, attempt: 0, host_network, logs }
    }

    async fn run(&self, sandbox: Sandbox) -> Result<RunningPod> {
        let id = self.logged(self.cri.run_sandbox(&sandbox).await)?;
        let address = self.cri.address(&id).await?;
        let container = self.logged(self.cri.run_echo(&id, &sandbox, &self.program, 0).await)?;
        Ok(RunningPod { sandbox, id, container, address, restarts: 0 })
    }

    fn logged<T>(&self, result: Result<T>) -> Result<T> {
        result.with_context(|| format!("containerd:\n{}", tail(&log(self.home.path()), 20)))
    }
}

fn daemon(jail: &Jail, home: &Path) -> Result<Inmate> {
    let configuration = home.join("containerd.toml").display().to_string();
    jail.spawn(&["containerd", "--config", &configuration], &log(home))
}

/// Waits until containerd answers.
async fn answering(home: &Path) -> Result<Cri> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Cri::connect(&socket(home)).await {
            Ok(cri) => return Ok(cri),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("containerd does not answer:\n{}", tail(&log(home), 20))));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

fn socket(home: &Path) -> PathBuf {
    home.join("containerd.sock")
}

fn log(home: &Path) -> PathBuf {
    home.join("containerd.log")
}

fn write_configuration(home: &Path, node: &Node) -> Result<()> {
    let network = home.join("net.d");
    fs::create_dir_all(&network)?;
    fs::write(network.join("10-kst.conflist"), network_configuration(home, node).to_string())?;
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    let text = format!(
        "version = 2\n\
         root = {root}\n\
         state = {state}\n\
         disabled_plugins = {DISABLED:?}\n\
         [grpc]\n\
         address = {socket}\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\n\
         sandbox_image = {pause:?}\n\
         restrict_oom_score_adj = true\n\
         netns_mounts_under_state_dir = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd]\n\
         snapshotter = \"native\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\n\
         bin_dir = {PLUGINS:?}\n\
         conf_dir = {network}\n",
        root = quoted(&home.join("root")),
        state = quoted(&home.join("state")),
        socket = quoted(&socket(home)),
        network = quoted(&network),
        pause = image::PAUSE,
    );
    Ok(fs::write(home.join("containerd.toml"), text)?)
}

/// The upper half of the node's pod network, which the lab gives to nobody as long as there are few pods.
fn network_configuration(home: &Path, node: &Node) -> serde_json::Value {
    let (network, length) = node.pod_cidr();
    let [a, b, c, _] = network.octets();
    let range = json!({
        "subnet": format!("{network}/{length}"),
        "rangeStart": format!("{a}.{b}.{c}.128"),
        "gateway": format!("{a}.{b}.{c}.254"),
    });
    json!({
        "cniVersion": "0.4.0", "name": "kst",
        "plugins": [{
            "type": "ptp", "mtu": 1500,
            "ipam": {
                "type": "host-local", "ranges": [[range]], "routes": [{ "dst": "0.0.0.0/0" }],
                "dataDir": home.join("addresses"),
            },
        }],
    })
}

/// Runs a command that must succeed and returns its output.
fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
