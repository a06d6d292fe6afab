//! The record in a Lease: how it is read, taken, renewed and given up, field by field as client-go does.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use super::Timings;

/// A lease and when we saw its record change.
#[derive(Clone, Debug)]
pub struct Observed {
    /// As the server gave it, its resource version included.
    pub lease: Lease,
    at: Instant,
}

impl Observed {
    /// `lease` seen `now`; a record equal to the one seen before was not renewed.
    pub fn new(lease: Lease, before: Option<Observed>, now: Instant) -> Self {
        let same = before.filter(|b| b.lease.spec == lease.spec);
        Observed {
            at: same.map_or(now, |b| b.at),
            lease,
        }
    }

    /// Who holds it; nobody: "".
    pub fn holder(&self) -> &str {
        holder(&self.lease)
    }

    /// Time until a record that an earlier run of `pod` wrote has expired, by the times in it; `None`: it is not of that pod,
    /// or has no times.
    pub fn left_behind_by(&self, pod: &str, now: Timestamp) -> Option<Duration> {
        self.holder().strip_prefix(pod)?.strip_prefix('_')?;
        let spec = self.lease.spec.as_ref()?;
        let lives = i64::from(spec.lease_duration_seconds?);
        let renewed = spec.renew_time.as_ref()?.0.as_millisecond();
        let left = renewed
            .saturating_add(lives * 1000)
            .saturating_sub(now.as_millisecond());
        Some(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
    }

    /// When it may be taken over.
    pub fn expires(&self) -> Instant {
        let spec = self.lease.spec.as_ref();
        let seconds = spec.and_then(|s| s.lease_duration_seconds).unwrap_or(0);
        self.at + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }

    /// Has its holder still a claim?
    pub fn valid(&self, now: Instant) -> bool {
        now < self.expires()
    }
}

/// Who holds a lease; nobody: "".
pub fn holder(lease: &Lease) -> &str {
    let spec = lease.spec.as_ref();
    spec.and_then(|s| s.holder_identity.as_deref()).unwrap_or("")
}

/// The record after we took it over from whoever had it.
pub fn taken(lease: &Lease, identity: &str, timings: &Timings, now: Timestamp) -> Lease {
    let old = lease.spec.clone().unwrap_or_default();
    // A lease that is new starts at 0.
    let transitions = match (&lease.spec, old.lease_transitions) {
        (None, _) => 0,
        (_, before) => before.unwrap_or(0).saturating_add(1),
    };
    let spec = LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(seconds(timings.lease)),
        acquire_time: Some(MicroTime(now)),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(transitions),
        ..old
    };
    with(lease, spec)
}

/// The record after we renewed it.
pub fn renewed(lease: &Lease, identity: &str, timings: &Timings, now: Timestamp) -> Lease {
    let old = lease.spec.clone().unwrap_or_default();
    let spec = LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(seconds(timings.lease)),
        renew_time: Some(MicroTime(now)),
        ..old
    };
    with(lease, spec)
}

/// The record after we gave it up: nobody's, and short-lived for candidates that look only at the time.
pub fn released(lease: &Lease, now: Timestamp) -> Lease {
    let old = lease.spec.clone().unwrap_or_default();
    let spec = LeaseSpec {
        holder_identity: Some(String::new()),
        lease_duration_seconds: Some(1),
        acquire_time: Some(MicroTime(now)),
        renew_time: Some(MicroTime(now)),
        ..old
    };
    with(lease, spec)
}

fn with(lease: &Lease, spec: LeaseSpec) -> Lease {
    Lease {
        metadata: lease.metadata.clone(),
        spec: Some(spec),
    }
}

/// Whole seconds, at least one: the API refuses zero.
fn seconds(time: Duration) -> i32 {
    i32::try_from(time.as_secs().max(1)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timings() -> Timings {
        Timings::default()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn fields(lease: &Lease) -> (&str, i32, i32, i64, i64) {
        let s = lease.spec.as_ref().unwrap();
        let second = |t: &Option<MicroTime>| t.as_ref().map_or(-1, |t| t.0.as_second());
        (
            s.holder_identity.as_deref().unwrap_or("?"),
            s.lease_duration_seconds.unwrap_or(-1),
            s.lease_transitions.unwrap_or(-1),
            second(&s.acquire_time),
            second(&s.renew_time),
        )
    }

    #[test]
    fn a_record_lives_as_client_gos_does() {
        let new = taken(&Lease::default(), "a", &timings(), at(100));
        assert_eq!(fields(&new), ("a", 15, 0, 100, 100));
        let renewed = renewed(&new, "a", &timings(), at(102));
        assert_eq!(fields(&renewed), ("a", 15, 0, 100, 102));
        let stolen = taken(&renewed, "b", &timings(), at(130));
        assert_eq!(fields(&stolen), ("b", 15, 1, 130, 130));
        let free = released(&stolen, at(140));
        assert_eq!(fields(&free), ("", 1, 1, 140, 140));
        assert_eq!(
            fields(&taken(&free, "c", &timings(), at(141))),
            ("c", 15, 2, 141, 141)
        );
    }

    #[test]
    fn a_record_expires_by_our_clock_not_by_its_times() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let lease = taken(&Lease::default(), "a", &timings(), at(0));
        let seen = Observed::new(lease.clone(), None, start);
        assert!(seen.valid(later(14)) && !seen.valid(later(15)));
        // Seen again, unchanged: nobody renewed it.
        let again = Observed::new(lease.clone(), Some(seen.clone()), later(14));
        let renewed = Observed::new(renewed(&lease, "a", &timings(), at(5)), Some(seen), later(14));
        assert!(!again.valid(later(16)) && renewed.valid(later(16)));
    }

    #[test]
    fn a_record_of_the_same_pod_expires_by_its_own_times() {
        let lease = taken(&Lease::default(), "epp-0_uid", &timings(), at(100));
        let seen = Observed::new(lease, None, Instant::now());
        let left = |pod: &str, second| seen.left_behind_by(pod, at(second)).map(|d| d.as_secs());
        assert_eq!(left("epp-0", 105), Some(10));
        assert_eq!(left("epp-0", 115), Some(0));
        assert_eq!(left("epp-0", 1000), Some(0));
        assert_eq!(
            (left("epp", 1000), left("epp-00", 1000), left("epp-0_uid", 1000)),
            (None, None, None)
        );
    }
}
