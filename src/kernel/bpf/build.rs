//! Compiles the BPF program with Debian's clang. The object is embedded in the binary, so a node needs no compiler.

use std::env;
use std::path::Path;
use std::process::{Command, ExitCode};

const SOURCE: &str = "src/kernel/bpf/second_chance.bpf.c";
const INSTALL: &str = "apt-get install --no-install-recommends clang linux-libc-dev";

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed={SOURCE}");
    match compile() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

fn compile() -> Result<(), String> {
    let variable = |name: &str| env::var(name).map_err(|error| format!("{name}: {error}"));
    let root = variable("CARGO_MANIFEST_DIR")?;
    let object = Path::new(&variable("OUT_DIR")?).join("second_chance.o");
    let status = Command::new("clang")
        .args(["-O2", "-target", "bpf", "-mcpu=v3", "-Wall", "-Wextra", "-Werror"])
        // The types of maps, and the places that are relocated, are in the BTF that comes with debug information.
        .arg("-g")
        // The same object wherever it is built: its bytes are its version.
        .arg(format!("-ffile-prefix-map={root}=."))
        // Debian has asm/types.h in a directory per architecture, which clang does not search for this target.
        .arg("-idirafter")
        .arg(format!("/usr/include/{}-linux-gnu", variable("CARGO_CFG_TARGET_ARCH")?))
        .arg("-c")
        .arg(Path::new(&root).join(SOURCE))
        .arg("-o")
        .arg(object)
        .status()
        .map_err(|error| format!("clang, which compiles the BPF program: {error}; install it with: {INSTALL}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("clang could not compile {SOURCE}; it needs the headers of: {INSTALL}"))
    }
}
