//! What a kubelet asks of its runtime: sandboxes and containers.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use prost::Message;

use super::grpc::Channel;
use super::image::{ECHO, PROGRAM};
use super::messages::{
    ById, Capability, ContainerConfig, ContainerMetadata, ContainerStatus, ContainerStatusResponse,
    CreateContainerRequest, Created, EXITED, Empty, ExecSyncRequest, ExecSyncResponse, ImageSpec, LinuxContainerConfig,
    LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, Mount, NODE, NamespaceOption,
    POD, PodSandboxConfig, PodSandboxMetadata, PodSandboxStatusResponse, RunPodSandboxRequest,
};

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
    /// It lives in the node's network namespace.
    pub host_network: bool,
    /// Where the logs of its containers go.
    pub logs: PathBuf,
}

impl Sandbox {
    fn config(&self) -> PodSandboxConfig {
        let (name, uid, namespace) = (self.name.clone(), self.uid.clone(), "default".to_owned());
        let namespace_options = Some(self.namespaces());
        let linux = LinuxPodSandboxConfig {
            cgroup_parent: self.class.join(format!("pod{uid}")).display().to_string(),
            security_context: Some(LinuxSandboxSecurityContext { namespace_options }),
        };
        PodSandboxConfig {
            // A pod in the node's network has the node's name.
            hostname: if self.host_network { String::new() } else { name.clone() },
            metadata: Some(PodSandboxMetadata { name, uid, namespace, attempt: self.attempt }),
            log_directory: self.logs.display().to_string(),
            linux: Some(linux),
        }
    }

    pub(super) fn namespaces(&self) -> NamespaceOption {
        NamespaceOption { network: if self.host_network { NODE } else { POD }, ..NamespaceOption::own_processes() }
    }
}

/// The runtime service of one containerd.
#[derive(Debug, Clone)]
pub(super) struct Cri(Channel);

impl Cri {
    pub async fn connect(socket: &Path) -> Result<Cri> {
        let cri = Cri(Channel::connect(socket).await?);
        let _: Empty = cri.call("Version", Empty {}).await?;
        Ok(cri)
    }

    /// Returns the id of the sandbox.
    pub async fn run_sandbox(&self, sandbox: &Sandbox) -> Result<String> {
        let config = Some(sandbox.config());
        let created: Created = self.call("RunPodSandbox", RunPodSandboxRequest { config }).await?;
        Ok(created.id)
    }

    /// The address of a sandbox.
    pub async fn address(&self, sandbox: &str) -> Result<IpAddr> {
        let answer: PodSandboxStatusResponse = self.call("PodSandboxStatus", by_id(sandbox)).await?;
        let network = answer.status.and_then(|status| status.network).context("a sandbox has a network")?;
        network.ip.parse().with_context(|| format!("address {:?}", network.ip))
    }

    /// Starts the echo server in a sandbox and returns the container's id.
    pub async fn run_echo(&self, id: &str, sandbox: &Sandbox, program: &Path, attempt: u32) -> Result<String> {
        self.run_container(id, sandbox, echo(&sandbox.name, program, attempt)?).await
    }

    /// Starts a container in a sandbox and returns its id.
    pub async fn run_container(&self, id: &str, sandbox: &Sandbox, container: ContainerConfig) -> Result<String> {
        let request = CreateContainerRequest {
            pod_sandbox_id: id.to_owned(),
            config: Some(container),
            sandbox_config: Some(sandbox.config()),
        };
        let container: Created = self.call("CreateContainer", request).await?;
        self.tell("StartContainer", &container.id).await?;
        Ok(container.id)
    }

    /// How a container has ended; `None` while it runs.
    pub async fn exit_code(&self, container: &str) -> Result<Option<i32>> {
        let answer: ContainerStatusResponse = self.call("ContainerStatus", by_id(container)).await?;
        let ContainerStatus { state, exit_code } = answer.status.context("a container has a status")?;
        Ok((state == EXITED).then_some(exit_code))
    }

    /// Runs a command in a container and returns what it prints. It must succeed.
    pub async fn exec(&self, container: &str, words: &[&str]) -> Result<String> {
        let cmd = words.iter().map(ToString::to_string).collect();
        let request = ExecSyncRequest { container_id: container.to_owned(), cmd };
        let ended: ExecSyncResponse = self.call("ExecSync", request).await?;
        let said = String::from_utf8_lossy(&ended.stderr);
        ensure!(ended.exit_code == 0, "{words:?} ended with {}:\n{said}", ended.exit_code);
        Ok(String::from_utf8(ended.stdout)?)
    }

    /// Kills it at once.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        self.tell("StopContainer", id).await?;
        self.tell("RemoveContainer", id).await
    }

    /// Ends everything in it, and takes its address away.
    pub async fn stop_sandbox(&self, id: &str) -> Result<()> {
        self.tell("StopPodSandbox", id).await
    }

    pub async fn remove_sandbox(&self, id: &str) -> Result<()> {
        self.tell("RemovePodSandbox", id).await
    }

    async fn tell(&self, method: &str, id: &str) -> Result<()> {
        let _: Empty = self.call(method, by_id(id)).await?;
        Ok(())
    }

    async fn call<A: Message + Default>(&self, method: &str, request: impl Message) -> Result<A> {
        let answer = self.0.call(&format!("/runtime.v1.RuntimeService/{method}"), &request.encode_to_vec()).await?;
        A::decode(answer.as_slice()).with_context(|| format!("the answer to {method}"))
    }
}

fn by_id(id: &str) -> ById {
    ById { id: id.to_owned() }
}

/// The lab's echo server, which comes from the host with its libraries.
fn echo(name: &str, program: &Path, attempt: u32) -> Result<ContainerConfig> {
    let mount = |(container_path, outside): (&str, &Path)| {
        let host_path = outside.canonicalize().with_context(|| outside.display().to_string())?.display().to_string();
        anyhow::Ok(Mount { container_path: container_path.to_owned(), host_path, readonly: true })
    };
    let mounts = [(PROGRAM, program), ("/lib", Path::new("/lib")), ("/lib64", Path::new("/lib64"))];
    let security_context = LinuxContainerSecurityContext {
        // The echo server asks for large buffers.
        capabilities: Some(Capability { add_capabilities: vec!["NET_ADMIN".to_owned()], ..Capability::default() }),
        namespace_options: Some(NamespaceOption::own_processes()),
        ..LinuxContainerSecurityContext::default()
    };
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata { name: "echo".to_owned(), attempt }),
        image: Some(ImageSpec { image: ECHO.to_owned() }),
        command: vec![PROGRAM.to_owned()],
        args: ["pod", "--name", name, "--detached"].map(str::to_owned).to_vec(),
        mounts: mounts.into_iter().map(mount).collect::<Result<_>>()?,
        linux: Some(LinuxContainerConfig { security_context: Some(security_context) }),
        ..ContainerConfig::default()
    })
}
