//! A Modelfile, as Ollama's own command reads it: what a model is made of, and what it is told.
//!
//! Pure. What is not understood is told with its line, never passed over; only parameters that runtimes have given up
//! are left out, and named.

use std::fmt;

use serde_json::{Map, Number, Value};

/// The words that a line may begin with.
const WORDS: &str = "FROM, PARAMETER, TEMPLATE, SYSTEM, ADAPTER, LICENSE, MESSAGE";
/// Who speaks in a message.
const ROLES: [&str; 3] = ["system", "user", "assistant"];
const INTEGERS: [&str; 11] = [
    "draft_num_predict",
    "main_gpu",
    "num_batch",
    "num_ctx",
    "num_gpu",
    "num_keep",
    "num_predict",
    "num_thread",
    "repeat_last_n",
    "seed",
    "top_k",
];
const DECIMALS: [&str; 7] =
    ["frequency_penalty", "min_p", "presence_penalty", "repeat_penalty", "temperature", "top_p", "typical_p"];
const FLAGS: [&str; 1] = ["use_mmap"];
/// These may stand several times.
const TEXTS: [&str; 1] = ["stop"];
/// Runtimes do not heed them any more.
const GIVEN_UP: [&str; 11] = [
    "f16_kv",
    "logits_all",
    "low_vram",
    "mirostat",
    "mirostat_eta",
    "mirostat_tau",
    "numa",
    "penalize_newline",
    "tfs_z",
    "use_mlock",
    "vocab_only",
];
/// What a text of several lines begins and ends with, and a text of one word of them.
const QUOTES: [&str; 2] = ["\"\"\"", "\""];

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Modelfile {
    /// Names of models or files, as they are written.
    pub(super) from: Vec<String>,
    /// Files, as they are written.
    pub(super) adapters: Vec<String>,
    /// The fields of Ollama's `/api/create` that the rest makes.
    pub(super) fields: Map<String, Value>,
    /// Parameters that count no more.
    pub(super) left_out: Vec<String>,
}

/// A line that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// Counts from 1.
    line: usize,
    what: String,
}

/// The lines that are not read yet, with their numbers.
type Lines<'a> = dyn Iterator<Item = (usize, &'a str)> + 'a;

/// Reads it.
pub(super) fn read(text: &str) -> Result<Modelfile, Problem> {
    let mut file = Modelfile::default();
    // Some editors begin a text with a mark of its encoding.
    let mut lines = (1..).zip(text.strip_prefix('\u{feff}').unwrap_or(text).lines());
    while let Some((number, line)) = lines.next() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (word, rest) = split(line);
        let problem = |what: String| Problem { line: number, what };
        match word.to_uppercase().as_str() {
            "FROM" => file.from.push(value(word, rest, number, &mut lines)?),
            "ADAPTER" => file.adapters.push(value(word, rest, number, &mut lines)?),
            "TEMPLATE" | "SYSTEM" => {
                let text = value(word, rest, number, &mut lines)?;
                file.fields.insert(word.to_lowercase(), text.into());
            }
            "LICENSE" => {
                let text = value(word, rest, number, &mut lines)?;
                file.push("license", text.into());
            }
            "MESSAGE" => {
                let (role, rest) = split(rest);
                if !ROLES.contains(&role) {
                    return Err(problem(format!("a MESSAGE is of {}, not of {role:?}", ROLES.join(", "))));
                }
                let content = value(word, rest, number, &mut lines)?;
                file.push("messages", serde_json::json!({"role": role, "content": content}));
            }
            "PARAMETER" => {
                let (key, rest) = split(rest);
                let text = value(word, rest, number, &mut lines)?;
                file.parameter(key, &text).map_err(problem)?;
            }
            _ => return Err(problem(format!("{word:?} is no word of a Modelfile; it knows {WORDS}"))),
        }
    }
    Ok(file)
}

