//! Sends messages of the publisher again to who has missed them: a ROUTER socket of ZMQ (simulator.md §11.3). Started
//! by `app::sim`.
//!
//! One task a peer, which holds one message at a time: a peer that takes nothing, or says only half, is closed. Peers may
//! be silent for as long as nobody waits for their place; then the one that has been silent for longest is closed, and
//! ZMQ connects it again when it has something to ask.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

use super::window::Window;
use crate::wire::zmtp::{self, Frame, Wrong};

/// Peers at once; more wait in the kernel until one that is silent has been closed for them.
const PEERS: usize = 64;

/// Longest time an answer may take, in times of [`Replay::stalled`]: no peer holds its place with a trickle.
const WHOLE: u32 = 20;

/// Longest handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Longest time a peer may take nothing of a message, or be in the middle of one, unless said otherwise.
pub const STALLED: Duration = Duration::from_secs(30);

/// Pause after the system could not give us a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// Parts of a message at most; a request has two.
const PARTS: usize = 8;

/// The number of the message that ends an answer.
const END: u64 = u64::MAX;

/// What is sent again, and how.
pub struct Replay {
    /// What is there.
    pub window: Arc<Window>,
    /// First part of every message, as it was published; `None`: messages have none, as vLLM's.
    pub topic: Option<String>,
    /// Longest time a peer may take nothing of a message, or be in the middle of one.
    pub stalled: Duration,
}

