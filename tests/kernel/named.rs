//! A network namespace of one's own, for tests that ask the kernel.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns};

/// A network namespace that goes with the value. Needs root: without it the test fails, because a proof that was not
/// tried is none.
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes one that is named after the test.
    pub fn new(test: &str) -> Netns {
        let netns = Netns { name: format!("kst-{test}-{}", std::process::id()) };
        run(Command::new("ip").args(["netns", "add", &netns.name]), "");
        netns
    }

    /// Runs a command inside, with text on its standard input, and returns what it prints.
    pub fn run(&self, words: &str, stdin: &str) -> String {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).args(words.split_whitespace());
        run(&mut command, stdin)
    }

    /// Runs `ip` commands, one per line without the `ip`.
    pub fn ip(&self, lines: &str) -> String {
        self.run("ip -batch -", lines)
    }

    /// Opens something inside, on a thread that goes away: the caller's stays where it is.
    pub fn open(&self, socket: impl FnOnce() -> OwnedFd + Send) -> OwnedFd {
        let path = format!("/run/netns/{}", self.name);
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(std::fs::File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
                socket()
            });
            inside.join().unwrap()
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // While a failed test unwinds, a second panic would hide why.
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

fn run(command: &mut Command, stdin: &str) -> String {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || {
            // A command that ends early says why on its standard error.
            let _ = pipe.write_all(stdin.as_bytes());
        });
        child.wait_with_output().unwrap()
    });
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {errors}\n{stdin}");
    String::from_utf8(output.stdout).unwrap()
}
