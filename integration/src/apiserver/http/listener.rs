//! The listening socket, and how the server disappears from the network without losing its address.
//!
//! `shutdown(2)` takes a listening socket out of the listening state, `listen(2)` brings the same socket back: in the network
//! namespace where the caller opened it, wherever the server runs. Connections that are open at that moment are reset, also
//! those that are still shaking hands.

use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use nix::errno::Errno;
use nix::sys::socket::{Backlog, Shutdown, SockaddrStorage, bind, listen, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A listener that can be down.
pub struct Gate {
    /// The socket, whatever its state.
    socket: std::net::TcpListener,
    /// A duplicate for the event loop. It is made anew after every time down: the event loop remembers the hang-up of a
    /// descriptor for ever.
    listener: TcpListener,
    acceptor: TlsAcceptor,
    /// Connections without TLS as yet. A client that says nothing keeps no other one waiting.
    handshakes: FuturesUnordered<Accept<Connection>>,
    up: watch::Receiver<bool>,
    /// Ends everything.
    stop: CancellationToken,
    /// Cancelled when the server goes down; replaced when it comes up.
    open: CancellationToken,
}

impl Gate {
    /// A gate that follows `up`. Cancelling `stop` closes all connections.
    pub fn new(
        socket: std::net::TcpListener,
        acceptor: TlsAcceptor,
        up: watch::Receiver<bool>,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from_std(socket.try_clone()?)?;
        let handshakes = FuturesUnordered::new();
        Ok(Self { socket, listener, acceptor, handshakes, up, open: stop.child_token(), stop })
    }

    /// Stops listening until the server is to come up again.
    async fn stay_down(&mut self) -> io::Result<()> {
        self.open.cancel();
        self.handshakes.clear();
        let address = self.listener.local_addr()?;
        shutdown(self.socket.as_raw_fd(), Shutdown::Both)?;
        // A port that the kernel chose (bind to port 0) is given back by the shutdown: take it again. One that was asked for
        // is still ours, and binding twice is EINVAL.
        match bind(self.socket.as_raw_fd(), &SockaddrStorage::from(address)) {
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(errno) => return Err(errno.into()),
        }
        while !*self.up.borrow_and_update() {
            if self.up.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
        listen(&self.socket, Backlog::new(1024)?)?;
        self.listener = TcpListener::from_std(self.socket.try_clone()?)?;
        self.open = self.stop.child_token();
        Ok(())
    }

    /// The next connection that speaks TLS; nothing after any other event.
    async fn next(&mut self) -> Option<io::Result<TlsStream<Connection>>> {
        tokio::select! {
            accepted = self.listener.accept() => match accepted {
                Ok((stream, _)) => {
                    self.handshakes.push(self.acceptor.accept(Connection::new(stream, &self.open)));
                    None
                }
                Err(error) => Some(Err(error)),
            },
            Some(shaken) = self.handshakes.next() => Some(shaken),
            changed = self.up.changed() => match changed {
                Ok(()) => None,
                Err(_) => std::future::pending().await,
            },
        }
    }
}

impl axum::serve::Listener for Gate {
    type Io = TlsStream<Connection>;
    // Nobody asks where clients are.
    type Addr = ();

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            if !*self.up.borrow_and_update()
                && let Err(error) = self.stay_down().await
            {
                tracing::error!(%error, "listening socket lost");
            }
            match self.next().await {
                Some(Ok(stream)) => return (stream, ()),
                Some(Err(error)) => {
                    tracing::debug!(%error, "connection not accepted");
                    tokio::task::yield_now().await;
                }
                None => {}
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(())
    }
}

/// A connection that breaks when the server goes down.
pub struct Connection {
    stream: TcpStream,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Connection {
    fn new(stream: TcpStream, open: &CancellationToken) -> Self {
        // Small lines must not wait for the peer's acknowledgement.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        Self { stream, closed: Box::pin(open.clone().cancelled_owned()) }
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.closed.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