/// Why a peer is closed.
#[derive(Debug, thiserror::Error)]
enum Closed {
    #[error("{0}")]
    Wrong(#[from] Wrong),
    #[error("a socket of type {0} does not ask")]
    Type(String),
    #[error("the handshake takes too long")]
    Handshake,
    #[error("it takes nothing of what is sent")]
    Stalled,
    #[error("it takes what is sent too slowly")]
    Slow,
    #[error("it stopped in the middle of a message")]
    Half,
    #[error("it is silent and another waits for its place")]
    Silent,
    #[error("{0}")]
    Broken(#[from] io::Error),
}

/// Answers until it is dropped.
pub async fn serve(listener: TcpListener, replay: Replay) {
    let replay = Arc::new(replay);
    let places = Arc::new(Semaphore::new(PEERS));
    // Wakes the peer that has waited for longest without a word.
    let wanted = Arc::new(Notify::new());
    loop {
        let (socket, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "No connection for a replay of KV events");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if places.available_permits() == 0 {
            wanted.notify_one();
        }
        // Nobody closes it.
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let (replay, wanted) = (replay.clone(), wanted.clone());
        tokio::spawn(async move {
            let peer_ended = Peer::new(socket, replay.stalled).run(&replay, &wanted).await;
            if let Err(error) = peer_ended {
                tracing::debug!(%peer, %error, "A peer of the replay of KV events is closed");
            }
            drop(place);
        });
    }
}

struct Peer {
    socket: TcpStream,
    read: BytesMut,
    stalled: Duration,
}

impl Peer {
    fn new(socket: TcpStream, stalled: Duration) -> Self {
        Peer {
            socket,
            read: BytesMut::with_capacity(256),
            stalled,
        }
    }

    /// Answers until one side ends it; it may end when it is silent and its place is `wanted`.
    async fn run(mut self, replay: &Replay, wanted: &Notify) -> Result<(), Closed> {
        // A message is written at once.
        let _ = self.socket.set_nodelay(true);
        let shaken = timeout(HANDSHAKE, self.shake_hands()).await;
        if !shaken.map_err(|_| Closed::Handshake)?? {
            return Ok(());
        }
        while self.says_something(wanted).await? {
            let message = timeout(self.stalled, self.message()).await;
            let Some(parts) = message.map_err(|_| Closed::Half)?? else {
                return Ok(());
            };
            // REQ begins with an empty part, DEALER is to do so too; what else comes is no request.
            match &parts[..] {
                // A command alone.
                [] => {}
                [delimiter, number] if delimiter.is_empty() => match number.first_chunk() {
                    Some(number) => {
                        let answered = self.answer(replay, u64::from_be_bytes(*number));
                        let answered = timeout(replay.stalled * WHOLE, answered).await;
                        answered.map_err(|_| Closed::Slow)??;
                    }
                    None => tracing::debug!("A replay is asked for without a number"),
                },
                _ => tracing::debug!(parts = parts.len(), "No request for a replay"),
            }
        }
        Ok(())
    }

    /// Waits for the first bytes of a message; are there any?
    async fn says_something(&mut self, wanted: &Notify) -> Result<bool, Closed> {
        if !self.read.is_empty() {
            return Ok(true);
        }
        tokio::select! {
            biased;
            more = self.more() => more,
            () = wanted.notified() => Err(Closed::Silent),
        }
    }

    /// Is there somebody who may ask?
    async fn shake_hands(&mut self) -> Result<bool, Closed> {
        self.write(&zmtp::greeting()).await?;
        while self.read.len() < zmtp::GREETING {
            if !self.more().await? {
                return Ok(false);
            }
        }
        let theirs = self.read.split_to(zmtp::GREETING);
        let theirs = theirs.first_chunk().ok_or(Wrong::Greeting)?;
        zmtp::check_greeting(theirs)?;
        self.write(&zmtp::ready("ROUTER")).await?;
        match self.frame().await? {
            None => Ok(false),
            Some(Frame::Command(name, body)) if name == "READY" => match &zmtp::socket_type(&body)?[..] {
                b"REQ" | b"DEALER" => Ok(true),
                other => Err(Closed::Type(String::from_utf8_lossy(other).into_owned())),
            },
            Some(_) => Err(Wrong::Malformed("handshake").into()),
        }
    }

    /// Sends what is there from this number on, then the end.
    async fn answer(&mut self, replay: &Replay, from: u64) -> Result<(), Closed> {
        // What comes while the answer is sent is published, too; an answer ends.
        let newest = replay.window.newest();
        tracing::debug!(from, newest, "KV events are sent again");
        let mut next = from;
        while let Some((number, batch)) = replay.window.next(next).filter(|(n, _)| *n <= newest) {
            self.send(replay.topic.as_deref(), number, &batch).await?;
            next = number + 1;
        }
        self.send(replay.topic.as_ref().map(|_| ""), END, &[]).await
    }

    async fn send(&mut self, topic: Option<&str>, number: u64, batch: &[u8]) -> Result<(), Closed> {
        let number = number.to_be_bytes();
        let mut parts: Vec<&[u8]> = vec![b""];
        parts.extend(topic.map(str::as_bytes));
        parts.extend([&number[..], batch]);
        let mut out = Vec::with_capacity(batch.len() + 64);
        zmtp::write_message(&mut out, &parts);
        self.write(&out).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Closed> {
        let mut left = bytes;
        while !left.is_empty() {
            let written = timeout(self.stalled, self.socket.write(left)).await;
            let written = written.map_err(|_| Closed::Stalled)??;
            left = &left[written..];
        }
        Ok(())
    }

    /// The parts of the next message, none for a command before it; `None`: the peer has gone.
    async fn message(&mut self) -> Result<Option<Vec<Bytes>>, Closed> {
        let mut parts = Vec::new();
        while let Some(frame) = self.frame().await? {
            match frame {
                Frame::Part(part, more) => {
                    parts.push(part);
                    if !more {
                        return Ok(Some(parts));
                    }
                    if parts.len() == PARTS {
                        return Err(Wrong::Malformed("message").into());
                    }
                }
                Frame::Command(name, body) => {
                    // Others need no answer.
                    if name == "PING" {
                        self.write(&zmtp::pong(&body)).await?;
                    }
                    if parts.is_empty() {
                        return Ok(Some(parts));
                    }
                }
            }
        }
        Ok(None)
    }

    async fn frame(&mut self) -> Result<Option<Frame>, Closed> {
        loop {
            if let Some(frame) = zmtp::take_frame(&mut self.read)? {
                return Ok(Some(frame));
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    /// Reads more; is there any?
    async fn more(&mut self) -> Result<bool, Closed> {
        // A frame is whole before more than its limit is there.
        self.read.reserve(256);
        let n = self.socket.read_buf(&mut self.read).await?;
        Ok(n > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_given_up() {
        let window = Arc::new(Window::new(100));
        // More than the system keeps for a peer that does not read.
        (0..15).for_each(|_| window.keep(vec![0; 4 << 20].into()));
        let replay = Replay {
            window,
            topic: None,
            stalled: Duration::from_millis(20),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut theirs = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut asked = zmtp::greeting().to_vec();
        asked.extend(zmtp::ready("DEALER"));
        zmtp::write_message(&mut asked, &[b"", &[0; 8]]);
        theirs.write_all(&asked).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let ended = Peer::new(socket, replay.stalled)
            .run(&replay, &Notify::new())
            .await;
        assert!(matches!(ended, Err(Closed::Stalled)), "{ended:?}");
    }

    #[tokio::test]
    async fn a_peer_that_stops_in_the_middle_of_a_message_is_given_up() {
        let replay = Replay {
            window: Arc::new(Window::new(1)),
            topic: None,
            stalled: Duration::from_millis(20),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut theirs = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut begun = zmtp::greeting().to_vec();
        begun.extend(zmtp::ready("REQ"));
        zmtp::write_message(&mut begun, &[b"", &[0; 8]]);
        begun.pop();
        theirs.write_all(&begun).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let ended = Peer::new(socket, replay.stalled)
            .run(&replay, &Notify::new())
            .await;
        assert!(matches!(ended, Err(Closed::Half)), "{ended:?}");
    }

    /// A socket that has shaken hands.
    async fn ready(to: std::net::SocketAddr) -> TcpStream {
        let mut socket = TcpStream::connect(to).await.unwrap();
        socket.write_all(&zmtp::greeting()).await.unwrap();
        socket.write_all(&zmtp::ready("REQ")).await.unwrap();
        let mut theirs = vec![0; zmtp::GREETING + zmtp::ready("ROUTER").len()];
        socket.read_exact(&mut theirs).await.unwrap();
        socket
    }

    #[tokio::test]
    async fn peers_that_are_silent_give_their_places_to_those_who_ask() {
        let window = Arc::new(Window::new(4));
        window.keep(b"batch".to_vec().into());
        let replay = Replay {
            window,
            topic: None,
            stalled: STALLED,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve(listener, replay));
        let mut silent = Vec::new();
        for _ in 0..PEERS {
            silent.push(ready(address).await);
        }
        let mut asked = Vec::new();
        zmtp::write_message(&mut asked, &[b"", &[0; 8]]);
        for _ in 0..3 {
            let mut peer = ready(address).await;
            peer.write_all(&asked).await.unwrap();
            let mut answered = [0; 8];
            peer.read_exact(&mut answered).await.unwrap();
            silent.push(peer);
        }
        // They go in the order in which they fell silent.
        for peer in &mut silent[..3] {
            assert_eq!(peer.read(&mut [0; 8]).await.unwrap(), 0);
        }
        serving.abort();
    }
}
