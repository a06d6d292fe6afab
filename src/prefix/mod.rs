//! F3: prompt-prefix hashing and the index of which endpoint holds which leading blocks.
