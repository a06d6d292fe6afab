//! The director new exchanges get. A changed configuration makes another director; exchanges that are under way
//! keep the one they began with.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Director;

/// The director in force. Reading it takes no lock.
pub struct CurrentDirector(ArcSwap<Director>);

impl CurrentDirector {
    /// Starts with this one.
    pub fn new(first: Arc<Director>) -> Self {
        CurrentDirector(ArcSwap::new(first))
    }

    /// The director for an exchange that begins now.
    pub fn load(&self) -> Arc<Director> {
        self.0.load_full()
    }

    /// From now on, this one. Returns the last: whoever drops it last frees all its plugins hold, so keep it
    /// until no exchange does, and drop it where that holds up nobody.
    pub fn replace(&self, next: Arc<Director>) -> Arc<Director> {
        self.0.swap(next)
    }
}
