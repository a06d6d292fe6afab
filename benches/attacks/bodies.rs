//! Attacks with bodies: large ones of bad shapes, and those that never end.

use std::time::{Duration, Instant};

use futures::future::join_all;

use super::frames::told;
use super::load::shapes;
use super::scene::Scene;
use super::support::hostile_client::{self, CHATS};
use super::{Attack, Outcome, Running, attack};

/// Just below the default limit of a request body.
const LARGE: usize = 31 << 20;
/// Most CPU time of a worker for one of them.
const WORK: Duration = Duration::from_millis(100);
/// Most memory for one of them, times its size.
const TIMES: u64 = 3;

/// All of them.
pub fn attacks() -> Vec<Attack> {
    vec![
        attack("a 32 MB chat of [{\"\":0},...], via Envoy", |s| {
            Box::pin(one(s, chat(0)))
        }),
        attack("a 32 MB chat of [{},...], via Envoy", |s| {
            Box::pin(one(s, chat(1)))
        }),
        attack("a 32 MB chat of [\"\",...], via Envoy", |s| {
            Box::pin(one(s, chat(2)))
        }),
        attack("a 32 MB chat of [1,...], via Envoy", |s| {
            Box::pin(one(s, chat(3)))
        }),
        attack("a 32 MB chat of one text, via Envoy", |s| {
            Box::pin(one(s, shapes::chat_body(LARGE, 0, 3)))
        }),
        attack("a model name of 31 MB, via Envoy", |s| {
            Box::pin(one(s, hostile_client::long_model(LARGE)))
        }),
        attack("40 uploads of 31 MB that do not end, via Envoy", uploads),
    ]
}

fn chat(shape: usize) -> Vec<u8> {
    hostile_client::chat(CHATS[shape].1, LARGE)
}

/// One large body: what it costs a worker, and how much memory.
async fn one(scene: &mut Scene, body: Vec<u8>) -> Outcome {
    let path = if body.starts_with(br#"{"model":"m"#) {
        "/v1/completions"
    } else {
        "/v1/chat/completions"
    };
    let (before, memory) = (scene.workers(), scene.epp.resident());
    let status = hostile_client::status_of(scene.traffic, path, &body, &[]).await;
    let status = status.map_err(told)?;
    let after = scene.workers();
    let work = after.iter().zip(&before).map(|(a, b)| a.saturating_sub(*b)).max();
    let work = work.unwrap_or_default();
    let grown = scene.epp.peak_resident().saturating_sub(memory);
    let note = format!(
        "{status}, {} ms of a worker, {} MiB",
        work.as_millis(),
        grown >> 20
    );
    let known = [200, 400, 413].contains(&status);
    if known && work <= WORK && grown <= TIMES * body.len() as u64 {
        Ok(note)
    } else {
        Err(note)
    }
}

fn uploads(scene: &mut Scene) -> Running<'_> {
    Box::pin(async {
        let began = Instant::now();
        let uploads = (0..40).map(|_| {
            let upload = hostile_client::endless_upload(scene.traffic, LARGE);
            async {
                matches!(
                    tokio::time::timeout(Duration::from_secs(6), upload).await,
                    Ok(Ok(_))
                )
            }
        });
        let sent = join_all(uploads).await.into_iter().filter(|sent| *sent).count();
        Ok(format!(
            "{sent} of 40 were read whole, {:.1} s",
            began.elapsed().as_secs_f64()
        ))
    })
}
