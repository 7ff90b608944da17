//! What to try in a lab that stays up: each line is a command that works as it is printed.

use crate::pod::DEFAULT_PORT;
use crate::world::World;
use crate::world::echo::{SERVICE, VIP};

/// A command for a shell.
#[derive(Debug)]
pub struct Hint {
    /// The command.
    pub command: String,
    /// What it shows.
    pub shows: &'static str,
}

/// Everything to try in a lab with the demo's pods and Service.
pub fn hints(world: &World) -> Vec<Hint> {
    let within = |place: &str, command: &str| format!("ip netns exec {}-{place} {command}", world.lab.prefix());
    let kubectl = |arguments: &str| {
        let command = within("client", &format!("kubectl {arguments}"));
        format!("KUBECONFIG={} {command}", world.kubeconfig().display())
    };
    let talk = format!("bash -c 'exec 3<>/dev/tcp/{VIP}/{DEFAULT_PORT}; echo hello >&3; head -1 <&3'");
    let hint = |command: String, shows| Hint { command, shows };
    vec![
        hint(format!("ip netns list | grep '^{}-'", world.lab.prefix()), "the namespaces of this lab"),
        hint(within("ing1", "ip rule"), "the tree from mark to bucket"),
        hint(within("ing1", "ip route show table 10000"), "bucket 0: where its flows go"),
        hint(within("ing1", "nft list table inet kube_service_tunnel"), "how flows become marks"),
        hint(within("pod-echo-1", "ip -d address"), "the VIP inside a pod"),
        hint(within("client", &talk), "a connection to the VIP"),
        hint(within("client", "bash"), "a shell at the client"),
        hint(kubectl("get services"), "the Service"),
        hint(kubectl(&format!("describe service {SERVICE}")), "its annotation and Events"),
    ]
}
