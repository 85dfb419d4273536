//! Log lines, one for each event: text for people, or one JSON object for machines.
//!
//! ```text
//! 2026-11-28T01:55:29.000000Z  WARN call:attempt: the outcome of the refund is unknown state="IN_DOUBT" refund=r-1 attempt=1
//! {"timestamp":"2026-11-28T01:55:29.000000Z","level":"WARN","target":"recoup::engine::outcome_log","message":"the
//!  outcome of the refund is unknown","state":"IN_DOUBT","refund":"r-1","attempt":1,"spans":["call","attempt"]}
//! ```
//!
//! A line has each field once: what the event says comes first, then what the spans around it say,
//! the innermost before the others. A name with a dot in it is one of the conventions' for traces,
//! or of the `log` crate's, and stands in no line.

use std::fmt::{self, Debug, Write as _};
use std::io::Write as _;

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
pub(super) struct Lines<W> {
    pub(super) format: LogFormat,
    /// Text alone.
    pub(super) is_coloured: bool,
    pub(super) writer: W,
}

/// What an event or a span says: its fields as they stand in a line.
struct Said {
    format: LogFormat,
    text: String,
    /// Each field's name, and where in `text` it begins and ends.
    fields: Vec<(&'static str, usize, usize)>,
}

/// What an object has besides the event's fields.
const OWN: [&str; 4] = ["timestamp", "level", "target", "spans"];
/// Longer than most lines.
const LINE_BYTES: usize = 512;

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut said = Said::nothing(self.format);
            attributes.record(&mut said);
            span.extensions_mut().insert(said);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(said) = span.extensions_mut().get_mut::<Said>()
        {
            values.record(said);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut said = Said::nothing(self.format);
        event.record(&mut said);
        let spans = || context.event_scope(event).into_iter().flatten();
        let mut names: Vec<&'static str> = spans().map(|span| span.name()).collect();
        names.reverse();
        // A library that writes to the `log` crate names its part in a field.
        let of_log = event.normalized_metadata();
        let metadata = of_log.as_ref().unwrap_or_else(|| event.metadata());
        let mut line = self.beginning(metadata, &names);
        let mut told = OWN.to_vec();
        said.tell(&mut line, &mut told);
        for span in spans() {
            if let Some(said) = span.extensions().get::<Said>() {
                said.tell(&mut line, &mut told);
            }
        }
        line.push_str(&self.end(&names));
        // Where the log cannot be written, there is nobody to tell.
        let _ = self.writer.make_writer_for(metadata).write_all(line.as_bytes());
    }
}

