//! An HTTP client of tests: no redirects, so that answers are seen as they are.

use std::time::Duration;

/// A client; the crypto provider it wants is installed once per process.
pub fn client() -> reqwest::Client {
    let _already = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(150))
        .build()
        .unwrap()
}
