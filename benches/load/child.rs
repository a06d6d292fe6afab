//! Servers under measurement: child processes, the CPU they use and the memory they hold.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A child process that is killed when dropped.
pub struct Server {
    child: Child,
    /// Where it serves ext_proc.
    pub address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts `command` (pinned to `core` where `taskset` exists) and waits until `address` accepts.
    pub fn start(command: &[String], address: SocketAddr, core: Option<usize>) -> Self {
        let mut words: Vec<String> = Vec::new();
        let taskset = Command::new("taskset")
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .is_ok();
        if let Some(core) = core.filter(|_| taskset) {
            words.extend(["taskset".into(), "-c".into(), core.to_string()]);
        }
        words.extend_from_slice(command);
        let child = Command::new(&words[0])
            .args(&words[1..])
            .stdout(Stdio::null())
            .stderr(if std::env::var_os("BENCH_STDERR").is_some() {
                Stdio::inherit()
            } else {
                Stdio::null()
            })
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {}: {e}", words[0]));
        let mut server = Server { child, address };
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(address).is_err() {
            if let Some(status) = server.child.try_wait().unwrap() {
                panic!(
                    "{} ended before it served: {status}; run with BENCH_STDERR=1 to see why",
                    command[0]
                );
            }
            assert!(
                Instant::now() < deadline,
                "{} does not serve on {address}",
                command[0]
            );
            std::thread::yield_now();
        }
        server
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time used so far, all threads, from the scheduler's own accounting (nanoseconds).
    pub fn cpu(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let nanos = tasks.filter_map(|t| {
            let text = std::fs::read_to_string(t.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanos.sum())
    }

    /// Resident memory, bytes.
    pub fn resident(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = text.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        let kb: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kb * 1024
    }
}

/// A port nobody listens on.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}
