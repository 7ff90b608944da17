//! What to do about a refusal: the missing module, option or privilege, in the words of the person who must act.

use std::net::IpAddr;

use nix::errno::Errno;

use crate::model::Family;
use crate::plan::{LinkKind, Nexthop, Step, Sysctl};

use super::error::KernelError;

const GRE: &str = "this kernel has no GRE: `modprobe ip_gre` on the node (CONFIG_NET_IPGRE), or use mode vxlan";
const GRE6: &str =
    "this kernel has no GRE over IPv6: `modprobe ip6_gre` on the node (CONFIG_IPV6_GRE), or use mode vxlan";
const GRE_TAKEN: &str = "delete the other device, or use mode vxlan";
const VXLAN: &str = "this kernel has no VXLAN: `modprobe vxlan` on the node (CONFIG_VXLAN)";
const VXLAN_TAKEN: &str = "delete the other device, or choose another --vxlan-port";
const MPLS: &str =
    "this kernel has no MPLS: `modprobe mpls_router` on the node (CONFIG_MPLS_ROUTING), or use mode gre or vxlan";
const MPLS_INPUT: &str =
    "the device is gone, or this kernel has no MPLS: `modprobe mpls_router` on the node (CONFIG_MPLS_ROUTING)";
const MPLS_PUSH: &str = "this kernel cannot push labels: `modprobe mpls_iptunnel` on the node (CONFIG_MPLS_IPTUNNEL), or use mode gre or vxlan";
const NEXTHOPS: &str =
    "this kernel has no nexthop objects, or no lightweight tunnels: Linux 5.3 or later with CONFIG_LWTUNNEL";
const DOWN: &str = "the device is down or has no carrier";
const PRIVILEGE: &str = "the agent needs CAP_NET_ADMIN, and CAP_SYS_ADMIN and CAP_SYS_PTRACE to enter pods";
const READ_ONLY: &str =
    "/proc/sys is read-only here: mount the node's /proc at another path and name it with --proc-root";
const NFT: &str = "install nftables 1.0.6 or later in the agent's image";
const NFT_KERNEL: &str = "a part of nf_tables is missing: `modprobe -a nf_tables nft_ct nft_hash nft_socket nft_fib_inet nft_nat` on the node";

/// What would help against the refusal of a step, if that is known.
pub(super) fn remedy(step: &Step, error: &KernelError) -> Option<&'static str> {
    match error {
        KernelError::NftSpawn(_) => return Some(NFT),
        KernelError::Nft(text) => return nft(text),
        KernelError::Occupied(_) => return occupied(step),
        _ => {}
    }
    let errno = error.errno()?;
    match errno {
        Errno::EPERM | Errno::EACCES => Some(PRIVILEGE),
        Errno::EROFS => Some(READ_ONLY),
        Errno::ENETDOWN => Some(DOWN),
        _ => missing_feature(step, error, errno),
    }
}

fn nft(text: &str) -> Option<&'static str> {
    let says = |words: &str| text.contains(words);
    if says("Operation not permitted") {
        Some(PRIVILEGE)
    } else {
        // A lacking expression is ENOENT; so is a lacking set, but the diff does not refer to what it has not made.
        (says("No such file or directory") || says("not supported")).then_some(NFT_KERNEL)
    }
}

fn occupied(step: &Step) -> Option<&'static str> {
    match step {
        Step::AddLink(_, LinkKind::GreExternal(_) | LinkKind::GreLocal(_)) => Some(GRE_TAKEN),
        // Only VXLAN has a port that can be in use when the device is set up.
        Step::AddLink(_, LinkKind::VxlanGpe { .. }) | Step::LinkUp(_) => Some(VXLAN_TAKEN),
        _ => None,
    }
}

