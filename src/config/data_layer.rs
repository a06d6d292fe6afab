//! The data layer of a document: where endpoints come from, which plugin says how pages are fetched, and which says what is
//! read from them. Called by `build`.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::api::document::Mistakes;
use crate::api::picker_config::{PickerConfig, PluginRef};
use crate::datalayer::{Engines, MetricsSource};
use crate::discovery::file::FileDiscoverySettings;
use crate::plugin::PluginInstance;

use super::references::find;

/// How endpoints are scraped, where a document says so; `None` leaves it to the flags.
#[derive(Clone, Debug, Default)]
pub struct Scraping {
    /// How pages are fetched.
    pub source: Option<Arc<MetricsSource>>,
    /// What is read from them.
    pub engines: Option<Arc<Engines>>,
}

/// The file endpoints come from, where one is named.
pub fn discovery(
    document: &PickerConfig,
    plugins: &[PluginInstance],
    m: &mut Mistakes,
) -> Option<FileDiscoverySettings> {
    let reference = document.data_layer.as_ref()?.discovery.as_ref()?;
    let plugin = find(document, plugins, reference, "dataLayer", m)?;
    let settings = extension::<FileDiscoverySettings>(plugin);
    if settings.is_none() {
        let text = format!("the plugin {} does not discover endpoints", plugin.name);
        m.add(reference.at, reference.path.clone(), text);
    }
    settings.map(|s| (*s).clone())
}

/// How endpoints are scraped: by the source and the extractor that `dataLayer.sources` names, or where it names none by the
/// only plugin of each kind. There is one page per endpoint, so a second source or extractor is a mistake.
pub fn scraping(document: &PickerConfig, plugins: &[PluginInstance], m: &mut Mistakes) -> Scraping {
    if sources(document).is_empty() {
        return Scraping {
            source: only(document, plugins, "data source", m),
            engines: only(document, plugins, "extractor", m),
        };
    }
    let mut scraping = Scraping::default();
    let mut seen = BTreeSet::new();
    for (index, (source, extractors)) in sources(document).iter().enumerate() {
        let found = named::<MetricsSource>(document, plugins, source, "a data source", m);
        if !seen.insert(&source.name) {
            wrong(m, source, format!("data source {} is listed twice", source.name));
        } else if index > 0 {
            let text = "a second data source: an endpoint has one metrics page, name one source";
            wrong(m, source, text.into());
        }
        scraping.source = scraping.source.or(found);
        let mut own = BTreeSet::new();
        for (index, extractor) in extractors.iter().enumerate() {
            let found = named::<Engines>(document, plugins, extractor, "an extractor", m);
            if !own.insert(&extractor.name) {
                wrong(
                    m,
                    extractor,
                    format!("extractor {} is listed twice", extractor.name),
                );
            } else if index > 0 {
                let text = "a second extractor: put its engineConfigs into the first one";
                wrong(m, extractor, text.into());
            }
            scraping.engines = scraping.engines.or(found);
        }
    }
    scraping
}

/// A line for each data source and extractor that nothing refers to, although there are references.
pub fn unused(document: &PickerConfig, plugins: &[PluginInstance]) -> Vec<String> {
    let sources = sources(document);
    let named: BTreeSet<&str> = sources
        .iter()
        .flat_map(|(source, extractors)| std::iter::once(source).chain(extractors))
        .map(|reference| reference.name.as_str())
        .collect();
    let scrapes =
        |p: &&PluginInstance| extension::<MetricsSource>(p).is_some() || extension::<Engines>(p).is_some();
    let idle = plugins
        .iter()
        .filter(|p| !sources.is_empty() && !named.contains(&*p.name));
    idle.filter(scrapes)
        .map(|p| {
            format!(
                "plugin {} has no effect: dataLayer.sources does not name it",
                p.name
            )
        })
        .collect()
}

type Sources = [(PluginRef, Vec<PluginRef>)];

fn sources(document: &PickerConfig) -> &Sources {
    document.data_layer.as_ref().map_or(&[], |layer| &layer.sources)
}

/// The extension of the plugin that `reference` names.
fn named<T: Send + Sync + 'static>(
    document: &PickerConfig,
    plugins: &[PluginInstance],
    reference: &PluginRef,
    what: &str,
    m: &mut Mistakes,
) -> Option<Arc<T>> {
    let found = extension(find(document, plugins, reference, "dataLayer", m)?);
    if found.is_none() {
        wrong(
            m,
            reference,
            format!("the plugin {} is not {what}", reference.name),
        );
    }
    found
}

/// The extension of the only plugin that has one of that type; several are a mistake.
fn only<T: Send + Sync + 'static>(
    document: &PickerConfig,
    plugins: &[PluginInstance],
    what: &str,
    m: &mut Mistakes,
) -> Option<Arc<T>> {
    let mut found = plugins.iter().filter_map(|p| Some((p, extension::<T>(p)?)));
    let (first, chosen) = found.next()?;
    for (other, _) in found {
        if let Some(entry) = document.plugins.iter().find(|e| *e.name == *other.name) {
            let text = format!(
                "a second {what} beside {}: name the one to use in dataLayer.sources",
                first.name
            );
            m.add(entry.at, entry.path.clone(), text);
        }
    }
    Some(chosen)
}

fn wrong(m: &mut Mistakes, reference: &PluginRef, text: String) {
    m.add(reference.at, reference.path.clone(), text);
}

fn extension<T: Send + Sync + 'static>(plugin: &PluginInstance) -> Option<Arc<T>> {
    plugin.roles.extension.clone()?.downcast().ok()
}
