//! What a kubelet asks of its runtime: sandboxes and containers.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::grpc::Channel;
use super::image::{ECHO, PROGRAM};
use super::wire::{Message, text_at};

/// `NamespaceMode.CONTAINER`: every container has processes of its own, as for any pod that does not say otherwise.
const CONTAINER: u64 = 1;
/// Seconds until a container that is told to stop is killed.
const GRACE: u64 = 0;

/// A pod as a kubelet describes it to its runtime.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// Name of the pod.
    pub name: String,
    /// UID by which the kubelet knows it: of a static pod, the hash of its manifest.
    pub uid: String,
    /// The cgroup of its class (`/kubepods/besteffort`).
    pub class: PathBuf,
    /// How often its sandbox was made before.
    pub attempt: u32,
}

impl Sandbox {
    fn config(&self) -> Message {
        let metadata = Message::default().text(1, &self.name).text(2, &self.uid).text(3, "default");
        let metadata = metadata.number(4, self.attempt.into());
        let parent = self.class.join(format!("pod{}", self.uid)).display().to_string();
        let security = Message::default().message(1, namespaces());
        let linux = Message::default().text(1, &parent).message(2, security);
        // PodSandboxConfig: metadata, hostname, linux
        Message::default().message(1, metadata).text(2, &self.name).message(8, linux)
    }
}

/// `NamespaceOption`
fn namespaces() -> Message {
    Message::default().number(2, CONTAINER)
}

/// The runtime service of one containerd.
#[derive(Debug, Clone)]
pub(super) struct Cri(Channel);

impl Cri {
    pub async fn connect(socket: &Path) -> Result<Cri> {
        let cri = Cri(Channel::connect(socket).await?);
        cri.call("Version", Message::default()).await?;
        Ok(cri)
    }

    /// Returns the id of the sandbox.
    pub async fn run_sandbox(&self, sandbox: &Sandbox) -> Result<String> {
        let answer = self.call("RunPodSandbox", Message::default().message(1, sandbox.config())).await?;
        text_at(&answer, &[1]).context("a sandbox has an id")
    }

    /// The address of a sandbox.
    pub async fn address(&self, sandbox: &str) -> Result<IpAddr> {
        let answer = self.call("PodSandboxStatus", Message::default().text(1, sandbox)).await?;
        // status, network, ip
        let text = text_at(&answer, &[1, 5, 1]).context("a sandbox has an address")?;
        text.parse().with_context(|| format!("address {text:?}"))
    }

    /// Starts the echo server in a sandbox and returns the container's id.
    pub async fn run_echo(&self, id: &str, sandbox: &Sandbox, program: &Path, attempt: u32) -> Result<String> {
        let request = Message::default().text(1, id).message(2, echo(&sandbox.name, program, attempt)?);
        let answer = self.call("CreateContainer", request.message(3, sandbox.config())).await?;
        let container = text_at(&answer, &[1]).context("a container has an id")?;
        self.call("StartContainer", Message::default().text(1, &container)).await?;
        Ok(container)
    }

    pub async fn remove_container(&self, id: &str) -> Result<()> {
        self.call("StopContainer", Message::default().text(1, id).number(2, GRACE)).await?;
        self.call("RemoveContainer", Message::default().text(1, id)).await.map(drop)
    }

    /// Ends everything in it, and takes its address away.
    pub async fn stop_sandbox(&self, id: &str) -> Result<()> {
        self.call("StopPodSandbox", Message::default().text(1, id)).await.map(drop)
    }

    pub async fn remove_sandbox(&self, id: &str) -> Result<()> {
        self.call("RemovePodSandbox", Message::default().text(1, id)).await.map(drop)
    }

    async fn call(&self, method: &str, message: Message) -> Result<Vec<u8>> {
        self.0.call(&format!("/runtime.v1.RuntimeService/{method}"), &message.encoded()).await
    }
}

/// `ContainerConfig` of the lab's echo server, which comes from the host with its libraries.
fn echo(name: &str, program: &Path, attempt: u32) -> Result<Message> {
    let metadata = Message::default().text(1, "echo").number(2, attempt.into());
    let mut config = Message::default().message(1, metadata).message(2, Message::default().text(1, ECHO));
    config = config.text(3, PROGRAM);
    for word in ["pod", "--name", name, "--detached"] {
        config = config.text(4, word);
    }
    for (inside, outside) in [(PROGRAM, program), ("/lib", Path::new("/lib")), ("/lib64", Path::new("/lib64"))] {
        let outside = outside.canonicalize().with_context(|| outside.display().to_string())?;
        let mount = Message::default().text(1, inside).text(2, &outside.display().to_string()).number(3, 1);
        config = config.message(7, mount);
    }
    // The echo server asks for large buffers.
    let capabilities = Message::default().text(1, "NET_ADMIN");
    let security = Message::default().message(1, capabilities).message(3, namespaces());
    Ok(config.message(15, Message::default().message(2, security)))
}
