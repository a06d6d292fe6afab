//! A TCP proxy with switches: it can refuse, cut, dawdle and fall silent, as networks do.

use std::net::{SocketAddr, TcpListener as Bound};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::ports;

/// A running proxy.
pub struct Gate {
    /// Where it listens; the same after [`Gate::open`].
    pub address: SocketAddr,
    to: SocketAddr,
    switches: watch::Sender<Switches>,
    /// A runtime of its own: dropping it cuts every connection.
    serving: Option<Runtime>,
}

/// What is done to connections. They are numbered in the order they come, from 1.
#[derive(Clone, Copy, Default)]
struct Switches {
    /// Number of the last connection.
    last: u64,
    /// Connections up to this one end.
    cut: u64,
    /// Connections up to this one stay open and carry nothing.
    silent: u64,
    /// The same for those from the first to the second.
    mute: (u64, u64),
    delay: Duration,
}

impl Switches {
    fn speaks(&self, number: u64) -> bool {
        number > self.silent && !(self.mute.0..=self.mute.1).contains(&number)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.close();
    }
}

impl Gate {
    /// Starts one that leads to `to`.
    pub fn start(to: SocketAddr) -> Self {
        let mut gate = Gate {
            address: ([127, 0, 0, 1], ports::free()).into(),
            to,
            switches: watch::Sender::default(),
            serving: None,
        };
        gate.open();
        gate
    }

    /// Listens (again).
    pub fn open(&mut self) {
        let listener = Bound::bind(self.address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(accept(listener, self.to, self.switches.clone()));
        self.serving = Some(runtime);
    }

    /// Refuses new connections and cuts open ones.
    pub fn close(&mut self) {
        if let Some(runtime) = self.serving.take() {
            // Waited for on a thread of its own: callers are in a runtime.
            let end = move || runtime.shutdown_timeout(Duration::from_secs(5));
            let _ = std::thread::spawn(end).join();
        }
    }

    /// Cuts open connections; new ones work.
    pub fn cut(&self) {
        self.switches.send_modify(|s| s.cut = s.last);
    }

    /// Open connections carry nothing from now on, in neither direction, and stay open; new ones work.
    pub fn silence(&self) {
        self.switches.send_modify(|s| s.silent = s.last);
    }

    /// The next `times` connections carry nothing; those that are open go on.
    pub fn silence_next(&self, times: u64) {
        self.switches
            .send_modify(|s| s.mute = (s.last + 1, s.last + times));
    }

    /// Carries what the server sends so much later.
    pub fn delay(&self, delay: Duration) {
        self.switches.send_modify(|s| s.delay = delay);
    }
}

async fn accept(listener: Bound, to: SocketAddr, switches: watch::Sender<Switches>) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        let mut number = 0;
        switches.send_modify(|s| {
            s.last += 1;
            number = s.last;
        });
        let watched = switches.subscribe();
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(to).await else {
                return;
            };
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            let ask = carry(from_client, to_server, number, false, watched.clone());
            let answer = carry(from_server, to_client, number, true, watched);
            tokio::select! {
                () = ask => {}
                () = answer => {}
            }
        });
    }
}

/// Carries bytes one way until either side closes or the connection is cut.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    number: u64,
    delayed: bool,
    mut switches: watch::Receiver<Switches>,
) {
    let mut cut = switches.clone();
    let run = async {
        let mut bytes = vec![0; 64 * 1024];
        loop {
            let read = from.read(&mut bytes).await.unwrap_or(0);
            let Ok(now) = switches.wait_for(|s| s.speaks(number)).await.map(|s| *s) else {
                return;
            };
            if delayed && !now.delay.is_zero() {
                tokio::time::sleep(now.delay).await;
            }
            if read == 0 || to.write_all(&bytes[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = run => {}
        _ = cut.wait_for(|s| s.cut >= number) => {}
    }
}
