//! Sends KV events: a PUB socket that connects to whoever listens, and does so again when the connection is lost.
//! Three frames a message: topic, number from 1 on in eight bytes, batch. Started by `app::sim`.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::StreamExt;
use tokio::time::{Instant, sleep, sleep_until};
use zeromq::{PubSocket, Socket, SocketEvent, SocketOptions, SocketSend, ZmqMessage};

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
    /// Where to connect: `tcp://host:port`.
    pub endpoint: String,
    /// First frame of every message.
    pub topic: Topic,
    /// Events per message at most; at least 1.
    pub batch: usize,
    /// Rank the events are of.
    pub rank: u16,
}

impl Target {
    /// The same for the server on another port, of another rank.
    pub fn of_rank(&self, port: u16, rank: u16) -> Target {
        let topic = match self.topic.clone() {
            Topic::Ip(ip, model) => Topic::Ip(ip, model),
            Topic::IpPort(ip, _, model) => Topic::IpPort(ip, port, model),
            Topic::Localhost(_, model) => Topic::Localhost(port, model),
        };
        Target {
            topic,
            rank,
            ..self.clone()
        }
    }
}

struct Publisher {
    target: Target,
    inbox: Inbox,
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

/// Sends what comes until the engine is gone.
pub async fn run(target: Target, inbox: Inbox) {
    let mut publisher = Publisher {
        target,
        inbox,
        sequence: 0,
        waiting: Vec::new(),
        flush: Instant::now(),
    };
    let mut complained = false;
    loop {
        let mut options = SocketOptions::default();
        options.connect_timeout(CONNECT);
        let mut socket = PubSocket::with_options(options);
        let mut monitor = socket.monitor();
        let endpoint = &publisher.target.endpoint;
        if let Err(error) = socket.connect(endpoint).await {
            if !complained {
                tracing::warn!(endpoint, %error, "Nobody takes KV events; trying again until somebody does");
                complained = true;
            }
            sleep(PAUSE).await;
            continue;
        }
        complained = false;
        tracing::info!(endpoint, "Connected for KV events");
        sleep(SUBSCRIBING).await;
        let lost = async {
            while let Some(event) = monitor.next().await {
                if matches!(event, SocketEvent::Disconnected(_)) {
                    return;
                }
            }
        };
        tokio::select! {
            () = lost => tracing::info!(endpoint = publisher.target.endpoint, "The receiver of KV events is gone"),
            () = publisher.publish(&mut socket) => return,
        }
        sleep(PAUSE).await;
    }
}

impl Publisher {
    /// Sends until there is nothing more to come. May be dropped at any await: nothing is lost but what was on its
    /// way.
    async fn publish(&mut self, socket: &mut PubSocket) {
        loop {
            let full = self.waiting.len() >= self.target.batch;
            let flush = self.flush;
            let event = tokio::select! {
                biased;
                () = std::future::ready(()), if full => None,
                event = self.inbox.next() => match event {
                    Some(event) => Some(event),
                    None => {
                        self.send(socket).await;
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
                None => self.send(socket).await,
            }
        }
    }

    async fn send(&mut self, socket: &mut PubSocket) {
        if self.waiting.is_empty() {
            return;
        }
        self.sequence += 1;
        let time = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64();
        let batch = layout::batch(time, &self.waiting, self.target.rank);
        self.waiting.clear();
        let frames = vec![
            Bytes::from(self.target.topic.to_string()),
            Bytes::copy_from_slice(&self.sequence.to_be_bytes()),
            Bytes::from(batch),
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
                endpoint: "tcp://h:1".to_owned(),
                topic,
                batch: 1,
                rank: 0,
            };
            let other = target.of_rank(8001, 3);
            assert_eq!((other.topic.to_string().as_str(), other.rank), (expected, 3));
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
}
