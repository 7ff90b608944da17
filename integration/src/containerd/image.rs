//! The only image: a static busybox that waits. It is the pause image, and the root of containers that bring their program along.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use super::run;

/// Name of the image as the pause image.
pub(super) const PAUSE: &str = "kst.local/pause:1";
/// Name of the image as the echo server's.
pub(super) const ECHO: &str = "kst.local/echo:1";
/// Where the echo server's program lies in its container.
pub(super) const PROGRAM: &str = "/kst-lab";
/// Debian's `busybox-static`.
pub(super) const BUSYBOX: &str = "/bin/busybox";

/// Writes the image in the form of `docker save`, and returns the file.
pub(super) fn write(directory: &Path) -> Result<PathBuf> {
    let (root, archive) = (directory.join("rootfs"), directory.join("archive"));
    fs::create_dir_all(root.join("bin"))?;
    fs::create_dir_all(&archive)?;
    fs::copy(BUSYBOX, root.join("bin/busybox")).context(BUSYBOX)?;
    let layer = archive.join("layer.tar");
    tar(&layer, &root)?;
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Entrypoint": [BUSYBOX, "sleep", "2147483647"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer)?)] },
    });
    fs::write(archive.join("config.json"), config.to_string())?;
    let manifest = json!([{ "Config": "config.json", "RepoTags": [PAUSE, ECHO], "Layers": ["layer.tar"] }]);
    fs::write(archive.join("manifest.json"), manifest.to_string())?;
    let image = directory.join("image.tar");
    tar(&image, &archive)?;
    Ok(image)
}

fn tar(file: &Path, directory: &Path) -> Result<()> {
    let mut command = Command::new("tar");
    command.arg("--create").arg("--file").arg(file).arg("--directory").arg(directory);
    for entry in fs::read_dir(directory)? {
        command.arg(entry?.file_name());
    }
    run(&mut command).map(drop)
}

fn sha256(file: &Path) -> Result<String> {
    let text = run(Command::new("sha256sum").arg(file))?;
    text.split(' ').next().map(str::to_owned).context("sha256sum says nothing")
}
