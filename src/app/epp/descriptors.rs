//! File descriptors: the soft limit is raised to the hard one, and the ports share what there is, so that connections to
//! one of them cannot take what the others, scraping and the cluster need.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Connections each port may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// ext_proc.
    pub ext_proc: usize,
    /// gRPC health.
    pub health: usize,
    /// Metrics.
    pub metrics: usize,
}

/// Raises the limit as far as the process may; the limit then.
pub fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let (soft, hard) = (
        limit.current.unwrap_or(u64::MAX),
        limit.maximum.unwrap_or(u64::MAX),
    );
    if soft >= hard {
        return soft;
    }
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => hard,
        Err(error) => {
            tracing::warn!(%error, soft, hard, "Cannot raise the limit of file descriptors");
            soft
        }
    }
}

/// The shares of `descriptors`, of which ext_proc wants `wanted`: half for ext_proc, an eighth for each of the others, the
/// rest for scraping, the cluster and files.
pub fn share(descriptors: u64, wanted: usize) -> Shares {
    let part = |of: u64| usize::try_from(descriptors / of).unwrap_or(usize::MAX).max(1);
    Shares {
        ext_proc: wanted.min(part(2)),
        health: part(16).min(256),
        metrics: part(8).min(64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_takes_what_the_others_need() {
        let shares = |descriptors, wanted| {
            let Shares {
                ext_proc,
                health,
                metrics,
            } = share(descriptors, wanted);
            (ext_proc, health, metrics)
        };
        assert_eq!(shares(512, 1024), (256, 32, 64));
        assert_eq!(shares(1 << 20, 1024), (1024, 256, 64));
        assert_eq!(shares(u64::MAX, 1), (1, 256, 64));
        assert_eq!(shares(0, 1024), (1, 1, 1));
    }
}
