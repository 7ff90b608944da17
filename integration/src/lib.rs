//! The lab: everything that a test or a demonstration needs and production must not carry.

pub mod apiserver;
pub mod bench;
pub mod containerd;
pub mod demo;
pub mod lab;
pub mod netns;
pub mod pod;
pub mod protocol;
#[cfg(test)]
mod release;
pub mod soak;
pub mod traffic;
pub mod upgrade;
pub mod world;

/// `#[tokio::test]` for each mode: `modes! { gre_name: test(Mode::Gre); … }`, where `test` is an `async fn(…) -> Result<()>`. What begins
/// with `gre` or `mpls` is run where the kernel has both (`hack/test`).
#[macro_export]
macro_rules! modes {
    ($($(#[$attribute:meta])* $name:ident: $test:ident($($argument:expr),*);)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        $(#[$attribute])*
        async fn $name() -> anyhow::Result<()> {
            $test($($argument),*).await
        }
    )*};
}
