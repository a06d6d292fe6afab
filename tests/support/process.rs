//! Child processes of end-to-end tests and of the demo: killed when dropped, their output kept in a file, ready when a
//! condition holds, within a deadline.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// Time between two looks at a condition.
const POLL: Duration = Duration::from_millis(10);
/// Longest wait for one answer while polling.
const ANSWER: Duration = Duration::from_secs(2);
/// How much of a log is worth showing.
const TAIL: usize = 4096;

/// A running child process; killed and reaped when dropped.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- output of {}\n{}", self.name, self.log());
        }
    }
}

impl Process {
    /// Starts `command`; what it prints goes to the file `log`.
    ///
    /// # Errors
    /// It cannot be started; the text names it.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self, String> {
        let program = command.get_program().to_owned();
        let cannot = |e: std::io::Error| format!("cannot start {name} ({}): {e}", program.display());
        let out = File::create(log).map_err(cannot)?;
        let err = out.try_clone().map_err(cannot)?;
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        Ok(Process {
            name: name.to_owned(),
            child: child.map_err(cannot)?,
            log: log.to_owned(),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// The end of what it has printed.
    pub fn log(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(TAIL)..]).into_owned()
    }

    /// Waits until `condition` holds.
    ///
    /// # Errors
    /// The process ended or `limit` passed first; the text ends with what the process printed.
    pub async fn ready(
        &mut self,
        limit: Duration,
        mut condition: impl AsyncFnMut() -> bool,
    ) -> Result<(), String> {
        let deadline = Instant::now() + limit;
        while !condition().await {
            let trouble = match self.status() {
                Some(status) => format!("ended while starting ({status})"),
                None if Instant::now() >= deadline => format!("is not ready after {limit:?}"),
                None => {
                    sleep(POLL).await;
                    continue;
                }
            };
            return Err(format!("{} {trouble}\n{}", self.name, self.log()));
        }
        Ok(())
    }

    /// Asks it to end (SIGTERM) and waits; after `limit` it is killed.
    pub async fn stop(&mut self, limit: Duration) {
        let pid = self.pid().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let deadline = Instant::now() + limit;
        while self.status().is_none() && Instant::now() < deadline {
            sleep(POLL).await;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Does a GET of `path` answer 200? HTTP/1.1: Envoy answers nothing older.
pub async fn answers(address: SocketAddr, path: &str) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.ok()?;
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.ok()?;
        Some(status == *b"HTTP/1.1 200")
    };
    timeout(ANSWER, ask).await.ok().flatten().unwrap_or(false)
}
