//! The run of `epp`.
