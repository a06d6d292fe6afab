//! F5: the poller that keeps every endpoint's sample fresh.
