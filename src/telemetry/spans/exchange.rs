//! The span of one exchange and its children. Called by the director and its exchanges.

use std::fmt;
use std::time::{Instant, SystemTime};

use opentelemetry::trace::{
    Span, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::trace::{SdkTracer, Span as SdkSpan};

use super::names;

/// Makes spans, or is off. Cheap to clone.
#[derive(Clone, Default)]
pub struct Tracer(Option<SdkTracer>);

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Tracer(on)"
        } else {
            "Tracer(off)"
        })
    }
}

impl Tracer {
    pub(super) fn new(tracer: SdkTracer) -> Self {
        Tracer(Some(tracer))
    }

    /// Begins the span of an exchange that was received at `received`, `now` being the same clock's time.
    /// `header` gives the request's headers: the trace of `traceparent` is continued.
    #[inline]
    pub fn exchange<'h>(
        &self,
        received: Instant,
        now: Instant,
        header: impl Fn(&str) -> Option<&'h str>,
    ) -> ExchangeSpan {
        match &self.0 {
            None => ExchangeSpan(None),
            Some(tracer) => ExchangeSpan(Some(Box::new(Live::begin(tracer, received, now, header)))),
        }
    }
}

/// A child, as the parent of its own children.
pub struct Child(Context);

/// The span of one exchange; of nothing when tracing is off.
#[derive(Default)]
pub struct ExchangeSpan(Option<Box<Live>>);

struct Live {
    tracer: SdkTracer,
    span: SdkSpan,
    /// The span as the parent of its children.
    context: Context,
    /// One moment on both clocks.
    moment: (Instant, SystemTime),
}

impl ExchangeSpan {
    /// Is anything recorded? Ask before gathering what only a span needs.
    #[inline]
    pub fn recording(&self) -> bool {
        self.0.as_ref().is_some_and(|live| live.span.is_recording())
    }

    /// Sets an attribute, whose value is only made if the span is recorded.
    #[inline]
    pub fn set<V: Into<Value>>(&mut self, name: &'static str, value: impl FnOnce() -> V) {
        if let Some(live) = &mut self.0
            && live.span.is_recording()
        {
            live.span.set_attribute(KeyValue::new(name, value()));
        }
    }

    /// Records a child that began and ended at these times. `parent`: a child made before, else the exchange.
    pub fn child(
        &self,
        name: &'static str,
        times: (Instant, Instant),
        parent: Option<&Child>,
        attributes: impl IntoIterator<Item = (&'static str, Value)>,
    ) -> Option<Child> {
        let live = self.0.as_ref().filter(|live| live.span.is_recording())?;
        let builder = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Internal)
            .with_start_time(live.wall(times.0))
            .with_attributes(attributes.into_iter().map(|(k, v)| KeyValue::new(k, v)));
        let parent = parent.map_or(&live.context, |child| &child.0);
        let mut span = builder.start_with_context(&live.tracer, parent);
        let context = Context::new().with_remote_span_context(span.span_context().clone());
        span.end_with_timestamp(live.wall(times.1));
        Some(Child(context))
    }

    /// The headers that hand the trace on, `traceparent` first; to be set last, over those of the client.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, String)> + use<> {
        let context = self.0.as_ref().map(|live| live.span.span_context().clone());
        let context = context.filter(SpanContext::is_valid);
        context.into_iter().flat_map(|c| {
            let parent = format!(
                "00-{}-{}-{:02x}",
                c.trace_id(),
                c.span_id(),
                c.trace_flags() & TraceFlags::SAMPLED
            );
            let state = c.trace_state().header();
            let state = (!state.is_empty()).then_some(("tracestate", state));
            std::iter::once(("traceparent", parent)).chain(state)
        })
    }

    /// Marks the exchange as failed with this error code.
    pub fn fail(&mut self, code: &'static str) {
        if let Some(live) = &mut self.0 {
            live.span.set_attribute(KeyValue::new(names::ERROR, code));
            live.span.set_status(Status::error(code));
        }
    }

    /// Ends the span. Only the first call counts; a span that is dropped ends, too.
    pub fn end(&mut self) {
        if let Some(mut live) = self.0.take() {
            live.span.end();
        }
    }
}

