//! Everything that a network stack is configured with, as other people's tools see it: the witness of a clean-up.
//!
//! A snapshot is a list of lines, one per object, each beginning with the namespace and the kind of object. What moves by
//! itself (counters, timers, lifetimes, interface indices) is left out, so two snapshots of an untouched lab are equal,
//! and after a clean-up [`Snapshot::diff`] must be empty. The product's own netlink code takes no part in it.

mod nft;
mod normalise;
mod sysctl;

use std::collections::BTreeMap;
use std::fmt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;

use super::Lab;
use crate::netns::Netns;

/// One process per tool and family: in an emulator each of them costs a tenth of a second. A tool that fails fails the
/// snapshot, except that `ip -f mpls` says nothing where the kernel knows no MPLS.
const COLLECT: &str = "
export LC_ALL=C
ip -o -d -batch - <<END
link show
address show
route show table all
rule show
nexthop show
END
echo @ip6
ip -6 -o -d rule show
echo @mpls
ip -o -d -f mpls route show
echo @nft
exec nft -s list ruleset
";

/// The configuration of one or more network stacks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// In order: that of nft rules matters.
    lines: Vec<String>,
}

/// What two snapshots do not have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// Lines that only the first has.
    pub gone: Vec<String>,
    /// Lines that only the second has.
    pub new: Vec<String>,
    /// Whether both have the same lines in another order.
    pub reordered: bool,
}

impl Snapshot {
    /// Takes a snapshot of one namespace.
    pub async fn of(netns: &Netns) -> Result<Snapshot> {
        Self::labelled(netns, netns.name().to_owned()).await
    }

    /// Takes a snapshot of every namespace of the lab, called by its name without the lab's prefix.
    pub async fn of_lab(lab: &Lab) -> Result<Snapshot> {
        let label = |name: &str| name.trim_start_matches(lab.prefix()).trim_start_matches('-').to_owned();
        let each = lab.stacks().map(|stack| Self::labelled(stack.netns(), label(stack.netns().name())));
        let parts = try_join_all(each).await?;
        Ok(Snapshot { lines: parts.into_iter().flat_map(|part| part.lines).collect() })
    }

    async fn labelled(netns: &Netns, label: String) -> Result<Snapshot> {
        let netns = netns.clone();
        let lines = tokio::task::spawn_blocking(move || collect(&netns)).await.context("snapshot task")??;
        Ok(Snapshot { lines: lines.into_iter().map(|line| format!("{label} {line}")).collect() })
    }

    /// The lines: `<namespace> <kind> <object>`, the kind being `ip`, `ip6`, `mpls`, `nft` or `sysctl`.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    /// The snapshot without lines that `unwanted` accepts.
    pub fn without(mut self, unwanted: impl Fn(&str) -> bool) -> Snapshot {
        self.lines.retain(|line| !unwanted(line));
        self
    }

    /// What has changed from this one to a later one.
    pub fn diff(&self, later: &Snapshot) -> Difference {
        let (gone, new) = (missing(&self.lines, &later.lines), missing(&later.lines, &self.lines));
        let reordered = gone.is_empty() && new.is_empty() && self.lines != later.lines;
        Difference { gone, new, reordered }
    }
}

impl Difference {
    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.new.is_empty() && !self.reordered
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gone = self.gone.iter().map(|line| format!("- {line}"));
        let new = self.new.iter().map(|line| format!("+ {line}"));
        let order = self.reordered.then(|| "the same lines in another order".to_owned());
        f.write_str(&gone.chain(new).chain(order).collect::<Vec<_>>().join("\n"))
    }
}

/// Lines of `some` that `others` has not, or not as often.
fn missing(some: &[String], others: &[String]) -> Vec<String> {
    let mut left: BTreeMap<&str, usize> = BTreeMap::new();
    others.iter().for_each(|line| *left.entry(line).or_default() += 1);
    let is_missing = |line: &&String| match left.get_mut(line.as_str()) {
        Some(n) if *n > 0 => {
            *n -= 1;
            false
        }
        _ => true,
    };
    some.iter().filter(is_missing).cloned().collect()
}

fn collect(netns: &Netns) -> Result<Vec<String>> {
    let mut command = Command::new("sh");
    command.args(["-ec", COLLECT]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = netns.spawn(&mut command)?.wait_with_output().context("wait for the tools")?;
    if !output.status.success() {
        bail!("{}: the tools failed: {}", netns.name(), String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let (objects, rules) = text.split_once("@nft\n").context("the tools stopped early")?;
    let mut lines = normalise::lines(objects);
    lines.extend(nft::lines(rules));
    lines.extend(netns.run_io("read sysctls", sysctl::lines)?);
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(lines: &[&str]) -> Snapshot {
        Snapshot { lines: lines.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn equal_snapshots_do_not_differ() {
        let one = snapshot(&["a", "b", "b"]);
        assert!(one.diff(&one.clone()).is_empty());
    }

    #[test]
    fn a_difference_shows_both_sides_and_counts_repetitions() {
        let difference = snapshot(&["a", "b", "b"]).diff(&snapshot(&["b", "c"]));
        assert_eq!(difference.to_string(), "- a\n- b\n+ c");
    }

    #[test]
    fn order_matters() {
        assert!(snapshot(&["a", "b"]).diff(&snapshot(&["b", "a"])).reordered);
    }
}
