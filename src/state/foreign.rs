//! Pods whose network is not the Linux kernel's of their node: nothing can be set up in it.
//!
//! | runtime | what the node sees | what a VIP there would do |
//! |---|---|---|
//! | runc, crun, youki, Wasm shims | the pod's sockets | works |
//! | Kata Containers | a netns that holds the pod's address and hands all packets to a virtual machine | resets |
//! | gVisor | a netns from which the pod's address was taken away | never comes up |
//! | another operating system | nothing | never comes up |
//!
//! Agents see the name of a RuntimeClass, not its handler, which only a right to read RuntimeClasses would show. So the names
//! are those in common use, and what hides behind another name is recognised by its namespace (`netns`, `plan::pod`).

use super::records::PodRecord;

/// The only operating system that agents run on, as `kubernetes.io/os` and `spec.os.name` spell it.
pub(super) const LINUX: &str = "linux";

/// Words in the names of RuntimeClasses with a network stack of their own: `kata-qemu`, `gvisor`, `runsc-kvm`.
const WORDS: [&str; 6] = ["kata", "gvisor", "runsc", "firecracker", "urunc", "runhcs"];

/// What the network of a pod belongs to, if not to this node's kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Foreign<'a> {
    /// The RuntimeClass of this name.
    RuntimeClass(&'a str),
    /// Another operating system.
    Os(&'a str),
}

/// Whether the specification of a pod says that its network is not this kernel's.
pub(super) fn foreign_network(pod: &PodRecord) -> Option<Foreign<'_>> {
    let os = pod.os.as_deref().filter(|os| *os != LINUX).map(Foreign::Os);
    os.or_else(|| pod.runtime_class.as_deref().filter(|name| has_own_stack(name)).map(Foreign::RuntimeClass))
}

fn has_own_stack(runtime_class: &str) -> bool {
    runtime_class.split(['-', '.']).any(|word| WORDS.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtime_classes_with_their_own_stack_are_known_by_name() {
        for name in
            ["kata", "kata-qemu", "kata-mshv-vm-isolation", "gvisor", "runsc", "acme.gvisor", "runhcs-wcow-process"]
        {
            assert!(has_own_stack(name), "{name}");
        }
        for name in ["runc", "crun", "nvidia", "wasmtime-spin-v2", "katana", "my-runscript", ""] {
            assert!(!has_own_stack(name), "{name}");
        }
    }
}
