//! An HTTP/2 client that writes frames by hand: bursts, resets and silences that no library would send.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::service::ext_proc::v3::ProcessingRequest;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub use super::raw_h2::{frame, reset as cancel};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PATH: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";

/// Frame types.
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;

/// A frame as it came.
#[derive(Debug)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags; 1 ends the stream, or acknowledges.
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// A connection.
pub struct Frames {
    tcp: TcpStream,
}

/// The head that opens an ext_proc stream.
pub fn open(stream: u32) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    let mut text = |prefix: &[u8], value: &str| {
        block.extend(prefix);
        block.push(u8::try_from(value.len()).unwrap());
        block.extend(value.bytes());
    };
    text(&[0x04], PATH);
    text(&[0x01], "epp");
    text(&[0x0f, 0x10], "application/grpc");
    frame(HEADERS, 4, stream, &block)
}

/// A message of a stream in one DATA frame.
pub fn message(stream: u32, message: &ProcessingRequest) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    let mut out = vec![0];
    out.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
    out.extend(bytes);
    // As large as they may be.
    let pieces = out.chunks(16_384).map(|piece| frame(DATA, 0, stream, piece));
    pieces.collect::<Vec<_>>().concat()
}

impl Frames {
    /// Connects and greets; windows are as large as they can be.
    pub async fn connect(to: SocketAddr) -> Self {
        let tcp = TcpStream::connect(to).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let mut this = Frames { tcp };
        let window = [&4_u16.to_be_bytes()[..], &0x7fff_ffff_u32.to_be_bytes()[..]].concat();
        let more = 0x7fff_0000_u32.to_be_bytes();
        let greeting = [
            PREFACE.to_vec(),
            frame(SETTINGS, 0, 0, &window),
            frame(WINDOW_UPDATE, 0, 0, &more),
        ];
        this.send(&greeting.concat()).await;
        this
    }

    /// The bare connection.
    pub fn into_inner(self) -> TcpStream {
        self.tcp
    }

    /// Writes frames in one go; reads nothing meanwhile.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.tcp.write_all(bytes).await.unwrap();
    }

    /// The next frame; `None` when the connection has ended.
    pub async fn next(&mut self) -> Option<Frame> {
        let read = async {
            let mut head = [0; 9];
            self.tcp.read_exact(&mut head).await.ok()?;
            let number = |bytes: &[u8]| bytes.iter().fold(0_u32, |n, b| n << 8 | u32::from(*b));
            let mut payload = vec![0; number(&head[..3]) as usize];
            self.tcp.read_exact(&mut payload).await.ok()?;
            Some(Frame {
                kind: head[3],
                flags: head[4],
                stream: number(&head[5..]) & 0x7fff_ffff,
                payload,
            })
        };
        tokio::time::timeout(Duration::from_secs(30), read)
            .await
            .expect("a frame within 30 s")
    }

    /// Reads on until a frame of this type and stream has come.
    ///
    /// # Panics
    /// When the server ends the connection first.
    pub async fn until(&mut self, kind: u8, stream: u32) -> Frame {
        loop {
            let frame = self.next().await.expect("the connection is open");
            assert!(
                frame.kind != GOAWAY,
                "{:?}",
                String::from_utf8_lossy(&frame.payload)
            );
            if (frame.kind, frame.stream) == (kind, stream) {
                return frame;
            }
        }
    }

    /// Reads until the server ends the connection.
    pub async fn closed(&mut self) {
        while self.next().await.is_some() {}
    }
}
