//! A model server's metrics port, well-behaved or hostile. It speaks HTTP by hand, so that it can break it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// What the server answers to a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// 200 with this page; the connection stays open.
    Page(String),
    /// The same in chunks of seven bytes.
    Chunked(String),
    /// 200 with this page and no length; the end of the connection ends it.
    UntilClose(String),
    /// 200 with a length, half of the page, and the connection closes.
    HalfPage(String),
    /// 200 in chunks, half of the page, and the connection closes without the last chunk.
    HalfChunked(String),
    /// A status other than 200, with this page.
    Status(u16, String),
    /// A redirect to this location for every path but `/moved`, which has the page.
    Redirect(String, String),
    /// Nothing; the connection stays open.
    Silence,
    /// A right answer, one byte at a time, slower than anybody would wait for.
    Drip(String),
    /// 200 with a length of 1 GB, and as many bytes of a valid page as are taken.
    Gigabyte,
    /// 200 in chunks, for ever.
    Endless,
    /// A line without end.
    EndlessLine,
    /// `100 Continue`, for ever.
    EndlessInterim,
    /// Bytes that are not HTTP.
    Garbage,
    /// The connection closes without an answer.
    HangUp,
}

/// Counters of a server.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections accepted.
    pub connections: AtomicUsize,
    /// Requests read.
    pub requests: AtomicUsize,
    /// Most bytes written on one connection.
    pub most_bytes: AtomicUsize,
    /// Request targets seen, without repetition.
    pub targets: Mutex<Vec<String>>,
}

impl Counts {
    fn saw(&self, target: &str) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let mut targets = self.targets.lock();
        if !targets.iter().any(|t| t == target) {
            targets.push(target.into());
        }
    }
}

/// A running server; it stops when dropped.
pub struct MetricsServer {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it has seen.
    pub counts: Arc<Counts>,
    answer: Arc<Mutex<Answer>>,
    _task: JoinSet<()>,
}

impl MetricsServer {
    /// Starts a server on a free port of loopback.
    pub async fn start(answer: Answer) -> Self {
        Self::start_on(([127, 0, 0, 1], 0).into(), answer).await
    }

    /// Starts a server at `address`.
    pub async fn start_on(address: SocketAddr, answer: Answer) -> Self {
        Self::start_with(address, answer, None).await
    }

    /// Starts a server that speaks TLS.
    pub async fn start_tls(answer: Answer, tls: TlsAcceptor) -> Self {
        Self::start_with(([127, 0, 0, 1], 0).into(), answer, Some(tls)).await
    }

    async fn start_with(at: SocketAddr, answer: Answer, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let counts = Arc::new(Counts::default());
        let answer = Arc::new(Mutex::new(answer));
        let mut task = JoinSet::new();
        task.spawn(accept(listener, tls, counts.clone(), answer.clone()));
        MetricsServer {
            address,
            counts,
            answer,
            _task: task,
        }
    }

    /// Answers differently from the next request on.
    pub fn set(&self, answer: Answer) {
        *self.answer.lock() = answer;
    }

    /// Requests read so far.
    pub fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::Relaxed)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::Relaxed)
    }
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    counts: Arc<Counts>,
    answer: Arc<Mutex<Answer>>,
) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        counts.connections.fetch_add(1, Ordering::Relaxed);
        let (tls, counts, answer) = (tls.clone(), counts.clone(), answer.clone());
        connections.spawn(async move {
            // The client may go at any time; that ends the connection and nothing else.
            let _ = match tls {
                None => converse(stream, &counts, &answer).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => converse(stream, &counts, &answer).await,
                    Err(e) => Err(e),
                },
            };
        });
    }
}

async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    counts: &Counts,
    answer: &Mutex<Answer>,
) -> std::io::Result<()> {
    let mut written = 0;
    while let Some(target) = request(&mut stream).await? {
        let answer = answer.lock().clone();
        counts.saw(&target);
        let mut out = Counting {
            stream: &mut stream,
            written: &mut written,
            most: &counts.most_bytes,
        };
        if !out.answer(&answer, &target).await? {
            return stream.shutdown().await;
        }
    }
    Ok(())
}

/// Reads a request and gives its target; `None` when the client is done.
async fn request(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Option<String>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(e),
        }
    }
    let head = String::from_utf8_lossy(&head);
    Ok(head.split(' ').nth(1).map(str::to_owned))
}

struct Counting<'a, S> {
    stream: &'a mut S,
    written: &'a mut usize,
    most: &'a AtomicUsize,
}

impl<S: AsyncWrite + Unpin> Counting<'_, S> {
    async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await?;
        *self.written += bytes.len();
        self.most.fetch_max(*self.written, Ordering::Relaxed);
        Ok(())
    }

    async fn whole(&mut self, status: u16, headers: &str, page: &str) -> std::io::Result<()> {
        let length = page.len();
        let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n{headers}\r\n{page}");
        self.write(answer.as_bytes()).await
    }

    async fn forever(&mut self, head: &str, piece: &[u8]) -> std::io::Result<()> {
        self.write(head.as_bytes()).await?;
        loop {
            self.write(piece).await?;
        }
    }

    /// Answers one request. Does the connection stay open?
    async fn answer(&mut self, answer: &Answer, target: &str) -> std::io::Result<bool> {
        match answer {
            Answer::Page(page) => self.whole(200, "", page).await?,
            Answer::Status(status, page) => self.whole(*status, "", page).await?,
            Answer::Redirect(_, page) if target == "/moved" => self.whole(200, "", page).await?,
            Answer::Redirect(to, _) => self.whole(307, &format!("location: {to}\r\n"), "").await?,
            Answer::Chunked(page) => {
                self.write(CHUNKED.as_bytes()).await?;
                for piece in page.as_bytes().chunks(7) {
                    self.write(&chunk(piece)).await?;
                }
                self.write(b"0\r\n\r\n").await?;
            }
            Answer::Silence => std::future::pending().await,
            Answer::Drip(page) => {
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{page}", page.len());
                for byte in answer.as_bytes() {
                    self.write(&[*byte]).await?;
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
            Answer::Gigabyte => {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 1 << 30);
                self.forever(&head, "other_metric 1\n".repeat(4000).as_bytes())
                    .await?;
            }
            Answer::Endless => {
                let piece = chunk("other_metric 1\n".repeat(4000).as_bytes());
                self.forever(CHUNKED, &piece).await?;
            }
            Answer::EndlessInterim => self.forever("", &INTERIM.repeat(256)).await?,
            Answer::EndlessLine => self.forever(CHUNKED, &chunk(&[b'x'; 60_000])).await?,
            broken => {
                self.write(&broken.bytes()).await?;
                return Ok(false);
            }
        }
        Ok(true)
    }
}

const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

impl Answer {
    /// Everything written before the connection closes.
    fn bytes(&self) -> Vec<u8> {
        let half = |page: &str| page.as_bytes()[..page.len() / 2].to_vec();
        match self {
            Answer::UntilClose(page) => format!("HTTP/1.0 200 OK\r\n\r\n{page}").into(),
            Answer::HalfPage(page) => {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", page.len());
                [head.into_bytes(), half(page)].concat()
            }
            Answer::HalfChunked(page) => [CHUNKED.into(), chunk(&half(page))].concat(),
            Answer::Garbage => b"\0\xff\xfe garbage, not HTTP \r\n\r\n\x80".to_vec(),
            _ => Vec::new(),
        }
    }
}
