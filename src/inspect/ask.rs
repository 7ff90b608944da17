//! Asking the agent of this node: the other side of [`socket`](super::socket).
//!
//! Whatever holds the name is checked before anything is read from it, and what it may send is limited, in time as in size.

use std::fmt;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::TimeVal;

use super::NodeStatus;
use super::peer::Peer;
use super::socket::NAME;

/// What an answer may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// From connecting to its last byte.
    time: Duration,
    /// Its bytes.
    bytes: usize,
}

/// The agent gives itself 5 s. With 5,000 VIPs of which each bucket drains, an answer has about 75 MB.
const LIMITS: Limits = Limits { time: Duration::from_secs(10), bytes: 256 << 20 };

/// Why the agent was not heard.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody has the name.
    #[error("no agent runs here")]
    NoAgent,
    /// It did not answer, or not whom it should.
    #[error("the agent does not answer: {0}")]
    Silent(io::Error),
    /// It answers too slowly, or not at all.
    #[error("the agent does not answer within {0:?}")]
    Slow(Duration),
    /// It sends more than an agent would.
    #[error("the answer has more than {} MiB, which is not an agent's: it is not read any further", .0 >> 20)]
    Endless(usize),
    /// What holds the name is not an agent.
    #[error(
        "the name of the agent's socket is held by {0}, {1}: it is not believed (once it ends, the agent takes the name)"
    )]
    Impostor(Peer, &'static str),
    /// Another version's answer.
    #[error("the agent's answer is unintelligible ({0}): is it of another version?")]
    Unintelligible(serde_json::Error),
}

/// Asks the agent in the network namespace of the calling thread.
///
/// # Errors
/// See [`AskError`].
pub fn ask() -> Result<NodeStatus, AskError> {
    let json = answer(NAME, LIMITS, |peer| peer.doubt())?;
    if json.is_empty() {
        return Err(AskError::Silent(io::Error::new(io::ErrorKind::PermissionDenied, "only root is answered")));
    }
    serde_json::from_slice(&json).map_err(AskError::Unintelligible)
}

/// The agent in the network namespace of the calling thread, as far as it can be told; `None` if none runs. From a container its process
/// may be out of sight: any of root's counts.
pub fn running_agent() -> Option<impl fmt::Display> {
    let stream = connected(NAME, Duration::from_secs(1)).ok()?;
    Peer::of(&stream).ok().filter(Peer::is_root)
}

/// The process that has the agent's name, as far as it can be told.
pub(super) fn holder() -> impl fmt::Display {
    let peer = connected(NAME, Duration::from_secs(1)).ok().and_then(|stream| Peer::of(&stream).ok());
    peer.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string())
}

fn answer(name: &str, limits: Limits, doubt: impl Fn(&Peer) -> Option<&'static str>) -> Result<Vec<u8>, AskError> {
    let deadline = Instant::now() + limits.time;
    let slow = |errno: Errno| {
        if errno == Errno::EAGAIN { AskError::Slow(limits.time) } else { AskError::Silent(errno.into()) }
    };
    let stream = connected(name, limits.time).map_err(|errno| match errno {
        Errno::ECONNREFUSED => AskError::NoAgent,
        errno => slow(errno),
    })?;
    let peer = Peer::of(&stream).map_err(AskError::Silent)?;
    if let Some(why) = doubt(&peer) {
        return Err(AskError::Impostor(peer, why));
    }
    read(stream, limits, deadline)
}

/// A listener that accepts nobody lets others wait: the kernel ends that by the time limit of sending.
fn connected(name: &str, time: Duration) -> Result<UnixStream, Errno> {
    let fd: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let time = TimeVal::new(i64::try_from(time.as_secs()).unwrap_or(i64::MAX), time.subsec_micros().into());
    setsockopt(&fd, sockopt::SendTimeout, &time)?;
    connect(fd.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes())?)?;
    Ok(UnixStream::from(fd))
}

fn read(mut stream: UnixStream, limits: Limits, deadline: Instant) -> Result<Vec<u8>, AskError> {
    let (mut json, mut part) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(AskError::Slow(limits.time));
        }
        stream.set_read_timeout(Some(left)).map_err(AskError::Silent)?;
        match stream.read(&mut part) {
            Ok(0) => return Ok(json),
            Ok(count) if json.len() + count > limits.bytes => return Err(AskError::Endless(limits.bytes)),
            Ok(count) => json.extend(&part[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(AskError::Silent(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);
    const SHORT: Duration = Duration::from_millis(50);

    /// A name that no other test has, and what listens to it.
    fn listener(test: &str) -> (String, UnixListener) {
        let name = format!("kube-service-tunnel/test-{}-{test}", std::process::id());
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        (name, listener)
    }

    /// Writes until nobody reads.
    fn babble(listener: UnixListener) {
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            while stream.write_all(&[b' '; 4096]).is_ok() {}
        });
    }

    fn believing(name: &str, time: Duration, bytes: usize) -> Result<Vec<u8>, String> {
        answer(name, Limits { time, bytes }, |_| None).map_err(|error| error.to_string())
    }

    #[test]
    fn an_answer_is_read_to_its_end() {
        let (name, listener) = listener("whole");
        thread::spawn(move || listener.accept().unwrap().0.write_all(&[b'x'; 200_000]).unwrap());
        assert_eq!(believing(&name, LONG, 200_000).map(|json| json.len()), Ok(200_000));
    }

    #[test]
    fn an_endless_answer_ends_with_the_limit_of_its_size() {
        let (name, listener) = listener("endless");
        babble(listener);
        let error = believing(&name, LONG, 3 << 20).unwrap_err();
        assert!(error.contains("more than 3 MiB"), "{error}");
    }

    #[test]
    fn an_answer_that_always_goes_on_ends_with_the_limit_of_its_time() {
        let (name, listener) = listener("slow");
        babble(listener);
        let error = believing(&name, SHORT, usize::MAX).unwrap_err();
        assert!(error.contains("within 50ms"), "{error}");
    }

    #[test]
    fn who_says_nothing_and_who_accepts_nobody_is_not_waited_for() {
        let (name, listener) = listener("silent");
        let error = believing(&name, SHORT, usize::MAX).unwrap_err();
        assert!(error.contains("within 50ms"), "{error}");
        // A queue of one, in which somebody waits.
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let waiting: Vec<UnixStream> = (0..).map_while(|_| connected(&name, SHORT).ok()).collect();
        let error = believing(&name, SHORT, usize::MAX).unwrap_err();
        assert!(error.contains("within 50ms"), "{error}");
        drop(waiting);
    }

    #[test]
    fn an_impostor_is_named_before_anything_is_read_from_it() {
        let (name, listener) = listener("impostor");
        let error = answer(&name, LIMITS, |_| Some("and an agent runs as root")).unwrap_err().to_string();
        let me = format!("held by process {} (", std::process::id());
        assert!(error.contains(&me) && error.contains("and an agent runs as root: it is not believed"), "{error}");
        drop(listener);
        assert!(matches!(answer(&name, LIMITS, |_| None), Err(AskError::NoAgent)));
    }
}
