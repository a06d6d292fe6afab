//! F5: where endpoints come from.
