//! A real Envoy, started with the configurations of `deploy/envoy/` on ports of its own. Used by the end-to-end tests
//! and by the demo; knows nothing of `epp` but its address.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::ports;
use super::process::{Process, answers};

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

/// How Envoy talks to the ext_proc server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// As shipped: TLS, certificate not verified.
    Tls,
    /// Plaintext HTTP/2, for `--secure-serving=false` and the plain server of the benches.
    Plaintext,
}

fn in_package(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The Envoy that `make venv` installs, or the one named by the variable ENVOY.
///
/// # Errors
/// It is not there; the text says what to do.
pub fn installed() -> Result<PathBuf, String> {
    let path = std::env::var_os("ENVOY").map_or_else(|| in_package(".venv/bin/envoy"), PathBuf::from);
    if path.exists() {
        return Ok(path);
    }
    Err(format!(
        "no Envoy at {}: run `make venv` (or name one in the variable ENVOY)",
        path.display()
    ))
}

/// The Envoy to test with; without it the tests fail, they are never skipped.
pub fn binary() -> PathBuf {
    installed().unwrap_or_else(|e| panic!("{e}"))
}

/// A running Envoy; killed when dropped.
pub struct Envoy {
    /// The process.
    pub process: Process,
    /// Where clients connect.
    pub traffic: SocketAddr,
    /// Admin address.
    pub admin: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Envoy {
    /// Starts it in front of an `epp` that serves TLS, with `pool` as the model servers it knows.
    pub async fn start(kind: Kind, epp: SocketAddr, pool: &[SocketAddr]) -> Self {
        let envoy = Self::launch(kind, Transport::Tls, epp, pool).await;
        envoy.unwrap_or_else(|e| panic!("{e}"))
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// It is not installed, or did not become ready; the text says why.
    pub async fn launch(
        kind: Kind,
        transport: Transport,
        epp: SocketAddr,
        pool: &[SocketAddr],
    ) -> Result<Self, String> {
        Self::launch_edited(kind, transport, epp, pool, |text| text).await
    }

    /// The same with the filled configuration changed by `edit`.
    ///
    /// # Errors
    /// As for [`Self::launch`].
    pub async fn launch_edited(
        kind: Kind,
        transport: Transport,
        epp: SocketAddr,
        pool: &[SocketAddr],
        edit: impl FnOnce(String) -> String,
    ) -> Result<Self, String> {
        let envoy = installed()?;
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (traffic, admin) = (address(ports::free()), address(ports::free()));
        let text = std::fs::read_to_string(kind.path()).map_err(|e| e.to_string())?;
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let config = folder.path().join("envoy.yaml");
        let filled = edit(fill(&text, transport, traffic, admin, epp, pool));
        std::fs::write(&config, filled).map_err(|e| e.to_string())?;
        let mut command = Command::new(envoy);
        command.arg("-c").arg(&config);
        command.args([
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "warning",
        ]);
        let mut process = Process::start("envoy", &mut command, &folder.path().join("log"))?;
        process
            .ready(Duration::from_secs(30), async || answers(admin, "/ready").await)
            .await?;
        Ok(Envoy {
            process,
            traffic,
            admin,
            _folder: folder,
        })
    }
}

/// The configuration with its addresses replaced; every replacement must find its place.
pub fn fill(
    text: &str,
    transport: Transport,
    traffic: SocketAddr,
    admin: SocketAddr,
    epp: SocketAddr,
    pool: &[SocketAddr],
) -> String {
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
    if transport == Transport::Plaintext {
        out = without_tls(&out);
    }
    with_pool(&out, pool)
}

/// Takes the one `transport_socket:` block out.
fn without_tls(text: &str) -> String {
    let (before, rest) = text.split_once("    transport_socket:\n").expect("a TLS block");
    let (_, after) = rest
        .split_once("    load_assignment:\n")
        .expect("what follows it");
    assert!(!after.contains("transport_socket:"), "more than one TLS block");
    format!("{before}    load_assignment:\n{after}")
}

/// Puts `pool` in place of the listed model servers, where any are listed.
fn with_pool(text: &str, pool: &[SocketAddr]) -> String {
    let listed =
        |line: &str| (8000..8004).any(|p| line.contains(&format!("address: 127.0.0.1, port_value: {p}}}")));
    let mut out = String::with_capacity(text.len());
    let mut known = pool.iter();
    let mut places = 0;
    for line in text.lines() {
        if !listed(line) {
            out.push_str(line);
            out.push('\n');
            continue;
        }
        places += 1;
        let Some(address) = known.next() else { continue };
        let indent = " ".repeat(line.len() - line.trim_start().len());
        let (ip, port) = (address.ip(), address.port());
        out.push_str(&format!(
            "{indent}- {{endpoint: {{address: {{socket_address: {{address: {ip}, port_value: {port}}}}}}}}}\n"
        ));
    }
    assert!(
        places == 0 || known.next().is_none(),
        "more model servers than the {places} places"
    );
    out
}
