//! Which pod a process belongs to, read from the text of `/proc/PID/cgroup`.
//!
//! The kubelet puts every container below a cgroup that carries the pod's UID, in one of two spellings:
//!
//! | driver | path |
//! |---|---|
//! | cgroupfs | `…/kubepods/burstable/pod<uid>/<container>`; guaranteed pods without the class: `…/kubepods/pod<uid>/…` |
//! | systemd | `…/kubepods-burstable.slice/kubepods-burstable-pod<uid with _ for ->.slice/cri-containerd-<id>.scope` |
//!
//! Anything may stand before it (kind, Docker in Docker, `--cgroup-root`). A static pod's UID is a hash of 32 hexadecimal
//! digits. Names are compared by whole path components: a UID may be the prefix of another word.

use std::collections::BTreeSet;

/// The pod UIDs that the text of one `/proc/PID/cgroup` names, in the spelling of the API (lower case, `-`).
///
/// A line is `hierarchy:controllers:path` (cgroup v1, one per hierarchy) or `0::path` (v2); see cgroups(7). A process of
/// a nested cluster (kind) belongs to the innermost pod; more than one UID comes back only if the hierarchies disagree.
pub fn pod_uids(cgroup: &str) -> BTreeSet<String> {
    cgroup.lines().filter_map(path_of_line).filter_map(innermost_pod).collect()
}

/// The path of a line; it may itself contain colons.
fn path_of_line(line: &str) -> Option<&str> {
    line.splitn(3, ':').nth(2)
}

fn innermost_pod(path: &str) -> Option<String> {
    path.rsplit('/').find_map(pod_uid_of_component)
}

fn pod_uid_of_component(component: &str) -> Option<String> {
    // `<slice>:cri-containerd:<id>`: the kubelet speaks systemd, the runtime does not and takes the name as it is.
    let component = component.split(':').next()?;
    let systemd = component.strip_suffix(".slice").and_then(|slice| {
        // `kubepods-burstable-pod<uid>`, or behind a prefix of its own: `kubelet-kubepods-pod<uid>` (kind).
        let (class, uid) = slice.rsplit_once("-pod")?;
        class.split('-').any(|word| word == "kubepods").then_some(uid)
    });
    let uid = systemd.or_else(|| component.strip_prefix("pod"))?;
    // systemd separates the levels of a slice by `-`, so the kubelet writes the UID's own as `_`.
    let uid = uid.replace('_', "-");
    is_uid(&uid).then_some(uid)
}

