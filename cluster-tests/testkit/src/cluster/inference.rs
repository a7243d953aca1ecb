//! What a client asks of a cluster's nodes over HTTP.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::cluster::inside::sum_of;
use crate::http::{Answer, HttpClient};
use crate::wait;

/// A chat of one message.
#[must_use]
pub fn chat_body(model: &str, prompt: &str, stream: bool) -> Value {
    json!({ "model": model, "stream": stream, "messages": [{ "role": "user", "content": prompt }] })
}

impl Cluster {
    /// The client that the calls below use.
    #[must_use]
    pub const fn http(&self) -> &HttpClient {
        &self.http
    }

    /// The URL of a path at a node.
    ///
    /// # Errors
    /// When the node does not run.
    pub fn url(&self, index: usize, path: &str) -> Result<String> {
        Ok(format!("{}{path}", self.node(index).api()?))
    }

    /// `POST /api/chat` at a node; returns when the head has come.
    ///
    /// # Errors
    /// When the connection fails.
    pub async fn chat(&self, index: usize, model: &str, prompt: &str, stream: bool) -> Result<Answer> {
        self.http.post(&self.url(index, "/api/chat")?, &chat_body(model, prompt, stream)).await
    }

    /// `GET` of a path at a node, which must answer 200 and JSON.
    ///
    /// # Errors
    /// When it answers anything else.
    pub async fn get_json(&self, index: usize, path: &str) -> Result<Value> {
        self.http.get_json(&self.url(index, path)?).await
    }

    /// Waits until every running node lists the model in `/api/tags`, so that it can be asked anywhere.
    ///
    /// # Errors
    /// At the deadline.
    pub async fn model_known(&self, model: &str, copies: usize, deadline: Duration) -> Result<()> {
        wait::until(&format!("{model} to be known on {copies} nodes"), deadline, || async {
            for node in self.nodes().iter().filter(|node| node.is_running()) {
                let models = node.admin()?.models(model).await?;
                let found = models.iter().map(|model| model.copies.len()).max().unwrap_or(0);
                ensure!(found == copies, "{} knows {found} copies", node.name());
                let status = node.admin()?.status().await?;
                let up = status.nodes.iter().filter(|view| {
                    let runtime = view.runtime.as_ref();
                    runtime.is_some_and(|runtime| runtime.state == ollamax_proto::v1::runtime::State::Up as i32)
                });
                let up = up.count();
                ensure!(up >= copies, "{} sees {up} runtimes up", node.name());
            }
            anyhow::Ok(())
        })
        .await
    }

    /// One number from a node's `/metrics`, summed over its labels; `None` when it is not there.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn metric(&self, index: usize, name: &str) -> Result<Option<f64>> {
        self.metric_of(index, name, &[]).await
    }

    /// As [`Cluster::metric`], of the series whose labels have all of these pieces, such as `class="bulk"`.
    ///
    /// # Errors
    /// As [`Cluster::metric`].
    pub async fn metric_of(&self, index: usize, name: &str, labels: &[&str]) -> Result<Option<f64>> {
        let answer = self.http.call(http::Method::GET, &self.url(index, "/metrics")?, "").await?;
        let text = answer.text().await.context("read /metrics")?;
        Ok(sum_of(&text, name, labels))
    }
}
