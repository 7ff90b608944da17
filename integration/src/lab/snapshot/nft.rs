//! The output of `nft -s list ruleset` as lines that make sense alone: each rule with its table and chain, each element of
//! a set on its own line. Rules keep their order; elements have none.

/// All lines of the ruleset.
pub(super) fn lines(text: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    let mut lines = Vec::new();
    let mut text = text.lines().map(str::trim).filter(|line| !line.is_empty());
    while let Some(line) = text.next() {
        let path = |rest: &str| format!("nft {}{rest}", blocks.iter().map(|b| format!("{b} / ")).collect::<String>());
        if let Some(first) = line.strip_prefix("elements = {") {
            lines.extend(elements(first, &mut text).into_iter().map(|e| path(&format!("element {e}"))));
        } else if let Some(block) = line.strip_suffix(" {") {
            lines.push(path(block));
            blocks.push(block.to_owned());
        } else if line == "}" {
            blocks.pop();
        } else {
            lines.push(path(&without_counts(line)));
        }
    }
    lines
}

/// Elements may go on over several lines, and an element may itself contain braces.
fn elements<'a>(first: &'a str, rest: &mut impl Iterator<Item = &'a str>) -> Vec<String> {
    let depth = |text: &str| text.chars().map(|c| i32::from(c == '{') - i32::from(c == '}')).sum::<i32>();
    let mut text = first.to_owned();
    while depth(&text) > -1 {
        let Some(line) = rest.next() else { break };
        text.push(' ');
        text.push_str(line);
    }
    let inner = text.trim().trim_end_matches('}');
    let mut elements: Vec<String> =
        inner.split(',').map(|e| without_counts(e.trim())).filter(|e| !e.is_empty()).collect();
    elements.sort();
    elements
}

/// `counter packets 5 bytes 300` to `counter`, and no `expires 3s`: older tools print them even when asked not to.
fn without_counts(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let mut kept: Vec<&str> = Vec::new();
    let mut at = 0;
    while let Some(word) = words.get(at) {
        let skipped = match (words.get(at.wrapping_sub(1)), *word) {
            (Some(&"counter"), "packets") => 4,
            (_, "expires") => 2,
            _ => {
                kept.push(word);
                1
            }
        };
        at += skipped;
    }
    kept.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULESET: &str = "table inet t {
\tset s {
\t\ttype ipv4_addr
\t\telements = { 192.0.2.2, 192.0.2.1 counter packets 1 bytes 2,
\t\t\t     192.0.2.3 }
\t}

\tchain c {
\t\ttype filter hook input priority filter; policy accept;
\t\tip saddr { 192.0.2.1, 192.0.2.2 } counter packets 4 bytes 5 drop
\t}
}
table ip u {
}
";

    #[test]
    fn each_line_says_where_it_belongs() {
        assert_eq!(
            lines(RULESET),
            [
                "nft table inet t",
                "nft table inet t / set s",
                "nft table inet t / set s / type ipv4_addr",
                "nft table inet t / set s / element 192.0.2.1 counter",
                "nft table inet t / set s / element 192.0.2.2",
                "nft table inet t / set s / element 192.0.2.3",
                "nft table inet t / chain c",
                "nft table inet t / chain c / type filter hook input priority filter; policy accept;",
                "nft table inet t / chain c / ip saddr { 192.0.2.1, 192.0.2.2 } counter drop",
                "nft table ip u",
            ]
        );
    }
}