/// The first word, and what stands behind it.
fn split(line: &str) -> (&str, &str) {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    (word, rest.trim_start())
}

/// A text to the end of its line, or to the quotes that end it.
fn value(word: &str, rest: &str, number: usize, lines: &mut Lines<'_>) -> Result<String, Problem> {
    let problem = |what: String| Problem { line: number, what };
    let Some(quotes) = QUOTES.into_iter().find(|quotes| rest.starts_with(quotes)) else {
        let is_said = !rest.is_empty();
        return is_said.then(|| rest.to_owned()).ok_or_else(|| problem(format!("{word} says nothing")));
    };
    let mut text = rest.to_owned();
    loop {
        let inner = text.trim_end().strip_prefix(quotes).and_then(|text| text.strip_suffix(quotes));
        if let Some(inner) = inner {
            return Ok(inner.to_owned());
        }
        let (_, line) = lines.next().ok_or_else(|| problem(format!("the {quotes} of {word} have no end")))?;
        text.push('\n');
        text.push_str(line);
    }
}

// === impl Modelfile ===

impl Modelfile {
    /// Adds to a list among the fields.
    fn push(&mut self, field: &str, value: Value) {
        append(&mut self.fields, field, value);
    }

    fn parameter(&mut self, key: &str, text: &str) -> Result<(), String> {
        let wrong = |kind: &str| format!("PARAMETER {key} is {kind}, not {text:?}");
        if GIVEN_UP.contains(&key) {
            self.left_out.push(key.to_owned());
            return Ok(());
        }
        let value = if INTEGERS.contains(&key) {
            text.parse::<i64>().map_err(|_| wrong("a whole number"))?.into()
        } else if DECIMALS.contains(&key) {
            let number = text.parse::<f64>().ok().and_then(Number::from_f64);
            Value::Number(number.ok_or_else(|| wrong("a number"))?)
        } else if FLAGS.contains(&key) {
            text.parse::<bool>().map_err(|_| wrong("true or false"))?.into()
        } else if TEXTS.contains(&key) {
            Value::from(text)
        } else {
            return Err(format!("PARAMETER {key:?} is not known"));
        };
        let parameters = self.fields.entry("parameters").or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(parameters) = parameters {
            if TEXTS.contains(&key) {
                append(parameters, key, value);
            } else {
                parameters.insert(key.to_owned(), value);
            }
        }
        Ok(())
    }
}

/// Adds to a list of an object.
fn append(to: &mut Map<String, Value>, key: &str, value: Value) {
    if let Value::Array(list) = to.entry(key).or_insert_with(|| Value::Array(Vec::new())) {
        list.push(value);
    }
}

