//! The pieces of a streamed answer, put together to the one that Ollama gives where nothing is streamed.
//!
//! Pure. Always: an answer that stopped before its last word is an error and never looks whole.

use serde_json::{Value, json};

use ollamax_tools::{Progress, ToolError};
use ollamax_types::{Api, ErrorCode};

/// What was heard so far.
#[derive(Debug)]
pub(super) struct Answer {
    api: Api,
    pieces: u64,
    words: String,
    thinking: String,
    tool_calls: Vec<Value>,
    last: Option<Value>,
}

// === impl Answer ===

impl Answer {
    pub(super) fn new(api: Api) -> Self {
        let (words, thinking) = (String::new(), String::new());
        Self { api, pieces: 0, words, thinking, tool_calls: Vec::new(), last: None }
    }

    /// Takes a line, and tells what is new in it.
    pub(super) fn take(&mut self, line: &[u8], progress: &Progress) -> Result<(), ToolError> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let piece: Value = serde_json::from_slice(line).map_err(|error| broke(&error.to_string()))?;
        if let Some(error) = piece["error"].as_str() {
            return Err(broke(error));
        }
        if !piece.is_object() {
            return Err(broke("a piece of it is no object"));
        }
        // Both forms are one: what a chat has in its message, a generated answer has beside it.
        let said = if self.api == Api::Chat { &piece["message"] } else { &piece };
        let word = if self.api == Api::Chat { "content" } else { "response" };
        let (words, thinking) = (text(said, word), text(said, "thinking"));
        self.words += words;
        self.thinking += thinking;
        self.tool_calls.extend(said["tool_calls"].as_array().into_iter().flatten().cloned());
        self.pieces += 1;
        progress.say(self.pieces, &format!("{thinking}{words}"));
        self.last = Some(piece);
        Ok(())
    }

    /// The whole of it.
    pub(super) fn whole(self) -> Result<Value, ToolError> {
        let mut whole = self.last.ok_or_else(|| broke("nothing came"))?;
        if !matches!(self.api, Api::Chat | Api::Generate) {
            return Ok(whole);
        }
        if whole["done"] != json!(true) {
            return Err(broke("it stopped before its end"));
        }
        let (said, word) = if self.api == Api::Chat {
            if !whole["message"].is_object() {
                whole["message"] = json!({"role": "assistant"});
            }
            (&mut whole["message"], "content")
        } else {
            (&mut whole, "response")
        };
        said[word] = Value::from(self.words);
        if !self.thinking.is_empty() {
            said["thinking"] = Value::from(self.thinking);
        }
        if !self.tool_calls.is_empty() {
            said["tool_calls"] = Value::from(self.tool_calls);
        }
        Ok(whole)
    }
}

/// The answer broke off.
pub(super) fn broke(problem: &str) -> ToolError {
    let message = format!("the model's answer broke off: {problem}");
    ToolError::new(ErrorCode::RuntimeFailed, message, "try again; get_health_status says whether its runtime works")
}

fn text<'a>(piece: &'a Value, key: &str) -> &'a str {
    piece[key].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(api: Api, lines: &[&str]) -> Result<Value, ErrorCode> {
        let mut answer = Answer::new(api);
        for line in lines {
            answer.take(line.as_bytes(), &Progress::nobody()).map_err(|error| error.code)?;
        }
        answer.whole().map_err(|error| error.code)
    }

    #[test]
    fn pieces_become_the_answer_that_is_not_streamed() {
        let found = heard(
            Api::Chat,
            &[
                r#"{"model":"m","message":{"role":"assistant","content":"","thinking":"hm"},"done":false}"#,
                "\n",
                r#"{"model":"m","message":{"role":"assistant","content":"Hel","tool_calls":[{"a":1}]},"done":false}"#,
                r#"{"model":"m","message":{"role":"assistant","content":"lo"},"done":true,"eval_count":2}"#,
            ],
        );
        let message = json!({"role": "assistant", "content": "Hello", "thinking": "hm", "tool_calls": [{"a": 1}]});
        assert_eq!(found, Ok(json!({"model": "m", "message": message, "done": true, "eval_count": 2})));
        let found = heard(
            Api::Generate,
            &[r#"{"response":"a","done":false}"#, r#"{"response":"b","done":true,"context":[1]}"#],
        );
        assert_eq!(found, Ok(json!({"response": "ab", "done": true, "context": [1]})));
        let whole = r#"{"model":"m","embeddings":[[0.5]]}"#;
        assert_eq!(heard(Api::Embed, &[whole]), Ok(json!({"model": "m", "embeddings": [[0.5]]})));
    }

    #[test]
    fn what_broke_off_never_looks_whole() {
        let check = |api, lines: &[&str]| assert_eq!(heard(api, lines), Err(ErrorCode::RuntimeFailed), "{lines:?}");
        check(Api::Chat, &[]);
        check(Api::Chat, &[r#"{"message":{"content":"a"},"done":false}"#]);
        check(Api::Generate, &[r#"{"response":"a","done":false}"#, r#"{"error":"it broke"}"#]);
        check(Api::Generate, &[r#"{"response":"a","do"#]);
        check(Api::Generate, &["[]"]);
        check(Api::Embed, &[]);
    }

    #[test]
    fn no_word_is_lost_to_one_who_hears_only_now_and_then() {
        let (progress, _told) = Progress::channel();
        let mut answer = Answer::new(Api::Generate);
        let mut check = |lines: &[&str], done: u64, words: &str| {
            for line in lines {
                answer.take(line.as_bytes(), &progress).expect("a piece");
            }
            let step = progress.take();
            assert_eq!((step.done, step.total, step.text.as_str()), (done, None, words));
        };
        let (long, thought) = ("ä".repeat(500), r#"{"response":"","thinking":"hm ","done":false}"#);
        check(&[r#"{"response":"a","done":false}"#], 1, "a");
        check(
            &[thought, r#"{"response":"a ","done":false}"#, r#"{"response":"majority","done":false}"#],
            4,
            "hm a majority",
        );
        check(&[json!({"response": long, "done": false}).to_string().as_str()], 5, &long);
        check(&[r#"{"response":"","done":true}"#], 6, "");
    }
}
