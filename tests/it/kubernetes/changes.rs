//! Changes of the pool fail no pick.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;

use super::{destination, endpoints_are, logged, with_pool};
use crate::support::apiserver::{PODS, POOLS, pod, pool};
use crate::support::epp::Epp;

/// Requests, one after the other.
pub struct Picks {
    stop: Arc<AtomicBool>,
    asking: JoinHandle<Vec<Result<String, i32>>>,
}

impl Picks {
    /// Begins to ask.
    pub fn start(epp: &Arc<Epp>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, epp) = (stop.clone(), epp.clone());
        let asking = tokio::spawn(async move {
            let mut all = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                all.push(destination(&epp).await);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            all
        });
        Picks { stop, asking }
    }

    /// How many there were; none has failed.
    pub async fn all_served(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let all = self.asking.await.unwrap();
        let failed: Vec<_> = all.iter().filter(|p| p.is_err()).collect();
        assert!(failed.is_empty(), "{failed:?} of {}", all.len());
        all.len()
    }
}

async fn destination_is(epp: &Epp, expected: &str) {
    loop {
        if destination(epp).await.as_deref() == Ok(expected) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_changed_selector_fails_no_pick() {
    let (server, epp) = with_pool(&[8000]);
    let epp = Arc::new(epp);
    let mut other = pod("other", "127.0.0.2");
    other["metadata"]["labels"] = json!({"app": "other"});
    server.apply_all(PODS, [pod("p", "127.0.0.1"), other]);
    endpoints_are(&epp, &["p-rank-0"]).await;
    server.delay(Duration::from_millis(200));
    let picks = Picks::start(&epp);
    let mut changed = pool(&[8001]);
    changed["spec"]["selector"]["matchLabels"] = json!({"app": "other"});
    server.apply(POOLS, changed);
    destination_is(&epp, "127.0.0.2:8001").await;
    server.apply(POOLS, pool(&[8000]));
    destination_is(&epp, "127.0.0.1:8000").await;
    endpoints_are(&epp, &["p-rank-0"]).await;
    assert!(picks.all_served().await > 0);
}

#[tokio::test]
async fn a_pool_that_is_deleted_and_created_again_fails_no_pick() {
    let (server, epp) = with_pool(&[8000]);
    let epp = Arc::new(epp);
    server.apply(PODS, pod("p", "127.0.0.1"));
    endpoints_are(&epp, &["p-rank-0"]).await;
    let picks = Picks::start(&epp);
    server.delete(POOLS, "pool");
    logged(
        &epp,
        "The pool is deleted: its endpoints leave unless it is back in a moment",
    )
    .await;
    server.apply(POOLS, pool(&[8001]));
    destination_is(&epp, "127.0.0.1:8001").await;
    assert!(picks.all_served().await > 0);
    logged(&epp, "The pool is back").await;
}
