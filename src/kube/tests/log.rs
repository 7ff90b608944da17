//! What an operator reads.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::MakeWriter;

use crate::kube::outage::Outage;

/// Keeps every line that is logged on this thread while it lives.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Starts to keep lines of our own code from `level` on.
    pub(super) fn start(level: tracing::Level) -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let filter = tracing_subscriber::EnvFilter::new(format!("tunnel_router={level}"));
        let subscriber =
            tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(log.clone()).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// How many lines contain all of these.
    pub(super) fn count(&self, parts: &[&str]) -> usize {
        self.text().lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[test]
fn an_outage_is_one_warning_and_one_line_when_it_is_over() {
    let (log, _guard) = Log::start(tracing::Level::DEBUG);
    let mut outage = Outage::new("watch Service");
    outage.over();
    assert_eq!(log.text(), "");
    for _ in 0..5 {
        outage.failed(&"connection refused");
    }
    outage.over();
    outage.over();
    assert_eq!(log.count(&["WARN", "watch Service", "connection refused"]), 1, "{}", log.text());
    assert_eq!(log.count(&["DEBUG"]), 4);
    assert_eq!(log.count(&["INFO", "works again"]), 1);
    outage.failed(&"again");
    assert_eq!(log.count(&["WARN"]), 2, "the next outage is another one");
}
