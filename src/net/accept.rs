//! Takes connections in one place and deals them round-robin to workers. Envoy opens few, long-lived
//! connections; the kernel's own spreading over several listeners (`SO_REUSEPORT`) hashes them unevenly.
//!
//! Called by `app`; the other end of each sender is [`super::http2`] or [`super::incoming::incoming`] on the worker's own
//! runtime.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::places::{Place, Places};

/// Connections a worker may have waiting before the acceptor passes it over.
pub const WORKER_BACKLOG: usize = 256;

/// First and longest pause after the process ran out of descriptors or memory.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// A connection on its way to a worker: not yet tied to any runtime.
pub type Socket = std::net::TcpStream;

/// Where connections come from; a listener, or a script in tests.
pub trait Source {
    /// The next connection.
    fn next(&mut self) -> impl Future<Output = io::Result<TcpStream>> + Send;
}

impl Source for TcpListener {
    async fn next(&mut self) -> io::Result<TcpStream> {
        self.accept().await.map(|(tcp, _)| tcp)
    }
}

/// A connection with its place.
#[derive(Debug)]
pub struct Guest {
    /// The connection.
    pub socket: Socket,
    /// Its place, given back when it ends.
    pub place: Place,
}

/// What becomes of an accepted connection before a worker gets it.
trait Door {
    type Guest: Send;

    /// Waits until one may be accepted.
    fn room(&self) -> impl Future<Output = ()> + Send;

    /// Lets it in, or drops it.
    fn pass(&self, socket: Socket) -> Option<Self::Guest>;
}

/// Lets everyone in.
struct Open;

impl Door for Open {
    type Guest = Socket;

    async fn room(&self) {}

    fn pass(&self, socket: Socket) -> Option<Socket> {
        Some(socket)
    }
}

impl Door for Arc<Places> {
    type Guest = Guest;

    async fn room(&self) {
        Places::room(self).await;
    }

    fn pass(&self, socket: Socket) -> Option<Guest> {
        let place = self.enter()?;
        Some(Guest { socket, place })
    }
}

/// Accepts until `stop` is cancelled or every worker is gone. Running out of descriptors does not end it: it
/// pauses, growing from 10 ms to 1 s, and tries again. While all workers are full, connections wait in the
/// kernel.
pub async fn run(source: impl Source, workers: Vec<mpsc::Sender<Socket>>, stop: CancellationToken) {
    stop.run_until_cancelled(deal(source, &Open, workers)).await;
}

/// As [`run`], giving each connection one of `places`.
pub async fn admit(
    source: impl Source,
    places: Arc<Places>,
    workers: Vec<mpsc::Sender<Guest>>,
    stop: CancellationToken,
) {
    stop.run_until_cancelled(deal(source, &places, workers)).await;
}

async fn deal<D: Door>(mut source: impl Source, door: &D, workers: Vec<mpsc::Sender<D::Guest>>) {
    let mut turn = 0;
    let mut pause = PAUSES.0;
    loop {
        door.room().await;
        match source.next().await.and_then(detach) {
            Ok(socket) => {
                pause = PAUSES.0;
                let Some(guest) = door.pass(socket) else { continue };
                if !hand_over(guest, &workers, &mut turn).await {
                    return;
                }
            }
            Err(error) if of_the_client(&error) => {}
            Err(error) => {
                tracing::warn!(%error, pause_ms = pause.as_millis() as u64, "Cannot accept connections, trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }
}

/// Frees a connection of this runtime, so that a worker can register it with its own.
fn detach(tcp: TcpStream) -> io::Result<Socket> {
    // Answers are small and each is waited for; collecting them into full packets would delay them.
    tcp.set_nodelay(true)?;
    tcp.into_std()
}

/// Gives the connection to the next worker that has room, or waits for the next in turn. False when none lives.
async fn hand_over<T>(mut guest: T, workers: &[mpsc::Sender<T>], turn: &mut usize) -> bool {
    loop {
        for _ in 0..workers.len() {
            let worker = &workers[*turn % workers.len()];
            *turn = turn.wrapping_add(1);
            match worker.try_send(guest) {
                Ok(()) => return true,
                Err(refused) => guest = refused.into_inner(),
            }
        }
        let Some(worker) = workers.iter().find(|w| !w.is_closed()) else {
            return false;
        };
        match worker.reserve().await {
            Ok(room) => {
                room.send(guest);
                return true;
            }
            // That worker ended while we waited; look again.
            Err(_) => continue,
        }
    }
}

/// Errors of one connection that broke before it was taken; the listener is well.
fn of_the_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::NotConnected
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// Answers from a list, then never again.
    struct Script(VecDeque<Result<(), i32>>, TcpListener);

    impl Source for Script {
        async fn next(&mut self) -> io::Result<TcpStream> {
            match self.0.pop_front() {
                Some(Ok(())) => TcpStream::connect(self.1.local_addr()?).await,
                Some(Err(code)) => Err(io::Error::from_raw_os_error(code)),
                None => std::future::pending().await,
            }
        }
    }

    async fn script(steps: impl IntoIterator<Item = Result<(), i32>>) -> Script {
        Script(
            steps.into_iter().collect(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        )
    }

    fn workers(n: usize, room: usize) -> (Vec<mpsc::Sender<Socket>>, Vec<mpsc::Receiver<Socket>>) {
        (0..n).map(|_| mpsc::channel(room)).unzip()
    }

    #[tokio::test]
    async fn connections_are_dealt_in_turn() {
        let (senders, mut receivers) = workers(3, 8);
        let source = script((0..6).map(|_| Ok(()))).await;
        let task = tokio::spawn(run(source, senders, CancellationToken::new()));
        for receiver in &mut receivers {
            receiver.recv().await.unwrap();
            receiver.recv().await.unwrap();
            assert!(receiver.try_recv().is_err(), "two each");
        }
        task.abort();
    }

    #[tokio::test]
    async fn running_out_of_descriptors_or_a_client_that_left_is_survived() {
        const EMFILE: i32 = 24;
        const ECONNABORTED: i32 = 103;
        let (senders, mut receivers) = workers(1, 8);
        let source = script([Err(EMFILE), Err(ECONNABORTED), Err(EMFILE), Ok(())]).await;
        let task = tokio::spawn(run(source, senders, CancellationToken::new()));
        receivers[0].recv().await.unwrap();
        task.abort();
    }

    #[tokio::test]
    async fn a_full_worker_is_passed_over_and_a_dead_one_too() {
        let (senders, mut receivers) = workers(3, 1);
        receivers[0].close();
        let source = script((0..2).map(|_| Ok(()))).await;
        let task = tokio::spawn(run(source, senders, CancellationToken::new()));
        receivers[1].recv().await.unwrap();
        receivers[2].recv().await.unwrap();
        task.abort();
    }

    #[tokio::test]
    async fn it_ends_when_told_or_when_no_worker_lives() {
        let stop = CancellationToken::new();
        let (senders, _receivers) = workers(1, 1);
        // Two connections for one place: it is stopped while it waits for room.
        let task = tokio::spawn(run(script([Ok(()), Ok(())]).await, senders, stop.clone()));
        stop.cancel();
        task.await.unwrap();

        let (senders, receivers) = workers(2, 1);
        drop(receivers);
        run(script([Ok(())]).await, senders, CancellationToken::new()).await;
    }
}
