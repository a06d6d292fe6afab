//! The simulator as a program.
