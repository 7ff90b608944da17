//! The command line, from words and environment to a configuration or to everything that is wrong with it.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails like the test")]

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::CommandFactory;
use tunnel_router::cli::{Cli, Command, ConfigErrors, Host, agent_config, cleanup_config, env_of, trace_config};
use tunnel_router::model::config::{CleanupConfig, LogFormat, Output};
use tunnel_router::model::{Config, Mode};

fn host() -> Host {
    Host { node_name: None, hostname: Some("Worker-1".to_owned()) }
}

fn agent_on(host: &Host, flags: &[&str]) -> Result<Config, ConfigErrors> {
    match Cli::try_parse_from(["tunnel-router", "agent"].iter().chain(flags)).unwrap() {
        Command::Agent(args) => agent_config(&args, host),
        other => panic!("{other:?}"),
    }
}

fn agent(flags: &[&str]) -> Result<Config, ConfigErrors> {
    agent_on(&host(), flags)
}

fn cleanup(flags: &[&str]) -> Result<CleanupConfig, ConfigErrors> {
    match Cli::try_parse_from(["tunnel-router", "cleanup"].iter().chain(flags)).unwrap() {
        Command::Cleanup(args) => cleanup_config(&args),
        other => panic!("{other:?}"),
    }
}

/// The lines about what is wrong.
fn complaints(flags: &[&str]) -> Vec<String> {
    let errors = agent(flags).unwrap_err();
    errors.0.iter().map(ToString::to_string).collect()
}

#[test]
fn without_flags_everything_has_the_documented_default() {
    let config = agent(&[]).unwrap();
    assert_eq!(config.node_name, "worker-1");
    assert_eq!(config.kubeconfig, None);
    assert_eq!(config.annotation.as_str(), "cmd.nu/tunnel");
    assert_eq!(config.ingress_nodes, None);
    assert_eq!(config.vip_ranges, []);
    assert_eq!(config.resync, Duration::from_secs(60));
    assert_eq!(config.mode, Mode::Gre);
    assert_eq!((config.mpls.pop(), config.mpls.base()), (100, 65536));
    assert_eq!(config.vxlan_port, 4790);
    assert_eq!(config.kernel.buckets.get(), 64);
    assert_eq!(config.kernel.mark.mask(), 0xff);
    assert_eq!((config.kernel.table_base, config.kernel.rule_priority), (10_000, 101));
    assert_eq!(config.kernel.link_prefix.as_str(), "kst-");
    assert_eq!(config.kernel.proc_root, Path::new("/proc"));
    assert!(!config.dry_run);
    assert_eq!((config.log.format, config.log.level.as_str()), (LogFormat::Text, "info"));
}

#[test]
fn every_flag_reaches_the_configuration() {
    let words = "--node-name n1 --kubeconfig /k --annotation example.org/vip --ingress-nodes node=tunnel --resync 5m \
        --vip-cidrs 192.0.2.0/24,2001:db8::/64=shop+web --mode vxlan --mpls-label 200 --mpls-label-base 131072 --vxlan-port 4791 \
        --buckets 128 --mark-field 0x1ff00000 --table-base 20000 --rule-priority 150 --link-prefix vip_ \
        --proc-root /host/proc --dry-run --log-format json --log-level warn,tunnel_router=trace";
    let config = agent(&words.split_whitespace().collect::<Vec<_>>()).unwrap();
    assert_eq!(config.node_name, "n1");
    assert_eq!(config.kubeconfig, Some(PathBuf::from("/k")));
    assert_eq!(config.ingress_nodes.as_deref(), Some("node=tunnel"));
    let [v4, v6] = &config.vip_ranges[..] else { panic!("{:?}", config.vip_ranges) };
    assert_eq!((v4.net.to_string().as_str(), v4.namespaces.len()), ("192.0.2.0/24", 0));
    assert_eq!(
        (v6.net.to_string().as_str(), &v6.namespaces),
        ("2001:db8::/64", &["shop", "web"].map(str::to_owned).into())
    );
    assert_eq!(config.resync, Duration::from_secs(300));
    assert_eq!(config.mode, Mode::Vxlan);
    assert_eq!(config.mpls.pop(), 200);
    assert_eq!(config.mpls.of_pod(Ipv4Addr::new(10, 0, 0, 1).into()), 131_073);
    assert_eq!(config.vxlan_port, 4791);
    assert_eq!(config.kernel.buckets.get(), 128);
    assert_eq!(config.kernel.mark.mask(), 0x1ff0_0000);
    assert_eq!((config.kernel.table_base, config.kernel.rule_priority), (20_000, 150));
    assert_eq!(config.kernel.link_prefix.vxlan(), "vip_vxlan");
    assert_eq!(config.kernel.proc_root, Path::new("/host/proc"));
    assert!(config.dry_run);
    assert_eq!((config.log.format, config.log.level.as_str()), (LogFormat::Json, "warn,tunnel_router=trace"));
}

