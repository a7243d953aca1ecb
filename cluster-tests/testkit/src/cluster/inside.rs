//! What a node in a room with a network of its own is asked over HTTP: from within that room, since nobody else reaches
//! it there.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::timeout;

use crate::cluster::process::{Node, binary};

/// Longest wait for an answer.
const ANSWER_TIME: Duration = Duration::from_secs(40);

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// HTTP status.
    pub status: u16,
    /// As sent.
    pub body: String,
}

impl Node {
    /// Asks this node's `api` listener from within its room.
    ///
    /// # Errors
    /// When the node does not run or has no room, and when no answer comes.
    pub async fn ask(&self, method: &str, path: &str, body: &str) -> Result<Answered> {
        let room = self.room().context("a node in a room")?;
        let mut command = room.command(&binary("ask")?);
        command.args([method, &format!("{}{path}", self.api()?), body]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = timeout(ANSWER_TIME, command.output()).await.with_context(|| format!("{method} {path} hangs"))?;
        let output = output.context("run `ask`")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let failure = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {method} {path}: {}", self.name(), failure.trim());
        let (status, body) = said.split_once('\n').context("`ask` says a status and a body")?;
        let body = body.strip_suffix('\n').unwrap_or(body).to_owned();
        Ok(Answered { status: status.parse().context("an HTTP status")?, body })
    }

    /// One number from this node's `/metrics`, asked from within its room: the sum of the series whose labels have all
    /// of these pieces, such as `class="bulk"`; `None` when there is no such series.
    ///
    /// # Errors
    /// As [`Node::ask`].
    pub async fn metric_inside(&self, name: &str, labels: &[&str]) -> Result<Option<f64>> {
        Ok(sum_of(&self.ask("GET", "/metrics", "").await?.body, name, labels))
    }
}

/// The sum of the series of a metric whose labels have all of these pieces.
pub(super) fn sum_of(text: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let of_series = |line: &str| {
        let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']))?;
        let (series, value) = rest.rsplit_once(' ')?;
        let is_meant = labels.iter().all(|label| series.contains(label));
        is_meant.then(|| value.parse::<f64>().ok()).flatten()
    };
    text.lines().filter_map(of_series).fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_the_series_of_a_metric_that_have_the_labels() {
        let text = "a_total{way=\"p2p\",class=\"bulk\"} 2\na_total{way=\"p2p\",class=\"raft\"} 3\n\
                    a_total{way=\"tcp\",class=\"bulk\"} 5\na 7\nab 9\n";
        let rows: [(&str, &[&str], Option<f64>); 5] = [
            ("a_total", &[], Some(10.0)),
            ("a_total", &["way=\"p2p\""], Some(5.0)),
            ("a_total", &["way=\"p2p\"", "class=\"bulk\""], Some(2.0)),
            ("a_total", &["way=\"relayed\""], None),
            ("a", &[], Some(7.0)),
        ];
        for (name, labels, expected) in rows {
            assert_eq!(sum_of(text, name, labels), expected, "{name} {labels:?}");
        }
    }

    #[test]
    fn sums_a_metric_over_its_labels_and_only_that_metric() {
        let text = "# HELP a x\na 2\na_total 9\nb{x=\"1\"} 1\nb{x=\"2\"} 2.5\n";
        assert_eq!(sum_of(text, "a", &[]), Some(2.0));
        assert_eq!(sum_of(text, "b", &[]), Some(3.5));
        assert_eq!(sum_of(text, "c", &[]), None);
    }
}
