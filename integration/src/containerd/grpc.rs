//! Unary gRPC calls over a unix socket.

use std::path::Path;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use tokio::net::UnixStream;

/// A connection; it ends with the server or with the last clone.
#[derive(Debug, Clone)]
pub(super) struct Channel {
    requests: SendRequest<Bytes>,
}

impl Channel {
    pub async fn connect(socket: &Path) -> Result<Channel> {
        let stream = UnixStream::connect(socket).await.with_context(|| format!("connect to {}", socket.display()))?;
        let (requests, connection) = h2::client::handshake(stream).await.context("HTTP/2 handshake")?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to containerd ended");
            }
        });
        Ok(Channel { requests })
    }

    /// Calls a method (`/package.Service/Method`) and returns the encoded answer.
    pub async fn call(&self, method: &str, message: &[u8]) -> Result<Vec<u8>> {
        self.exchange(method, message).await.with_context(|| method.to_owned())
    }

    async fn exchange(&self, method: &str, message: &[u8]) -> Result<Vec<u8>> {
        let mut requests = self.requests.clone().ready().await?;
        let request = Request::post(format!("http://localhost{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let (response, mut stream) = requests.send_request(request, false)?;
        send(&mut stream, message)?;
        let response = response.await?;
        check(response.headers())?;
        let mut body = response.into_body();
        let data = receive(&mut body).await?;
        if let Some(trailers) = body.trailers().await? {
            check(&trailers)?;
        }
        // A flag (not compressed) and four bytes of length precede the message.
        Ok(data.get(5..).context("an answer without a message")?.to_vec())
    }
}

fn send(stream: &mut SendStream<Bytes>, message: &[u8]) -> Result<()> {
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len())?.to_be_bytes());
    frame.extend_from_slice(message);
    Ok(stream.send_data(frame.into(), true)?)
}

async fn receive(body: &mut RecvStream) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        data.extend_from_slice(&chunk);
    }
    Ok(data)
}

/// The status is in the headers of an answer without a message, else in the trailers.
fn check(headers: &HeaderMap) -> Result<()> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        None | Some("0") => Ok(()),
        Some(status) => bail!("status {status}: {}", text("grpc-message").unwrap_or_default()),
    }
}