fn missing_feature(step: &Step, error: &KernelError, errno: Errno) -> Option<&'static str> {
    match step {
        Step::AddLink(_, LinkKind::GreExternal(Family::V6) | LinkKind::GreLocal(IpAddr::V6(_)))
            if error.is_unsupported() =>
        {
            Some(GRE6)
        }
        Step::AddLink(_, LinkKind::GreExternal(_) | LinkKind::GreLocal(_)) if error.is_unsupported() => Some(GRE),
        Step::AddLink(_, LinkKind::VxlanGpe { .. }) if error.is_unsupported() => Some(VXLAN),
        Step::ReplaceNexthop(_, Nexthop::Mpls { .. }) if error.is_unsupported() => Some(MPLS_PUSH),
        Step::ReplaceNexthop(_, Nexthop::EncapIp { .. }) | Step::ReplaceSource(..) if error.is_unsupported() => {
            Some(NEXTHOPS)
        }
        Step::ReplaceLabel(..) if error.is_unsupported() => Some(MPLS),
        Step::SetSysctl(Sysctl::PlatformLabels, _) if errno == Errno::ENOENT => Some(MPLS),
        Step::SetSysctl(Sysctl::MplsInput(_), _) if errno == Errno::ENOENT => Some(MPLS_INPUT),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::second_chance::TunnelId;
    use crate::plan::{LabelRoute, RuleAction, RuleSpec, Source};

    fn refused(errno: Errno) -> KernelError {
        KernelError::Refused { errno, text: None }
    }

    #[test]
    fn a_missing_feature_is_named_with_its_module() {
        let a = IpAddr::from([10, 0, 0, 1]);
        let dev = || "eth0".to_owned();
        let sysctl = |errno: Errno| KernelError::Sysctl { path: String::new(), source: errno.into() };
        let cases = [
            (Step::AddLink(dev(), LinkKind::GreExternal(Family::V4)), refused(Errno::EOPNOTSUPP), "modprobe ip_gre"),
            (Step::AddLink(dev(), LinkKind::GreLocal(a)), refused(Errno::EOPNOTSUPP), "modprobe ip_gre"),
            (Step::AddLink(dev(), LinkKind::VxlanGpe { port: 1 }), refused(Errno::EOPNOTSUPP), "modprobe vxlan"),
            (
                Step::ReplaceNexthop(1, Nexthop::mpls(Family::V4, 16, a, dev())),
                refused(Errno::EOPNOTSUPP),
                "modprobe mpls_iptunnel",
            ),
            (
                Step::ReplaceNexthop(
                    1,
                    Nexthop::EncapIp { family: Family::V4, src: a, dst: a, dev: dev(), id: TunnelId::OWNER_ALONE },
                ),
                refused(Errno::EOPNOTSUPP),
                "Linux 5.3",
            ),
            (Step::ReplaceSource(1, Source::Device(dev())), refused(Errno::EOPNOTSUPP), "Linux 5.3"),
            (Step::ReplaceLabel(16, LabelRoute::Pop { dev: dev() }), refused(Errno::EAFNOSUPPORT), "mpls_router"),
            (Step::SetSysctl(Sysctl::PlatformLabels, 1), sysctl(Errno::ENOENT), "mpls_router"),
            (Step::SetSysctl(Sysctl::MplsInput(dev()), 1), sysctl(Errno::ENOENT), "mpls_router"),
            (Step::SetSysctl(Sysctl::PlatformLabels, 1), sysctl(Errno::EROFS), "--proc-root"),
            (Step::DelNexthop(1), refused(Errno::EPERM), "CAP_NET_ADMIN"),
            (Step::Nft(Vec::new()), KernelError::NftSpawn(Errno::ENOENT.into()), "install nftables"),
        ];
        for (step, error, want) in cases {
            let remedy = remedy(&step, &error).unwrap_or("nothing");
            assert!(remedy.contains(want), "{step}: {remedy}");
        }
    }

    #[test]
    fn no_remedy_is_invented() {
        let rule = RuleSpec { family: Family::V4, priority: 101, mark: None, action: RuleAction::Nop };
        assert_eq!(remedy(&Step::AddRule(rule), &refused(Errno::EINVAL)), None);
        assert_eq!(remedy(&Step::DelNexthop(1), &KernelError::NoDevice("eth0".into())), None);
    }
}
