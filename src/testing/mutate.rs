//! Damage to documents: to their bytes, and to the tree of those that are JSON, which stay well-formed.

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::Value;

/// Numbers at which readers break.
const NUMBERS: [u64; 14] = [
    0,
    1,
    127,
    128,
    255,
    256,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 32,
    i64::MAX.cast_unsigned(),
    u64::MAX - 1,
    u64::MAX,
];

/// Steps from the root of a tree to a node.
type Path = [Index; 8];

/// One piece of damage.
#[derive(Debug, Clone)]
enum Damage {
    /// A bit is turned round.
    Bit(Index, u8),
    /// A number in host byte order, of 1, 2, 4 or 8 bytes, takes the place of what is there.
    Bytes(Index, u32, u64),
    /// Bytes are missing.
    Cut(Index, usize),
    /// A part of a document stands elsewhere, too.
    Copy(Index, Index, Index, usize),
    /// A run of digits is another number.
    Digits(Index, u64),
    /// A node of a JSON tree is a number.
    Number(Path, u64),
    /// A node of a JSON tree is another one of a document.
    Graft(Path, Index, Path),
    /// A node of a JSON tree is missing.
    Prune(Path),
}

/// Documents with up to six pieces of damage, either to their bytes or to their trees.
pub(super) fn mutated(valid: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let at = any::<Index>;
    let number = || prop_oneof![select(NUMBERS.to_vec()), any::<u64>(), 0..4_u64];
    let bytes = prop_oneof![
        (at(), 0..8_u8).prop_map(|(at, bit)| Damage::Bit(at, bit)),
        (at(), 0..4_u32, number()).prop_map(|(at, size, number)| Damage::Bytes(at, 1 << size, number)),
        (at(), 1..64_usize).prop_map(|(at, length)| Damage::Cut(at, length)),
        (at(), at(), at(), 1..64_usize).prop_map(|(of, from, to, length)| Damage::Copy(of, from, to, length)),
        (at(), number()).prop_map(|(at, number)| Damage::Digits(at, number)),
    ];
    let path = any::<Path>;
    let tree = prop_oneof![
        (path(), number()).prop_map(|(at, number)| Damage::Number(at, number)),
        (path(), at(), path()).prop_map(|(at, of, from)| Damage::Graft(at, of, from)),
        path().prop_map(Damage::Prune),
    ];
    let some = |damage| proptest::collection::vec(damage, 0..=6);
    let is_tree = valid.iter().all(|document| serde_json::from_slice::<Value>(document).is_ok());
    let bytes = some(bytes.boxed());
    let damages = if is_tree { prop_oneof![1 => bytes, 3 => some(tree.boxed())].boxed() } else { bytes.boxed() };
    (at(), damages).prop_map(move |(which, damages)| {
        let mut document = which.get(&valid).clone();
        damages.iter().for_each(|damage| damage.apply(&mut document, &valid));
        document
    })
}

impl Damage {
    fn apply(&self, document: &mut Vec<u8>, valid: &[Vec<u8>]) {
        let size = document.len();
        match self {
            Damage::Bit(at, bit) if size > 0 => document[at.index(size)] ^= 1 << bit,
            Damage::Bytes(at, width, number) => {
                let at = at.index(size + 1);
                let written = number.to_le_bytes().into_iter().take(*width as usize);
                document.splice(at..size.min(at + *width as usize), written);
            }
            Damage::Cut(at, length) => {
                let at = at.index(size + 1);
                document.drain(at..size.min(at + length));
            }
            Damage::Copy(of, from, to, length) => {
                let source = of.get(valid);
                let from = from.index(source.len() + 1);
                let part = source[from..source.len().min(from + length)].to_vec();
                let to = to.index(size + 1);
                document.splice(to..to, part);
            }
            Damage::Digits(at, number) => replace_digits(document, *at, *number),
            Damage::Number(at, number) => in_tree(document, at, |node| *node = (*number).into()),
            Damage::Graft(at, of, from) => {
                let mut source: Value = serde_json::from_slice(of.get::<Vec<u8>>(valid)).unwrap_or_default();
                let graft = node(&mut source, from).take();
                in_tree(document, at, |node| *node = graft);
            }
            Damage::Prune(at) => in_tree(document, at, prune),
            Damage::Bit(..) => {}
        }
    }
}

fn replace_digits(document: &mut Vec<u8>, at: Index, number: u64) {
    let begins = |at: &usize| document[*at].is_ascii_digit() && (*at == 0 || !document[at - 1].is_ascii_digit());
    let runs: Vec<usize> = (0..document.len()).filter(begins).collect();
    if runs.is_empty() {
        return;
    }
    let from = *at.get(&runs);
    let length = document[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    document.splice(from..from + length, number.to_string().into_bytes());
}

/// Changes one node of a document that is JSON.
fn in_tree(document: &mut Vec<u8>, path: &[Index], change: impl FnOnce(&mut Value)) {
    let Ok(mut tree) = serde_json::from_slice(document) else { return };
    change(node(&mut tree, path));
    *document = tree.to_string().into_bytes();
}

/// The node at the end of a path from the root. Each step may be the last one, so that the few nodes near the root are met as often as
/// the many leaves.
fn node<'a>(tree: &'a mut Value, path: &[Index]) -> &'a mut Value {
    let Some((step, rest)) = path.split_first() else { return tree };
    let size = match tree {
        Value::Array(all) => all.len(),
        Value::Object(all) => all.len(),
        _ => 0,
    };
    let child = step.index(size + 1);
    if child == size {
        return tree;
    }
    match tree {
        Value::Array(all) => node(&mut all[child], rest),
        Value::Object(all) => node(all.values_mut().nth(child).expect("a member"), rest),
        leaf => leaf,
    }
}

/// Takes the last member away, or what there is.
fn prune(node: &mut Value) {
    let is_pruned = match node {
        Value::Array(all) => all.pop().is_some(),
        Value::Object(all) => all.keys().next_back().cloned().and_then(|key| all.remove(&key)).is_some(),
        _ => false,
    };
    if !is_pruned {
        *node = Value::Null;
    }
}
