//! Limits the connections of one port. A newcomer at a full port takes the place of the connection that needs it least:
//! one that has not begun to speak before one that is idle, the one that has waited longest first. Connections without
//! streams are ended after a while, silent ones soon.
//!
//! Made by `app` for each port; [`super::accept::admit`] gives places out, the servers of the ports keep them with their
//! connections. All of it costs a stream two atomic additions and one look at the clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::telemetry::metrics::connections::{Connections, Failure, Port};

/// Time a connection has for ending by itself after it was asked to.
const LEAVE: Duration = Duration::from_secs(5);

/// What the connections of a port may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Connections with open streams keep their place; newcomers are refused when there are no others.
    pub spare_busy: bool,
    /// Longest time until a connection has begun to speak: TLS handshake and HTTP/2 preface.
    pub begin: Duration,
    /// Longest time without an open stream.
    pub idle: Duration,
}

/// What a connection is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Go on.
    Stay,
    /// Open no new streams, end when those that are open have ended.
    Finish,
    /// End at once.
    Drop,
}

/// The places of a port.
#[derive(Debug)]
pub struct Places {
    port: Port,
    limits: Limits,
    epoch: Instant,
    seats: Mutex<Seats>,
    /// A place was given back.
    freed: Notify,
    counted: Arc<Connections>,
}

#[derive(Debug, Default)]
struct Seats {
    /// In the order they were taken.
    taken: BTreeMap<u64, Arc<Use>>,
    next: u64,
    /// Streams of connections that have ended.
    past_streams: u64,
}

/// The state of one connection, shared by those that serve it and by [`Places`].
#[derive(Debug, Default)]
pub struct Use {
    /// Milliseconds from the epoch to the last change to no open stream, or to when the place was taken.
    since: AtomicU64,
    begun: AtomicBool,
    open: AtomicUsize,
    streams: AtomicU64,
    /// An [`Order`].
    order: AtomicU8,
    /// Milliseconds from the epoch to the order.
    ordered: AtomicU64,
    waker: AtomicWaker,
    /// Bytes it may still read in this turn ([`super::paced`]).
    pub(super) turn: AtomicUsize,
    /// Bytes of pages held for it.
    held: AtomicUsize,
}

/// A taken place: the limit counts it until it is dropped.
#[derive(Debug)]
pub struct Place {
    id: u64,
    places: Arc<Places>,
    used: Arc<Use>,
}

/// An open stream of a connection: it ends when this is dropped.
#[derive(Debug)]
pub struct OpenStream {
    used: Arc<Use>,
    epoch: Instant,
}

impl Places {
    /// Places for the connections of `port`, counted by `counted`.
    pub fn new(port: Port, limits: Limits, counted: Arc<Connections>) -> Arc<Self> {
        Arc::new(Places {
            port,
            limits,
            epoch: Instant::now(),
            seats: Mutex::default(),
            freed: Notify::new(),
            counted,
        })
    }

    /// The port.
    pub fn port(&self) -> Port {
        self.port
    }

    /// Connections at the moment.
    pub fn connections(&self) -> usize {
        self.seats.lock().taken.len()
    }

    /// Counts a failed connection.
    pub fn failed(&self, why: Failure) {
        self.counted.failed(self.port, why);
    }

    /// Open streams now, and streams opened since the start.
    pub fn streams(&self) -> (usize, u64) {
        let seats = self.seats.lock();
        let sum = |(open, all): (usize, u64), used: &Arc<Use>| {
            (open + used.open.load(Relaxed), all + used.streams.load(Relaxed))
        };
        seats.taken.values().fold((0, seats.past_streams), sum)
    }

    /// Waits until a connection may be taken off the listener: those on their way out hold at most an eighth of the
    /// limit, so that descriptors are bounded, too.
    pub async fn room(&self) {
        loop {
            let freed = self.freed.notified();
            {
                let seats = self.seats.lock();
                if seats.taken.len() < self.limits.connections + self.slack() {
                    return;
                }
                let now = self.now();
                let leaving = seats.taken.values().filter(|u| u.order() == Order::Finish);
                leaving.for_each(|u| u.give(Order::Drop, now));
            }
            freed.await;
        }
    }

    /// Takes a place for a newcomer, if need be that of another connection. `None`: every place is at work.
    pub fn enter(self: &Arc<Self>) -> Option<Place> {
        let now = self.now();
        let mut seats = self.seats.lock();
        if seats.taken.len() >= self.limits.connections && !self.make_room(&seats, now) {
            drop(seats);
            self.failed(Failure::Refused);
            tracing::warn!(
                port = self.port.name(),
                limit = self.limits.connections,
                "Connection refused: the limit is reached and every connection has open streams"
            );
            return None;
        }
        let (id, used) = (seats.next, Arc::<Use>::default());
        used.since.store(now, Relaxed);
        seats.next += 1;
        seats.taken.insert(id, used.clone());
        self.counted.opened(self.port, 1);
        Some(Place {
            id,
            places: self.clone(),
            used,
        })
    }

    /// Has a place given back: true when there will be room for one more.
    fn make_room(&self, seats: &Seats, now: u64) -> bool {
        let staying = seats.taken.values().filter(|u| u.order() == Order::Stay);
        if staying.clone().count() < self.limits.connections {
            return true;
        }
        let Some(least) = staying.min_by_key(|u| u.need()) else {
            return false;
        };
        if self.limits.spare_busy && least.open.load(Relaxed) > 0 {
            return false;
        }
        self.evict(least, now);
        true
    }

