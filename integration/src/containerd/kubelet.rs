//! What a kubelet makes of a pod's specification: containers as the runtime is asked for them.
//!
//! A test of a manifest is worth what this leaves out. So every field that is not understood here is refused, none is ignored.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Container, EnvVar, PodSpec, SecurityContext, Volume, VolumeMount};
use serde::Serialize;

use super::cri::Sandbox;
use super::messages::{
    Capability, ContainerConfig, ContainerMetadata, ImageSpec, Int64Value, KeyValue, LinuxContainerConfig,
    LinuxContainerSecurityContext, Mount, RUNTIME_DEFAULT, SecurityProfile, SelinuxOption, UNCONFINED,
};

/// `defaultMaskedPaths` and `defaultReadonlyPaths` (kubernetes/pkg/securitycontext/util.go).
const MASKED: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What a kubelet knows that a manifest does not say.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Name of the node.
    pub node: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Where pods find the API server.
    pub api: SocketAddr,
    /// Directory with the credentials of the pod's ServiceAccount.
    pub service_account: PathBuf,
}

/// The init containers of a pod and then its containers, in the order of their start.
pub(super) fn containers(pod: &PodSpec, facts: &Facts, sandbox: &Sandbox) -> Result<Vec<ContainerConfig>> {
    understood(pod)?;
    let all = pod.init_containers.iter().flatten().chain(&pod.containers);
    all.map(|container| config(container, pod, facts, sandbox).with_context(|| container.name.clone())).collect()
}

/// Fields that a scheduler, or a kubelet's own loops, look at: they change nothing about how a container starts.
fn understood(pod: &PodSpec) -> Result<()> {
    let rest = PodSpec {
        affinity: None,
        containers: Vec::new(),
        dns_policy: None,
        host_network: None,
        init_containers: None,
        node_selector: None,
        priority_class_name: None,
        service_account_name: None,
        termination_grace_period_seconds: None,
        tolerations: None,
        volumes: None,
        ..pod.clone()
    };
    nothing_else(&rest)
}

/// Nothing is left of an object but what is understood.
fn nothing_else<T: Default + PartialEq + Serialize>(rest: &T) -> Result<()> {
    ensure!(*rest == T::default(), "the kubelet of the lab does not know {}", serde_json::to_string(rest)?);
    Ok(())
}

fn config(container: &Container, pod: &PodSpec, facts: &Facts, sandbox: &Sandbox) -> Result<ContainerConfig> {
    let rest = Container {
        args: None,
        command: None,
        env: None,
        image: None,
        image_pull_policy: None,
        liveness_probe: None,
        name: String::new(),
        ports: None,
        readiness_probe: None,
        resources: None,
        security_context: None,
        volume_mounts: None,
        ..container.clone()
    };
    nothing_else(&rest)?;
    let mut security = security(&container.security_context.clone().unwrap_or_default())?;
    security.namespace_options = Some(sandbox.namespaces());
    let volumes = pod.volumes.as_deref().unwrap_or_default();
    let mounts = container.volume_mounts.iter().flatten().map(|mount| of_volume(mount, volumes));
    let token = Mount {
        container_path: SERVICE_ACCOUNT.to_owned(),
        host_path: facts.service_account.display().to_string(),
        readonly: true,
    };
    let env = container.env.iter().flatten().map(|variable| value(variable, facts));
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata { name: container.name.clone(), attempt: 0 }),
        image: Some(ImageSpec { image: container.image.clone().context("a container has an image")? }),
        command: container.command.clone().unwrap_or_default(),
        args: container.args.clone().unwrap_or_default(),
        envs: env.chain(service_variables(facts.api)).collect::<Result<_>>()?,
        mounts: mounts.chain([Ok(token)]).collect::<Result<_>>()?,
        log_path: log_name(&container.name),
        linux: Some(LinuxContainerConfig { security_context: Some(security) }),
    })
}

/// Where a container's log lies in the directory of its sandbox.
pub(super) fn log_name(container: &str) -> String {
    format!("{container}.log")
}

