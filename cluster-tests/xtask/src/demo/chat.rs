//! Asking a model: through a node's `api`, or its runtime directly, with the same request.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::cluster::Node;
use crate::http;
use crate::waiting::Stopwatch;

/// Most tokens of one answer.
const ANSWER_TOKENS_MAX: u32 = 96;

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// Who gave it, as the header says.
    pub(super) node: String,
    /// What it says.
    pub(super) text: String,
    /// Time from the request to the first piece.
    pub(super) first: Duration,
}

/// The names of the models that a node lists.
pub(super) fn models(node: &Node) -> Result<Vec<String>> {
    let url = format!("{}/api/tags", node.api);
    let reply = http::get(&url)?;
    ensure!(reply.status == 200, "{url} answers {}", reply.status);
    let list: Value = serde_json::from_str(&reply.text()?).context("read the list of models")?;
    let models = list.get("models").and_then(Value::as_array).context("the list of models is no list")?;
    Ok(models.iter().filter_map(|model| Some(model.get("name")?.as_str()?.to_owned())).collect())
}

/// Asks through a node. `show` hears who answers (`None`) and then each piece, when it comes.
pub(super) fn through(
    asked: &Node,
    model: &str,
    question: &str,
    mut show: impl FnMut(&str, Option<&str>) -> Result<()>,
) -> Result<Answer> {
    let watch = Stopwatch::start();
    let reply = http::post(&format!("{}/api/chat", asked.api), &request(model, question))?;
    let Some(node) = reply.header("x-ollamamax-node").filter(|_| reply.status == 200).map(str::to_owned) else {
        let (status, text) = (reply.status, reply.text()?);
        bail!("{} answers {status}, or does not say who answered: {text}", asked.name);
    };
    show(&node, None)?;
    let mut first = None;
    let text = collect(BufReader::new(reply.body), |piece| {
        first.get_or_insert_with(|| watch.elapsed());
        show(&node, Some(piece))
    })?;
    Ok(Answer { node, text, first: first.unwrap_or_else(|| watch.elapsed()) })
}

/// Asks a node's runtime directly.
pub(super) fn direct(node: &Node, model: &str, question: &str) -> Result<String> {
    let url = format!("{}/api/chat", node.runtime_url);
    let reply = http::post(&url, &request(model, question))?;
    if reply.status != 200 {
        let (status, text) = (reply.status, reply.text()?);
        bail!("{url} answers {status}: {text}");
    }
    collect(BufReader::new(reply.body), |_| Ok(()))
}

/// The same request for both: at temperature 0 the same question has one answer.
fn request(model: &str, question: &str) -> Value {
    json!({
        "model": model,
        "messages": [{ "role": "user", "content": question }],
        "stream": true,
        "options": { "temperature": 0, "seed": 1, "num_predict": ANSWER_TOKENS_MAX },
    })
}

/// Reads a stream of JSON lines up to the one that says `done`; anything else at its end is an error.
fn collect(lines: impl BufRead, mut piece: impl FnMut(&str) -> Result<()>) -> Result<String> {
    let mut text = String::new();
    for line in lines.lines() {
        let line = line.context("read the answer")?;
        let part: Value = serde_json::from_str(&line).with_context(|| format!("read `{line}`"))?;
        if let Some(problem) = part.get("error") {
            bail!("the stream ends with an error: {problem}");
        }
        let content = part.pointer("/message/content").and_then(Value::as_str).unwrap_or_default();
        if !content.is_empty() {
            piece(content)?;
            text.push_str(content);
        }
        if part.get("done").and_then(Value::as_bool) == Some(true) {
            return Ok(text);
        }
    }
    bail!("the stream ended before it was done")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_whole_only_when_it_says_so() {
        let check = |stream: &str, expected: Option<&str>| {
            let mut pieces = String::new();
            let text = collect(stream.as_bytes(), |piece| {
                pieces.push_str(piece);
                Ok(())
            });
            assert_eq!(text.ok().as_deref(), expected, "{stream}");
            assert!(expected.is_none_or(|expected| pieces == expected));
        };
        check("{\"message\":{\"content\":\"Pa\"}}\n{\"message\":{\"content\":\"ris\"},\"done\":true}\n", Some("Paris"));
        check("{\"message\":{\"content\":\"Pa\"}}\n", None);
        check("{\"message\":{\"content\":\"Pa\"}}\n{\"error\":\"runner died\"}\n", None);
        check("<html>\n", None);
        check("", None);
    }
}
