//! A real Envoy, started with the configurations of `deploy/envoy/` on ports of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::epp::{get, in_package};
use super::ports;

/// The configurations of `deploy/envoy/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Destination by header.
    OriginalDst,
    /// Destination by metadata.
    OverrideHost,
}

impl Kind {
    /// Both.
    pub const ALL: [Kind; 2] = [Kind::OriginalDst, Kind::OverrideHost];

    /// The file.
    pub fn path(self) -> PathBuf {
        in_package(match self {
            Kind::OriginalDst => "deploy/envoy/original-dst.yaml",
            Kind::OverrideHost => "deploy/envoy/override-host.yaml",
        })
    }
}

/// The Envoy that `make venv` installs.
pub fn binary() -> PathBuf {
    let path = std::env::var_os("ENVOY").map_or_else(|| in_package(".venv/bin/envoy"), PathBuf::from);
    assert!(
        path.exists(),
        "no Envoy at {}: run `make venv` first (or set ENVOY)",
        path.display()
    );
    path
}

/// A running Envoy; killed when dropped.
pub struct Envoy {
    child: Child,
    /// Where clients connect.
    pub traffic: SocketAddr,
    /// Admin address.
    pub admin: SocketAddr,
    folder: tempfile::TempDir,
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            eprintln!("--- log of envoy\n{log}");
        }
    }
}

impl Envoy {
    /// Starts it in front of `epp`, with `pool` as the model servers it knows, and waits until it is ready.
    pub async fn start(kind: Kind, epp: SocketAddr, pool: &[SocketAddr]) -> Self {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (traffic, admin) = (address(ports::free()), address(ports::free()));
        let text = std::fs::read_to_string(kind.path()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("envoy.yaml");
        std::fs::write(&config, fill(&text, traffic, admin, epp, pool)).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(binary())
            .arg("-c")
            .arg(&config)
            .args([
                "--concurrency",
                "1",
                "--disable-hot-restart",
                "--log-level",
                "warning",
            ])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut envoy = Envoy {
            child,
            traffic,
            admin,
            folder,
        };
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while get(envoy.admin, "/ready").await.is_none() {
            assert!(
                envoy.child.try_wait().unwrap().is_none(),
                "envoy ended while starting"
            );
            assert!(
                tokio::time::Instant::now() < deadline,
                "envoy is not ready after 30 s"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        envoy
    }
}

/// The configuration with its addresses replaced; every replacement must find its place.
fn fill(text: &str, traffic: SocketAddr, admin: SocketAddr, epp: SocketAddr, pool: &[SocketAddr]) -> String {
    let place = |host: &str, port: u16| format!("address: {host}, port_value: {port}}}");
    let here = |a: SocketAddr| format!("address: {}, port_value: {}}}", a.ip(), a.port());
    let mut out = text.to_owned();
    for (from, to) in [
        (place("0.0.0.0", 8081), here(traffic)),
        (place("127.0.0.1", 19000), here(admin)),
        (place("127.0.0.1", 9002), here(epp)),
    ] {
        assert_eq!(out.matches(&from).count(), 1, "{from}");
        out = out.replace(&from, &to);
    }
    let mut known = pool.iter();
    let lines = out.lines().filter_map(|line| {
        let listed = (8000..8004).any(|p| line.contains(&place("127.0.0.1", p)));
        if !listed {
            return Some(line.to_owned());
        }
        let at = (8000..8004).find(|p| line.contains(&place("127.0.0.1", *p)))?;
        known
            .next()
            .map(|a| line.replace(&place("127.0.0.1", at), &here(*a)))
    });
    let filled = lines.collect::<Vec<_>>().join("\n");
    assert!(
        known.next().is_none() || !text.contains("name: pool\n"),
        "more model servers than places"
    );
    filled
}
