//! `.github/workflows/release.yml` and `manifests/Containerfile`, by their texts: tests have neither GitHub nor an engine.

use std::path::{Path, PathBuf};

use serde_json::Value;

const WORKFLOW: &str = include_str!("../../.github/workflows/release.yml");
const CONTAINERFILE: &str = include_str!("../../manifests/Containerfile");
const TOOLCHAIN: &str = include_str!("../../rust-toolchain.toml");
const TESTS: &str = include_str!("../../hack/test");
const IMAGE: &str = include_str!("../../hack/image");
const INSTALL: &str = include_str!("../../hack/install");

/// What a job may call that no test here can: it signs, or it talks to GitHub.
const PUBLISHING: [&str; 3] = ["cp manifests/tunnel-router.yaml dist", "cosign sign-blob", "gh release create"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The steps of a job.
fn steps(workflow: &Value, job: &str) -> Vec<Value> {
    workflow["jobs"][job]["steps"].as_array().expect("steps").clone()
}

/// Everything that a job runs, one script a step.
fn runs(workflow: &Value, job: &str) -> Vec<String> {
    steps(workflow, job).iter().filter_map(|step| step["run"].as_str().map(str::to_owned)).collect()
}

fn workflow() -> Value {
    serde_saphyr::from_str(WORKFLOW).expect("YAML")
}

#[test]
fn the_release_runs_only_scripts_that_the_tests_run_too() {
    let workflow = workflow();
    let runs = runs(&workflow, "image");
    assert!(runs.len() > 2, "{runs:?}");
    for line in runs.iter().flat_map(|run| run.lines()) {
        let script = line.split_whitespace().next().unwrap_or_default();
        assert!(script.starts_with("hack/") && repository().join(script).is_file(), "{line}");
        assert!(TESTS.contains(script), "hack/test does not run {script}");
    }
}

#[test]
fn publishing_signs_and_attaches_and_nothing_else() {
    let workflow = workflow();
    let runs = runs(&workflow, "publish");
    assert_eq!(runs.len(), PUBLISHING.len(), "{runs:?}");
    for (run, what) in runs.iter().zip(PUBLISHING) {
        assert!(run.contains(what), "{run}");
    }
    assert_eq!(workflow["jobs"]["publish"]["needs"], "image");
    assert!(!WORKFLOW.contains("secrets."), "a release asks for no secret");
}

#[test]
fn every_action_is_pinned_by_a_commit_and_says_its_version() {
    let jobs: Vec<Value> = ["image", "publish"].iter().flat_map(|job| steps(&workflow(), job)).collect();
    let used = jobs.iter().filter(|step| step["uses"].is_string()).count();
    let lines: Vec<&str> = WORKFLOW.lines().filter_map(|line| line.trim().strip_prefix("- uses: ")).collect();
    assert_eq!(lines.len(), used);
    for line in lines {
        let (action, version) = line.split_once(" # v").unwrap_or_else(|| panic!("{line} says no version"));
        let commit = action.split_once('@').map(|(_, commit)| commit).unwrap_or_default();
        assert!(commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()), "{line}");
        assert!(version.split('.').count() == 3, "{line}");
    }
}

#[test]
fn images_are_built_for_both_architectures_by_the_pinned_compiler() {
    let workflow = workflow();
    let image = &workflow["jobs"]["image"];
    let of = |key: &str| -> Vec<&str> {
        let entries = image["strategy"]["matrix"]["include"].as_array().expect("a matrix");
        entries.iter().filter_map(|entry| entry[key].as_str()).collect()
    };
    assert_eq!(of("arch"), ["amd64", "arm64"]);
    assert_eq!(of("runner"), ["ubuntu-24.04", "ubuntu-24.04-arm"]);
    let channel = TOOLCHAIN.split('"').nth(1).expect("a channel");
    let base = format!("rust:{channel}-bookworm");
    assert_eq!(image["container"], base.as_str());
    // By its full name: Debian 12's podman knows no short name "rust".
    assert!(
        CONTAINERFILE.contains(&format!("\nFROM docker.io/library/{base} AS build\n")),
        "the Containerfile has another base"
    );
}

#[test]
fn the_containerfile_takes_everything_inside_from_the_script() {
    let copies: Vec<&str> = CONTAINERFILE.split("\nFROM scratch\n").nth(1).expect("a last stage").lines().collect();
    let copies: Vec<&&str> = copies.iter().filter(|line| line.starts_with("COPY") || line.starts_with("ADD")).collect();
    assert_eq!(copies, [&"COPY --from=build /image/ /"]);
    assert!(CONTAINERFILE.contains("RUN hack/image --output /archive && hack/lib/unpack-image"));
    // What that script needs it installs itself, with the lists that the tests install from.
    assert!(IMAGE.contains("hack/install --build") && INSTALL.contains("--build"));
    assert!(IMAGE.contains("cargo build --release --locked"));
}
