//! Follows the files of the certificate, the key and the client authorities, and replaces the set-up when they change:
//! a rename over a file, or Kubernetes' swap of the `..data` link. Files that are wrong leave the old set-up in force.

use std::sync::Arc;

use futures::future::select_all;
use tokio_util::sync::CancellationToken;

use crate::base::file_watch::{FileWatch, off_thread};

use super::certificate::read;
use super::tls::{ServerTls, TlsSource};

/// A set-up that follows its files.
pub struct TlsReloader {
    source: TlsSource,
    tls: Arc<ServerTls>,
    /// Hash of the files last looked at, good or wrong.
    seen: u64,
}

impl TlsReloader {
    /// Follows the files of `source` for `tls`, which was loaded from them.
    pub fn new(source: TlsSource, tls: Arc<ServerTls>) -> Self {
        // Looked at again at once: what changed since it was loaded must not be missed.
        TlsReloader { source, tls, seen: 0 }
    }

    /// Follows until `stop`; `told` hears of every attempt, true for one that succeeded.
    pub async fn follow(mut self, told: impl Fn(bool) + Send, stop: CancellationToken) {
        let mut watches: Vec<FileWatch> = self.source.files().iter().map(|f| FileWatch::new(f)).collect();
        if watches.is_empty() {
            return;
        }
        loop {
            let looked = off_thread(self, Self::look).await;
            self = looked.0;
            if let Some(good) = looked.1 {
                told(good);
            }
            let changed = select_all(watches.iter_mut().map(|w| Box::pin(w.changed())));
            tokio::select! {
                () = stop.cancelled() => return,
                _ = changed => {}
            }
        }
    }

    /// Looks at the files: `None` when they are as before, else whether they could be used.
    fn look(&mut self) -> Option<bool> {
        let first = self.seen == 0;
        let seen = self.fingerprint();
        if std::mem::replace(&mut self.seen, seen) == seen {
            return None;
        }
        match self.source.load() {
            Ok(next) => {
                self.tls.replace(next);
                if first {
                    return None;
                }
                tracing::info!(files = ?self.source.files(), "Certificate reloaded");
                Some(true)
            }
            Err(error) => {
                tracing::error!(%error, "Certificate refused: the old one is kept");
                Some(false)
            }
        }
    }

    /// Never 0, which stands for "not looked at yet".
    fn fingerprint(&self) -> u64 {
        let mut hash = xxhash_rust::xxh64::Xxh64::new(0);
        for file in self.source.files() {
            match read(&file) {
                Ok(bytes) => hash.update(&bytes),
                Err(error) => hash.update(error.to_string().as_bytes()),
            }
            hash.update(b"\0");
        }
        hash.digest().max(1)
    }
}