fn service_variables(api: SocketAddr) -> [Result<KeyValue>; 2] {
    let variables = [("HOST", api.ip().to_string()), ("PORT", api.port().to_string())];
    variables.map(|(name, value)| Ok(KeyValue { key: format!("KUBERNETES_SERVICE_{name}"), value }))
}

fn value(variable: &EnvVar, facts: &Facts) -> Result<KeyValue> {
    let field = variable.value_from.as_ref().map(|source| source.field_ref.as_ref().map(|field| &*field.field_path));
    let value = match field {
        None => variable.value.clone().unwrap_or_default(),
        Some(Some("metadata.namespace")) => facts.namespace.clone(),
        Some(Some("spec.nodeName")) => facts.node.clone(),
        Some(other) => bail!("the kubelet of the lab does not know the value of {}: {other:?}", variable.name),
    };
    Ok(KeyValue { key: variable.name.clone(), value })
}

fn of_volume(mount: &VolumeMount, volumes: &[Volume]) -> Result<Mount> {
    let VolumeMount { mount_path, name, read_only, .. } = mount;
    let rest = VolumeMount { mount_path: String::new(), name: String::new(), read_only: None, ..mount.clone() };
    nothing_else(&rest)?;
    let volume = volumes.iter().find(|volume| volume.name == *name).with_context(|| format!("no volume {name}"))?;
    let host = volume.host_path.as_ref().with_context(|| format!("volume {name} is not a path of the host"))?;
    Ok(Mount {
        container_path: mount_path.clone(),
        host_path: host.path.clone(),
        readonly: read_only.unwrap_or_default(),
    })
}

fn security(context: &SecurityContext) -> Result<LinuxContainerSecurityContext> {
    let rest = SecurityContext {
        allow_privilege_escalation: None,
        app_armor_profile: None,
        capabilities: None,
        privileged: None,
        read_only_root_filesystem: None,
        run_as_non_root: None,
        run_as_user: None,
        se_linux_options: None,
        seccomp_profile: None,
        ..context.clone()
    };
    nothing_else(&rest)?;
    // No image of the lab names a user: it would be root.
    let is_root = context.run_as_user.unwrap_or_default() == 0;
    ensure!(!(is_root && context.run_as_non_root == Some(true)), "the container must not run as root, and would");
    let capabilities = context.capabilities.clone().unwrap_or_default();
    let selinux = context.se_linux_options.clone().unwrap_or_default();
    let text = |value: Option<String>| value.unwrap_or_default();
    Ok(LinuxContainerSecurityContext {
        capabilities: Some(Capability {
            add_capabilities: capabilities.add.unwrap_or_default(),
            drop_capabilities: capabilities.drop.unwrap_or_default(),
        }),
        privileged: context.privileged.unwrap_or_default(),
        selinux_options: Some(SelinuxOption {
            user: text(selinux.user),
            role: text(selinux.role),
            kind: text(selinux.type_),
            level: text(selinux.level),
        }),
        run_as_user: context.run_as_user.map(|value| Int64Value { value }),
        readonly_rootfs: context.read_only_root_filesystem.unwrap_or_default(),
        no_new_privs: context.allow_privilege_escalation == Some(false),
        masked_paths: MASKED.map(str::to_owned).into(),
        readonly_paths: READ_ONLY.map(str::to_owned).into(),
        // What is not said is for the runtime to choose. Only of seccomp a kubelet says that there is none.
        seccomp: Some(context.seccomp_profile.as_ref().map_or(Ok(NONE), |named| profile(&named.type_))?),
        apparmor: context.app_armor_profile.as_ref().map(|named| profile(&named.type_)).transpose()?,
        ..LinuxContainerSecurityContext::default()
    })
}

const NONE: SecurityProfile = SecurityProfile { profile_type: UNCONFINED };

fn profile(named: &str) -> Result<SecurityProfile> {
    match named {
        "RuntimeDefault" => Ok(SecurityProfile { profile_type: RUNTIME_DEFAULT }),
        "Unconfined" => Ok(NONE),
        other => bail!("the kubelet of the lab has no profile {other}"),
    }
}
