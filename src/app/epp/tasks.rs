//! The parts that must run as long as the process does: one that ends or panics is named, and ends the process.

use std::collections::HashMap;
use std::future::Future;
use std::io;

use tokio::sync::oneshot;
use tokio::task::{Id, JoinError, JoinSet};

/// A part that ended while it was needed.
#[derive(Debug, thiserror::Error)]
#[error("{part} {how}: what depends on it no longer works")]
pub struct Failed {
    part: String,
    how: String,
}

/// Running parts; they are cut off when this is dropped.
#[derive(Debug, Default)]
pub struct Tasks {
    set: JoinSet<()>,
    parts: HashMap<Id, String>,
}

impl Tasks {
    /// Runs `part` on this thread. Both its end and a panic are failures.
    pub fn spawn(&mut self, part: impl Into<String>, run: impl Future<Output = ()> + Send + 'static) {
        let id = self.set.spawn(run).id();
        self.parts.insert(id, part.into());
    }

    /// Runs `part` on a thread and a runtime of its own; the thread has the name `thread`.
    ///
    /// # Errors
    /// The thread or the runtime cannot be started.
    pub fn spawn_thread(
        &mut self,
        part: impl Into<String>,
        thread: &str,
        run: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (alive, ended) = oneshot::channel::<()>();
        std::thread::Builder::new().name(thread.into()).spawn(move || {
            let _alive = alive;
            runtime.block_on(run);
        })?;
        self.spawn(part, async move {
            let _ = ended.await;
        });
        Ok(())
    }

    /// Waits for the first part that fails.
    pub async fn failed(&mut self) -> Failed {
        match self.set.join_next_with_id().await {
            None => std::future::pending().await,
            Some(Ok((id, ()))) => self.name(id, "ended"),
            Some(Err(error)) => self.name(error.id(), &how(error)),
        }
    }

    fn name(&mut self, id: Id, how: &str) -> Failed {
        Failed {
            part: self.parts.remove(&id).unwrap_or_default(),
            how: how.to_owned(),
        }
    }
}

fn how(error: JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else {
        return "was cancelled".into();
    };
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panicked ({})", text.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn failure(start: impl FnOnce(&mut Tasks)) -> String {
        let mut tasks = Tasks::default();
        tasks.spawn("another", std::future::pending());
        start(&mut tasks);
        tasks.failed().await.to_string()
    }

    #[tokio::test]
    async fn a_part_that_ends_or_panics_is_named() {
        let ended = failure(|t| t.spawn("discovery", async {})).await;
        assert_eq!(ended, "discovery ended: what depends on it no longer works");
        let panicked = failure(|t| t.spawn("discovery", async { panic!("no {}", 1) })).await;
        assert!(panicked.starts_with("discovery panicked (no 1): "), "{panicked}");
        let panicked = failure(|t| {
            t.spawn_thread("scraping", "scrape", async { panic!("no") })
                .unwrap()
        })
        .await;
        assert!(panicked.starts_with("scraping ended: "), "{panicked}");
    }

    #[tokio::test]
    async fn parts_that_run_do_not_fail() {
        let mut tasks = Tasks::default();
        assert!(futures::poll!(Box::pin(tasks.failed())).is_pending(), "none");
        tasks
            .spawn_thread("scraping", "scrape", std::future::pending())
            .unwrap();
        tasks.spawn("discovery", std::future::pending());
        tokio::task::yield_now().await;
        assert!(futures::poll!(Box::pin(tasks.failed())).is_pending());
    }
}
