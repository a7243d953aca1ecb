//! How long a model stays loaded after a request: a number of seconds, a Go duration, or for ever.
//!
//! A value that is neither is an error of the request; nothing is guessed.

use std::time::Duration;

use serde_json::Value;

/// The longest time that Go can hold, about 292 years; Ollama writes "for ever" as a date this far away.
pub(crate) const FOREVER: Duration = Duration::from_secs(i64::MAX as u64 / 1_000_000_000);

/// What a request asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeepAlive {
    /// Unload this long after the last request; zero unloads at once.
    For(Duration),
    /// Never unload because of time.
    Forever,
}

/// Why a `keep_alive` value cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum KeepAliveError {
    /// A text that is no duration.
    #[error("time: invalid duration {0:?}")]
    Invalid(String),
    /// A number without unit.
    #[error("time: missing unit in duration {0:?}")]
    MissingUnit(String),
    /// A unit that Go does not know.
    #[error("time: unknown unit {unit:?} in duration {text:?}")]
    UnknownUnit {
        /// The unit.
        unit: String,
        /// The whole text.
        text: String,
    },
    /// Neither number nor text.
    #[error("Unsupported type: '{0}'")]
    Type(&'static str),
}

impl KeepAlive {
    /// Reads the JSON value of a request; `null` means "not said".
    pub(crate) fn from_json(value: &Value) -> Result<Option<Self>, KeepAliveError> {
        match value {
            Value::Null => Ok(None),
            Value::Number(number) => Ok(Some(Self::from_seconds(number.as_f64().unwrap_or(-1.0)))),
            Value::String(text) => Self::from_go(text).map(Some),
            Value::Bool(_) => Err(KeepAliveError::Type("bool")),
            Value::Array(_) => Err(KeepAliveError::Type("[]interface {}")),
            Value::Object(_) => Err(KeepAliveError::Type("map[string]interface {}")),
        }
    }

    /// True for "unload at once".
    pub(crate) fn is_zero(self) -> bool {
        self == Self::For(Duration::ZERO)
    }

    /// Negative, or longer than Go can count, is for ever.
    fn from_seconds(seconds: f64) -> Self {
        let time = Duration::try_from_secs_f64(seconds).ok().filter(|time| *time < FOREVER);
        time.map_or(Self::Forever, Self::For)
    }

    /// Go's `time.ParseDuration`: an optional sign, then numbers with units `h m s ms us µs ns`, or a bare `0`.
    fn from_go(text: &str) -> Result<Self, KeepAliveError> {
        let invalid = || KeepAliveError::Invalid(text.to_owned());
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Self::For(Duration::ZERO));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut seconds = 0.0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
            rest = &rest[digits..];
            let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
            seconds += number
                * match &rest[..letters] {
                    "h" => 3600.0,
                    "m" => 60.0,
                    "s" => 1.0,
                    "ms" => 1e-3,
                    "us" | "µs" | "μs" => 1e-6,
                    "ns" => 1e-9,
                    "" => return Err(KeepAliveError::MissingUnit(text.to_owned())),
                    unit => return Err(KeepAliveError::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() }),
                };
            rest = &rest[letters..];
        }
        Ok(Self::from_seconds(if negative && seconds > 0.0 { -1.0 } else { seconds }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_and_go_durations_are_read() {
        let check = |input: Value, expected: Option<KeepAlive>| {
            assert_eq!(KeepAlive::from_json(&input), Ok(expected), "{input}");
        };
        let seconds = |s| Some(KeepAlive::For(Duration::from_secs(s)));
        check(json!(null), None);
        check(json!(10), seconds(10));
        check(json!(0.5), Some(KeepAlive::For(Duration::from_millis(500))));
        check(json!(0), seconds(0));
        check(json!(-1), Some(KeepAlive::Forever));
        check(json!(1e300), Some(KeepAlive::Forever));
        check(json!(1e10), Some(KeepAlive::Forever));
        check(json!("5m"), seconds(300));
        check(json!("5m0s"), seconds(300));
        check(json!("1h30m"), seconds(5400));
        check(json!("0"), seconds(0));
        check(json!("0s"), seconds(0));
        check(json!("-1m"), Some(KeepAlive::Forever));
    }

    #[test]
    fn anything_else_is_refused() {
        let check = |input: Value, expected: &str| {
            let error = KeepAlive::from_json(&input).expect_err("refused");
            assert_eq!(error.to_string(), expected, "{input}");
        };
        check(json!("300"), r#"time: missing unit in duration "300""#);
        check(json!("-1"), r#"time: missing unit in duration "-1""#);
        check(json!("5x"), r#"time: unknown unit "x" in duration "5x""#);
        for bad in ["five", "", "1.2.3s", "-", ".", "m"] {
            check(json!(bad), &format!("time: invalid duration {bad:?}"));
        }
        check(json!(true), "Unsupported type: 'bool'");
        check(json!([]), "Unsupported type: '[]interface {}'");
        check(json!({}), "Unsupported type: 'map[string]interface {}'");
    }
}
