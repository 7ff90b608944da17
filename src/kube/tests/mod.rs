//! Against a server that listens on a real socket and says what a test wants it to say.

mod client;
mod identity;
mod log;
mod maps;
mod report;
mod reports;
mod server;
mod watch;
