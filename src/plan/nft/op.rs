//! Commands of nft as data. Each prints as `nft` takes it.

use std::collections::BTreeSet;
use std::fmt;

use super::{BaseChain, Rule, SetType, TableFamily, UdpTimeout};
use crate::plan::NFT_TABLE;

/// A table of a ruleset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    /// Its family.
    pub family: TableFamily,
    /// Its name.
    pub name: &'static str,
}

impl TableName {
    /// Our table of a family.
    pub fn ours(family: TableFamily) -> TableName {
        TableName { family, name: NFT_TABLE }
    }

    /// Commands for this table.
    pub fn ops(self, actions: impl IntoIterator<Item = NftAction>) -> Vec<NftOp> {
        actions.into_iter().map(|action| NftOp { table: self, action }).collect()
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NftOp {
    /// The table that it concerns.
    pub table: TableName,
    /// What is done there.
    pub action: NftAction,
}

/// What a command does to a table. Names are those of objects in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NftAction {
    /// Make the table, unless it is there.
    AddTable,
    /// Remove it with everything in it.
    DeleteTable,
    /// Make a time limit of connection tracking.
    AddTimeout(UdpTimeout),
    /// Remove a time limit.
    DeleteTimeout(String),
    /// Make a set or map without elements.
    AddSet {
        /// Its name.
        name: String,
        /// Type of its keys.
        kind: SetType,
        /// Whether each element counts the packets that match it.
        counted: bool,
        /// Whether rules may add elements.
        learns: bool,
    },
    /// Remove a set or map.
    DeleteSet {
        /// Its name.
        name: String,
        /// nft wants to know.
        is_map: bool,
    },
    /// Add elements to a set; those that are there stay.
    AddElements(Elements),
    /// Remove elements from a set, all of which must be there.
    DeleteElements(Elements),
    /// Make a chain without rules.
    AddChain {
        /// Its name.
        name: String,
        /// Where it is hooked in, if it is.
        base: Option<BaseChain>,
    },
    /// Remove all rules of a chain.
    FlushChain(String),
    /// Remove a chain without rules that no rule leads to.
    DeleteChain(String),
    /// Append a rule.
    AddRule {
        /// Name of the chain.
        chain: String,
        /// The rule.
        rule: Rule,
    },
}

/// Elements of a set, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elements {
    /// Name of the set.
    pub set: String,
    /// Type of the set.
    pub kind: SetType,
    /// The elements in the spelling of [`Set::elements`](super::Set::elements). Those of a map are removed by their keys.
    pub elements: BTreeSet<String>,
}

impl Elements {
    /// What removes them: of a map their keys.
    #[must_use]
    pub fn keys(mut self) -> Elements {
        self.elements = keys(&self.elements);
        self
    }
}

/// Elements of a set as they are; of a map without what the keys lead to.
pub(super) fn keys(elements: &BTreeSet<String>) -> BTreeSet<String> {
    let key = |element: &String| element.split(" : ").next().unwrap_or(element).to_owned();
    elements.iter().map(key).collect()
}

impl NftOp {
    /// Which elements are added (`true`) or removed, if it does nothing else.
    pub fn elements(&self) -> Option<(bool, &Elements)> {
        match &self.action {
            NftAction::AddElements(elements) => Some((true, elements)),
            NftAction::DeleteElements(elements) => Some((false, elements)),
            _ => None,
        }
    }
}

impl fmt::Display for NftOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = self.table;
        match &self.action {
            NftAction::AddTable => write!(f, "add table {of}"),
            NftAction::DeleteTable => write!(f, "delete table {of}"),
            NftAction::AddTimeout(timeout) => {
                write!(f, "add ct timeout {of} {} {{ {} }}", timeout.name(), timeout.declaration())
            }
            NftAction::DeleteTimeout(name) => write!(f, "delete ct timeout {of} {name}"),
            NftAction::AddSet { name, kind, counted, learns } => {
                let counter = if *counted { " counter;" } else { "" };
                let dynamic = if *learns { " size 65535; flags dynamic;" } else { "" };
                let (keyword, declaration) = (kind.keyword(), kind.declaration());
                write!(f, "add {keyword} {of} {name} {{ {declaration};{counter}{dynamic} }}")
            }
            NftAction::DeleteSet { name, is_map } => {
                write!(f, "delete {} {of} {name}", if *is_map { "map" } else { "set" })
            }
            NftAction::AddElements(elements) => write!(f, "add element {of} {elements}"),
            NftAction::DeleteElements(elements) => write!(f, "delete element {of} {elements}"),
            NftAction::AddChain { name, base: None } => write!(f, "add chain {of} {name}"),
            NftAction::AddChain { name, base: Some(base) } => write!(f, "add chain {of} {name} {{ {base} }}"),
            NftAction::FlushChain(name) => write!(f, "flush chain {of} {name}"),
            NftAction::DeleteChain(name) => write!(f, "delete chain {of} {name}"),
            NftAction::AddRule { chain, rule } => write!(f, "add rule {of} {chain} {rule}"),
        }
    }
}

impl fmt::Display for Elements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = self.kind.is_quoted();
        let list = self.elements.iter().map(|element| if quoted { in_quotes(element) } else { element.clone() });
        write!(f, "{} {{ {} }}", self.set, list.collect::<Vec<_>>().join(", "))
    }
}

/// Device names are quoted (one may start with a digit or hold a dot), addresses and numbers are plain.
fn in_quotes(element: &str) -> String {
    match element.split_once(" : ") {
        Some((dev, value)) => format!("\"{dev}\" : {value}"),
        None => format!("\"{element}\""),
    }
}

/// Commands as the lines of a script.
pub fn script(ops: &[NftOp]) -> String {
    ops.iter().map(|op| format!("{op}\n")).collect()
}