/// A UUID, or the hash that the kubelet gives to a static pod.
fn is_uid(text: &str) -> bool {
    let hex = |part: &str, len: usize| {
        part.len() == len && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let parts: Vec<&str> = text.split('-').collect();
    match parts.as_slice() {
        [hash] => hex(hash, 32),
        [a, b, c, d, e] => hex(a, 8) && hex(b, 4) && hex(c, 4) && hex(d, 4) && hex(e, 12),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fuzz::documents;

    const UID: &str = "8d9c1e52-3f0b-4b6e-9a7d-0c2f5e6a7b81";
    const STATIC: &str = "5f3a9c0e7b1d4e8fa2c6d9b0e4f71a35";

    /// Name, text of the file, and the UID that it names.
    const CASES: [(&str, &str, &str); 26] = [
        (
            "v2 systemd, burstable, containerd",
            "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod8d9c1e52_3f0b_4b6e_9a7d_0c2f5e6a7b81.slice/cri-containerd-4b0f1e.scope",
            UID,
        ),
        (
            "v2 systemd, besteffort, CRI-O",
            "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod8d9c1e52_3f0b_4b6e_9a7d_0c2f5e6a7b81.slice/crio-4b0f1e.scope/container",
            UID,
        ),
        (
            "v2 systemd, CRI-O's monitor of a container",
            "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod8d9c1e52_3f0b_4b6e_9a7d_0c2f5e6a7b81.slice/crio-conmon-4b0f1e.scope",
            UID,
        ),
        (
            "v1 cgroupfs, containerd, below the kubelet's --cgroup-root",
            "9:name=systemd:/kst01/kubepods/besteffort/pod8d9c1e52-3f0b-4b6e-9a7d-0c2f5e6a7b81/4b0f1e\n8:pids:/kst01/kubepods/besteffort/pod8d9c1e52-3f0b-4b6e-9a7d-0c2f5e6a7b81/4b0f1e\n0::/",
            UID,
        ),
        (
            "v2 systemd, guaranteed",
            "0::/kubepods.slice/kubepods-pod8d9c1e52_3f0b_4b6e_9a7d_0c2f5e6a7b81.slice/cri-containerd-4b0f1e.scope",
            UID,
        ),
        ("v2 cgroupfs, burstable", "0::/kubepods/burstable/pod8d9c1e52-3f0b-4b6e-9a7d-0c2f5e6a7b81/4b0f1e", UID),
        ("v2 cgroupfs, guaranteed", "0::/kubepods/pod8d9c1e52-3f0b-4b6e-9a7d-0c2f5e6a7b81/4b0f1e", UID),
        (
            "v1, docker",
            "12:pids:/kubepods/besteffort/pod8d9c1e52-3f0b-4b6e-9a7d-0c2f5e6a7b81/0a1b2c\n1:name=systemd:/kubepods/besteffort/pod8d9c1e52-3f0b-4b6e-9a7d-0c2f5e6a7b81/0a1b2c",
            UID,
        ),
        (
            "v1, only the named hierarchy",
            "4:memory:/\n1:name=systemd:/kubepods/pod8d9c1e52-3f0b-4b6e-9a7d-0c2f5e6a7b81/0a1b2c",
            UID,
        ),
        (
            "v1, kubelet and containerd of two minds",
            "5:cpuset:/system.slice/containerd.service/kubepods-besteffort-pod8d9c1e52_3f0b_4b6e_9a7d_0c2f5e6a7b81.slice:cri-containerd:4b0f1e",
            UID,
        ),
        ("static pod, cgroupfs", "0::/kubepods/burstable/pod5f3a9c0e7b1d4e8fa2c6d9b0e4f71a35/aa", STATIC),
        (
            "static pod, systemd",
            "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod5f3a9c0e7b1d4e8fa2c6d9b0e4f71a35.slice/cri-containerd-aa.scope",
            STATIC,
        ),
        (
            "kind",
            "0::/system.slice/docker-77aa.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod8d9c1e52_3f0b_4b6e_9a7d_0c2f5e6a7b81.slice/cri-containerd-aa.scope",
            UID,
        ),
        ("docker in docker", "0::/docker/99ff/kubepods/besteffort/pod8d9c1e52-3f0b-4b6e-9a7d-0c2f5e6a7b81/aa", UID),
        ("as seen from a cgroup namespace", "0::/../../pod8d9c1e52-3f0b-4b6e-9a7d-0c2f5e6a7b81/aa", UID),
        (
            "a cluster inside a pod: the inner one",
            "0::/kubepods/pod00000000-0000-0000-0000-000000000001/aa/kubepods/pod8d9c1e52-3f0b-4b6e-9a7d-0c2f5e6a7b81/bb",
            UID,
        ),
        ("host process, v2", "0::/system.slice/kubelet.service", ""),
        ("host process, v1", "3:cpu,cpuacct:/\n1:name=systemd:/init.scope", ""),
        ("podman", "0::/machine.slice/libpod-4b0f1e.scope", ""),
        ("the class alone", "0::/kubepods.slice/kubepods-burstable.slice", ""),
        ("a longer word", "0::/kubepods/pod8d9c1e52-3f0b-4b6e-9a7d-0c2f5e6a7b81x/aa", ""),
        ("a shorter word", "0::/kubepods/pod8d9c1e52-3f0b-4b6e-9a7d-0c2f5e6a7b8/aa", ""),
        ("another prefix", "0::/kubepods/mypod8d9c1e52-3f0b-4b6e-9a7d-0c2f5e6a7b81/aa", ""),
        ("a slice of somebody else", "0::/foo-pod8d9c1e52_3f0b_4b6e_9a7d_0c2f5e6a7b81.slice", ""),
        ("no colons", "garbage", ""),
        ("empty", "", ""),
    ];

    fn uids(text: &str) -> Vec<String> {
        pod_uids(text).into_iter().collect()
    }

    #[test]
    fn every_spelling_of_a_pods_cgroup_is_understood() {
        for (name, text, want) in CASES {
            let want: Vec<&str> = if want.is_empty() { vec![] } else { vec![want] };
            assert_eq!(uids(text), want, "{name}");
        }
    }

    /// Whatever the file says, what is taken for UIDs stands in it and has their form.
    #[test]
    fn fuzz_cgroup() {
        documents("cgroup", &CASES.map(|(_, text, _)| text.as_bytes().to_vec()), |bytes| {
            let text = String::from_utf8_lossy(bytes);
            for uid in pod_uids(&text) {
                assert!(is_uid(&uid) && text.replace('_', "-").contains(&format!("pod{uid}")), "{uid}");
            }
        });
    }
}
