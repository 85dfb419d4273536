//! Log lines, one for each event, as text or as a JSON object.
//!
//! ```text
//! 2026-11-28T01:55:29.000000Z  WARN call:attempt: the outcome of the refund is unknown
//!  state="IN_DOUBT" refund=r-1 attempt=1
//! {"timestamp":"2026-11-28T01:55:29.000000Z","level":"WARN","target":"recoup::engine::attempt",
//!  "message":"the outcome of the refund is unknown","state":"IN_DOUBT","refund":"r-1","attempt":1,
//!  "spans":["call","attempt"]}
//! ```
//!
//! A line has each field once and at the top level: first the event's fields, then those of the
//! spans around it, the innermost first; at INFO without the method of the call. A field whose name
//! contains a dot belongs to the trace conventions or to the `log` crate, and is left out.
//!
//! `tracing-subscriber`'s own JSON format does not do this: it nests the fields of spans, and
//! writes a key twice if an event's field is called like one of its own, such as `level`.

use std::fmt::{self, Debug, Write as _};
use std::io::Write as _;
use std::ops::Range;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_log::NormalizeEvent as _;
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::telemetry::LogFormat;

/// Writes a line for each event.
pub(super) struct LogLayer<W> {
    pub(super) format: LogFormat,
    /// Applies to [`LogFormat::Text`] only.
    pub(super) is_coloured: bool,
    pub(super) writer: W,
}

/// The fields of an event or a span, formatted for a line.
struct FormattedFields {
    format: LogFormat,
    text: String,
    /// Each field's name, and its range in `text`.
    fields: Vec<(&'static str, Range<usize>)>,
}

/// Keys of a JSON object besides the fields.
const OWN_KEYS: [&str; 4] = ["timestamp", "level", "target", "spans"];
/// The field of a call's span that a line at INFO leaves out: it would be a large part of a
/// refund's outcome, and say the same each time.
const METHOD: &str = "method";
/// Initial capacity: longer than most lines.
const LINE_BYTES: usize = 512;

impl<S, W> Layer<S> for LogLayer<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = FormattedFields::empty(self.format);
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<FormattedFields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = FormattedFields::empty(self.format);
        event.record(&mut fields);
        let spans = || context.event_scope(event).into_iter().flatten();
        let mut names: Vec<&'static str> = spans().map(|span| span.name()).collect();
        names.reverse();
        // Events of the `log` crate carry their target in a field.
        let from_log = event.normalized_metadata();
        let metadata = from_log.as_ref().unwrap_or_else(|| event.metadata());
        let mut line = self.prefix(metadata, &names);
        // What is not written, or not again.
        let mut written = OWN_KEYS.to_vec();
        fields.append_to(&mut line, &mut written);
        if *metadata.level() == Level::INFO {
            written.push(METHOD);
        }
        for span in spans() {
            if let Some(fields) = span.extensions().get::<FormattedFields>() {
                fields.append_to(&mut line, &mut written);
            }
        }
        line.push_str(&self.suffix(&names));
        // There is no other place to report that the log cannot be written.
        let _ = self.writer.make_writer_for(metadata).write_all(line.as_bytes());
    }
}

impl<W> LogLayer<W> {
    /// The text before the fields. Names of spans and targets come from source code and need no
    /// escaping.
    fn prefix(&self, metadata: &Metadata<'_>, spans: &[&str]) -> String {
        let mut line = String::with_capacity(LINE_BYTES);
        let is_text = self.format == LogFormat::Text;
        let (dim, colour, plain) = match is_text && self.is_coloured {
            true => ("\x1b[2m", colour_of(*metadata.level()), "\x1b[0m"),
            false => ("", "", ""),
        };
        line.push_str(if is_text { dim } else { "{\"timestamp\":\"" });
        // The machine's time, not the engine's clock. Writing to a string cannot fail, here and
        // below.
        let _ = SystemTime.format_time(&mut Writer::new(&mut line));
        let (level, target) = (metadata.level(), metadata.target());
        let _ = match self.format {
            LogFormat::Json => write!(line, "\",\"level\":\"{level}\",\"target\":\"{target}\""),
            LogFormat::Text => write!(line, "{plain} {colour}{level:>5}{plain}"),
        };
        if is_text && !spans.is_empty() {
            line.extend([" ", &spans.join(":"), ":"]);
        }
        line
    }

    fn suffix(&self, spans: &[&str]) -> String {
        match self.format {
            LogFormat::Json if spans.is_empty() => ",\"spans\":[]}\n".to_owned(),
            LogFormat::Json => format!(",\"spans\":[\"{}\"]}}\n", spans.join("\",\"")),
            LogFormat::Text => "\n".to_owned(),
        }
    }
}

const fn colour_of(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG => "\x1b[34m",
        Level::TRACE => "\x1b[35m",
    }
}

impl FormattedFields {
    const fn empty(format: LogFormat) -> Self {
        Self { format, text: String::new(), fields: Vec::new() }
    }

    /// Appends to `line` the fields that are not in `written` yet, and adds their names there.
    fn append_to(&self, line: &mut String, written: &mut Vec<&'static str>) {
        for (name, range) in &self.fields {
            if !written.contains(name) {
                written.push(name);
                line.push(if self.format == LogFormat::Json { ',' } else { ' ' });
                line.push_str(self.text.get(range.clone()).unwrap_or_default());
            }
        }
    }

