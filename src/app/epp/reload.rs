//! Follows the configuration file: a change is checked as at start-up, told in the log by its differences, and
//! applied without touching open streams. A wrong one is refused with every reason, and what runs goes on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use tokio_util::sync::CancellationToken;

use crate::base::file_watch::{FileWatch, off_thread};
use crate::config::{self, differences};
use crate::model::active_config::Refused;
use crate::requestcontrol::Director;

use super::configure;
use super::errors::RunError;
use super::generation::{Generation, Lasting, Live};
use super::settings::Settings;

/// Follows the file of `--config-file`.
pub struct Reloader {
    /// The file.
    pub path: PathBuf,
    /// The settings of the start; flags and environment do not change.
    pub settings: Settings,
    /// What every generation stands on.
    pub lasting: Lasting,
    /// What runs.
    pub live: Live,
    /// Content last looked at, by hash.
    pub seen: u64,
}

impl Reloader {
    /// Follows until `stop`.
    pub async fn follow(mut self, stop: CancellationToken) {
        let mut watch = FileWatch::new(&self.path);
        let mut retired: Vec<Arc<Director>> = Vec::new();
        loop {
            // Looked at before the first wait, too: the file may have changed since it was loaded.
            let looked = off_thread(self, Self::look).await;
            self = looked.0;
            retired.extend(looked.1);
            retire(&mut retired);
            tokio::select! {
                () = stop.cancelled() => return,
                () = watch.changed() => {}
            }
        }
    }

    /// Looks at the file; the director that was replaced, where one was.
    fn look(&mut self) -> Option<Arc<Director>> {
        let source = match configure::source(&self.settings) {
            Ok(source) => source,
            Err(error) => {
                // A file that is being replaced may be missing for a moment; said once until it is back.
                if std::mem::replace(&mut self.seen, 0) != 0 {
                    self.refuse(&error);
                }
                return None;
            }
        };
        let new = fingerprint(&source);
        if std::mem::replace(&mut self.seen, new) == new {
            return None;
        }
        match self.reload(&source) {
            Ok(replaced) => replaced,
            Err(error) => {
                self.refuse(&error);
                None
            }
        }
    }

    fn reload(&mut self, source: &config::Source) -> Result<Option<Arc<Director>>, RunError> {
        let Lasting { metrics, clock, .. } = &self.lasting;
        let built = configure::build(source, &self.settings, metrics, clock, self.live.kept())?;
        let before = self.live.state.load_full();
        if built.hash == before.hash {
            // A comment, a space, or back to what runs after a mistake.
            self.live.settled(SystemTime::now());
            tracing::info!(
                config_hash = built.hash,
                "Configuration file changed, to the same effect"
            );
            return Ok(None);
        }
        let (warnings, hash) = (built.warnings.clone(), built.hash.clone());
        let changes = differences(&before.effective, &built.effective);
        let next = Generation::new(built, configure::name(source), &self.settings, &self.lasting);
        let replaced = self.live.apply(next, &self.settings, &self.lasting)?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        tracing::info!(
            config_hash = hash,
            before = before.hash,
            changes = changes.join("; "),
            "Configuration reloaded"
        );
        Ok(Some(replaced))
    }

    fn refuse(&self, error: &RunError) {
        let running = self.live.state.load().hash.clone();
        tracing::error!(%error, config_hash = running, "Configuration refused: the running one is kept");
        self.lasting.metrics.config_refused();
        self.live.state.refuse(Refused {
            at: SystemTime::now(),
            reasons: error.to_string(),
        });
    }
}

/// Never 0, which stands for "not readable".
pub fn fingerprint(source: &config::Source) -> u64 {
    match source {
        config::Source::BuiltIn => 1,
        config::Source::Text { bytes, .. } => xxhash_rust::xxh64::xxh64(bytes, 0).max(1),
    }
}

/// Frees the directors no exchange uses any more, on a thread of their own: what a plugin has learned can be large,
/// and freeing it must hold up nobody.
fn retire(directors: &mut Vec<Arc<Director>>) {
    let unused: Vec<Arc<Director>> = directors.extract_if(.., |d| Arc::strong_count(d) == 1).collect();
    if !unused.is_empty() {
        tokio::task::spawn_blocking(move || drop(unused));
    }
}
