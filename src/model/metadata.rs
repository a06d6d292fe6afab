//! What the proxy's filter metadata says to us: the subset hint and the endpoint that served.

/// The two facts read from `metadata_context.filter_metadata`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The subset hint. `None`: no hint, all endpoints; an empty list: none at all (request.md §4.1).
    pub subset: Option<Vec<String>>,
    /// Was the namespace `envoy.lb` present?
    pub lb_present: bool,
    /// The endpoint that served, as the proxy reports it: `ip:port`.
    pub served: Option<String>,
}

impl Metadata {
    /// Bytes of memory held.
    pub fn held(&self) -> usize {
        let entries = self.subset.iter().flatten();
        let subset: usize = entries.map(|e| e.capacity() + size_of::<String>()).sum();
        subset + self.served.as_ref().map_or(0, String::capacity)
    }

    /// Takes over what `newer` says and keeps what it is silent about (request.md §11 row 12).
    pub fn merge(&mut self, newer: Metadata) {
        self.subset = newer.subset.or(self.subset.take());
        self.lb_present |= newer.lb_present;
        self.served = newer.served.or(self.served.take());
    }
}
