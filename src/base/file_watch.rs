//! Tells that a file may have changed: watches its folder (a rename over the file and Kubernetes' swap of the
//! `..data` link change the folder, not the file), and looks every so often in case the watch misses something. Called by
//! whoever follows a file: endpoints, configuration, certificates.

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Several events of one change come together.
const SETTLE: Duration = Duration::from_millis(100);

/// How often the file is looked at without an event: watches do not work on every file system.
const LOOK: Duration = Duration::from_secs(5);

/// A watch on one file.
pub struct FileWatch {
    events: mpsc::Receiver<()>,
    /// Kept alive: dropping it ends the watch. `None` when the system cannot watch.
    watcher: Option<RecommendedWatcher>,
}

impl FileWatch {
    /// Watches `path`. A folder that cannot be watched is said once; looking goes on.
    pub fn new(path: &Path) -> Self {
        // One waiting event says all there is to say.
        let (send, events) = mpsc::channel(1);
        let on_event = move |event: notify::Result<notify::Event>| {
            // Reading a file is an event too on some systems: those would never end.
            if event.is_ok_and(|e| !e.kind.is_access()) {
                let _ = send.try_send(());
            }
        };
        let folder = folder_of(path);
        let watched = notify::recommended_watcher(on_event).and_then(|mut watcher| {
            watcher.watch(&folder, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        let watcher = watched.inspect_err(|error| {
            tracing::warn!(folder = %folder.display(), %error, every = ?LOOK, "Cannot watch the folder: looking instead");
        });
        FileWatch {
            events,
            watcher: watcher.ok(),
        }
    }

    /// Waits until the file may have changed.
    pub async fn changed(&mut self) {
        if self.watcher.is_none() {
            return tokio::time::sleep(LOOK).await;
        }
        tokio::select! {
            event = self.events.recv() => {
                if event.is_some() {
                    tokio::time::sleep(SETTLE).await;
                    let _ = self.events.try_recv();
                } else {
                    self.watcher = None;
                }
            }
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Has `look` run on a thread for blocking work: reading a file, and checking what is in it, can take a while, and
/// whoever shares the caller's thread is not to wait for it. Gives `follower` back with what `look` found.
///
/// # Panics
/// Where `look` does.
pub async fn off_thread<F, R>(mut follower: F, look: impl FnOnce(&mut F) -> R + Send + 'static) -> (F, R)
where
    F: Send + 'static,
    R: Send + 'static,
{
    let looked = tokio::task::spawn_blocking(move || {
        let found = look(&mut follower);
        (follower, found)
    });
    match looked.await {
        Ok(found) => found,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is ending.
            Err(_) => std::future::pending().await,
        },
    }
}

fn folder_of(path: &Path) -> PathBuf {
    path.parent()
        .filter(|p| !p.as_os_str().is_empty())
        .map_or_else(|| PathBuf::from("."), Path::to_owned)
}