// === impl Problem ===

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(text: &str, from: &[&str], fields: Value) {
        let read = read(text).unwrap_or_else(|problem| panic!("{text}: {problem}"));
        assert_eq!((read.from, Value::Object(read.fields)), (from.iter().map(|f| (*f).to_owned()).collect(), fields));
    }

    #[test]
    fn each_word_becomes_its_field() {
        check("", &[], json!({}));
        check("# nothing\n\n   # still nothing\r\n", &[], json!({}));
        check("FROM llama3.2", &["llama3.2"], json!({}));
        check("\u{feff}FROM llama3.2\r\n", &["llama3.2"], json!({}));
        check("  from   ./a b.gguf  \nFROM two.gguf\r\n", &["./a b.gguf", "two.gguf"], json!({}));
        check("SYSTEM Be brief.", &[], json!({"system": "Be brief."}));
        check("SYSTEM one\nsystem two", &[], json!({"system": "two"}));
        check("TEMPLATE \"{{ .Prompt }}\"", &[], json!({"template": "{{ .Prompt }}"}));
        check("LICENSE MIT\nLICENSE \"\"\"A\nB\"\"\"", &[], json!({"license": ["MIT", "A\nB"]}));
        check(
            "MESSAGE user Hi\nMESSAGE assistant \"\"\"Hello.\n\"\"\"",
            &[],
            json!({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello.\n"}]}),
        );
        let adapters = read("FROM b\nADAPTER ./lora.gguf").expect("it makes sense").adapters;
        assert_eq!(adapters, ["./lora.gguf"]);
    }

    #[test]
    fn a_quoted_text_ends_with_its_quotes_and_keeps_its_lines() {
        let rows = [
            ("\"\"\"one\n  two # no comment\n\nthree\"\"\"", "one\n  two # no comment\n\nthree"),
            ("\"\"\"\nFROM is no word here\n\"\"\"", "\nFROM is no word here\n"),
            ("\"\"\"\"\"\"", ""),
            ("\"\"", ""),
            ("\"say \"hi\" to all\"", "say \"hi\" to all"),
            ("\"one\ntwo\"", "one\ntwo"),
            ("\"\"\"all in one line\"\"\"   ", "all in one line"),
        ];
        for (quoted, text) in rows {
            check(&format!("SYSTEM {quoted}\nFROM b"), &["b"], json!({"system": text}));
        }
    }

    #[test]
    fn parameters_have_the_types_that_runtimes_want() {
        let text = "PARAMETER num_ctx 4096\nPARAMETER temperature 0.5\nPARAMETER top_p 1\nPARAMETER use_mmap false\n\
                    PARAMETER stop \"<|end|>\"\nPARAMETER stop User:\nPARAMETER num_ctx 8192\nPARAMETER seed -1";
        let parameters = json!({
            "num_ctx": 8192, "temperature": 0.5, "top_p": 1.0, "use_mmap": false, "stop": ["<|end|>", "User:"],
            "seed": -1,
        });
        check(text, &[], json!({"parameters": parameters}));
        let read = read("FROM b\nPARAMETER mirostat 1\nPARAMETER numa true").expect("it makes sense");
        assert_eq!((read.left_out, read.fields), (vec!["mirostat".to_owned(), "numa".to_owned()], Map::new()));
    }

    #[test]
    fn what_makes_no_sense_is_told_with_its_line() {
        let rows = [
            ("FORM b", "line 1: \"FORM\" is no word of a Modelfile; it knows "),
            ("FROM b\n\nRUN apt update", "line 3: \"RUN\" is no word"),
            ("FROM", "line 1: FROM says nothing"),
            ("# a\nFROM b\nSYSTEM", "line 3: SYSTEM says nothing"),
            ("PARAMETER num_ctx", "line 1: PARAMETER says nothing"),
            ("PARAMETER num_ctx much", "line 1: PARAMETER num_ctx is a whole number, not \"much\""),
            ("PARAMETER num_ctx 1.5", "line 1: PARAMETER num_ctx is a whole number"),
            ("PARAMETER top_p NaN", "line 1: PARAMETER top_p is a number, not \"NaN\""),
            ("PARAMETER use_mmap yes", "line 1: PARAMETER use_mmap is true or false"),
            ("FROM b\nPARAMETER temprature 1", "line 2: PARAMETER \"temprature\" is not known"),
            ("MESSAGE robot Hi", "line 1: a MESSAGE is of system, user, assistant, not of \"robot\""),
            ("MESSAGE user", "line 1: MESSAGE says nothing"),
            ("SYSTEM \"\"\"one\ntwo", "line 1: the \"\"\" of SYSTEM have no end"),
            ("FROM b\nSYSTEM \"one\nFROM c", "line 2: the \" of SYSTEM have no end"),
            // What stands behind the end does not belong to the text, and to nothing else.
            ("SYSTEM \"\"\"one\"\"\" two", "line 1: the \"\"\" of SYSTEM have no end"),
        ];
        for (text, expected) in rows {
            let problem = read(text).expect_err(text).to_string();
            assert!(problem.starts_with(expected), "{text:?}: {problem}");
        }
    }
}