impl Live {
    fn begin<'h>(
        tracer: &SdkTracer,
        received: Instant,
        now: Instant,
        header: impl Fn(&str) -> Option<&'h str>,
    ) -> Self {
        let moment = (now, SystemTime::now());
        let parent = header("traceparent").and_then(|parent| continued(parent, header("tracestate")));
        let context = match parent {
            Some(parent) => Context::new().with_remote_span_context(parent),
            None => Context::new(),
        };
        let span = SpanBuilder::from_name(names::REQUEST)
            .with_kind(SpanKind::Server)
            .with_start_time(wall(moment, received))
            .start_with_context(tracer, &context);
        Live {
            context: Context::new().with_remote_span_context(span.span_context().clone()),
            tracer: tracer.clone(),
            span,
            moment,
        }
    }

    fn wall(&self, at: Instant) -> SystemTime {
        wall(self.moment, at)
    }
}

/// `at` on the wall clock, given one moment on both.
fn wall((instant, system): (Instant, SystemTime), at: Instant) -> SystemTime {
    if at >= instant {
        system + (at - instant)
    } else {
        system.checked_sub(instant - at).unwrap_or(system)
    }
}

/// The parent a W3C `traceparent` names; `None` when it is malformed, which starts a new trace. A malformed
/// `tracestate` is left out.
pub fn continued(parent: &str, state: Option<&str>) -> Option<SpanContext> {
    let mut fields = parent.trim().split('-');
    let (version, trace, span, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let hex = |text: &str, len: usize| {
        text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let shaped = hex(version, 2) && hex(trace, 32) && hex(span, 16) && hex(flags, 2);
    // Later versions may have more fields; this one has four.
    if !shaped || version == "ff" || (version == "00" && fields.next().is_some()) {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED,
        true,
        state.and_then(|s| s.parse().ok()).unwrap_or(TraceState::NONE),
    );
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_continued_only_when_it_is_well_formed() {
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let good = continued(&format!("00-{trace}-{span}-01"), Some("a=1,b=2")).unwrap();
        assert_eq!(good.trace_id().to_string(), trace);
        assert_eq!(good.span_id().to_string(), span);
        assert!(good.is_sampled() && good.is_remote());
        assert_eq!(good.trace_state().header(), "a=1,b=2");
        assert!(
            !continued(&format!("00-{trace}-{span}-00"), None)
                .unwrap()
                .is_sampled()
        );
        assert!(continued(&format!("cc-{trace}-{span}-01-more"), None).is_some());
        for bad in [
            String::new(),
            "00".into(),
            format!("00-{trace}-{span}"),
            format!("ff-{trace}-{span}-01"),
            format!("00-{trace}-{span}-01-more"),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{trace}-{span}-1"),
            format!("0x-{trace}-{span}-01"),
        ] {
            assert!(continued(&bad, None).is_none(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_is_continued_exactly_or_not_at_all(
            parent in "(00|01|ff)?-?[0-9a-fA-F-]{0,60}|.*",
            state in proptest::option::of(".*"),
        ) {
            if let Some(context) = continued(&parent, state.as_deref()) {
                let trace = context.trace_id().to_string();
                let span = context.span_id().to_string();
                proptest::prop_assert!(context.is_valid());
                let shaped = format!("-{trace}-{span}-");
                proptest::prop_assert!(parent.contains(&shaped), "{}", parent);
            }
        }
    }

    #[test]
    fn a_span_of_nothing_records_nothing_and_makes_no_value() {
        let now = Instant::now();
        let mut span = Tracer::default().exchange(now, now, |_| panic!("no header is looked at"));
        assert!(!span.recording());
        span.set(names::MODEL, || -> String { panic!("no value is made") });
        assert!(span.child(names::PICK, (now, now), None, []).is_none());
        assert_eq!(span.headers().count(), 0);
        span.fail("Unknown");
        span.end();
    }
}
