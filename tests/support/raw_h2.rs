//! A raw HTTP/2 client of tests and benches: frames made by hand and written as they are, so that it can do what no
//! well-behaved library does. Header blocks are literals only. What the server sends is read in the background.
//! It has no flow control for what it sends: large bodies need another client.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The ext_proc method.
pub const PROCESS: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;
/// Error code of a cancelled stream.
pub const CANCEL: u32 = 8;

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut out = Vec::with_capacity(9 + payload.len());
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// A DATA frame.
pub fn data(stream: u32, bytes: &[u8], end: bool) -> Vec<u8> {
    frame(DATA, if end { END_STREAM } else { 0 }, stream, bytes)
}

/// A HEADERS frame with all of its fields (each name and value below 127 bytes is one byte cheaper, longer ones work).
pub fn headers(stream: u32, fields: &[(&str, &str)], end: bool) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        // Literal without indexing, new name.
        block.push(0);
        text(&mut block, name);
        text(&mut block, value);
    }
    let flags = END_HEADERS | if end { END_STREAM } else { 0 };
    frame(HEADERS, flags, stream, &block)
}

/// A string without Huffman coding.
fn text(out: &mut Vec<u8>, value: &str) {
    let mut left = value.len();
    if left < 127 {
        out.push(left as u8);
    } else {
        out.push(127);
        left -= 127;
        while left >= 128 {
            out.push((left % 128) as u8 | 128);
            left /= 128;
        }
        out.push(left as u8);
    }
    out.extend_from_slice(value.as_bytes());
}

/// A RST_STREAM frame that cancels.
pub fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

/// The HEADERS of a POST to a gateway.
pub fn post(stream: u32, path: &str, end: bool) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "gateway"),
        (":path", path),
        ("content-type", "application/json"),
    ];
    headers(stream, &fields, end)
}

/// The HEADERS of a gRPC call.
pub fn call(stream: u32, path: &str) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "localhost"),
        (":path", path),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    headers(stream, &fields, false)
}

/// A gRPC message with its prefix, not compressed.
pub fn grpc(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], message].concat()
}

/// What a connection does with what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Reads all and opens the windows again.
    All,
    /// Reads nothing; the socket's buffers fill.
    Nothing,
}

/// What came on one stream.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// The status of the first HEADERS, 0 when it could not be read.
    pub status: Option<u16>,
    /// The DATA so far.
    pub data: Vec<u8>,
    /// The server has ended the stream.
    pub ended: bool,
    /// The error code it was reset with.
    pub reset: Option<u32>,
}

impl Reply {
    /// Nothing more comes.
    pub fn over(&self) -> bool {
        self.ended || self.reset.is_some()
    }
}

/// What came on a connection.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// By stream.
    pub replies: HashMap<u32, Reply>,
    /// Error code and debug data of the last GOAWAY.
    pub goaway: Option<(u32, String)>,
    /// The server has closed, or reading failed.
    pub closed: bool,
    /// The settings of the server have come.
    pub settings: bool,
}

impl Seen {
    /// Streams nothing more comes on.
    pub fn over(&self) -> usize {
        self.replies.values().filter(|r| r.over()).count()
    }
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    changed: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection; closed when dropped.
pub struct Connection {
    write: Arc<tokio::sync::Mutex<OwnedWriteHalf>>,
    shared: Arc<Shared>,
    next: u32,
    reader: Option<JoinHandle<()>>,
    _unread: Option<OwnedReadHalf>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(reader) = &self.reader {
            reader.abort();
        }
    }
}

impl Connection {
    /// Connects and reads everything.
    ///
    /// # Errors
    /// It cannot connect.
    pub async fn open(to: SocketAddr) -> std::io::Result<Self> {
        Self::open_with(to, Reading::All).await
    }

    /// Connects, sends the preface and the settings: no dynamic table, 1 MiB windows.
    ///
    /// # Errors
    /// It cannot connect.
    pub async fn open_with(to: SocketAddr, reading: Reading) -> std::io::Result<Self> {
        let socket = TcpStream::connect(to).await?;
        socket.set_nodelay(true)?;
        let (read, mut write) = socket.into_split();
        let mut settings = Vec::new();
        for (id, value) in [(1_u16, 0_u32), (4, 1 << 20)] {
            settings.extend_from_slice(&id.to_be_bytes());
            settings.extend_from_slice(&value.to_be_bytes());
        }
        let window = frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 24).to_be_bytes());
        write
            .write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &settings), &window].concat())
            .await?;
        let shared = Arc::new(Shared::default());
        let write = Arc::new(tokio::sync::Mutex::new(write));
        let (reader, unread) = match reading {
            Reading::All => (
                Some(tokio::spawn(read_all(read, write.clone(), shared.clone()))),
                None,
            ),
            Reading::Nothing => (None, Some(read)),
        };
        Ok(Connection {
            write,
            shared,
            next: 1,
            reader,
            _unread: unread,
        })
    }

    /// The next stream id of a client.
    pub fn stream(&mut self) -> u32 {
        self.next += 2;
        self.next - 2
    }

    /// Writes frames as they are, in one write.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn write(&self, frames: &[u8]) -> std::io::Result<()> {
        self.write.lock().await.write_all(frames).await
    }

    /// Looks at what has come so far.
    pub fn seen<R>(&self, look: impl FnOnce(&Seen) -> R) -> R {
        look(&self.shared.lock())
    }

    /// Waits until `condition` holds for what has come; false when `limit` passes first.
    pub async fn until(&self, limit: Duration, mut condition: impl FnMut(&Seen) -> bool) -> bool {
        let wait = async {
            loop {
                let changed = self.shared.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if condition(&self.shared.lock()) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(limit, wait).await.is_ok()
    }

    /// Waits until the settings of the server have come; false when they do not within `limit`.
    pub async fn ready(&self, limit: Duration) -> bool {
        self.until(limit, |seen| seen.settings || seen.closed).await && self.seen(|s| s.settings)
    }
}

async fn read_all(
    mut read: OwnedReadHalf,
    write: Arc<tokio::sync::Mutex<OwnedWriteHalf>>,
    shared: Arc<Shared>,
) {
    let mut head = [0; 9];
    let mut payload = Vec::new();
    while read.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        payload.resize(length, 0);
        if read.read_exact(&mut payload).await.is_err() {
            break;
        }
        let answer = take(&mut shared.lock(), head[3], head[4], stream, &payload);
        shared.changed.notify_waiters();
        // A server that is gone is noticed by the next read.
        if !answer.is_empty() {
            let _gone = write.lock().await.write_all(&answer).await;
        }
    }
    shared.lock().closed = true;
    shared.changed.notify_waiters();
}

