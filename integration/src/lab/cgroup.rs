//! Control groups named as a kubelet names them, in whatever hierarchy this machine can write.
//!
//! Only the names matter to the lab: a program that finds a pod by its UID in `/proc/<pid>/cgroup` must cope with every
//! spelling that is in use. No controller is enabled and no limit set.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::unistd::{AccessFlags, access};

use super::spec::Qos;

/// How long killed processes may take to leave their group.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which hierarchy the process is put into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hierarchy {
    /// Version 2 if there is a writable mount of it, else version 1.
    #[default]
    Any,
    /// Version 1: `name=systemd`, `pids` and `memory`, as far as they are mounted; it is an error if none is.
    V1,
    /// Version 2.
    V2,
}

/// Who names the groups: the kubelet's `--cgroup-driver`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Driver {
    /// `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid with _>.slice/cri-containerd-<id>.scope`
    #[default]
    Systemd,
    /// `kubepods/burstable/pod<uid>/<id>`
    Cgroupfs,
}

/// Where a pod's process is accounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupSpec {
    /// The hierarchy.
    pub hierarchy: Hierarchy,
    /// The naming.
    pub driver: Driver,
    /// The kubelet's `--cgroup-root` without slashes and suffix, e.g. `kubelet` on kind. Empty for none.
    pub root: String,
    /// A path around it all, e.g. `docker/<id>` for a node that is a container itself. Empty for none.
    pub outer: String,
}

impl CgroupSpec {
    /// The path of the container's group below the mount point.
    pub fn path(&self, qos: Qos, uid: &str, container: &str) -> PathBuf {
        let level = match qos {
            Qos::Guaranteed => None,
            Qos::Burstable => Some("burstable"),
            Qos::BestEffort => Some("besteffort"),
        };
        let root = Some(self.root.as_str()).filter(|root| !root.is_empty());
        let inner = match self.driver {
            Driver::Systemd => systemd_path(root, level, uid, container),
            Driver::Cgroupfs => cgroupfs_path(root, level, uid, container),
        };
        Path::new(&self.outer).join(inner)
    }
}

/// A slice's name spells out its parents: `a-b.slice` lies in `a.slice`.
fn systemd_path(root: Option<&str>, level: Option<&str>, uid: &str, container: &str) -> PathBuf {
    let pod = format!("pod{}", uid.replace('-', "_"));
    let mut path = PathBuf::new();
    let mut slice = String::new();
    for part in root.into_iter().chain(["kubepods"]).chain(level).chain([pod.as_str()]) {
        if !slice.is_empty() {
            slice.push('-');
        }
        slice.push_str(part);
        path.push(format!("{slice}.slice"));
    }
    path.join(format!("cri-containerd-{container}.scope"))
}

fn cgroupfs_path(root: Option<&str>, level: Option<&str>, uid: &str, container: &str) -> PathBuf {
    let pod = format!("pod{uid}");
    root.into_iter().chain(["kubepods"]).chain(level).chain([pod.as_str(), container]).collect()
}

/// The mount points of a hierarchy that this process can write.
pub(super) fn mounts(hierarchy: Hierarchy) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    let writable = |wanted: fn(&str, &str) -> bool| -> Vec<PathBuf> {
        table
            .lines()
            .filter_map(|line| mount_point(line, wanted))
            .filter(|p| access(p, AccessFlags::W_OK).is_ok())
            .collect()
    };
    let v2 = || writable(|kind, _| kind == "cgroup2").into_iter().take(1).collect::<Vec<_>>();
    let v1 = || writable(|kind, options| kind == "cgroup" && is_plain_v1(options));
    let found = match hierarchy {
        Hierarchy::V1 => v1(),
        Hierarchy::V2 => v2(),
        Hierarchy::Any => Some(v2()).filter(|found| !found.is_empty()).unwrap_or_else(v1),
    };
    if found.is_empty() {
        bail!("no writable cgroup mount for {hierarchy:?}: the pods' processes cannot be placed");
    }
    Ok(found)
}

/// Removes a group with all below it from every hierarchy, once those that lived there have gone.
pub(crate) fn remove_everywhere(name: &str) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    let any = |kind: &str, _: &str| matches!(kind, "cgroup" | "cgroup2");
    let deadline = Instant::now() + PATIENCE;
    for group in table.lines().filter_map(|line| mount_point(line, any)).map(|mount| mount.join(name)) {
        while let Err(error) = remove_tree(&group) {
            if Instant::now() > deadline {
                bail!("remove {}: {error}", group.display());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}

fn remove_tree(group: &Path) -> std::io::Result<()> {
    if !group.exists() {
        return Ok(());
    }
    let entries: Vec<PathBuf> = fs::read_dir(group)?.flatten().map(|entry| entry.path()).collect();
    entries.iter().filter(|path| path.is_dir()).try_for_each(|path| remove_tree(path))?;
    fs::remove_dir(group)
}

/// Hierarchies that accept a process without further set-up (`cpuset` wants its CPUs first).
fn is_plain_v1(options: &str) -> bool {
    options.split(',').any(|option| matches!(option, "name=systemd" | "pids" | "memory"))
}

/// The mount point of one line of mountinfo: `… root point options… - type source superoptions`.
fn mount_point(line: &str, wanted: fn(&str, &str) -> bool) -> Option<PathBuf> {
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    let (kind, _source, options) = (right.next()?, right.next()?, right.next()?);
    wanted(kind, options).then(|| left.split(' ').nth(4).map(PathBuf::from))?
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "1b4e28ba-2fa1-11d2-883f-0016d3cca427";

    fn path(driver: Driver, root: &str, outer: &str, qos: Qos) -> String {
        let spec = CgroupSpec { driver, root: root.into(), outer: outer.into(), ..CgroupSpec::default() };
        spec.path(qos, UID, "c0ffee").display().to_string()
    }

    #[test]
    fn systemd_spells_out_the_parents_of_a_slice() {
        assert_eq!(
            path(Driver::Systemd, "", "", Qos::Burstable),
            "kubepods.slice/kubepods-burstable.slice/\
             kubepods-burstable-pod1b4e28ba_2fa1_11d2_883f_0016d3cca427.slice/cri-containerd-c0ffee.scope"
        );
        assert_eq!(
            path(Driver::Systemd, "kubelet", "", Qos::BestEffort),
            "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/\
             kubelet-kubepods-besteffort-pod1b4e28ba_2fa1_11d2_883f_0016d3cca427.slice/cri-containerd-c0ffee.scope"
        );
    }

    #[test]
    fn guaranteed_pods_have_no_level_of_their_own() {
        assert_eq!(
            path(Driver::Systemd, "", "", Qos::Guaranteed),
            "kubepods.slice/kubepods-pod1b4e28ba_2fa1_11d2_883f_0016d3cca427.slice/cri-containerd-c0ffee.scope"
        );
        assert_eq!(path(Driver::Cgroupfs, "", "", Qos::Guaranteed), format!("kubepods/pod{UID}/c0ffee"));
    }

    #[test]
    fn cgroupfs_nests_below_whatever_contains_the_node() {
        assert_eq!(
            path(Driver::Cgroupfs, "kubelet", "docker/0123", Qos::BestEffort),
            format!("docker/0123/kubelet/kubepods/besteffort/pod{UID}/c0ffee")
        );
    }
}
