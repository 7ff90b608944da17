//! The lab: everything that a test or a demonstration needs and production must not carry.

pub mod apiserver;
pub mod bench;
pub mod demo;
pub mod lab;
pub mod netns;
pub mod pod;
pub mod protocol;
pub mod soak;
pub mod traffic;
pub mod world;

/// `#[tokio::test]` for each mode: `modes! { name: test(Mode::Gre); … }`, where `test` is an `async fn(Mode) -> Result<()>`.
#[macro_export]
macro_rules! modes {
    ($($name:ident: $test:ident($mode:expr);)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() -> anyhow::Result<()> {
            $test($mode).await
        }
    )*};
}
