//! `ask`: one HTTP request, for tests that ask from within a room with a network of its own.
//!
//! Prints the status on a line and then the body. A request that gets no answer ends it with an error.

use anyhow::Result;
use clap::Parser;
use http::Method;

use ollamax_testkit::http::HttpClient;

/// One HTTP request.
#[derive(Debug, Parser)]
struct Arguments {
    /// `GET`, `POST`, …
    method: Method,
    /// Whom to ask.
    url: String,
    /// What to send; JSON.
    #[arg(default_value = "")]
    body: String,
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the answer is its output")]
async fn main() -> Result<()> {
    let Arguments { method, url, body } = Arguments::parse();
    let answer = HttpClient::new().call(method, &url, body).await?;
    let status = answer.status;
    println!("{status}\n{}", answer.text().await?);
    Ok(())
}
