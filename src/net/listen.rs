//! Opens listening ports. Called by `app` while it starts: an error here ends the start, so it names the flag
//! that chose the port and what to do.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections the kernel holds for us until we take them.
const BACKLOG: i32 = 1024;

/// Which addresses a port listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// All interfaces, IPv6 and IPv4; IPv4 alone where the host has no IPv6.
    Everyone,
    /// This host only.
    Loopback,
    /// One address.
    Address(IpAddr),
}

/// A port that could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on port {port} (--{flag}): {source}{}", advice(.source, .flag))]
pub struct BindError {
    /// The flag that chose the port, without dashes.
    pub flag: &'static str,
    /// The port.
    pub port: u16,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Opens a listening socket, non-blocking, ready for `tokio::net::TcpListener::from_std`. Port 0 takes a free
/// one; read it back with `local_addr`.
///
/// # Errors
/// When the port is taken or not allowed.
pub fn bind(reach: Reach, port: u16, flag: &'static str) -> Result<TcpListener, BindError> {
    let (first, second): (SocketAddr, SocketAddr) = match reach {
        Reach::Everyone => (
            (Ipv6Addr::UNSPECIFIED, port).into(),
            (Ipv4Addr::UNSPECIFIED, port).into(),
        ),
        Reach::Loopback => (
            (Ipv4Addr::LOCALHOST, port).into(),
            (Ipv6Addr::LOCALHOST, port).into(),
        ),
        Reach::Address(ip) => ((ip, port).into(), (ip, port).into()),
    };
    open(first)
        .or_else(|e| if no_such_family(&e) { open(second) } else { Err(e) })
        .map_err(|source| BindError { flag, port, source })
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    // A restart must not wait for the old process's connections to time out.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Does the host lack this address family? Only then is the other one tried: a taken port is an error.
fn no_such_family(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Unsupported | io::ErrorKind::AddrNotAvailable
    )
    // EAFNOSUPPORT, which the standard library has no kind for.
    || (cfg!(target_os = "linux") && error.raw_os_error() == Some(97))
}

fn advice(error: &io::Error, flag: &str) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("; stop the process that holds it, or choose another port with --{flag}")
        }
        io::ErrorKind::PermissionDenied => {
            format!("; ports below 1024 need privileges, choose a higher one with --{flag}")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn everyone_means_ipv4_too() {
        let listener = bind(Reach::Everyone, 0, "grpc-port").unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    }

    #[test]
    fn loopback_is_not_reachable_from_outside() {
        let listener = bind(Reach::Loopback, 0, "metrics-port").unwrap();
        assert!(listener.local_addr().unwrap().ip().is_loopback());
    }

    #[test]
    fn a_taken_port_names_the_flag_and_the_way_out() {
        for (first, second) in [
            (Reach::Everyone, Reach::Everyone),
            (Reach::Loopback, Reach::Everyone),
        ] {
            let holder = bind(first, 0, "grpc-port").unwrap();
            let port = holder.local_addr().unwrap().port();
            let error = bind(second, port, "grpc-port").unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("cannot listen on port {port} (--grpc-port): ")),
                "{error}"
            );
            assert!(
                error.ends_with("or choose another port with --grpc-port"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_forbidden_port_says_why() {
        let error = BindError {
            flag: "grpc-port",
            port: 80,
            source: io::ErrorKind::PermissionDenied.into(),
        };
        assert!(error.to_string().contains("below 1024"), "{error}");
    }
}
