//! F8: the two programs: options as typed, settings made sense of, and the run.
