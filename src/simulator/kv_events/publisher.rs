//! Sends KV events: a PUB socket that connects to whoever listens, and does so again when the connection is lost.
//! Three frames a message: topic, number from 1 on in eight bytes, batch. Started by `app::sim`.
//!
//! While nobody listens, events wait; where messages can be asked for again, they are made and kept instead.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::StreamExt;
use tokio::time::{Instant, sleep, sleep_until};
use zeromq::{PubSocket, Socket, SocketEvent, SocketOptions, SocketSend, ZmqMessage};

use super::window::Window;
use super::{Inbox, layout};

/// Longest wait of an event for others to share its message.
const FLUSH: Duration = Duration::from_secs(1);

/// Longest try to connect, and pause before the next.
const CONNECT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(500);

/// After connecting, the other side still has to say what it subscribes to; before that, all would be lost.
const SUBSCRIBING: Duration = Duration::from_millis(200);

/// How the first frame names the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topic {
    /// By address and model.
    Ip(String, String),
    /// By address, port and model.
    IpPort(String, u16, String),
    /// By port and model, as v0.5.0 had it.
    Localhost(u16, String),
}

impl std::fmt::Display for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Topic::Ip(ip, model) => write!(f, "kv@{ip}@{model}"),
            Topic::IpPort(ip, port, model) => write!(f, "kv@{ip}:{port}@{model}"),
            Topic::Localhost(port, model) => write!(f, "kv@$localhost:{port}@{model}"),
        }
    }
}

/// What a publisher is told.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where to connect: `tcp://host:port`; `None`: nobody is told as it happens.
    pub endpoint: Option<String>,
    /// First frame of every message.
    pub topic: Topic,
    /// Events per message at most; at least 1.
    pub batch: usize,
    /// Rank the events are of.
    pub rank: u16,
    /// Where what was sent can be asked for again.
    pub replay: Option<Again>,
}

/// Messages can be asked for again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Again {
    /// Address to listen on; `None`: every address.
    pub address: Option<IpAddr>,
    /// Port.
    pub port: u16,
    /// Messages kept at most; at least 1.
    pub messages: usize,
    /// They have their topic, as they had when they were published.
    pub with_topic: bool,
}

impl Target {
    /// The same for the server on another port, of another rank.
    pub fn of_rank(&self, port: u16, rank: u16) -> Target {
        let topic = match self.topic.clone() {
            Topic::Ip(ip, model) => Topic::Ip(ip, model),
            Topic::IpPort(ip, _, model) => Topic::IpPort(ip, port, model),
            Topic::Localhost(_, model) => Topic::Localhost(port, model),
        };
        let mut replay = self.replay.clone();
        if let Some(again) = &mut replay {
            again.port = again.port.saturating_add(rank);
        }
        Target {
            topic,
            rank,
            replay,
            ..self.clone()
        }
    }
}

struct Publisher {
    target: Target,
    inbox: Inbox,
    window: Option<Arc<Window>>,
    sequence: u64,
    waiting: Vec<Vec<u8>>,
    flush: Instant,
}

/// Is this an endpoint that can be connected to?
///
/// # Errors
/// It is not; the text says why.
pub fn check(endpoint: &str) -> Result<(), String> {
    let rest = endpoint
        .strip_prefix("tcp://")
        .ok_or_else(|| format!("zmq-endpoint {endpoint} must begin with tcp://"))?;
    let port = rest.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    match port.map(|(_, port)| port.parse::<u16>()) {
        Some(Ok(1..)) => Ok(()),
        _ => Err(format!("zmq-endpoint {endpoint} must be tcp://host:port")),
    }
}

/// Where and how many messages can be asked for again: `tcp://*:port` or `tcp://address:port`.
///
/// # Errors
/// It is no such endpoint; the text says why.
pub fn listening(endpoint: &str) -> Result<(Option<IpAddr>, u16), String> {
    let wrong = || format!("kv-events-replay-endpoint {endpoint} must be tcp://*:port or tcp://address:port");
    let rest = endpoint.strip_prefix("tcp://").ok_or_else(wrong)?;
    let (host, port) = rest.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
    if host == "*" {
        return Ok((None, port));
    }
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    match bare.unwrap_or(host).parse::<IpAddr>() {
        Ok(address) if address.is_ipv6() == bare.is_some() => Ok((Some(address), port)),
        _ => Err(wrong()),
    }
}

/// Sends what comes until the engine is gone, and keeps it in `window`.
pub async fn run(target: Target, inbox: Inbox, window: Option<Arc<Window>>) {
    let endpoint = target.endpoint.clone();
    let mut publisher = Publisher {
        target,
        inbox,
        window,
        sequence: 0,
        waiting: Vec::new(),
        flush: Instant::now(),
    };
    match endpoint {
        Some(endpoint) => publisher.publish_to(&endpoint).await,
        None => publisher.publish(None).await,
    }
}