#[test]
fn the_node_is_named_by_flag_then_node_name_then_host_name() {
    let host = Host { node_name: Some("from-env".to_owned()), hostname: Some("from-host".to_owned()) };
    assert_eq!(agent_on(&host, &["--node-name", "from-flag"]).unwrap().node_name, "from-flag");
    assert_eq!(agent_on(&host, &[]).unwrap().node_name, "from-env");
    assert_eq!(agent_on(&Host { node_name: None, ..host }, &[]).unwrap().node_name, "from-host");
    assert!(agent_on(&Host::default(), &[]).is_err());
}

#[test]
fn an_empty_optional_value_is_no_value() {
    let config = agent(&["--kubeconfig=", "--ingress-nodes=", "--vip-cidrs=", "--node-name="]).unwrap();
    assert_eq!((config.kubeconfig, config.ingress_nodes, config.vip_ranges), (None, None, vec![]));
    assert_eq!(config.node_name, "worker-1");
}

/// Flag, value, and what is said about it after `--flag (ENV) is "value": `.
const WRONG: &[(&str, &str, &str)] = &[
    (
        "node-name",
        "Bad_Name",
        "must be the name of a Node: lower-case letters, digits, '-' and '.', at most 253 bytes; neither NODE_NAME nor the host name helped",
    ),
    (
        "annotation",
        "a/b/c",
        "must be a qualified name: [DNS subdomain of at most 253 bytes/]name, the name of at most 53 bytes (its -conntrack variant must fit 63) of [A-Za-z0-9._-] that starts and ends with a letter or digit, such as cmd.nu/tunnel",
    ),
    ("vip-cidrs", "192.0.2.0", "must be a network such as 192.0.2.0/24 or 2001:db8::/64"),
    (
        "vip-cidrs",
        "192.0.2.0/24=Shop",
        "has \"Shop\" where the name of a namespace must be, as in 192.0.2.0/24=shop+web",
    ),
    ("vip-cidrs", "192.0.2.1/24", "has bits behind its prefix: did you mean 192.0.2.0/24?"),
    ("resync", "0", "must be seconds, or a number with s, m or h, from 1s to 24h"),
    ("mode", "ipip", "unknown mode \"ipip\": use gre, mpls or vxlan"),
    ("mpls-label", "15", "must be a label from 16 to 1048575"),
    ("mpls-label", "1048576", "must be a label from 16 to 1048575"),
    ("mpls-label", "x", "must be a number from 0 to 4294967295, decimal or 0x hexadecimal"),
    ("mpls-label-base", "983041", "must be from 16 to 983040, so that the block of 65536 labels ends by 1048575"),
    ("mpls-label-base", "50", "labels 50 to 65585 of remote pods contain 100, the label that pods pop (--mpls-label)"),
    ("vxlan-port", "0", "must be a UDP port from 1 to 65535"),
    ("vxlan-port", "65536", "must be a UDP port from 1 to 65535"),
    ("buckets", "100", "100 buckets: must be a power of two from 16 to 128 (16, 32, 64 or 128)"),
    ("buckets", "many", "must be a number from 0 to 4294967295, decimal or 0x hexadecimal"),
    ("mark-field", "0", "mark field 0x0 has no bits: use one run of 5 to 32 adjacent bits, such as 0xff"),
    ("mark-field", "0xf0f", "mark field 0xf0f has a hole: its bits must be adjacent, such as 0xff or 0xff000000"),
    ("mark-field", "0x3f", "mark field 0x3f has 6 bits: 64 buckets need 7 (bucket number, and 1 for PRESENT)"),
    ("table-base", "200", "tables 200 to 328 contain 253: must avoid 0 and 253 to 255 (default, main, local)"),
    ("table-base", "4294967295", "129 tables from 4294967295 on do not fit below 4294967296"),
    (
        "rule-priority",
        "0",
        "priority 0 and the next must lie in 1 to 32765, between the rules for local and main; 101 to 510 is best, behind Cilium's (9, 10, 100) and before AWS VPC CNI's (512 and up) and Tailscale's (5210 and up)",
    ),
    (
        "link-prefix",
        "eth",
        "must be 2 to 10 bytes of [A-Za-z0-9._-], start with a letter or digit and end with '-', '_' or '.', so that <prefix>vxlan is a link name of at most 15 bytes and <prefix>* matches no foreign link",
    ),
    ("proc-root", "proc", "must be an absolute path"),
    ("log-format", "xml", "must be text or json"),
];

