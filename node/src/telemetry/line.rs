//! One line of the log: one JSON object, and where each of its fields comes from.
//!
//! Every line has `ts`, `level`, `target`, `msg`, `request_id`, `node_id` and `term`, then the fields of the spans it
//! stands in and its own. `msg` names the event: a fixed text, what varies stands in fields. `request_id` is empty
//! where no request is served, ids are 0 while unknown. An error also has `code` (from the table of error codes),
//! `error`, and `stack`: the place in the source, the spans from the innermost out, what caused the error where it says
//! so, and the frames where `RUST_BACKTRACE` asks for them. What a library logs as an error has the code `internal`.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use ollamax_types::{Clock, ErrorCode};

use crate::telemetry::Standing;

/// Causes that are kept of an error.
const CAUSES_MAX: usize = 16;

/// Writes lines.
pub(super) struct JsonLine {
    pub(super) standing: Arc<Standing>,
    pub(super) clock: Clock,
}

impl<S> FormatEvent<S, JsonFields> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let mut line = Map::new();
        line.insert("ts".to_owned(), rfc3339(self.clock.now().0).into());
        line.insert("level".to_owned(), metadata.level().as_str().to_lowercase().into());
        line.insert("target".to_owned(), metadata.target().into());
        line.insert("msg".to_owned(), metadata.name().into());
        line.insert("request_id".to_owned(), "".into());
        line.insert("node_id".to_owned(), self.standing.node.load(Ordering::Relaxed).into());
        line.insert("term".to_owned(), self.standing.term.load(Ordering::Relaxed).into());
        let is_error = *metadata.level() == Level::ERROR;
        let mut stack = Vec::new();
        if is_error {
            stack.push(format!("at {}:{}", metadata.file().unwrap_or("?"), metadata.line().unwrap_or(0)));
        }
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            if is_error {
                stack.insert(1, format!("in {}", span.name()));
            }
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<JsonFields>>();
            if let Some(Ok(Value::Object(fields))) = fields.map(|text| serde_json::from_str(&text.fields)) {
                line.extend(fields);
            }
        }
        event.record(&mut Fields { line: &mut line, stack: &mut stack });
        if is_error {
            complete(&mut line, stack);
        }
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// Adds what every error has and this one did not say.
fn complete(line: &mut Map<String, Value>, mut stack: Vec<String>) {
    let said = line["msg"].clone();
    line.entry("code").or_insert_with(|| ErrorCode::Internal.as_str().into());
    line.entry("error").or_insert(said);
    let frames = Backtrace::capture();
    if frames.status() == BacktraceStatus::Captured {
        stack.extend(frames.to_string().lines().map(|frame| frame.trim().to_owned()));
    }
    line.insert("stack".to_owned(), stack.into());
}

/// Takes the fields of an event, and of an error that is given as one its causes.
struct Fields<'a> {
    line: &'a mut Map<String, Value>,
    stack: &'a mut Vec<String>,
}

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: Value) {
        let name = if field.name() == "message" { "msg" } else { field.name() };
        self.line.insert(name.to_owned(), value);
    }
}

impl Visit for Fields<'_> {
    fn record_error(&mut self, field: &Field, error: &(dyn Error + 'static)) {
        self.put(field, error.to_string().into());
        let mut cause = error.source();
        for _ in 0..CAUSES_MAX {
            let Some(error) = cause else { break };
            self.stack.push(format!("because of {error}"));
            cause = error.source();
        }
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

/// Milliseconds since 1970 as RFC 3339 in UTC.
fn rfc3339(millis: u64) -> String {
    let stamp = i64::try_from(millis).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    stamp.map_or_else(String::new, |stamp| format!("{stamp:.3}"))
}
