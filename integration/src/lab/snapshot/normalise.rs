//! The output of `ip -o -d`, without what moves by itself.

/// Words that are followed by a value that changes without anybody's doing.
const VOLATILE: &[&str] = &[
    // Goes up with every witness that listens.
    "promiscuity",
    "allmulti",
    // Given out when somebody asks, not when something is configured.
    "link-netnsid",
    "link-netns",
    "valid_lft",
    "preferred_lft",
    "expires",
    "age",
    "used",
    "fdb_n_learned",
];

/// All lines, each marked with its section; the order within a section is made independent of interface indices.
pub(super) fn lines(text: &str) -> Vec<String> {
    let mut section = "ip";
    let mut lines = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match line.strip_prefix('@') {
            Some(name) => section = name,
            None => lines.push(format!("{section} {}", normalise(line))),
        }
    }
    lines.sort();
    lines
}

/// One line: single spaces, no index, no peer, no volatile values.
fn normalise(line: &str) -> String {
    let mut words = line.split(|c: char| c.is_whitespace() || c == '\\').filter(|word| !word.is_empty()).peekable();
    let mut kept: Vec<&str> = Vec::new();
    let is_link = line.contains(": <");
    // "7: eth0@if8: <…>" and "7: eth0 inet …"; a rule's priority is no index.
    if is_link || is_address(line) {
        words.next();
    }
    while let Some(word) = words.next() {
        if VOLATILE.contains(&word) || word.ends_with("_timer") {
            words.next();
        } else if word != "tentative" {
            kept.push(word);
        }
    }
    let text = kept.join(" ");
    if is_link { without_peer(&text) } else { text }
}

fn is_address(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let index = words.next().is_some_and(|word| word.strip_suffix(':').is_some_and(|n| n.parse::<u32>().is_ok()));
    index && matches!(words.nth(1), Some("inet" | "inet6"))
}

/// `eth0@if8: <…` to `eth0: <…`.
fn without_peer(text: &str) -> String {
    match (text.split_once('@'), text.split_once(": <")) {
        (Some((name, rest)), Some((head, flags))) if head.len() == name.len() + 1 + rest.find(": <").unwrap_or(0) => {
            format!("{name}: <{flags}")
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_loses_index_peer_and_counters() {
        let line = "12: eth0@if13: <UP> mtu 1500 qdisc noqueue state UP \\    link/ether 02:00:00:00:00:01 brd \
                    ff:ff:ff:ff:ff:ff link-netnsid 3 promiscuity 1  allmulti 1 minmtu 68 \\    veth addrgenmode eui64 ";
        assert_eq!(
            normalise(line),
            "eth0: <UP> mtu 1500 qdisc noqueue state UP link/ether 02:00:00:00:00:01 brd ff:ff:ff:ff:ff:ff minmtu 68 veth \
             addrgenmode eui64"
        );
        assert_eq!(normalise("1: lo: <LOOPBACK> mtu 65536"), "lo: <LOOPBACK> mtu 65536");
    }

    #[test]
    fn an_address_loses_its_lifetimes_and_index() {
        let line = "3: v0    inet6 fe80::1/64 scope link tentative \\       valid_lft 100sec preferred_lft forever";
        assert_eq!(normalise(line), "v0 inet6 fe80::1/64 scope link");
    }

    #[test]
    fn a_rule_keeps_its_priority_and_a_bridge_loses_its_timers() {
        assert_eq!(normalise("5270:\tfrom all fwmark 0x1 lookup 52"), "5270: from all fwmark 0x1 lookup 52");
        assert_eq!(normalise("bridge hello_time 200 gc_timer   12.13 x"), "bridge hello_time 200 x");
    }

    #[test]
    fn sections_mark_their_lines() {
        assert_eq!(lines("b x\na y\n@ip6\n0: from all\n"), ["ip a y", "ip b x", "ip6 0: from all"]);
    }
}