#[test]
fn every_wrong_value_is_named_with_its_flag_its_variable_and_what_would_be_right() {
    for (flag, value, reason) in WRONG {
        let expected = format!("--{flag} ({}) is {value:?}: {reason}", env_of(flag));
        assert_eq!(complaints(&[&format!("--{flag}={value}")]), [expected]);
    }
}

#[test]
fn wrong_log_directives_are_refused() {
    let complaint = &complaints(&["--log-level", "tunnel_router=loud"])[0];
    assert!(complaint.starts_with(
        "--log-level (TUNNEL_ROUTER_LOG_LEVEL) is \"tunnel_router=loud\": must be error, warn, info, debug, trace or off"
    ));
}

#[test]
fn everything_that_is_wrong_is_reported_at_once() {
    let errors = agent(&["--mode=x", "--buckets=7", "--vip-cidrs=a,192.0.2.0/24,b", "--vxlan-port=0"]).unwrap_err();
    let named: Vec<(&str, &str)> = errors.0.iter().map(|e| (e.flag, e.value.as_str())).collect();
    assert_eq!(named, [("vip-cidrs", "a"), ("vip-cidrs", "b"), ("mode", "x"), ("vxlan-port", "0"), ("buckets", "7")]);
    let text = errors.to_string();
    assert!(text.starts_with("invalid configuration\n  --vip-cidrs (TUNNEL_ROUTER_VIP_CIDRS) is \"a\": "), "{text}");
    assert_eq!(text.lines().count(), 6);
}

#[test]
fn a_wrong_number_of_buckets_brings_no_complaint_about_what_depends_on_it() {
    assert_eq!(complaints(&["--buckets=1000000"]).len(), 1);
}

#[test]
fn buckets_that_the_mark_field_cannot_hold_are_a_complaint_about_the_field() {
    assert_eq!(
        complaints(&["--buckets=128", "--mark-field=0x7f"]),
        ["--mark-field (TUNNEL_ROUTER_MARK_FIELD) is \"0x7f\": mark field 0x7f has 7 bits: 128 buckets need 8 \
          (bucket number, and 1 for PRESENT)"]
    );
}

#[test]
fn cleanup_knows_what_is_the_agents_and_nothing_of_the_cluster() {
    let config = cleanup(&["--link-prefix=vip-", "--table-base=300", "--dry-run", "--log-format=json"]).unwrap();
    assert_eq!(config.kernel.link_prefix.as_str(), "vip-");
    assert_eq!(config.kernel.table_base, 300);
    assert!(config.dry_run);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.unless, None);
    let unless = cleanup(&["--unless-daemonset=kube-service-tunnel/tunnel-router"]).unwrap().unless.unwrap();
    assert_eq!((unless.namespace.as_str(), unless.name.as_str()), ("kube-service-tunnel", "tunnel-router"));
    for wrong in ["tunnel-router", "/tunnel-router", "a/b/c", "A/b"] {
        let errors = cleanup(&[&format!("--unless-daemonset={wrong}")]).unwrap_err();
        assert!(errors.to_string().contains("NAMESPACE/NAME"), "{wrong}: {errors}");
    }
    assert_eq!(cleanup(&["--buckets=3", "--log-format=x"]).unwrap_err().0.len(), 2);
    assert!(Cli::try_parse_from(["tunnel-router", "cleanup", "--mode=gre"]).is_err());
}

#[test]
fn logs_have_colours_on_a_terminal_and_none_in_a_container() {
    let program = env!("CARGO_BIN_EXE_tunnel-router");
    let log = std::process::Command::new(program).arg("load-modules").output().unwrap().stderr;
    let log = String::from_utf8(log).unwrap();
    assert!(log.contains("modules loaded") && !log.contains('\u{1b}'), "{log:?}");

    let mut terminal = std::process::Command::new("script");
    terminal.args(["-qec", &format!("{program} load-modules"), "/dev/null"]).env_remove("NO_COLOR");
    let seen = String::from_utf8(terminal.output().unwrap().stdout).unwrap();
    assert!(seen.contains("modules loaded") && seen.contains('\u{1b}'), "{seen:?}");
}

