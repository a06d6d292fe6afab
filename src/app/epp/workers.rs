//! The ext_proc worker threads: one runtime each, so that a stream stays on the thread of its connection. Two
//! threads on one connection were measured to be slower than one.

use std::io;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::admin::health::HealthService;
use crate::extproc::{self, ExtProcService};
use crate::net::accept::{Socket, WORKER_BACKLOG};
use crate::net::incoming::{HANDSHAKE_TIMEOUT, incoming};
use crate::net::tls::ServerTls;

/// Running workers.
pub struct Workers {
    /// Where the acceptor hands connections to.
    pub sockets: Vec<mpsc::Sender<Socket>>,
    done: Vec<oneshot::Receiver<()>>,
}

impl Workers {
    /// Starts `threads` workers that serve until `drain`, then let open streams finish.
    ///
    /// # Errors
    /// A thread or runtime cannot be started.
    pub fn start(
        threads: usize,
        service: &ExtProcService,
        tls: Option<&Arc<ServerTls>>,
        drain: &CancellationToken,
    ) -> io::Result<Self> {
        let mut workers = Workers {
            sockets: Vec::new(),
            done: Vec::new(),
        };
        for i in 0..threads {
            let (to_worker, sockets) = mpsc::channel(WORKER_BACKLOG);
            let (finished, done) = oneshot::channel();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let (service, drain) = (service.clone(), drain.clone());
            let connections = incoming(sockets, tls.cloned(), HANDSHAKE_TIMEOUT);
            std::thread::Builder::new()
                .name(format!("ext-proc-{i}"))
                .spawn(move || {
                    let stop = drain.cancelled_owned();
                    let served = extproc::serve(service, connections, stop);
                    if let Err(error) = runtime.block_on(served) {
                        tracing::error!(%error, worker = i, "ext_proc worker stopped");
                    }
                    let _ = finished.send(());
                })?;
            workers.sockets.push(to_worker);
            workers.done.push(done);
        }
        Ok(workers)
    }

    /// Ends when every worker has.
    pub async fn finished(self) {
        drop(self.sockets);
        futures::future::join_all(self.done).await;
    }
}

/// Health on the ext_proc port.
pub fn health_routes(health: HealthService) -> tonic::service::Routes {
    tonic::service::Routes::new(health)
}
