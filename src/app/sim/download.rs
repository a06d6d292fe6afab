//! Gets the dataset's file from `--dataset-url`, when it is not there (simulator.md §12). Called by `run`.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::StreamExt;
use tokio::io::AsyncWriteExt;

/// Longest wait for a connection, and for more of the file.
const PATIENCE: Duration = Duration::from_secs(30);

/// Time between two lines about progress.
const REPORT: Duration = Duration::from_secs(5);

/// Why the file could not be got.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The server could not be asked, or broke off.
    #[error("cannot download the dataset from {url}: {source}")]
    Transfer {
        /// Where from.
        url: String,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// It answered something else.
    #[error("dataset download bad status: {0}")]
    Status(reqwest::StatusCode),
    /// There was nothing in it.
    #[error("downloaded file is empty")]
    Empty,
    /// It could not be kept.
    #[error("cannot write {path}: {source}")]
    Write {
        /// Where to.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Downloads `url` to `path`, making folders. A file that breaks off is not left behind under its name.
///
/// # Errors
/// It cannot be got or kept.
pub async fn download(url: &str, path: &Path) -> Result<(), DownloadError> {
    let transfer = |source| DownloadError::Transfer {
        url: url.to_owned(),
        source,
    };
    let write = |source| DownloadError::Write {
        path: path.display().to_string(),
        source,
    };
    let client = reqwest::Client::builder()
        .connect_timeout(PATIENCE)
        .read_timeout(PATIENCE)
        .build();
    let response = client
        .map_err(transfer)?
        .get(url)
        .send()
        .await
        .map_err(transfer)?;
    if !response.status().is_success() {
        return Err(DownloadError::Status(response.status()));
    }
    let total = response.content_length();
    if let Some(folder) = path.parent() {
        tokio::fs::create_dir_all(folder).await.map_err(write)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = Path::new(&name);
    let mut file = tokio::fs::File::create(part).await.map_err(write)?;
    let mut bytes = response.bytes_stream();
    let (mut got, mut reported) = (0u64, Instant::now());
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk.map_err(transfer)?;
        file.write_all(&chunk).await.map_err(write)?;
        got += chunk.len() as u64;
        if reported.elapsed() >= REPORT {
            reported = Instant::now();
            tracing::info!(bytes = got, total, "Downloading the dataset");
        }
    }
    file.flush().await.map_err(write)?;
    drop(file);
    if got == 0 {
        let _ = tokio::fs::remove_file(part).await;
        return Err(DownloadError::Empty);
    }
    tokio::fs::rename(part, path).await.map_err(write)?;
    tracing::info!(bytes = got, path = %path.display(), "Downloaded the dataset");
    Ok(())
}
