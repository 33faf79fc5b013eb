//! Where log lines go: to standard error, in the form asked for.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat};

/// The process has a subscriber already.
#[derive(Debug, thiserror::Error)]
#[error("logging is set up already")]
pub struct AlreadySetUp;

/// Sends the process's log lines to standard error. To be called once, by `main` alone: a
/// library does not own the process's logs.
pub fn init(log: &Log) -> Result<(), AlreadySetUp> {
    let form = Form::of(log.format, io::stderr().is_terminal());
    subscriber(log, form, io::stderr).try_init().map_err(|_| AlreadySetUp)
}

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Coloured,
    Plain,
    Json,
}

impl Form {
    fn of(format: LogFormat, terminal: bool) -> Self {
        match (format, terminal) {
            (LogFormat::Json, _) | (LogFormat::Auto, false) => Form::Json,
            (LogFormat::Auto | LogFormat::Human, true) => Form::Coloured,
            (LogFormat::Human, false) => Form::Plain,
        }
    }
}

fn subscriber<W>(log: &Log, form: Form, writer: W) -> Box<dyn tracing::Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // The filter was parsed once already, when the configuration was read.
    let filter = EnvFilter::builder().parse_lossy(log.filter.as_str());
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match form {
        Form::Coloured => Box::new(lines.with_ansi(true).finish()),
        Form::Plain => Box::new(lines.with_ansi(false).finish()),
        Form::Json => Box::new(lines.json().flatten_event(true).finish()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(form: Form) -> String {
        let page = Page::default();
        let writer = page.clone();
        let subscriber = subscriber(&Log::default(), form, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(peer = "p1", reason = "bye", "connection ended");
            tracing::debug!("too fine");
        });
        let bytes = page.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_is_one_object_a_line_with_the_fields_at_the_top() {
        let text = written(Form::Json);
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(line["message"], "connection ended");
        assert_eq!(line["reason"], "bye");
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn people_get_a_sentence_and_colour_only_on_a_terminal() {
        let plain = written(Form::Plain);
        assert!(plain.contains("connection ended peer=\"p1\" reason=\"bye\""), "{plain}");
        assert!(!plain.contains('\u{1b}') && !plain.contains("too fine"), "{plain}");
        assert!(written(Form::Coloured).contains('\u{1b}'));
    }

    #[test]
    fn auto_looks_at_the_terminal() {
        for (format, terminal, form) in [
            (LogFormat::Auto, true, Form::Coloured),
            (LogFormat::Auto, false, Form::Json),
            (LogFormat::Human, true, Form::Coloured),
            (LogFormat::Human, false, Form::Plain),
            (LogFormat::Json, true, Form::Json),
            (LogFormat::Json, false, Form::Json),
        ] {
            assert_eq!(Form::of(format, terminal), form, "{format:?} {terminal}");
        }
    }
}
