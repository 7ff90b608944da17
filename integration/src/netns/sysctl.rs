//! Sysctls of a namespace: `/proc/sys/net` shows the namespace of the thread that opens the file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Netns, Result};

impl Netns {
    /// Writes sysctls in the given order. Keys are paths below `/proc/sys` with slashes (`net/ipv4/ip_forward`): device
    /// names may contain dots.
    pub fn set_sysctls<K, V>(&self, values: &[(K, V)]) -> Result<()>
    where
        K: AsRef<str> + Sync,
        V: AsRef<str> + Sync,
    {
        self.run_io("write sysctls", || {
            values.iter().try_for_each(|(key, value)| {
                fs::write(file(key.as_ref()), value.as_ref()).map_err(|e| named(key.as_ref(), &e))
            })
        })
    }

    /// Writes one sysctl.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.set_sysctls(&[(key, value)])
    }

    /// Reads one sysctl, without the newline.
    pub fn sysctl(&self, key: &str) -> Result<String> {
        self.run_io(&format!("read sysctl {key}"), || {
            fs::read_to_string(file(key)).map(|value| value.trim_end().to_owned()).map_err(|e| named(key, &e))
        })
    }
}

fn file(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key)
}

fn named(key: &str, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{key}: {e}"))
}
