//! Loaded programs, as those need them who attach them in pods.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::second_chance::Version;

/// A handle of a loaded program. The program stays in the kernel while a clone lives or a filter holds it.
#[derive(Debug, Clone)]
pub struct Program {
    fd: Arc<OwnedFd>,
    id: u32,
    version: Version,
}

impl Program {
    pub(super) fn new(fd: OwnedFd, id: u32, version: Version) -> Program {
        Program { fd: Arc::new(fd), id, version }
    }

    /// The kernel's id of the program, which a filter that holds it tells.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The version of the program.
    pub fn version(&self) -> Version {
        self.version
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The programs that may be attached, by id; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Programs(Arc<Mutex<BTreeMap<u32, Program>>>);

impl Programs {
    /// Adds one.
    pub fn insert(&self, program: Program) {
        self.lock().insert(program.id, program);
    }

    /// Forgets one; filters that hold it keep it.
    pub fn remove(&self, id: u32) {
        self.lock().remove(&id);
    }

    /// The program with this id, if it is one of them.
    pub fn get(&self, id: u32) -> Option<Program> {
        self.lock().get(&id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Program>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