impl Publisher {
    /// Connects, sends, and connects again.
    async fn publish_to(&mut self, endpoint: &str) {
        let mut complained = false;
        loop {
            let mut options = SocketOptions::default();
            options.connect_timeout(CONNECT);
            let mut socket = PubSocket::with_options(options);
            let mut monitor = socket.monitor();
            let connected = async {
                let connected = socket.connect(endpoint).await;
                match &connected {
                    Ok(()) => sleep(SUBSCRIBING).await,
                    Err(_) => sleep(PAUSE).await,
                }
                connected
            };
            match self.meanwhile(connected).await {
                None => return,
                Some(Ok(())) => tracing::info!(endpoint, "Connected for KV events"),
                Some(Err(error)) => {
                    if !complained {
                        tracing::warn!(endpoint, %error, "Nobody takes KV events; trying again until somebody does");
                        complained = true;
                    }
                    continue;
                }
            }
            complained = false;
            let lost = async {
                while let Some(event) = monitor.next().await {
                    if matches!(event, SocketEvent::Disconnected(_)) {
                        return;
                    }
                }
            };
            tokio::select! {
                () = lost => tracing::info!(endpoint, "The receiver of KV events is gone"),
                () = self.publish(Some(&mut socket)) => return,
            }
            if self.meanwhile(sleep(PAUSE)).await.is_none() {
                return;
            }
        }
    }

    /// What comes of `wait`, during which nobody listens; `None`: there is nothing more to come.
    async fn meanwhile<T>(&mut self, wait: impl Future<Output = T>) -> Option<T> {
        if self.window.is_none() {
            return Some(wait.await);
        }
        tokio::select! {
            outcome = wait => Some(outcome),
            () = self.publish(None) => None,
        }
    }

    /// Sends until there is nothing more to come. May be dropped at any await: nothing is lost but what was on its
    /// way.
    async fn publish(&mut self, mut socket: Option<&mut PubSocket>) {
        loop {
            let full = self.waiting.len() >= self.target.batch;
            let flush = self.flush;
            let event = tokio::select! {
                biased;
                () = std::future::ready(()), if full => None,
                event = self.inbox.next() => match event {
                    Some(event) => Some(event),
                    None => {
                        self.send(socket.as_deref_mut()).await;
                        return;
                    }
                },
                () = sleep_until(flush), if !self.waiting.is_empty() => None,
            };
            match event {
                Some(event) => {
                    if self.waiting.is_empty() {
                        self.flush = Instant::now() + FLUSH;
                    }
                    self.waiting.push(event);
                }
                None => self.send(socket.as_deref_mut()).await,
            }
        }
    }

    async fn send(&mut self, socket: Option<&mut PubSocket>) {
        if self.waiting.is_empty() {
            return;
        }
        self.sequence += 1;
        let time = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64();
        let batch = Bytes::from(layout::batch(time, &self.waiting, self.target.rank));
        self.waiting.clear();
        if let Some(window) = &self.window {
            window.keep(batch.clone());
        }
        let Some(socket) = socket else { return };
        let frames = vec![
            Bytes::from(self.target.topic.to_string()),
            Bytes::copy_from_slice(&self.sequence.to_be_bytes()),
            batch,
        ];
        let sent = match ZmqMessage::try_from(frames) {
            Ok(message) => socket.send(message).await.map_err(|e| e.to_string()),
            Err(_) => Err("no frames".to_owned()),
        };
        if let Err(error) = sent {
            tracing::debug!(error, "KV events were not sent");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_name_address_port_and_model() {
        let rows = [
            (Topic::Ip("1.2.3.4".into(), "m/x".into()), "kv@1.2.3.4@m/x"),
            (
                Topic::IpPort("1.2.3.4".into(), 1, "m".into()),
                "kv@1.2.3.4:8001@m",
            ),
            (Topic::Localhost(1, "m".into()), "kv@$localhost:8001@m"),
        ];
        for (topic, expected) in rows {
            let target = Target {
                endpoint: Some("tcp://h:1".to_owned()),
                topic,
                batch: 1,
                rank: 0,
                replay: Some(Again {
                    address: None,
                    port: 5558,
                    messages: 1,
                    with_topic: true,
                }),
            };
            let other = target.of_rank(8001, 3);
            assert_eq!((other.topic.to_string().as_str(), other.rank), (expected, 3));
            assert_eq!(other.replay.unwrap().port, 5561);
        }
    }

    #[test]
    fn endpoints_are_checked_before_the_start() {
        for good in ["tcp://localhost:5557", "tcp://[::1]:1", "tcp://10.0.0.1:65535"] {
            assert_eq!(check(good), Ok(()));
        }
        for bad in [
            "",
            "localhost:5557",
            "ipc:///tmp/x",
            "tcp://:5557",
            "tcp://h",
            "tcp://h:0",
            "tcp://h:x",
        ] {
            assert!(check(bad).unwrap_err().contains("zmq-endpoint"), "{bad}");
        }
    }

    #[test]
    fn endpoints_to_listen_on_are_a_star_or_an_address() {
        let v4 = Some(IpAddr::from([127, 0, 0, 1]));
        let v6 = Some("::1".parse().unwrap());
        for (good, expected) in [
            ("tcp://*:5558", (None, 5558)),
            ("tcp://127.0.0.1:1", (v4, 1)),
            ("tcp://[::1]:65535", (v6, 65_535)),
        ] {
            assert_eq!(listening(good), Ok(expected));
        }
        for bad in [
            "*:5558",
            "tcp://*",
            "tcp://*:0",
            "tcp://*:65536",
            "tcp://host:1",
            "tcp://::1:1",
            "tcp://[127.0.0.1]:1",
            "inproc://x",
        ] {
            let error = listening(bad).unwrap_err();
            assert!(error.contains("must be tcp://*:port"), "{bad}: {error}");
        }
    }
}
