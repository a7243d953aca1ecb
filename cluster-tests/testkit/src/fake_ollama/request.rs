//! Reads a request body as Ollama does: keys in any case, last duplicate wins, unknown keys ignored, Go's error texts.

use std::time::Duration;

use serde_json::{Map, Value};

use ollamax_types::ModelName;

use crate::fake_ollama::runner::KeepAlive;

/// Ollama's `OLLAMA_KEEP_ALIVE` default.
const KEEP_ALIVE_DEFAULT: Duration = Duration::from_secs(300);

/// Why a request is refused, with the status.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) status: u16,
    pub(crate) text: String,
}

pub(crate) fn refuse<T>(status: u16, text: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { status, text: text.into() })
}

/// The top-level object, keys in lower case.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Refused> {
        if body.is_empty() {
            return refuse(400, "missing request body");
        }
        match serde_json::from_slice::<Value>(body) {
            Ok(Value::Object(map)) => {
                Ok(Self(map.into_iter().map(|(key, value)| (key.to_lowercase(), value)).collect()))
            }
            Ok(other) => {
                refuse(400, format!("json: cannot unmarshal {} into Go value of type api.Request", kind(&other)))
            }
            Err(error) if error.is_eof() => refuse(400, "unexpected EOF"),
            Err(error) => {
                let at = line_column_offset(body, error.line(), error.column());
                let found = body.get(at).copied().map_or(' ', char::from);
                refuse(400, format!("invalid character '{found}' looking for beginning of value"))
            }
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// A text field; absent is empty.
    pub(crate) fn text(&self, key: &str) -> Result<&str, Refused> {
        match self.get(key) {
            None => Ok(""),
            Some(Value::String(text)) => Ok(text),
            Some(other) => refuse(400, wrong_type(key, other, "string")),
        }
    }

    /// `model`, or its old spelling `name`.
    pub(crate) fn model_or_name(&self) -> Result<&str, Refused> {
        let model = self.text("model")?;
        if model.is_empty() { self.text("name") } else { Ok(model) }
    }

    pub(crate) fn flag(&self, key: &str, absent: bool) -> Result<bool, Refused> {
        match self.get(key) {
            None => Ok(absent),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => refuse(400, wrong_type(key, other, "bool")),
        }
    }

    pub(crate) fn list(&self, key: &str, of: &str) -> Result<&[Value], Refused> {
        match self.get(key) {
            None => Ok(&[]),
            Some(Value::Array(list)) => Ok(list),
            Some(other) => refuse(400, wrong_type(key, other, of)),
        }
    }

    /// A whole number among the runner options.
    pub(crate) fn option(&self, key: &str) -> Result<Option<i64>, Refused> {
        let Some(options) = self.get("options") else { return Ok(None) };
        let Some(options) = options.as_object() else {
            return refuse(400, wrong_type("options", options, "map[string]interface {}"));
        };
        match options.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64() {
                #[expect(clippy::cast_possible_truncation, reason = "Go converts the same way")]
                Some(number) => Ok(Some(number as i64)),
                None => refuse(500, format!("option \"{key}\" must be of type integer")),
            },
        }
    }

    pub(crate) fn keep_alive(&self) -> Result<Option<KeepAlive>, Refused> {
        match self.get("keep_alive") {
            None => Ok(None),
            Some(Value::Number(seconds)) => Ok(Some(from_seconds(seconds.as_f64().unwrap_or(0.0)))),
            Some(Value::String(text)) => go_duration(text).map(Some),
            Some(other) => refuse(400, wrong_type("keep_alive", other, "api.Duration")),
        }
    }
}

impl KeepAlive {
    pub(crate) const fn or_default(asked: Option<Self>) -> Self {
        match asked {
            Some(keep_alive) => keep_alive,
            None => Self::For(KEEP_ALIVE_DEFAULT),
        }
    }
}

/// A model name, or Ollama's complaint.
pub(crate) fn name(text: &str) -> Result<ModelName, Refused> {
    text.parse().or_else(|_| refuse(400, "invalid model name"))
}

fn from_seconds(seconds: f64) -> KeepAlive {
    if seconds < 0.0 {
        return KeepAlive::Forever;
    }
    Duration::try_from_secs_f64(seconds).map_or(KeepAlive::Forever, KeepAlive::For)
}

fn go_duration(text: &str) -> Result<KeepAlive, Refused> {
    let (negative, mut rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    if rest.is_empty() {
        return refuse(400, format!("time: invalid duration \"{text}\""));
    }
    let mut seconds = 0.0;
    while !rest.is_empty() && rest != "0" {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let length = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(length);
        let factor = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            "" => return refuse(400, format!("time: missing unit in duration \"{text}\"")),
            _ => return refuse(400, format!("time: unknown unit \"{unit}\" in duration \"{text}\"")),
        };
        let Ok(number) = number.parse::<f64>() else {
            return refuse(400, format!("time: invalid duration \"{text}\""));
        };
        seconds += number * factor;
        rest = after;
    }
    Ok(from_seconds(if negative { -seconds } else { seconds }))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn wrong_type(key: &str, found: &Value, wanted: &str) -> String {
    format!("json: cannot unmarshal {} into Go struct field .{key} of type {wanted}", kind(found))
}

fn line_column_offset(body: &[u8], line: usize, column: usize) -> usize {
    let before: usize = body.split(|byte| *byte == b'\n').take(line.saturating_sub(1)).map(|text| text.len() + 1).sum();
    before + column.saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_durations_as_go_writes_them() {
        for (text, expected) in [
            ("5m", Some(KeepAlive::For(Duration::from_secs(300)))),
            ("1h30m", Some(KeepAlive::For(Duration::from_secs(5_400)))),
            ("0", Some(KeepAlive::For(Duration::ZERO))),
            ("0s", Some(KeepAlive::For(Duration::ZERO))),
            ("-1s", Some(KeepAlive::Forever)),
            ("300", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(go_duration(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn complains_in_the_words_of_go() {
        for (body, expected) in [
            ("", "missing request body"),
            ("{\"model\":", "unexpected EOF"),
            ("{]", "invalid character ']' looking for beginning of value"),
            ("[1]", "json: cannot unmarshal array into Go value of type api.Request"),
        ] {
            assert_eq!(Fields::parse(body.as_bytes()).expect_err(body).text, expected);
        }
        let fields = Fields::parse(br#"{"MODEL":3}"#).expect("an object");
        let complaint = fields.text("model").expect_err("a number");
        assert_eq!(complaint.text, "json: cannot unmarshal number into Go struct field .model of type string");
    }
}