    /// Records a field. In JSON, a value that is not bare is quoted.
    fn push(&mut self, field: &Field, value: &dyn Debug, is_bare: bool) {
        let name = field.name();
        if name.contains('.') {
            return;
        }
        // A span's field may be recorded again.
        self.fields.retain(|(known, _)| *known != name);
        let (from, is_json) = (self.text.len(), self.format == LogFormat::Json);
        match self.format {
            LogFormat::Json => self.text.extend(["\"", name, "\":"]),
            LogFormat::Text if name == "message" => {}
            LogFormat::Text => self.text.extend([name, "="]),
        }
        let quote = if is_json && !is_bare { "\"" } else { "" };
        self.text.push_str(quote);
        // A failing Debug implementation truncates the value; the quote is closed all the same.
        let _ = write!(Escaped { text: &mut self.text, is_json }, "{value:?}");
        self.text.push_str(quote);
        self.fields.push((name, from..self.text.len()));
    }
}

impl Visit for FormattedFields {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, &value, true);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, &value, true);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, &value, true);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match self.format {
            LogFormat::Json => self.push(field, &format_args!("{value}"), false),
            // Debug adds quotes.
            LogFormat::Text => self.push(field, &value, false),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.push(field, value, false);
    }
}

/// Whether a terminal or viewer ends the line or changes the text direction at this character.
const fn breaks_line(character: char) -> bool {
    matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Escapes text so that no value can end its line or its JSON string.
struct Escaped<'a> {
    text: &'a mut String,
    is_json: bool,
}

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '"' | '\\' if self.is_json => self.text.extend(['\\', character]),
                '\n' | '\r' | '\t' => self.text.extend(character.escape_default()),
                character if character.is_control() || breaks_line(character) => {
                    write!(self.text, "\\u{:04x}", u32::from(character))?;
                }
                character => self.text.push(character),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing::field::Empty;
    use tracing::{debug_span, info, info_span, warn};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct SharedBuffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for SharedBuffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines that `log` writes, each without its time.
    fn lines_of(format: LogFormat, log: impl FnOnce()) -> Vec<String> {
        let buffer = SharedBuffer::default();
        let writer = buffer.clone();
        let layer = LogLayer { format, is_coloured: false, writer: move || writer.clone() };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        let without_time = |line: &str| match format {
            LogFormat::Text => line.split_once("Z ").unwrap().1.to_owned(),
            LogFormat::Json => format!("{{{}", line.split_once("Z\",").unwrap().1),
        };
        text.lines().map(without_time).collect()
    }

    fn log_doubt() {
        let call = info_span!(
            "call",
            method = "M",
            request_id = "1",
            trace_id = Empty,
            otel.name = "M",
            otel.kind = "server",
            rpc.method = Empty
        );
        call.record("trace_id", tracing::field::display("0af7")).record("rpc.method", "M");
        call.in_scope(|| {
            let attempt = info_span!("attempt", refund = %"r-1", account = %"main", attempt = 2_i64);
            attempt.in_scope(|| {
                debug_span!("provider", account = %"main", refund = %"r-1").in_scope(|| {
                    warn!(state = "IN_DOUBT", lookups = 3_u64, open = true, account = "other", "unknown");
                });
            });
        });
    }

    #[test]
    fn json_has_each_field_once_at_the_top_level() {
        let expected = "{\"level\":\"WARN\",\"target\":\"recoup::telemetry::logs::tests\",\"message\":\"unknown\",\
                        \"state\":\"IN_DOUBT\",\"lookups\":3,\"open\":true,\"account\":\"other\",\"refund\":\"r-1\",\
                        \"attempt\":2,\"method\":\"M\",\"request_id\":\"1\",\"trace_id\":\"0af7\",\
                        \"spans\":[\"call\",\"attempt\",\"provider\"]}";
        assert_eq!(lines_of(LogFormat::Json, log_doubt), [expected]);
    }

    #[test]
    fn text_has_each_field_once() {
        let expected = " WARN call:attempt:provider: unknown state=\"IN_DOUBT\" lookups=3 open=true account=\"other\" \
                        refund=r-1 attempt=2 method=\"M\" request_id=\"1\" trace_id=0af7";
        assert_eq!(lines_of(LogFormat::Text, log_doubt), [expected]);
        assert_eq!(lines_of(LogFormat::Text, || info!("shut down")), [" INFO shut down"]);
    }

    #[test]
    fn a_line_at_info_leaves_the_method_of_its_call_out() {
        let log = || {
            info_span!("call", method = "M", request_id = "1").in_scope(|| {
                info!("ordinary");
                info!(method = "own", "its own");
                warn!("failed");
            });
        };
        let expected = [
            " INFO call: ordinary request_id=\"1\"",
            " INFO call: its own method=\"own\" request_id=\"1\"",
            " WARN call: failed method=\"M\" request_id=\"1\"",
        ];
        assert_eq!(lines_of(LogFormat::Text, log), expected);
    }

    #[test]
    fn no_value_breaks_a_line_or_a_json_object() {
        let hostile = "a\"b\\c\n{\"level\":\"ERROR\"}\r\t\u{1b}[2J\u{85}ü\u{0}";
        let log = || {
            info!(problem = %hostile, reply = hostile, level = "FATAL", "{hostile}");
        };
        let lines = lines_of(LogFormat::Json, log);
        assert_eq!(lines.len(), 1, "{lines:?}");
        let object: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        for name in ["message", "problem", "reply"] {
            assert_eq!(object[name], hostile);
        }
        assert_eq!(object["level"], "INFO");
        let lines = lines_of(LogFormat::Text, log);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(!lines[0].contains(char::is_control), "{lines:?}");
    }

    #[test]
    fn a_span_field_recorded_later_replaces_the_earlier_value() {
        let log = || {
            let span = info_span!("s", step = 1_i64);
            span.record("step", 2_i64);
            span.in_scope(|| info!("x"));
        };
        assert_eq!(lines_of(LogFormat::Text, log), [" INFO s: x step=2"]);
    }
}
