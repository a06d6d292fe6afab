//! One HTTP/1.1 connection to a metrics page, kept open between scrapes and driven by the task that scrapes. Every byte the
//! server sends is metered, heads, interim responses and TLS records included, so that none of them is without end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Most bytes a server may send before the head of its answer is complete: TLS handshake, interim responses and head.
pub(super) const HEAD_BYTES: usize = 64 << 10;

/// Counts what is read in one scrape, and says how much may be.
#[derive(Debug, Default)]
pub(super) struct Meter {
    left: AtomicUsize,
    read: AtomicUsize,
    connected: AtomicUsize,
}

impl Meter {
    /// A scrape begins.
    pub fn begin(&self) {
        self.read.store(0, Ordering::Relaxed);
        self.connected.store(0, Ordering::Relaxed);
    }

    /// Lets `bytes` more be read from now on, instead of what was left.
    pub fn allow(&self, bytes: usize) {
        self.left.store(bytes, Ordering::Relaxed);
    }

    /// Has the server sent anything in this scrape?
    pub fn heard(&self) -> bool {
        self.read.load(Ordering::Relaxed) > 0
    }

    /// There is a connection.
    pub fn connect(&self) {
        self.connected.store(1, Ordering::Relaxed);
    }

    /// Was there a connection in this scrape?
    pub fn connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed) > 0
    }
}

/// Bytes in both directions.
trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

type Driver = http1::Connection<TokioIo<Box<dyn Stream>>, Empty<Bytes>>;

/// An open connection.
pub(super) struct Connection {
    sender: http1::SendRequest<Empty<Bytes>>,
    /// `None` once the connection has ended: dropped, it wakes who waits for something of it.
    driver: Option<Pin<Box<Driver>>>,
}

/// How connections are secured.
pub(super) struct Tls {
    /// Verifies the server, or does not.
    pub connector: TlsConnector,
    /// The name its certificate must have.
    pub name: ServerName<'static>,
}

/// Why there is no connection.
pub(super) enum OpenError {
    Connect(io::Error),
    Tls(io::Error),
    Http(hyper::Error),
}

impl Connection {
    /// Connects to `address`. `meter` counts what is read as long as the connection lives.
    pub async fn open(address: SocketAddr, tls: Option<&Tls>, meter: &Arc<Meter>) -> Result<Self, OpenError> {
        let tcp = TcpStream::connect(address).await.map_err(OpenError::Connect)?;
        meter.connect();
        // Only delays are at stake.
        let _ = tcp.set_nodelay(true);
        let metered = Metered {
            io: tcp,
            meter: meter.clone(),
        };
        let stream: Box<dyn Stream> = match tls {
            None => Box::new(metered),
            Some(tls) => {
                let secured = tls.connector.connect(tls.name.clone(), metered);
                Box::new(secured.await.map_err(OpenError::Tls)?)
            }
        };
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(OpenError::Http)?;
        Ok(Connection {
            sender,
            driver: Some(Box::pin(driver)),
        })
    }

    /// Can another request be sent? False once the server has closed it.
    pub async fn usable(&mut self) -> bool {
        let ready = drive(&mut self.driver, self.sender.ready()).await.is_ok();
        ready && self.driver.is_some()
    }

    /// Sends `request` and waits for the head of the answer.
    pub async fn send(&mut self, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
        let answer = self.sender.send_request(request);
        drive(&mut self.driver, answer).await
    }

    /// The next piece of `body`; `None` at its end.
    pub async fn piece(&mut self, body: &mut Incoming) -> Result<Option<Bytes>, hyper::Error> {
        loop {
            match drive(&mut self.driver, body.frame()).await {
                None => return Ok(None),
                Some(Err(error)) => return Err(error),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

/// Waits for `future` while `driver` moves bytes.
async fn drive<F: Future>(driver: &mut Option<Pin<Box<Driver>>>, future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| {
        // Whatever ended the connection, `future` tells.
        if driver
            .as_mut()
            .is_some_and(|d| d.as_mut().poll(context).is_ready())
        {
            *driver = None;
        }
        future.as_mut().poll(context)
    })
    .await
}

/// A connection whose bytes are counted.
struct Metered {
    io: TcpStream,
    meter: Arc<Meter>,
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.meter.left.load(Ordering::Relaxed);
        let room = buf.remaining().min(left);
        if room == 0 {
            return Poll::Ready(Err(io::Error::other("the server sends more than it may")));
        }
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
        ready!(Pin::new(&mut self.io).poll_read(context, &mut part))?;
        let n = part.filled().len();
        buf.advance(n);
        self.meter.left.store(left - n, Ordering::Relaxed);
        self.meter.read.fetch_add(n, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
