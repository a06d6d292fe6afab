//! What an untrusted client sends in tests and benches: each function is one attack, from its connections to its bytes.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::raw_h2::{self, Connection};

/// Longest wait for a server's first words.
const HELLO: Duration = Duration::from_secs(10);
const PATH: &str = "/v1/completions";

/// Sends `requests` requests and cancels each at once, all in one write.
///
/// # Errors
/// The connection failed.
pub async fn cancelled_requests(traffic: SocketAddr, requests: u32) -> std::io::Result<Connection> {
    let mut connection = Connection::open(traffic).await?;
    connection.ready(HELLO).await;
    let mut frames = Vec::new();
    for _ in 0..requests {
        let stream = connection.stream();
        frames.extend(raw_h2::post(stream, PATH, false));
        frames.extend(raw_h2::data(stream, b"{", false));
        frames.extend(raw_h2::reset(stream));
    }
    connection.write(&frames).await?;
    Ok(connection)
}

/// Sends one request whose body comes in `frames` frames of one byte, in one write, and leaves it open.
///
/// # Errors
/// The connection failed.
pub async fn one_byte_frames(traffic: SocketAddr, frames: usize) -> std::io::Result<Connection> {
    let mut connection = Connection::open(traffic).await?;
    connection.ready(HELLO).await;
    let stream = connection.stream();
    let mut bytes = raw_h2::post(stream, PATH, false);
    for _ in 0..frames {
        bytes.extend(raw_h2::data(stream, b" ", false));
    }
    connection.write(&bytes).await?;
    Ok(connection)
}

/// Begins an upload that never ends: `bytes` of a body that was announced to be larger. The connection keeps it open.
///
/// # Errors
/// The connection failed, or was refused before all was sent.
pub async fn endless_upload(traffic: SocketAddr, bytes: usize) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(traffic).await?;
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        bytes + (1 << 20)
    );
    stream.write_all(head.as_bytes()).await?;
    let piece = vec![b' '; 64 << 10];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(piece.len());
        stream.write_all(&piece[..now]).await?;
        left -= now;
    }
    Ok(stream)
}

/// What a gateway answers to a POST of `body`, sent as one HTTP/1.1 request on a connection of its own: the status.
///
/// # Errors
/// The connection failed before a status came.
pub async fn status_of(
    traffic: SocketAddr,
    path: &str,
    body: &[u8],
    headers: &[(&str, &str)],
) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect(traffic).await?;
    let mut head = format!(
        "POST {path} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("connection: close\r\n\r\n");
    let (mut read, mut write) = stream.split();
    let send = async {
        write.write_all(head.as_bytes()).await?;
        write.write_all(body).await
    };
    let receive = async {
        let mut line = [0; 12];
        read.read_exact(&mut line).await?;
        let status = std::str::from_utf8(&line[9..]).ok().and_then(|s| s.parse().ok());
        let status = status.ok_or(std::io::ErrorKind::InvalidData)?;
        let mut rest = Vec::new();
        read.read_to_end(&mut rest).await?;
        Ok(status)
    };
    // A refusal may come before all is sent; then sending fails, and that is no failure.
    let (_sent, status) = tokio::join!(send, receive);
    status
}

/// Shapes of chat bodies that are costly for a careless reader.
pub const CHATS: [(&str, &str); 4] = [
    ("[{\"\":0},...]", "{\"\":0},"),
    ("[{},...]", "{},"),
    ("[\"\",...]", "\"\","),
    ("[1,...]", "1,"),
];

/// A completion body of about `size` bytes: a chat whose one message's content is a list of `element`s.
pub fn chat(element: &str, size: usize) -> Vec<u8> {
    let head = r#"{"model":"hostile","messages":[{"role":"user","content":["#;
    let tail = r#"{"type":"text","text":"x"}]}]}"#;
    let times = size.saturating_sub(head.len() + tail.len()) / element.len();
    [head, &element.repeat(times), tail].concat().into_bytes()
}

/// A completion body with a model name of `size` bytes.
pub fn long_model(size: usize) -> Vec<u8> {
    format!(r#"{{"model":"{}","prompt":"p"}}"#, "m".repeat(size)).into_bytes()
}
