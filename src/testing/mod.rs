//! What unit tests share.

pub mod fuzz;
mod mutate;

/// How often a property is tried: `all` times with `KST_TEST_ALL=1`, `quick` times in the quick round.
pub fn thorough(all: u32, quick: u32) -> u32 {
    if std::env::var_os("KST_TEST_ALL").is_some_and(|value| !value.is_empty()) { all } else { quick }
}