#[test]
fn the_version_is_a_subcommand_and_a_flag() {
    assert!(matches!(Cli::try_parse_from(["tunnel-router", "version"]), Ok(Command::Version)));
    let shown = Cli::try_parse_from(["tunnel-router", "--version"]).unwrap_err();
    assert_eq!(shown.to_string(), format!("tunnel-router {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn every_flag_has_a_variable_and_help_and_stands_under_a_heading() {
    let cli = Cli::command();
    for name in ["agent", "controller", "cleanup"] {
        for arg in cli.find_subcommand(name).unwrap().get_arguments() {
            let flag = arg.get_long().unwrap();
            assert_eq!(arg.get_env().unwrap().to_str().unwrap(), env_of(flag), "{flag}");
            assert!(arg.get_help().is_some(), "{flag}");
            assert!(arg.get_help_heading().is_some(), "{flag}");
        }
    }
}

/// Run by [`variables_do_what_flags_do`] in a process of its own, because only that can have another environment.
#[test]
#[ignore = "needs the environment that variables_do_what_flags_do gives it"]
fn prints_the_configuration_of_its_environment() {
    let config = agent(&["--buckets=32"]).unwrap();
    println!(
        "CONFIG {} {} {} {} {} {} {}",
        config.mode,
        config.kernel.buckets,
        config.kernel.table_base,
        config.kernel.link_prefix,
        config.annotation,
        config.node_name,
        config.dry_run
    );
}

#[test]
fn variables_do_what_flags_do_and_flags_win() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "prints_the_configuration_of_its_environment", "--ignored", "--nocapture"])
        .env("TUNNEL_ROUTER_MODE", "mpls")
        .env("TUNNEL_ROUTER_BUCKETS", "16")
        .env("TUNNEL_ROUTER_TABLE_OFFSET", "500")
        .env("TUNNEL_ROUTER_TUNNEL_PREFIX", "tun-")
        .env("TUNNEL_ROUTER_TUNNEL_ANNOTATION", "example.org/ip")
        .env("TUNNEL_ROUTER_NODE_NAME", "n2")
        .env("TUNNEL_ROUTER_DRY_RUN", "yes")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("CONFIG mpls 32 500 tun- example.org/ip n2 true\n"), "{text}");
}

#[test]
fn a_flow_is_read_and_everything_wrong_with_it_is_told_at_once() {
    let trace = |words: &str| match Cli::try_parse_from(format!("tunnel-router trace {words}").split_whitespace()) {
        Ok(Command::Trace(args)) => trace_config(&args).map_err(|error| error.to_string()),
        other => panic!("{other:?}"),
    };
    let config = trace("198.51.100.7:4000 192.0.2.10:80").unwrap();
    assert_eq!(config.flow.to_string(), "tcp 198.51.100.7:4000 -> 192.0.2.10:80");
    let config = trace("[2001:db8::7]:53 [2001:db8::10]:53 udp -o json").unwrap();
    assert_eq!(config.flow.to_string(), "udp [2001:db8::7]:53 -> [2001:db8::10]:53");
    assert_eq!(config.output, Output::Json);
    assert_eq!(trace("2001:db8::7 2001:db8::10 icmp").unwrap().flow.to_string(), "icmp 2001:db8::7 -> 2001:db8::10");
    assert_eq!(
        trace("client:1 2001:db8::10 esp -o yaml").unwrap_err(),
        "invalid configuration
  SRC is \"client:1\": must be an address with or without a port, such as 192.0.2.10:80 or [2001:db8::10]:80
  PROTOCOL is \"esp\": must be tcp, udp, sctp or icmp
  --output is \"yaml\": must be text or json"
    );
    assert!(trace("192.0.2.1:1 [2001:db8::10]:80").unwrap_err().contains("DST is"));
}

/// Compares with `tests/golden/<name>`; `UPDATE_GOLDEN=1` writes it instead.
fn assert_golden(name: &str, help: &str) {
    let text: String = help.lines().flat_map(|line| [line.trim_end(), "\n"]).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert!(golden == text, "{name} differs; UPDATE_GOLDEN=1 writes this:\n{text}");
}

#[test]
fn the_help_reads_as_reviewed() {
    let mut cli = Cli::command().term_width(100);
    cli.build();
    assert_golden("help.txt", &cli.render_long_help().to_string());
    for name in ["agent", "controller", "cleanup", "status", "trace"] {
        let help = cli.find_subcommand_mut(name).unwrap().render_long_help().to_string();
        assert_golden(&format!("help-{name}.txt"), &help);
    }
}
