//! `ollamax run`: asks a model, once or in a conversation, and shows the answer as it comes.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use http::Method;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::args::{Global, Output, RunArgs};
use crate::error::Failure;
use crate::{http_client, output};

/// Longest line of a stream.
const LINE_BYTES_MAX: usize = 8 << 20;

/// Asks once, or reads questions from standard input until it ends.
pub(crate) async fn run(global: &Global, args: RunArgs) -> Result<(), Failure> {
    let base = http_client::base(&args.api, global)?;
    let mut messages = Vec::new();
    if !args.prompt.is_empty() {
        return ask(&base, &args, global.output, &mut messages, args.prompt.join(" ")).await;
    }
    let interactive = std::io::stdin().is_terminal();
    loop {
        if interactive {
            drop(write!(std::io::stderr(), ">>> ").and_then(|()| std::io::stderr().flush()));
        }
        let mut line = String::new();
        let count = std::io::stdin().lock().read_line(&mut line);
        let count = count.map_err(|error| Failure::other("standard input", error.to_string()))?;
        let question = line.trim();
        if count == 0 || question == "/bye" {
            return Ok(());
        }
        if !question.is_empty() {
            ask(&base, &args, global.output, &mut messages, question.to_owned()).await?;
        }
    }
}

async fn ask(
    base: &str,
    args: &RunArgs,
    form: Output,
    messages: &mut Vec<Value>,
    question: String,
) -> Result<(), Failure> {
    messages.push(json!({"role": "user", "content": question}));
    let mut request = json!({"model": args.model, "messages": messages, "stream": true});
    if let Some(temperature) = args.temperature {
        request["options"] = json!({"temperature": temperature});
    }
    let answer = http_client::send(Method::POST, &format!("{base}/api/chat"), Some(request)).await?;
    let node =
        answer.headers().get("x-ollamamax-node").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let mut body = answer.into_body();
    let (mut text, mut pending, mut last) = (String::new(), Vec::new(), Value::Null);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::other("the answer broke off", error.to_string()))?;
        pending.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            last = piece(&line)?;
            let part = last["message"]["content"].as_str().unwrap_or_default();
            if form == Output::Table {
                output::text(part)?;
            }
            text += part;
        }
        if pending.len() > LINE_BYTES_MAX {
            return Err(Failure::other("the answer is no stream of lines", "a line is too long"));
        }
    }
    if last["done"] != true {
        return Err(Failure::new(1, "the answer broke off", "its last line is missing", "ask again"));
    }
    finish(form, &node, &text, &last, args.verbose)?;
    messages.push(json!({"role": "assistant", "content": text}));
    Ok(())
}

fn piece(line: &[u8]) -> Result<Value, Failure> {
    let piece: Value =
        serde_json::from_slice(line).map_err(|error| Failure::other("the answer cannot be read", error.to_string()))?;
    match piece["error"].as_str() {
        Some(error) => Err(Failure::new(1, error, "the runtime said so in mid-answer", "ollamax logs --level warn")),
        None => Ok(piece),
    }
}

fn finish(form: Output, node: &str, text: &str, last: &Value, verbose: bool) -> Result<(), Failure> {
    let tokens = last["eval_count"].as_u64().unwrap_or(0);
    if form == Output::Json {
        return output::json(
            "Answer",
            json!({"node": node, "content": text, "doneReason": last["done_reason"], "tokens": tokens, "totalNs": last["total_duration"], "loadNs": last["load_duration"]}),
        );
    }
    output::line("")?;
    if verbose {
        let rate = tokens.saturating_mul(1_000_000_000) / last["eval_duration"].as_u64().unwrap_or(0).max(1);
        output::talk(&format!("({node} answered, {tokens} tokens, {rate} tokens/s)"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_line_in_a_stream_is_a_failure() {
        assert!(piece(br#"{"error":"model runner has unexpectedly stopped"}"#).is_err());
        assert!(piece(b"<html>").is_err());
        assert_eq!(piece(br#"{"done":true}"#).expect("a line")["done"], true);
    }
}
