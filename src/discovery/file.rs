//! Endpoints from a file (plugin `file-discovery`): read at start-up, followed live. A broken file keeps the
//! last good state and says why, once per content.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::api::document::Mistakes;
use crate::api::endpoints_file::{self, EndpointEntry, EndpointsFile};
use crate::base::file_watch::{FileWatch, off_thread};
use crate::base::regular_file;
use crate::datastore::{Change, Datastore};
use crate::model::endpoint::EndpointSpec;
use crate::model::objective::Objectives;
use crate::model::rewrite::{ModelRewrite, Rewrites, Rule, Target};
use crate::plugin::{Context, ParamDoc, Params, ParamsError, PluginType, Roles};
use crate::wire::yaml;

/// Parameters of the plugin; its extension.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FileDiscoverySettings {
    /// The file.
    pub path: PathBuf,
    /// Follow changes.
    pub watch_file: bool,
}

const PARAMS: &[ParamDoc] = &[
    ParamDoc {
        name: "path",
        kind: "string",
        default: "",
        help: "The endpoints file; required.",
    },
    ParamDoc {
        name: "watchFile",
        kind: "bool",
        default: "false",
        help: "Follow changes of the file.",
    },
];

/// The plugin types of this floor.
pub fn plugin_types() -> Vec<PluginType> {
    let help = "Takes endpoints, objectives and model rewrites from a file; needs no cluster.";
    vec![PluginType {
        name: "file-discovery",
        help,
        params: PARAMS,
        make,
    }]
}

fn make(_: &Context, params: &Params) -> Result<Roles, ParamsError> {
    let settings: FileDiscoverySettings = params.decode(&["path", "watchFile"])?;
    if settings.path.as_os_str().is_empty() {
        return Err(ParamsError::one("path is required: name the endpoints file"));
    }
    Ok(Roles {
        extension: Some(Arc::new(settings)),
        ..Roles::default()
    })
}

/// Why an endpoints file was refused.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("cannot read the endpoints file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is wrong; the text lists every mistake.
    #[error("{0}")]
    Wrong(#[from] Mistakes),
}

/// A file that has been loaded and can be followed.
pub struct FileDiscovery {
    settings: FileDiscoverySettings,
    datastore: Arc<Datastore>,
    /// Hash of the content last looked at, good or broken.
    seen: u64,
}

impl FileDiscovery {
    /// Reads the file into the datastore.
    ///
    /// # Errors
    /// The file cannot be read or is wrong; the datastore is unchanged.
    pub fn load(settings: FileDiscoverySettings, datastore: Arc<Datastore>) -> Result<Self, LoadError> {
        let bytes = read(&settings.path)?;
        let file = parse(&settings.path, &bytes)?;
        apply(file, &datastore);
        Ok(FileDiscovery {
            settings,
            datastore,
            seen: hash(&bytes),
        })
    }

    /// Follows the file until `stop`, telling `on_change` of endpoints that joined and left. Returns at once
    /// when the file is not to be watched.
    pub async fn watch(mut self, on_change: impl Fn(&Change) + Send, stop: CancellationToken) {
        if !self.settings.watch_file {
            return;
        }
        let mut watch = FileWatch::new(&self.settings.path);
        loop {
            // Looked at before the first wait, too: the file may have changed since it was loaded.
            let looked = off_thread(self, Self::reload).await;
            self = looked.0;
            if let Some(change) = looked.1 {
                on_change(&change);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = watch.changed() => {}
            }
        }
    }

    /// Looks at the file again. `None`: nothing new, or nothing good.
    fn reload(&mut self) -> Option<Change> {
        let path = &self.settings.path;
        let bytes = match read(path) {
            Ok(bytes) => bytes,
            Err(error) => {
                // A file that is being replaced may be missing for a moment; said once until it is back.
                if std::mem::replace(&mut self.seen, 0) != 0 {
                    tracing::error!(%error, "Endpoints file cannot be read: keeping the last good state");
                }
                return None;
            }
        };
        let new = hash(&bytes);
        if std::mem::replace(&mut self.seen, new) == new {
            return None;
        }
        match parse(path, &bytes) {
            Ok(file) => {
                let change = apply(file, &self.datastore);
                tracing::info!(
                    path = %path.display(),
                    added = change.added.len(),
                    removed = change.removed.len(),
                    "Endpoints file reloaded"
                );
                Some(change)
            }
            Err(mistakes) => {
                tracing::error!(error = %mistakes, "Endpoints file is wrong: keeping the last good state");
                None
            }
        }
    }
}

/// Never 0, which stands for "not readable".
fn hash(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh64::xxh64(bytes, 0).max(1)
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    regular_file::read(path, yaml::MAX_BYTES as u64).map_err(|source| LoadError::Read {
        path: path.to_owned(),
        source,
    })
}

fn parse(path: &Path, bytes: &[u8]) -> Result<EndpointsFile, Mistakes> {
    let name = path.display().to_string();
    let tree = yaml::parse(&name, bytes)?;
    let mut mistakes = Mistakes::of(name);
    let file = endpoints_file::read(&tree, &mut mistakes);
    if mistakes.list.is_empty() {
        Ok(file)
    } else {
        Err(mistakes)
    }
}

fn apply(file: EndpointsFile, datastore: &Datastore) -> Change {
    let rule = |r: endpoints_file::RuleEntry| Rule {
        matches: r.matches,
        targets: r
            .targets
            .into_iter()
            .map(|t| Target {
                model: t.model,
                weight: t.weight,
            })
            .collect(),
    };
    let rewrites = file.rewrites.into_iter().map(|(name, rules)| ModelRewrite {
        name,
        rules: rules.into_iter().map(rule).collect(),
    });
    datastore.set_rules(
        Objectives(file.objectives.into_iter().collect()),
        Rewrites::new(rewrites.collect()),
    );
    datastore.set_endpoints(file.endpoints.into_iter().map(spec).collect())
}

fn spec(entry: EndpointEntry) -> EndpointSpec {
    let mut metrics = entry.address;
    if let Some(port) = entry.metrics_port {
        metrics.set_port(port);
    }
    EndpointSpec {
        namespace: entry.namespace,
        name: entry.name,
        address: entry.address,
        metrics_address: entry.metrics_port.map(|_| metrics),
        metrics_path: entry.metrics_path,
        labels: entry.labels,
    }
}
