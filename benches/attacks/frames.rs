//! Attacks with HTTP/2 frames: many small ones, and requests that are cancelled.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use super::load::client::{self, Exchange};
use super::load::shapes::{self, Awaited};
use super::scene::Scene;
use super::support::ext_proc::request_headers;
use super::support::hostile_client;
use super::support::raw_h2::{self, Connection};
use super::{Attack, Running, attack};

const CHAT: &str = "/v1/chat/completions";

/// All of them.
pub fn attacks() -> Vec<Attack> {
    vec![
        attack("30 cancelled requests a write, 57 times, via Envoy", cancelled),
        attack(
            "2,600 DATA frames of one byte, 40 times, via Envoy",
            one_byte_frames,
        ),
        attack("3,000 streams of 49 bytes in one burst, direct", burst),
        attack("100 streams of 30 tokens beside an 8 MB chat, direct", tokens),
        attack(
            "15 and 100 cancels beside an 8 MB chat, via Envoy",
            cancelled_beside_a_chat,
        ),
        attack("200,000 rapid resets, direct", rapid_resets),
        attack("1,000,000 body messages of one byte, direct", one_byte_messages),
    ]
}

fn cancelled(scene: &mut Scene) -> Running<'_> {
    Box::pin(async {
        let mut open = Vec::new();
        for _ in 0..57 {
            open.push(
                hostile_client::cancelled_requests(scene.traffic, 30)
                    .await
                    .map_err(told)?,
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(String::new())
    })
}

fn one_byte_frames(scene: &mut Scene) -> Running<'_> {
    Box::pin(async {
        let mut open = Vec::new();
        for _ in 0..40 {
            open.push(
                hostile_client::one_byte_frames(scene.traffic, 2_600)
                    .await
                    .map_err(told)?,
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(String::new())
    })
}

/// Everything of this attack is honest: all of it must be served.
fn burst(scene: &mut Scene) -> Running<'_> {
    Box::pin(async {
        const STREAMS: usize = 3_000;
        let mut connection = Connection::open(scene.epp.grpc).await.map_err(told)?;
        connection.ready(Duration::from_secs(5)).await;
        let message = request_headers(&[(":method", "GET"), (":path", "/v1/models")], true);
        let message = raw_h2::grpc(&message.encode_to_vec());
        let mut bytes = Vec::new();
        for _ in 0..STREAMS {
            let stream = connection.stream();
            bytes.extend(raw_h2::call(stream, raw_h2::PROCESS));
            bytes.extend(raw_h2::data(stream, &message, false));
        }
        connection.write(&bytes).await.map_err(told)?;
        let answered = |s: &raw_h2::Seen| s.replies.values().filter(|r| !r.data.is_empty()).count();
        let all = connection
            .until(Duration::from_secs(10), |s| answered(s) == STREAMS || s.closed)
            .await;
        let (served, goaway) = connection.seen(|s| (answered(s), s.goaway.clone()));
        if all && served == STREAMS {
            return Ok(format!("{} bytes a message, all served", message.len()));
        }
        Err(format!("{served} of {STREAMS} served, {goaway:?}"))
    })
}

/// Bursts of tokens on one connection go on until a large chat beside them has been answered.
fn tokens(scene: &mut Scene) -> Running<'_> {
    Box::pin(async {
        let streamed = shapes::streamed();
        let connection = client::connect(scene.epp.grpc).await;
        let mut open = Vec::new();
        for _ in 0..100 {
            let mut exchange = Exchange::open(&connection).await;
            for step in &streamed.steps[..2] {
                exchange.step(&step.frames, step.awaited).await;
            }
            open.push(exchange);
        }
        let chat = tokio::spawn(async move {
            let mut frames = shapes::request_headers(CHAT);
            frames.extend(shapes::request_body(&shapes::chat_body(8_000_000, 0, 5), 65_536));
            let mut exchange = Exchange::open(&connection).await;
            exchange.step(&Bytes::from(frames), Awaited::EndOfBody).await;
        });
        let token = &streamed.steps[2];
        let mut rounds = 0;
        while !chat.is_finished() {
            for exchange in &mut open {
                for _ in 0..30 {
                    exchange.step(&token.frames, Awaited::Nothing).await;
                }
            }
            for exchange in &mut open {
                if !exchange.answers(30).await {
                    return Err(format!("a stream of tokens ended in round {rounds}"));
                }
            }
            rounds += 1;
        }
        match chat.await {
            Ok(()) => Ok(format!("{rounds} rounds")),
            Err(error) => Err(format!("the chat: {error}")),
        }
    })
}

fn cancelled_beside_a_chat(scene: &mut Scene) -> Running<'_> {
    Box::pin(async {
        let traffic = scene.traffic;
        for requests in [15, 100] {
            let body = shapes::chat_body(8_000_000, 0, u64::from(requests));
            let chat =
                tokio::spawn(async move { hostile_client::status_of(traffic, CHAT, &body, &[]).await });
            let mut open = Vec::new();
            while !chat.is_finished() {
                open.push(
                    hostile_client::cancelled_requests(traffic, requests)
                        .await
                        .map_err(told)?,
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let status = chat.await.map_err(told)?.map_err(told)?;
            if status != 200 {
                return Err(format!("the chat got {status}"));
            }
        }
        Ok(String::new())
    })
}

fn rapid_resets(scene: &mut Scene) -> Running<'_> {
    Box::pin(async {
        let mut connection = Connection::open(scene.epp.grpc).await.map_err(told)?;
        for _ in 0..2_000 {
            let mut bytes = Vec::new();
            for _ in 0..100 {
                let stream = connection.stream();
                bytes.extend(raw_h2::call(stream, raw_h2::PROCESS));
                bytes.extend(raw_h2::reset(stream));
            }
            if connection.write(&bytes).await.is_err() {
                break;
            }
        }
        Ok(connection.seen(|s| {
            s.goaway
                .as_ref()
                .map_or(String::new(), |g| format!("GOAWAY {}", g.1))
        }))
    })
}

fn one_byte_messages(scene: &mut Scene) -> Running<'_> {
    Box::pin(async {
        let mut frames = shapes::request_headers(CHAT);
        let piece = shapes::request_body(b" ", 1);
        // The last message of a body, which ends it, is left out.
        let end = shapes::request_body(b"", 1).len();
        frames.extend(piece[..piece.len() - end].repeat(1_000_000));
        let connection = client::connect(scene.epp.grpc).await;
        let mut exchange = Exchange::open(&connection).await;
        exchange.step(&frames.into(), Awaited::Nothing).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        Ok(String::new())
    })
}

/// An error as a missed bar.
pub fn told(error: impl std::fmt::Display) -> String {
    format!("the attacker: {error}")
}
