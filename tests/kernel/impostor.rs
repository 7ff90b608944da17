//! Processes that bind the name of the agent's socket before an agent does: `status` names them and shows what the kernel holds.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use tunnel_router::inspect::{NodeStatus, report::Source};
use tunnel_router::netns::Netns;

use super::support::netns;

/// Answers everybody with what it was given.
const SERVER: &str = "
import contextlib, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind('\\0kube-service-tunnel/agent')
listener.listen()
print('bound', flush=True)
while True:
    connection, _ = listener.accept()
    # Who does not believe it has gone already.
    with connection, contextlib.suppress(OSError):
        connection.sendall(sys.argv[1].encode())
";

struct Impostor(Child);

impl Impostor {
    /// Has the name when this returns.
    fn bind(netns: &Netns, privileges: &[&str]) -> Impostor {
        let forged = NodeStatus { source: Source::Agent, node: Some("forged".into()), ..NodeStatus::default() };
        let forged = serde_json::to_string(&forged).unwrap();
        let mut command = Command::new("setpriv");
        command.args(privileges).args(["/usr/bin/python3", "-c", SERVER, &forged]).stdout(Stdio::piped());
        let mut child = netns.run(|| command.spawn().unwrap()).unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "bound\n");
        Impostor(child)
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `status` prints, and what it complains of.
fn status(netns: &Netns) -> (String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tunnel-router"));
    let output = netns.run(|| command.arg("status").output().unwrap()).unwrap();
    let [printed, complaint] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success(), "{printed}{complaint}");
    (printed, complaint)
}

fn refused(privileges: &[&str], user: u32, why: &str) {
    let netns = netns();
    let impostor = Impostor::bind(&netns, privileges);
    let (printed, complaint) = status(&netns);
    assert!(printed.contains("as the kernel has it") && !printed.contains("forged"), "{printed}");
    let holder = format!("held by process {} (python3) of user {user}, ", impostor.0.id());
    assert!(complaint.contains(&holder) && complaint.contains(why), "{complaint}");
}

#[test]
fn an_impostor_of_another_user_is_refused_by_name() {
    refused(&["--reuid=65534", "--regid=65534", "--clear-groups"], 65534, "an agent runs as root");
}

#[test]
fn an_impostor_of_root_that_could_not_be_an_agent_is_refused_by_name() {
    refused(&["--bounding-set=-all", "--inh-caps=-all"], 0, "lacks the capabilities of an agent");
}

/// Such a one owns the node.
#[test]
fn a_process_that_could_be_an_agent_is_believed() {
    let netns = netns();
    let _agent = Impostor::bind(&netns, &["--no-new-privs"]);
    let (printed, complaint) = status(&netns);
    assert!(printed.contains("node forged"), "{printed}{complaint}");
}
