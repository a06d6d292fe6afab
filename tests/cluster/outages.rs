//! A real API server that is killed, forgets and comes back.

use std::sync::Arc;

use tonic_health::pb::health_check_response::ServingStatus;

use crate::kubernetes::{POOL, destination, endpoints_are, health, health_is, logged};
use crate::server::{ApiServer, Process};
use crate::support::apiserver::{PODS, POOLS, Release, pod, pool, unready_pod};
use crate::support::epp::Epp;

/// A server of its own with one pod, and `epp`.
async fn started(flags: &[&str]) -> (ApiServer, Epp) {
    let process = Arc::new(Process::start(flags));
    let server = ApiServer::on(process, Release::Gateway, None);
    server.apply(POOLS, pool(&[8000]));
    server.apply(PODS, pod("a", "127.0.0.1"));
    let epp = Epp::in_cluster(&server, POOL, &[]);
    endpoints_are(&epp, &["a-rank-0"]).await;
    (server, epp)
}

#[tokio::test]
async fn a_server_that_is_killed_and_comes_back_is_caught_up_with() {
    let (mut server, epp) = started(&[]).await;
    server.process.kill();
    logged(&epp, "keeping what is known").await;
    assert_eq!(destination(&epp).await.as_deref(), Ok("127.0.0.1:8000"));
    assert_eq!(health(&epp, "readiness").await, Some(ServingStatus::Serving));
    // It is changed before `epp` can see it again, and what its watches want is forgotten.
    server.stop();
    server.process.restart();
    server.apply_all(PODS, [unready_pod("a", "127.0.0.1"), pod("b", "127.0.0.2")]);
    server.compact();
    server.process.kill();
    server.process.restart();
    server.restart();
    endpoints_are(&epp, &["b-rank-0"]).await;
    server.apply(PODS, pod("a", "127.0.0.1"));
    endpoints_are(&epp, &["a-rank-0", "b-rank-0"]).await;
    logged(&epp, "Watching again").await;
    assert_eq!(health(&epp, "readiness").await, Some(ServingStatus::Serving));
}

#[tokio::test]
async fn what_the_store_has_forgotten_is_listed_again() {
    // Watches reach the store itself.
    let (mut server, epp) = started(&["--watch-cache=false"]).await;
    for (a, b, expected) in [(false, true, "b-rank-0"), (true, false, "a-rank-0")] {
        server.stop();
        let state = |name, ip, ready| {
            if ready {
                pod(name, ip)
            } else {
                unready_pod(name, ip)
            }
        };
        server.apply_all(PODS, [state("a", "127.0.0.1", a), state("b", "127.0.0.2", b)]);
        server.compact();
        server.restart();
        endpoints_are(&epp, &[expected]).await;
    }
    health_is(&epp, "readiness", ServingStatus::Serving).await;
}
