//! Tests whose input is bytes: damaged copies of valid documents, or the script of a history.
//!
//! A target is a test named `fuzz_*` that calls [`documents`] or [`scripts`] with a check. The check panics where a law is broken.
//!
//! | round | cases |
//! |---|---|
//! | every one | first those that ever failed: the files in `tests/fixtures/fuzz/TARGET` |
//! | `cargo test --lib` | then a few new ones |
//! | `hack/fuzz SECONDS` (`KST_FUZZ_SECONDS`) | then new ones until the time is over |
//!
//! A new case that fails is made smaller and written beside the others. The file is the way to reproduce it, and is committed with
//! the mend.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fs};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};

use super::mutate::mutated;
use super::thorough;

/// New cases between two looks at the clock.
const ROUND: u32 = 50;
/// Smaller cases that are tried once one has failed.
const SMALLER: u32 = 2000;
/// Bytes of a script.
const SCRIPT: usize = 400;

/// Tries damaged copies of these documents.
pub fn documents(target: &str, valid: &[Vec<u8>], check: impl Fn(&[u8])) {
    for document in valid {
        check(document);
    }
    explore(target, &mutated(valid.to_vec()), check);
}

/// Tries any bytes. The check reads them as the steps of a history.
pub fn scripts(target: &str, check: impl Fn(&[u8])) {
    explore(target, &proptest::collection::vec(any::<u8>(), 0..SCRIPT), check);
}

fn explore(target: &str, cases: &impl Strategy<Value = Vec<u8>>, check: impl Fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/fuzz").join(target);
    for (path, case) in kept(&corpus) {
        println!("fuzz {target}: {}", path.display());
        check(&case);
    }
    let limit = env::var("KST_FUZZ_SECONDS").ok().map(|text| Duration::from_secs(text.parse().expect("seconds")));
    let (begun, mut count) = (Instant::now(), 0);
    while limit.map_or(count < thorough(2000, ROUND), |limit| begun.elapsed() < limit) {
        let config = Config { cases: ROUND, max_shrink_iters: SMALLER, failure_persistence: None, ..Config::default() };
        let run = TestRunner::new(config).run(cases, |case| {
            check(&case);
            Ok(())
        });
        match run {
            Ok(()) => count += ROUND,
            Err(TestError::Fail(why, case)) => panic!("{why}; the case is kept in {}", keep(&corpus, &case).display()),
            Err(error) => panic!("{error}"),
        }
    }
    println!("fuzz {target}: {count} new cases in {} s", begun.elapsed().as_secs());
}

/// The cases that have failed once, in the order of their names.
fn kept(corpus: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(files) = fs::read_dir(corpus) else { return Vec::new() };
    let mut all: Vec<_> = files.map(|file| file.expect("a corpus that can be read").path()).collect();
    all.sort();
    all.into_iter().map(|path| (path.clone(), fs::read(path).expect("a corpus that can be read"))).collect()
}

fn keep(corpus: &Path, case: &[u8]) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    case.hash(&mut hasher);
    let path = corpus.join(format!("{:016x}", hasher.finish()));
    fs::create_dir_all(corpus).and_then(|()| fs::write(&path, case)).expect("a corpus that can be written");
    path
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn damaged_documents_are_many_and_most_of_them_can_be_parsed() {
        let (all, parsed) = (RefCell::new(BTreeSet::new()), RefCell::new(0));
        documents("none", &[br#"{"a":[1,2,{"b":"x"}],"c":null}"#.to_vec()], |case| {
            all.borrow_mut().insert(case.to_vec());
            *parsed.borrow_mut() += usize::from(serde_json::from_slice::<serde_json::Value>(case).is_ok());
        });
        let (all, parsed) = (all.into_inner().len(), parsed.into_inner());
        assert!(all > 20 && parsed > 10, "{all} {parsed}");
    }
}