impl<W> Lines<W> {
    /// What comes before the fields. The names of spans and of parts are of source code, and hold
    /// nothing to be escaped.
    fn beginning(&self, metadata: &Metadata<'_>, spans: &[&str]) -> String {
        let mut line = String::with_capacity(LINE_BYTES);
        let is_text = self.format == LogFormat::Text;
        let (dim, colour, plain) = match is_text && self.is_coloured {
            true => ("\x1b[2m", colour_of(*metadata.level()), "\x1b[0m"),
            false => ("", "", ""),
        };
        line.push_str(if is_text { dim } else { "{\"timestamp\":\"" });
        // Of the clock of the machine, whatever the refunds' clock says. It cannot fail: a string
        // takes everything, here and below.
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

    fn end(&self, spans: &[&str]) -> String {
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

impl Said {
    const fn nothing(format: LogFormat) -> Self {
        Self { format, text: String::new(), fields: Vec::new() }
    }

    /// Adds to `line` what it does not tell yet.
    fn tell(&self, line: &mut String, told: &mut Vec<&'static str>) {
        for (name, from, to) in &self.fields {
            if !told.contains(name) {
                told.push(name);
                line.push(if self.format == LogFormat::Json { ',' } else { ' ' });
                line.push_str(self.text.get(*from..*to).unwrap_or_default());
            }
        }
    }

    /// Notes a field. In an object, a value that is not bare stands in quotes.
    fn note(&mut self, field: &Field, value: &dyn Debug, is_bare: bool) {
        let name = field.name();
        if name.contains('.') {
            return;
        }
        // A span may be told again.
        self.fields.retain(|(known, ..)| *known != name);
        let (from, is_json) = (self.text.len(), self.format == LogFormat::Json);
        match self.format {
            LogFormat::Json => self.text.extend(["\"", name, "\":"]),
            LogFormat::Text if name == "message" => {}
            LogFormat::Text => self.text.extend([name, "="]),
        }
        let quote = if is_json && !is_bare { "\"" } else { "" };
        self.text.push_str(quote);
        // A value that cannot show itself is cut short, and its quote closed all the same.
        let _ = write!(Escaped { text: &mut self.text, is_json }, "{value:?}");
        self.text.push_str(quote);
        self.fields.push((name, from, self.text.len()));
    }
}

impl Visit for Said {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.note(field, &value, true);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.note(field, &value, true);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.note(field, &value, true);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match self.format {
            LogFormat::Json => self.note(field, &format_args!("{value}"), false),
            // In quotes of its own.
            LogFormat::Text => self.note(field, &value, false),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.note(field, value, false);
    }
}

/// Ends a line, or turns the direction of what follows, where it is shown.
const fn turns_lines(letter: char) -> bool {
    matches!(letter, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whatever a value holds, its line stays one line and its object an object.
struct Escaped<'a> {
    text: &'a mut String,
    is_json: bool,
}

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for letter in text.chars() {
            match letter {
                '"' | '\\' if self.is_json => self.text.extend(['\\', letter]),
                '\n' | '\r' | '\t' => self.text.extend(letter.escape_default()),
                letter if letter.is_control() || turns_lines(letter) => {
                    write!(self.text, "\\u{:04x}", u32::from(letter))?;
                }
                letter => self.text.push(letter),
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
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines of what is logged, each without its time.
    fn lines_of(format: LogFormat, log: impl FnOnce()) -> Vec<String> {
        let kept = Kept::default();
        let writer = kept.clone();
        let lines = Lines { format, is_coloured: false, writer: move || writer.clone() };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), log);
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let without_time = |line: &str| match format {
            LogFormat::Text => line.split_once("Z ").unwrap().1.to_owned(),
            LogFormat::Json => format!("{{{}", line.split_once("Z\",").unwrap().1),
        };
        text.lines().map(without_time).collect()
    }

    fn a_doubt() {
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
                    warn!(state = "IN_DOUBT", looks = 3_u64, open = true, account = "other", "not known");
                });
            });
        });
    }

    #[test]
    fn an_object_has_each_field_once_and_at_its_top() {
        let expected = "{\"level\":\"WARN\",\"target\":\"recoup::telemetry::logs::tests\",\"message\":\"not known\",\
                        \"state\":\"IN_DOUBT\",\"looks\":3,\"open\":true,\"account\":\"other\",\"refund\":\"r-1\",\
                        \"attempt\":2,\"method\":\"M\",\"request_id\":\"1\",\"trace_id\":\"0af7\",\
                        \"spans\":[\"call\",\"attempt\",\"provider\"]}";
        assert_eq!(lines_of(LogFormat::Json, a_doubt), [expected]);
    }

    #[test]
    fn a_text_has_each_field_once() {
        let expected = " WARN call:attempt:provider: not known state=\"IN_DOUBT\" looks=3 open=true account=\"other\" \
                        refund=r-1 attempt=2 method=\"M\" request_id=\"1\" trace_id=0af7";
        assert_eq!(lines_of(LogFormat::Text, a_doubt), [expected]);
        assert_eq!(lines_of(LogFormat::Text, || info!("shut down")), [" INFO shut down"]);
    }

    #[test]
    fn nothing_in_a_value_breaks_a_line_or_an_object() {
        let hostile = "a\"b\\c\n{\"level\":\"ERROR\"}\r\t\u{1b}[2J\u{85}ü\u{0}";
        let log = || {
            info!(problem = %hostile, said = hostile, level = "FATAL", "{hostile}");
        };
        let lines = lines_of(LogFormat::Json, log);
        assert_eq!(lines.len(), 1, "{lines:?}");
        let object: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        for name in ["message", "problem", "said"] {
            assert_eq!(object[name], hostile);
        }
        assert_eq!(object["level"], "INFO");
        let lines = lines_of(LogFormat::Text, log);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(!lines[0].contains(char::is_control), "{lines:?}");
    }

    #[test]
    fn what_a_span_is_told_later_takes_the_place_of_what_it_was() {
        let log = || {
            let span = info_span!("s", step = 1_i64);
            span.record("step", 2_i64);
            span.in_scope(|| info!("x"));
        };
        assert_eq!(lines_of(LogFormat::Text, log), [" INFO s: x step=2"]);
    }
}
