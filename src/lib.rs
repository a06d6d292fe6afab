//! `endpoint-picker`: which model-server endpoint should take this request?
//!
//! # Floors
//! A module imports only from lower floors; modules of one floor do not see each other. A test
//! (`tests/it/floors.rs`) reads every `use crate::` and fails on an import that goes up or sideways.
//!
//! | floor | modules |
//! |---|---|
//! | F0 | [`base`] |
//! | F1 | [`model`] [`api`] [`telemetry`] |
//! | F2 | [`wire`] |
//! | F3 | [`plugin`] [`datastore`] [`prefix`] |
//! | F4 | [`scheduling`] [`saturation`] [`kubernetes`] |
//! | F5 | [`datalayer`] [`discovery`] [`net`] |
//! | F6 | [`requestcontrol`] `simulator` |
//! | F7 | [`extproc`] [`config`] [`admin`] |
//! | F8 | [`app`] |
//!
//! # Life of a request
//! [`net`] accepts -> [`extproc`] opens a stream, gathers headers and body chunks -> [`wire`] reads model,
//! prompt and stream flag -> [`requestcontrol`] (rewrite, objective, admission, candidates from
//! [`datastore`]) -> [`scheduling`] over the snapshot -> [`extproc`] answers headers, then the original
//! chunks -> response chunks stream through, [`wire`] watches for usage -> [`requestcontrol`] observes the
//! end once -> [`telemetry`].
//!
//! # Life of a sample
//! [`discovery`] puts an endpoint into [`datastore`] -> [`datalayer`] starts its task -> every 50 ms it
//! fetches the page into a reused buffer -> [`wire`] scans for the few families wanted -> a
//! [`model::sample::Sample`] is swapped into the endpoint's cell -> scorers and [`saturation`] read it.

pub mod base;

pub mod api;
pub mod model;
pub mod telemetry;

pub mod wire;

pub mod datastore;
pub mod plugin;
pub mod prefix;

pub mod kubernetes;
pub mod saturation;
pub mod scheduling;

pub mod datalayer;
pub mod discovery;
pub mod net;

pub mod requestcontrol;
#[cfg(feature = "sim")]
pub mod simulator;

pub mod admin;
pub mod config;
pub mod extproc;

pub mod app;