/// Notes one frame; what must be answered to it.
fn take(seen: &mut Seen, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let number = |at: usize| {
        payload
            .get(at..at + 4)
            .and_then(|b| b.try_into().ok())
            .map_or(0, u32::from_be_bytes)
    };
    match kind {
        SETTINGS if flags & ACK == 0 => {
            seen.settings = true;
            return frame(SETTINGS, ACK, 0, &[]);
        }
        PING if flags & ACK == 0 => return frame(PING, ACK, 0, payload),
        GOAWAY => {
            let text = payload.get(8..).unwrap_or_default();
            seen.goaway = Some((number(4), String::from_utf8_lossy(text).into_owned()));
        }
        RST_STREAM => seen.replies.entry(stream).or_default().reset = Some(number(0)),
        HEADERS => {
            let reply = seen.replies.entry(stream).or_default();
            let start = usize::from(flags & PADDED != 0) + if flags & PRIORITY != 0 { 5 } else { 0 };
            let status = status(payload.get(start..).unwrap_or_default());
            reply.status = reply.status.or(Some(status.unwrap_or(0)));
            reply.ended |= flags & END_STREAM != 0;
        }
        DATA => {
            let reply = seen.replies.entry(stream).or_default();
            reply.data.extend_from_slice(payload);
            reply.ended |= flags & END_STREAM != 0;
            if !payload.is_empty() {
                let more = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
                let mut windows = frame(WINDOW_UPDATE, 0, 0, &more);
                if !reply.ended {
                    windows.extend(frame(WINDOW_UPDATE, 0, stream, &more));
                }
                return windows;
            }
        }
        _ => {}
    }
    Vec::new()
}

/// The status of a header block: its first field, from the static table or a literal.
fn status(block: &[u8]) -> Option<u16> {
    let mut rest = block;
    // Changes of the table's size may come first.
    while rest.first()? & 0xe0 == 0x20 {
        let more = rest[0] & 0x1f == 0x1f;
        rest = &rest[1..];
        while more && rest.first()? & 0x80 != 0 {
            rest = &rest[1..];
        }
        rest = &rest[usize::from(more)..];
    }
    let first = *rest.first()?;
    if first & 0x80 != 0 {
        let known = [200, 204, 206, 304, 400, 404, 500];
        return known.get(usize::from(first & 0x7f).checked_sub(8)?).copied();
    }
    let name = if first & 0x40 != 0 {
        first & 0x3f
    } else {
        first & 0x0f
    };
    if !(8..=14).contains(&name) {
        return None;
    }
    let length = usize::from(rest.get(1)? & 0x7f);
    let value = rest.get(2..2 + length)?;
    let digits = if rest[1] & 0x80 != 0 {
        digits(value)?
    } else {
        value.to_vec()
    };
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

/// Three digits in the Huffman code of HPACK: 0, 1 and 2 have five bits, the others six.
fn digits(coded: &[u8]) -> Option<Vec<u8>> {
    let bits = coded
        .iter()
        .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
    let mut at = u32::try_from(coded.len() * 8).ok()?;
    let mut out = Vec::new();
    while out.len() < 3 {
        let five = bits >> at.checked_sub(5)? & 0x1f;
        if five < 3 {
            out.push(b'0' + five as u8);
            at -= 5;
            continue;
        }
        let six = bits >> at.checked_sub(6)? & 0x3f;
        out.push(b'3' + u8::try_from(six.checked_sub(0x19)?).ok().filter(|d| *d < 7)?);
        at -= 6;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::status;

    #[test]
    fn a_status_is_read_in_each_of_its_codings() {
        for (block, expected) in [
            (&[0x88][..], Some(200)),
            (&[0x20, 0x88], Some(200)),
            (&[0x3f, 0xe1, 0x1f, 0x8c], Some(400)),
            (b"\x08\x03503", Some(503)),
            (b"\x48\x03429", Some(429)),
            // 503 and 101 in the Huffman code.
            (&[0x08, 0x83, 0x6c, 0x0c, 0xff], Some(503)),
            (&[0x08, 0x82, 0x08, 0x03], Some(101)),
            (&[0x8f], None),
            (&[], None),
        ] {
            assert_eq!(status(block), expected, "{block:02x?}");
        }
    }
}
