//! The engine on its thread, by the clock.

use super::super::{Counts, Engine};
use super::*;

fn engine(config: Config) -> Engine {
    Engine::new(config, None).unwrap()
}

async fn idle(engine: &Engine) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while engine.counts() != Counts::default() {
        assert!(Instant::now() < deadline, "{:?}", engine.counts());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_reader_sees_every_token_and_the_end() {
    let engine = engine(ttft(config(5, 1), 1));
    let ticket = engine.submit(job(3, 4)).unwrap();
    assert_eq!(ticket.started().await.cached, None);
    for n in 1..=4 {
        ticket.reach(n).await;
        assert!(ticket.produced() >= n);
    }
    ticket.reach(usize::MAX).await;
    assert_eq!(ticket.produced(), 4);
    idle(&engine).await;
}

#[tokio::test]
async fn a_reader_that_reads_nothing_holds_nothing_up() {
    let mut c = ttft(config(1, 1), 1);
    c.cache = true;
    let engine = engine(c);
    let unread = engine.submit(job(3, 400)).unwrap();
    let next = engine.submit(job(3, 4)).unwrap();
    next.reach(4).await;
    idle(&engine).await;
    assert_eq!(unread.produced(), 400);
    unread.reach(400).await;
}

#[tokio::test]
async fn a_dropped_ticket_frees_its_place() {
    let engine = engine(ttft(config(1, 1), 3_600_000));
    let running = engine.submit(job(3, 4)).unwrap();
    let waiting = engine.submit(job(3, 4)).unwrap();
    assert_eq!((engine.counts().running, engine.counts().waiting), (1, 1));
    drop(waiting);
    assert_eq!((engine.counts().running, engine.counts().waiting), (1, 0));
    drop(running);
    assert_eq!(engine.counts(), Counts::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_all_end_and_pages_are_whole_meanwhile() {
    let mut c = ttft(config(64, 2), 1);
    c.max_waiting = 5000;
    c.latency.inter_token = (Duration::from_micros(100), Duration::ZERO);
    let engine = engine(c);
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..1000usize {
        let engine = engine.clone();
        tasks.spawn(async move {
            let ticket = engine.submit(with(["", "a", "b", "c"][i % 4])).unwrap();
            if i % 5 == 0 {
                return 0;
            }
            ticket.reach(usize::MAX).await;
            ticket.produced()
        });
    }
    let mut produced = 0;
    while let Some(n) = tasks.join_next().await {
        produced += n.unwrap();
        if produced % 50 == 0 {
            let page = engine.page();
            assert!(page.ends_with("# EOF\n") && page.contains("vllm:lora_requests_info{"));
        }
    }
    assert_eq!(produced, 800);
    idle(&engine).await;
}
