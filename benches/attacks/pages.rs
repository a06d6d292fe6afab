//! Attacks on the metrics page: what clients make it hold, and readers that hold it.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::frames::told;
use super::scene::Scene;
use super::support::epp;
use super::support::raw_h2::{self, Connection};
use super::{Attack, Running, attack};

/// Largest page after made-up names, bytes.
const PAGE: usize = 8 << 20;
/// Longest time a scrape may take.
const SCRAPE: Duration = Duration::from_secs(1);

/// All of them.
pub fn attacks() -> Vec<Attack> {
    vec![
        attack("3,000 made-up models, then 60 slow readers of /metrics", models),
        attack("70 half heads on the metrics port", half_heads),
    ]
}

fn models(scene: &mut Scene) -> Running<'_> {
    Box::pin(async {
        let mut connection = Connection::open(scene.traffic).await.map_err(told)?;
        for round in 0..30 {
            for i in 0..100 {
                let stream = connection.stream();
                let name = format!("{round:03}{i:03}{}", "m".repeat(122));
                let body = format!(r#"{{"model":"{name}","prompt":"p"}}"#);
                let mut bytes = raw_h2::post(stream, "/v1/completions", false);
                bytes.extend(raw_h2::data(stream, body.as_bytes(), true));
                connection.write(&bytes).await.map_err(told)?;
            }
            let wanted = 100 * (round + 1);
            if !connection
                .until(Duration::from_secs(10), |s| s.over() >= wanted || s.closed)
                .await
            {
                return Err(format!(
                    "{} of {wanted} requests answered",
                    connection.seen(|s| s.over())
                ));
            }
        }
        let began = Instant::now();
        let page = epp::get(scene.epp.metrics, "/metrics").await;
        let (took, page) = (
            began.elapsed(),
            page.ok_or("the metrics page does not come")?.len(),
        );
        let mut readers = Vec::new();
        for _ in 0..60 {
            readers.push(ask(scene, "GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").await?);
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        drop(readers);
        let note = format!(
            "a page of {:.1} MB in {:.2} s",
            page as f64 / 1e6,
            took.as_secs_f64()
        );
        if page <= PAGE && took <= SCRAPE {
            Ok(note)
        } else {
            Err(note)
        }
    })
}

fn half_heads(scene: &mut Scene) -> Running<'_> {
    Box::pin(async {
        let mut open = Vec::new();
        for _ in 0..70 {
            open.push(ask(scene, "GET /metrics HTTP/1.1\r\nhost: loc").await?);
        }
        let began = Instant::now();
        let page = epp::get(scene.epp.metrics, "/metrics").await;
        let note = format!("a scrape took {:.2} s", began.elapsed().as_secs_f64());
        if page.is_some() && began.elapsed() <= SCRAPE {
            Ok(note)
        } else {
            Err(note)
        }
    })
}

async fn ask(scene: &Scene, text: &str) -> Result<TcpStream, String> {
    let mut stream = TcpStream::connect(scene.epp.metrics).await.map_err(told)?;
    stream.write_all(text.as_bytes()).await.map_err(told)?;
    Ok(stream)
}