    fn evict(&self, used: &Use, now: u64) {
        let order = if used.begun.load(Relaxed) && used.open.load(Relaxed) == 0 {
            Order::Finish
        } else {
            Order::Drop
        };
        used.give(order, now);
        self.failed(Failure::Evicted);
        tracing::warn!(
            port = self.port.name(),
            limit = self.limits.connections,
            "Connection closed for a newer one: the limit is reached"
        );
    }

    /// Holds `bytes` for the connection of `place`; beyond `budget` for all of them, connections that have held theirs
    /// longest are closed.
    pub fn hold(&self, place: &Use, bytes: usize, budget: usize) {
        let now = self.now();
        let seats = self.seats.lock();
        place.held.store(bytes, Relaxed);
        let mut sum: usize = seats.taken.values().map(|u| u.held.load(Relaxed)).sum();
        for used in seats.taken.values() {
            if sum <= budget {
                return;
            }
            let held = used.held.load(Relaxed);
            if held > 0 && used.order() != Order::Drop && !std::ptr::eq(Arc::as_ptr(used), place) {
                sum -= held;
                used.give(Order::Drop, now);
                self.failed(Failure::Evicted);
            }
        }
    }

    /// Has every connection end when its streams have; those that have not begun to speak end at once.
    pub fn finish(&self) {
        let now = self.now();
        for used in self.seats.lock().taken.values() {
            let begun = used.begun.load(Relaxed);
            used.give(if begun { Order::Finish } else { Order::Drop }, now);
        }
    }

    /// Ends connections that are silent or idle for too long, until `stop`.
    pub async fn sweep(&self, stop: CancellationToken) {
        let shortest = self.limits.begin.min(self.limits.idle).min(LEAVE);
        let mut tick = tokio::time::interval((shortest / 4).max(Duration::from_millis(10)));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let now = self.now();
            let past = |at: u64, limit: Duration| u128::from(now.saturating_sub(at)) > limit.as_millis();
            let seats = self.seats.lock();
            for used in seats.taken.values().filter(|u| u.open.load(Relaxed) == 0) {
                let since = used.since.load(Relaxed);
                match used.order() {
                    Order::Stay if !used.begun.load(Relaxed) && past(since, self.limits.begin) => {
                        self.failed(Failure::Silent);
                        used.give(Order::Drop, now);
                    }
                    Order::Stay if past(since, self.limits.idle) => used.give(Order::Finish, now),
                    Order::Finish if past(used.ordered.load(Relaxed), LEAVE) => used.give(Order::Drop, now),
                    _ => {}
                }
            }
        }
    }

    fn slack(&self) -> usize {
        (self.limits.connections / 8).max(4)
    }

    fn now(&self) -> u64 {
        milliseconds(self.epoch)
    }
}

fn milliseconds(epoch: Instant) -> u64 {
    epoch.elapsed().as_millis() as u64
}

impl Use {
    /// The connection has begun to speak.
    pub fn begun(&self) {
        self.begun.store(true, Relaxed);
    }

    /// The page held for the connection has been sent.
    pub fn released(&self) {
        self.held.store(0, Relaxed);
    }

    /// How much the connection needs its place; the least goes first.
    fn need(&self) -> (bool, bool, u64) {
        (
            self.open.load(Relaxed) > 0,
            self.begun.load(Relaxed),
            self.since.load(Relaxed),
        )
    }

    /// Gives an order; a weaker one than was given is ignored.
    fn give(&self, order: Order, now: u64) {
        if self.order.fetch_max(order as u8, Relaxed) < order as u8 {
            self.ordered.store(now, Relaxed);
            self.waker.wake();
        }
    }

    fn order(&self) -> Order {
        match self.order.load(Relaxed) {
            0 => Order::Stay,
            1 => Order::Finish,
            _ => Order::Drop,
        }
    }

    /// The order in force; a stronger one wakes the task.
    pub fn poll_order(&self, cx: &Context<'_>) -> Order {
        self.waker.register(cx.waker());
        self.order()
    }

    /// Waits until the connection must end at once.
    pub async fn dropped(&self) {
        std::future::poll_fn(|cx| match self.poll_order(cx) {
            Order::Drop => Poll::Ready(()),
            _ => Poll::Pending,
        })
        .await;
    }
}

impl Place {
    /// State of its connection.
    pub fn used(&self) -> &Arc<Use> {
        &self.used
    }

    /// Its port's places.
    pub fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// A stream is opened.
    pub fn stream(&self) -> OpenStream {
        self.used.streams.fetch_add(1, Relaxed);
        self.used.open.fetch_add(1, Relaxed);
        OpenStream {
            used: self.used.clone(),
            epoch: self.places.epoch,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut seats = self.places.seats.lock();
        seats.taken.remove(&self.id);
        seats.past_streams += self.used.streams.load(Relaxed);
        drop(seats);
        self.places.counted.opened(self.places.port, -1);
        self.places.freed.notify_waiters();
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.used.since.store(milliseconds(self.epoch), Relaxed);
        self.used.open.fetch_sub(1, Relaxed);
    }
}
