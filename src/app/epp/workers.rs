//! The ext_proc worker threads: one runtime each, so that a stream stays on the thread of its connection. Two
//! threads on one connection were measured to be slower than one.

use std::io;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::extproc::{self, ExtProcService};
use crate::net::accept::{Guest, WORKER_BACKLOG};
use crate::net::http2::Http2;
use crate::net::tls::ServerTls;

use super::tasks::Tasks;

/// Starts `threads` workers; where the acceptor hands connections to. A worker ends when that is dropped.
///
/// # Errors
/// A thread or runtime cannot be started.
pub fn start(
    threads: usize,
    service: &ExtProcService,
    tls: Option<&Arc<ServerTls>>,
    tasks: &mut Tasks,
) -> io::Result<Vec<mpsc::Sender<Guest>>> {
    let http2 = Http2::new(tls.cloned());
    let start = |i| {
        let (to_worker, guests) = mpsc::channel(WORKER_BACKLOG);
        let name = format!("ext-proc-{i}");
        let served = extproc::serve(service.clone(), http2.clone(), guests);
        tasks.spawn_thread(format!("worker {name}"), &name, served)?;
        Ok(to_worker)
    };
    (0..threads).map(start).collect()
}
