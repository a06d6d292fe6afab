//! Writes one family at a time into the library's encoder. Families without a series are left out, as a
//! Prometheus client does that has not met a label value yet.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::catalogue::Spec;
use super::histogram::Histogram;

/// A value to be written.
pub enum Value<'a> {
    /// A count.
    Count(u64),
    /// A count that has fractions, such as seconds.
    Total(f64),
    /// A level in whole units.
    Level(i64),
    /// A level with fractions.
    Ratio(f64),
    /// A distribution.
    Spread(&'a Histogram),
}

/// The page being written.
pub struct Page<'a>(pub DescriptorEncoder<'a>);

impl Page<'_> {
    /// A metric without labels.
    pub fn one(&mut self, spec: &Spec, value: Value) -> fmt::Result {
        value.encode(self.family(spec)?)
    }

    /// A metric with labels, one line or histogram a series; nothing when there is none.
    pub fn labelled<'v, L: EncodeLabelSet>(
        &mut self,
        spec: &Spec,
        series: impl IntoIterator<Item = (L, Value<'v>)>,
    ) -> fmt::Result {
        let mut series = series.into_iter().peekable();
        if series.peek().is_none() {
            return Ok(());
        }
        let mut family = self.family(spec)?;
        series.try_for_each(|(labels, value)| value.encode(family.encode_family(&labels)?))
    }

    fn family(&mut self, spec: &Spec) -> Result<MetricEncoder<'_>, fmt::Error> {
        // The encoder adds `_total` to the samples of a counter by itself.
        let name = spec.name.strip_suffix("_total").unwrap_or(spec.name);
        self.0.encode_descriptor(name, spec.help, None, spec.kind)
    }
}

impl Value<'_> {
    fn encode(self, encoder: MetricEncoder) -> fmt::Result {
        match self {
            Value::Count(n) => ConstCounter::new(n).encode(encoder),
            Value::Total(x) => ConstCounter::new(x).encode(encoder),
            Value::Level(n) => ConstGauge::new(n).encode(encoder),
            Value::Ratio(x) => ConstGauge::new(x).encode(encoder),
            Value::Spread(histogram) => histogram.encode(encoder),
        }
    }
}
