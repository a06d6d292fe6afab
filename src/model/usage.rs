//! Token counts a model server reports.

/// Tokens of one exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens.
    pub prompt: u64,
    /// Generated tokens.
    pub completion: u64,
    /// Their sum, as reported.
    pub total: u64,
    /// Prompt tokens served from cache.
    pub cached: u64,
}
