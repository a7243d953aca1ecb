//! `ollamax run`: asks a model, once or in a conversation, and shows the answer as it comes.

use std::io::{IsTerminal as _, Write as _};

use futures::StreamExt as _;
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};

use ollamax_types::ErrorCode;

use crate::args::{Global, Output, RunArgs};
use crate::error::Failure;
use crate::{http_client, output};

/// Longest line of a stream.
const LINE_BYTES_MAX: usize = 8 << 20;
/// Longest question.
const QUESTION_BYTES_MAX: usize = 8 << 20;

/// Whom to ask, and how to show what comes back.
struct Asking<'a> {
    base: String,
    args: &'a RunArgs,
    form: Output,
    verbose: bool,
}

/// Asks once, or reads questions from standard input until it ends.
pub(crate) async fn run(global: &Global, args: RunArgs) -> Result<(), Failure> {
    let base = http_client::base(&args.api, global)?;
    let asking = Asking { base, args: &args, form: global.output, verbose: global.verbose };
    let mut messages = Vec::new();
    if !args.prompt.is_empty() {
        return asking.ask(&mut messages, args.prompt.join(" ")).await;
    }
    let interactive = asking.form == Output::Table && std::io::stdin().is_terminal();
    let mut lines = FramedRead::new(tokio::io::stdin(), LinesCodec::new_with_max_length(QUESTION_BYTES_MAX));
    loop {
        if interactive {
            drop(write!(std::io::stderr(), ">>> ").and_then(|()| std::io::stderr().flush()));
        }
        let line = lines.next().await.transpose().map_err(|error| unread(&error))?;
        match line.as_deref().map(str::trim) {
            None | Some("/bye") => return Ok(()),
            Some("") => {}
            Some(question) => asking.ask(&mut messages, question.to_owned()).await?,
        }
    }
}

fn unread(error: &LinesCodecError) -> Failure {
    let why = match error {
        LinesCodecError::MaxLineLengthExceeded => format!("a line is longer than {} MiB", QUESTION_BYTES_MAX >> 20),
        LinesCodecError::Io(error) => error.to_string(),
    };
    Failure::new(2, "standard input holds no question", why, "ollamax run MODEL \"a question\"")
}

// === impl Asking ===

impl Asking<'_> {
    async fn ask(&self, messages: &mut Vec<Value>, question: String) -> Result<(), Failure> {
        messages.push(json!({"role": "user", "content": question}));
        let mut request = json!({"model": self.args.model, "messages": messages, "stream": true});
        if let Some(temperature) = self.args.temperature {
            request["options"] = json!({"temperature": temperature});
        }
        let answer = http_client::send(Method::POST, &format!("{}/api/chat", self.base), Some(request)).await;
        let answer = answer.map_err(|failure| enabling(&self.args.model, failure))?;
        let head = answer.headers();
        let node = head.get("x-ollamamax-node").and_then(|node| node.to_str().ok()).unwrap_or_default().to_owned();
        let id = http_client::request_id(head);
        let told = self.read(answer.into_body()).await.map_err(|failure| failure.with_request_id(&id))?;
        self.finish(&node, &told)?;
        messages.push(json!({"role": "assistant", "content": told.text}));
        Ok(())
    }

    /// Reads the lines of a stream; people see each piece when it is there.
    async fn read(&self, mut body: hyper::body::Incoming) -> Result<Told, Failure> {
        let (mut text, mut pending, mut last) = (String::new(), Vec::new(), Value::Null);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| http_client::broken_off(&error))?;
            pending.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                last = piece(&line)?;
                let part = last["message"]["content"].as_str().unwrap_or_default();
                if self.form == Output::Table {
                    output::text(part)?;
                }
                text += part;
            }
            if pending.len() > LINE_BYTES_MAX {
                return Err(no_stream("a line is too long"));
            }
        }
        if last["done"] == true {
            return Ok(Told { text, last });
        }
        Err(Failure::new(1, "the answer broke off", "its last line is missing", "repeat the command"))
    }

    fn finish(&self, node: &str, told: &Told) -> Result<(), Failure> {
        let Told { text, last } = told;
        let tokens = last["eval_count"].as_u64().unwrap_or(0);
        if self.form == Output::Json {
            return output::json(
                "Answer",
                json!({
                    "node": node,
                    "content": text,
                    "doneReason": last["done_reason"],
                    "tokens": tokens,
                    "totalNs": last["total_duration"],
                    "loadNs": last["load_duration"],
                }),
            );
        }
        output::line("")?;
        if self.verbose {
            let rate = tokens.saturating_mul(1_000_000_000) / last["eval_duration"].as_u64().unwrap_or(0).max(1);
            output::talk(self.form, &format!("({node} answered, {tokens} tokens, {rate} tokens/s)"));
        }
        Ok(())
    }
}

/// A model that is disabled is told with what enables it again.
fn enabling(model: &str, failure: Failure) -> Failure {
    let is_disabled =
        failure.code() == Some(ErrorCode::Forbidden) && failure.what().starts_with(&format!("{model} is disabled"));
    if is_disabled { failure.with_next(format!("ollamax model enable {model}")) } else { failure }
}

/// A whole answer: its text, and the line that ended it.
struct Told {
    text: String,
    last: Value,
}

fn piece(line: &[u8]) -> Result<Value, Failure> {
    let piece: Value = serde_json::from_slice(line).map_err(|error| no_stream(&error.to_string()))?;
    match piece["error"].as_str() {
        Some(error) => Err(Failure::new(1, error, "the runtime said so in mid-answer", "ollamax logs --level warn")),
        None => Ok(piece),
    }
}

fn no_stream(why: &str) -> Failure {
    Failure::new(
        1,
        "the answer is no stream of JSON lines",
        why,
        "look whether a node listens there: ollamax node list",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_is_disabled_is_told_with_what_enables_it() {
        let check = |code: ErrorCode, what: &str, expected: &str| {
            let failure = Failure::told(code, what, "", "ollamax logs --level warn");
            assert_eq!(enabling("tiny", failure).next(), expected, "{what}");
        };
        check(ErrorCode::Forbidden, "tiny is disabled: use mine", "ollamax model enable tiny");
        check(ErrorCode::Forbidden, "not from here", "ollamax logs --level warn");
        check(ErrorCode::ModelNotFound, "tiny is disabled", "ollamax logs --level warn");
    }

    #[test]
    fn an_error_line_in_a_stream_is_a_failure() {
        assert!(piece(br#"{"error":"model runner has unexpectedly stopped"}"#).is_err());
        assert!(piece(b"<html>").is_err());
        assert_eq!(piece(br#"{"done":true}"#).expect("a line")["done"], true);
    }
}
