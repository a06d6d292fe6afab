//! CPU per exchange: `epp` beside the plain server, in one run and alternating, over one connection with 64
//! exchanges in flight. `cargo bench --bench exchange [-- short|streamed|large]`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench prints its table and fails by panicking"
)]

mod load;
#[path = "plain/mod.rs"]
mod plain;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use load::child::{Server, free_port};
use load::epp::Epp;
use load::pool::Pool;
use load::shapes::{self, Shape};

const IN_FLIGHT: usize = 64;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(1200);
const WARM_UP: Duration = Duration::from_millis(400);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [role, port] = &args[..]
        && role == "plain-server"
    {
        let address = SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()));
        return plain::serve(address, "127.0.0.1:8000");
    }
    let wanted = |name: &str| args.is_empty() || args.iter().any(|a| name.starts_with(a.as_str()));
    let rows = [
        (shapes::short(), 1.0),
        (shapes::streamed(), 0.8),
        (shapes::large(), 2.0),
    ];
    println!("CPU per exchange, {IN_FLIGHT} in flight, median of {ROUNDS} alternating rounds");
    println!("| exchange | plain tonic server, us | epp, us | ratio | bar |");
    println!("|---|---|---|---|---|");
    for (shape, bar) in rows.into_iter().filter(|(s, _)| wanted(s.name)) {
        let [plain, epp] = compare(&shape);
        let ratio = epp / plain;
        let verdict = if ratio <= bar { "met" } else { "MISSED" };
        println!(
            "| {} | {plain:.1} | {epp:.1} | {ratio:.2} | {bar:.1} {verdict} |",
            shape.name
        );
    }
}

fn plain_server() -> Server {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let own = std::env::current_exe().unwrap().display().to_string();
    Server::start(
        &[own, "plain-server".into(), address.port().to_string()],
        address,
        Some(0),
    )
}

/// Median microseconds of CPU per exchange: the plain server, then `epp`.
fn compare(shape: &Shape) -> [f64; 2] {
    let pool = Pool::start(
        100,
        "vllm:num_requests_waiting 0\nvllm:num_requests_running 1\nvllm:kv_cache_usage_perc 0.1\n",
    );
    let epp = Epp {
        pool: &pool,
        core: Some(0),
        scrape_interval: "1h",
        flags: &[],
    };
    let (epp, _files) = epp.start();
    let servers = [plain_server(), epp];
    let mut readings = [Vec::new(), Vec::new()];
    for server in &servers {
        drive(server.address, shape, WARM_UP);
    }
    for _ in 0..ROUNDS {
        for (server, readings) in servers.iter().zip(&mut readings) {
            let before = server.cpu();
            let done = drive(server.address, shape, ROUND);
            let used = server.cpu().saturating_sub(before);
            readings.push(used.as_secs_f64() * 1e6 / done as f64);
        }
    }
    readings.map(|mut r| {
        r.sort_by(f64::total_cmp);
        r[r.len() / 2]
    })
}

/// Keeps 64 exchanges in flight for `time`; returns how many were done.
fn drive(to: SocketAddr, shape: &Shape, time: Duration) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let client = load::client::connect(to).await;
        let end = Instant::now() + time;
        let tasks: Vec<_> = (0..IN_FLIGHT)
            .map(|_| {
                let (client, shape) = (client.clone(), shape.clone());
                tokio::spawn(async move {
                    let mut done = 0u64;
                    while Instant::now() < end {
                        load::client::run(&client, &shape).await;
                        done += 1;
                    }
                    done
                })
            })
            .collect();
        let mut done = 0;
        for task in tasks {
            done += task.await.unwrap();
        }
        done
    })
}
