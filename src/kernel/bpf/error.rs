//! Why the program cannot be loaded or its tables cannot be written.

use aya::maps::MapError;
use nix::errno::Errno;

use crate::kernel::KernelError;

/// What went wrong with the program, its tables or its filters.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// The object could not be loaded, with type information of the kernel nor without.
    #[error("load the BPF program for second chances: {0} (it needs Linux 6.1 or later, CAP_BPF and CAP_NET_ADMIN)")]
    Load(String),
    /// A table is full.
    #[error("the table {table} of the BPF program is full: it has room for {limit} entries")]
    Full {
        /// Which table.
        table: &'static str,
        /// How many entries it can have.
        limit: u32,
    },
    /// A table could not be read or written.
    #[error("the table {table} of the BPF program: {text}")]
    Table {
        /// Which table.
        table: &'static str,
        /// What was said.
        text: String,
        /// The errno, if the kernel gave one.
        errno: Option<Errno>,
    },
    /// A program that a filter holds could not be found again.
    #[error("find the BPF program {id} again: {text} (this needs CAP_SYS_ADMIN)")]
    Find {
        /// The kernel's id of the program.
        id: u32,
        /// What was said.
        text: String,
    },
    /// The filter of a device.
    #[error("the BPF filter of {dev}: {source}")]
    Filter {
        /// The device.
        dev: String,
        /// What the kernel refused.
        source: KernelError,
    },
}

impl BpfError {
    /// A table is too small; a new program with larger ones helps.
    pub fn is_full(&self) -> bool {
        matches!(self, BpfError::Full { .. })
    }

    pub(super) fn table(table: &'static str, limit: u32, error: &MapError) -> BpfError {
        let errno = match error {
            MapError::SyscallError(failed) => failed.io_error.raw_os_error().map(Errno::from_raw),
            MapError::IoError(failed) => failed.raw_os_error().map(Errno::from_raw),
            MapError::KeyNotFound | MapError::ElementNotFound => Some(Errno::ENOENT),
            _ => None,
        };
        // kernel/bpf/hashtab.c: a hash table without room says E2BIG; ENOMEM is the machine's shortage.
        if errno == Some(Errno::E2BIG) {
            return BpfError::Full { table, limit };
        }
        BpfError::Table { table, text: causes(error), errno }
    }

    pub(super) fn filter(dev: &str) -> impl Fn(KernelError) -> BpfError {
        move |source| BpfError::Filter { dev: dev.to_owned(), source }
    }
}

/// An error with all its causes: aya's own texts do not contain them.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
