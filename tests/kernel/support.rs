//! Throw-away network namespaces for tests, and `ip` and `nft` as independent witnesses inside them.
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::OnceLock;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use tunnel_router::kernel::bpf::{SecondChance, Sizes, Types};
use tunnel_router::kernel::{Features, KernelError, apply, features, observe};
use tunnel_router::model::Mode;
use tunnel_router::netns::Netns;
use tunnel_router::plan::{Observed, Plan, Step, Sysctl};

/// Prefix of our links.
pub const PREFIX: &str = "kst-";

/// A new namespace with `lo` up. A test that cannot have one fails: skipping would hide that nothing is tested.
pub fn netns() -> Netns {
    assert!(nix::unistd::geteuid().is_root(), "this test makes network namespaces: run it as root");
    let netns = Netns::anonymous().unwrap();
    sh(&netns, "ip link set lo up");
    netns
}

/// Returns when a namespace is what its last commands have asked for. The kernel finishes two things in the background, and
/// until then drops packets in silence:
///
/// - the queue of a veth device that was up before its peer (`linkwatch_do_dev`, net/core/link_watch.c)
/// - the local route of an IPv6 address, also of one with `nodad` (`addrconf_dad_work`, net/ipv6/addrconf.c)
pub fn settle(netns: &Netns) {
    let patience = PollTimeout::from(60_000_u16);
    let changes = netns.run(changes).unwrap();
    loop {
        // One process: they are slow to start in an emulated machine.
        let lines = "link show type veth\naddr show\nroute show table local";
        let shown = sh(netns, &format!("echo '{lines}' | ip -6 -o -batch -"));
        if is_settled(&shown) {
            return;
        }
        let mut fds = [PollFd::new(changes.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, patience), Ok(1), "it does not settle: {shown}");
        // What has changed is asked for above.
        while recv(changes.as_raw_fd(), &mut [0; 8192], MsgFlags::MSG_DONTWAIT).is_ok() {}
    }
}

/// A socket that hears of every change of a link, an IPv6 address or an IPv6 route in the thread's namespace.
fn changes() -> OwnedFd {
    const LINK: u32 = 1;
    const IPV6_IFADDR: u32 = 0x100;
    const IPV6_ROUTE: u32 = 0x400;
    let (flags, protocol) = (SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute);
    let changes = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol).unwrap();
    bind(changes.as_raw_fd(), &NetlinkAddr::new(0, LINK | IPV6_IFADDR | IPV6_ROUTE)).unwrap();
    changes
}

/// Whether all of these links send, and all of these addresses have a local route. Link-local ones are left out: no test sends
/// to them, and looking for duplicates of them takes a second.
fn is_settled(shown: &str) -> bool {
    let send = shown.lines().filter(|line| line.contains("link/ether")).all(|line| line.contains(" state UP "));
    let addresses = shown.lines().filter_map(|line| line.split_once(" inet6 ")?.1.split_once('/'));
    let has_route = |address: &str| shown.lines().any(|line| line.starts_with(&format!("local {address} ")));
    send && addresses.map(|(address, _)| address).filter(|address| !address.starts_with("fe80:")).all(has_route)
}

/// What this kernel has. It is found out once for all tests: that starts processes.
pub fn known_features() -> &'static Features {
    static FOUND: OnceLock<Features> = OnceLock::new();
    FOUND.get_or_init(features)
}

/// Fails on a kernel that lacks a mode, and names what is missing.
pub fn require(mode: Mode) {
    let found = known_features();
    let lacking = (found.missing.as_slice(), found.lacking.get(&mode));
    assert_eq!(lacking, (&[][..], None), "this kernel cannot run these tests");
}

/// Loads a program. The kernel's types are read once for all tests.
pub fn load_program(object: &[u8], sizes: Sizes) -> SecondChance {
    static TYPES: OnceLock<Types> = OnceLock::new();
    SecondChance::load_object(object, TYPES.get_or_init(Types::of_kernel), sizes).unwrap()
}

/// Runs a shell command in the namespace and returns what it printed; the test fails if the command does.
pub fn sh(netns: &Netns, command: &str) -> String {
    let (ok, text) = try_sh(netns, command);
    assert!(ok, "{command}: {text}");
    text
}

/// As [`sh`], and says whether the command succeeded.
pub fn try_sh(netns: &Netns, command: &str) -> (bool, String) {
    let output = netns.run(|| Command::new("sh").args(["-c", command]).output().unwrap()).unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Applies steps and expects all of them to succeed.
pub fn apply_in(netns: &Netns, steps: &[Step]) {
    let applied = try_apply(netns, steps);
    assert_eq!(applied.map_err(|e| e.to_string()), Ok(steps.len()));
}

/// Applies steps.
pub fn try_apply(netns: &Netns, steps: &[Step]) -> Result<usize, tunnel_router::kernel::ApplyError> {
    let plan = Plan { steps: steps.to_vec() };
    netns.run(|| apply(&plan)).unwrap()
}

/// Applies every step twice, one at a time: the second time must succeed like the first.
pub fn apply_each_twice(netns: &Netns, steps: &[Step]) {
    for step in steps {
        for time in ["first", "second"] {
            let applied = try_apply(netns, std::slice::from_ref(step));
            assert_eq!(applied.map_err(|e| e.to_string()), Ok(1), "{step}, {time} time");
        }
    }
}

/// Reads the namespace back.
pub fn observe_in(netns: &Netns, sysctls: &[Sysctl]) -> Observed {
    let observed: Result<Observed, KernelError> = netns.run(|| observe(sysctls.iter(), PREFIX)).unwrap();
    observed.unwrap()
}
