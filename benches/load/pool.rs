//! A pool of model servers that only have a metrics page: one listener behind many loopback addresses.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// The pool; its thread ends with the process.
pub struct Pool {
    /// Address of every endpoint.
    pub endpoints: Vec<SocketAddr>,
}

impl Pool {
    /// Endpoints that somebody else serves.
    pub fn at(endpoints: Vec<SocketAddr>) -> Self {
        Pool { endpoints }
    }

    /// `n` endpoints, each serving `page`.
    pub fn start(n: usize, page: &str) -> Self {
        let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let response = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {}\r\n\r\n{page}",
            page.len()
        );
        let response: Arc<[u8]> = response.into_bytes().into();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(serve(listener, response));
        });
        let address = |i: usize| {
            let host = Ipv4Addr::new(
                127,
                0,
                u8::try_from(1 + i / 250).unwrap(),
                u8::try_from(1 + i % 250).unwrap(),
            );
            SocketAddr::from((host, port))
        };
        Pool {
            endpoints: (0..n).map(address).collect(),
        }
    }
}

async fn serve(listener: std::net::TcpListener, response: Arc<[u8]>) {
    listener.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let Ok((mut socket, _)) = listener.accept().await else {
            continue;
        };
        let response = response.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            let mut held = 0;
            // One request at a time: a scrape is a GET without a body.
            while let Ok(n) = socket.read(&mut buffer[held..]).await {
                held += n;
                if n == 0 || held == buffer.len() {
                    return;
                }
                if buffer[..held].ends_with(b"\r\n\r\n") {
                    held = 0;
                    if socket.write_all(&response).await.is_err() {
                        return;
                    }
                }
            }
        });
    }
}
