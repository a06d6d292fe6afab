//! An ext_proc client on the bare h2 crate that plays Envoy: one connection, many streams.

use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::{Buf, Bytes};
use envoy_types::pb::envoy::service::ext_proc::v3 as pb;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use pb::body_mutation::Mutation;
use pb::processing_response::Response;
use prost::Message as _;
use tokio::net::TcpStream;

use super::shapes::{Awaited, Shape};

const PROCESS: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";

/// Opens the connection and drives it in the background.
pub async fn connect(to: SocketAddr) -> SendRequest<Bytes> {
    let socket = TcpStream::connect(to).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let (send, connection) = h2::client::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(16 << 20)
        .max_send_buffer_size(4 << 20)
        .handshake::<_, Bytes>(socket)
        .await
        .unwrap();
    tokio::spawn(connection);
    send
}

/// An open exchange.
pub struct Exchange {
    send: SendStream<Bytes>,
    recv: RecvStream,
    held: VecDeque<u8>,
    /// Body bytes echoed so far.
    pub echoed: usize,
}

impl Exchange {
    /// Opens a stream.
    pub async fn open(client: &SendRequest<Bytes>) -> Self {
        let mut client = client.clone().ready().await.unwrap();
        let request = http::Request::post(format!("http://localhost{PROCESS}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let (response, send) = client.send_request(request, false).unwrap();
        let recv = response.await.unwrap().into_body();
        Exchange {
            send,
            recv,
            held: VecDeque::new(),
            echoed: 0,
        }
    }

    /// Sends the frames of one step and waits for its answers.
    pub async fn step(&mut self, frames: &Bytes, awaited: Awaited) {
        self.send.send_data(frames.clone(), false).unwrap();
        let mut seen = 0;
        loop {
            match awaited {
                Awaited::Nothing => return,
                Awaited::Messages(n) if seen >= n => return,
                _ => {}
            }
            let message = self.message().await.expect("the stream ended early");
            seen += 1;
            // Only the end has to be known; the size of a message tells a body piece from the rest.
            if awaited == Awaited::EndOfBody {
                let response = pb::ProcessingResponse::decode(&message[..]).unwrap();
                if let Some((len, end)) = piece(&response) {
                    self.echoed += len;
                    if end {
                        return;
                    }
                }
            }
        }
    }

    /// Reads `count` answers; false when the stream ends first.
    pub async fn answers(&mut self, count: usize) -> bool {
        for _ in 0..count {
            if self.message().await.is_none() {
                return false;
            }
        }
        true
    }

    async fn message(&mut self) -> Option<Vec<u8>> {
        loop {
            if self.held.len() >= 5 {
                let prefix: Vec<u8> = self.held.iter().take(5).copied().collect();
                let len = (&mut prefix[1..].as_ref()).get_u32() as usize;
                if self.held.len() >= 5 + len {
                    self.held.drain(..5);
                    return Some(self.held.drain(..len).collect());
                }
            }
            let data = self.recv.data().await?.ok()?;
            self.recv.flow_control().release_capacity(data.len()).unwrap();
            self.held.extend(data);
        }
    }

    /// Ends the stream: half-closed if the server has not ended it first, and read to its end.
    pub async fn close(mut self) {
        // A server that has ended the stream already refuses this, which is as good.
        let _ = self.send.send_data(Bytes::new(), true);
        while let Some(Ok(data)) = self.recv.data().await {
            let _ = self.recv.flow_control().release_capacity(data.len());
        }
    }
}

/// Length and end flag of a streamed body answer.
fn piece(response: &pb::ProcessingResponse) -> Option<(usize, bool)> {
    let body = match response.response.as_ref()? {
        Response::RequestBody(b) | Response::ResponseBody(b) => b,
        Response::ImmediateResponse(i) => panic!("rejected: {}", String::from_utf8_lossy(&i.body)),
        _ => return None,
    };
    match body
        .response
        .as_ref()?
        .body_mutation
        .as_ref()?
        .mutation
        .as_ref()?
    {
        Mutation::StreamedResponse(s) => Some((s.body.len(), s.end_of_stream)),
        _ => None,
    }
}

/// Runs one whole exchange.
pub async fn run(client: &SendRequest<Bytes>, shape: &Shape) {
    let mut exchange = Exchange::open(client).await;
    for step in &shape.steps {
        exchange.step(&step.frames, step.awaited).await;
    }
    exchange.close().await;
}
