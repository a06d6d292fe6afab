//! Connections to the API server: TLS as the configuration says, HTTP/2 where the server offers it, keepalive of TCP, and an
//! end for those that have gone silent.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use kube::client::ConfigExt;
use kube::{Config, Error};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tower_service::Service;

use super::BoxError;

/// Longest wait for a connection, the TLS handshake included.
const CONNECT: Duration = Duration::from_secs(5);

/// Longest time in which nothing comes over an HTTP/2 connection, where answers to pings come every three seconds.
pub const SILENCE: Duration = Duration::from_secs(7);

/// TCP: time before the first probe and between probes, and how many may stay unanswered.
const PROBES: (Duration, u32) = (Duration::from_secs(3), 2);

type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

/// Opens connections.
#[derive(Clone)]
pub struct Connector(HttpsConnector<HttpConnector>);

impl Connector {
    /// With the certificates of `config`.
    ///
    /// # Errors
    /// The certificates, or the name of the server, cannot be used.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(PROBES.0));
        tcp.set_keepalive_interval(Some(PROBES.0));
        tcp.set_keepalive_retries(Some(PROBES.1));
        #[cfg(target_os = "linux")]
        tcp.set_tcp_user_timeout(Some(SILENCE));
        let builder = HttpsConnectorBuilder::new()
            .with_tls_config(config.rustls_client_config()?)
            .https_or_http();
        let builder = match &config.tls_server_name {
            Some(name) => {
                let name = ServerName::try_from(name.clone());
                let name = name.map_err(|e| Error::Service(e.into()))?;
                builder.with_server_name_resolver(FixedServerNameResolver::new(name))
            }
            None => builder,
        };
        let builder = builder.enable_http1().enable_http2();
        Ok(Connector(builder.wrap_connector(tcp)))
    }
}

impl Service<Uri> for Connector {
    type Response = Link;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Link, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let connecting = self.0.call(server);
        Box::pin(async move {
            let Ok(connected) = timeout(CONNECT, connecting).await else {
                return Err(format!("no connection within {} s", CONNECT.as_secs()).into());
            };
            Ok(Link::new(connected?))
        })
    }
}

/// A connection.
pub struct Link {
    stream: Stream,
    /// When it has been silent for too long; absent on HTTP/1.1, where a quiet connection is none.
    silent: Option<Pin<Box<Sleep>>>,
}

impl Link {
    fn new(stream: Stream) -> Self {
        let pinged = stream.connected().is_negotiated_h2();
        Link {
            stream,
            silent: pinged.then(|| Box::pin(sleep(SILENCE))),
        }
    }
}

impl Connection for Link {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}

impl Read for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some(silent) = &mut self.silent else {
            return read;
        };
        if read.is_ready() {
            silent.as_mut().reset(Instant::now() + SILENCE);
            return read;
        }
        if silent.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        let seconds = SILENCE.as_secs();
        tracing::warn!(
            seconds,
            "A connection to the API server has gone silent: watching again on a new one"
        );
        let text = format!("nothing came from the API server for {seconds} s, no answers to pings either");
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
    }
}

impl Write for Link {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }
}
