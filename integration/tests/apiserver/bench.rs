//! The real `kubectl` in front of the double (`KUBECTL` names another binary, e.g. an older one).

use std::path::PathBuf;
use std::process::Stdio;

use integration::apiserver::{ApiServer, Options};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// A server, and kubectl with a token for it.
pub struct Bench {
    pub server: ApiServer,
    /// Holds the kubeconfig and kubectl's cache.
    home: TempDir,
}

impl Bench {
    pub fn new() -> Self {
        Self::guarded(Options::default(), "anybody")
    }

    /// With this token in its kubeconfig.
    pub fn guarded(options: Options, token: &str) -> Self {
        let server = ApiServer::start_local(options).unwrap();
        let home = TempDir::new().unwrap();
        server.write_kubeconfig(&home.path().join("config"), token).unwrap();
        server.store().create(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "worker-a"}})).unwrap();
        Self { server, home }
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let binary = std::env::var_os("KUBECTL").map_or_else(|| PathBuf::from("kubectl"), PathBuf::from);
        let mut command = Command::new(binary);
        command.args(arguments).env("HOME", self.home.path()).env("KUBECONFIG", self.home.path().join("config"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Runs kubectl; returns whether it succeeded and what it printed, both streams.
    pub async fn run(&self, arguments: &[&str], stdin: &str) -> (bool, String) {
        let mut child = spawn(self.command(arguments));
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).await.unwrap();
        let output = child.wait_with_output().await.unwrap();
        let text = [output.stdout, output.stderr].map(|stream| String::from_utf8(stream).unwrap()).concat();
        (output.status.success(), text)
    }

    pub async fn ok(&self, arguments: &[&str], stdin: &str) -> String {
        let (success, text) = self.run(arguments, stdin).await;
        assert!(success, "kubectl {arguments:?}: {text}");
        text
    }

    pub async fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(arguments, "").await).unwrap()
    }
}

pub fn spawn(mut command: Command) -> tokio::process::Child {
    command.spawn().unwrap_or_else(|error| {
        panic!("kubectl cannot be started ({error}): install Debian's package `kubernetes-client`, or set KUBECTL")
    })
}
