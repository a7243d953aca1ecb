//! `ollamax logs`: the daemon's log.

use serde_json::Value;

use ollamax_proto::v1::LogsRequest;

use crate::args::{Global, LogsArgs, Output};
use crate::client;
use crate::error::{Failure, request_id};
use crate::output;

/// Fields that have a place of their own in the line for people.
const PLACED: [&str; 4] = ["ts", "level", "msg", "target"];

/// Shows the last lines, and goes on with new ones if asked.
pub(crate) async fn run(global: &Global, args: LogsArgs) -> Result<(), Failure> {
    let request = LogsRequest {
        lines: args.lines,
        follow: args.follow,
        level: args.level,
        request_id: args.request.unwrap_or_default(),
    };
    let answer = client::connect(global).await?.logs(request).await?;
    let (id, mut lines) = (request_id(answer.metadata()), answer.into_inner());
    while let Some(line) = lines.message().await.map_err(|status| Failure::from(status).with_request_id(&id))? {
        match global.output {
            Output::Json => output::line(&line.json)?,
            Output::Table => output::line(&shown(&line.json))?,
        }
    }
    Ok(())
}

fn shown(json: &str) -> String {
    let Ok(Value::Object(fields)) = serde_json::from_str(json) else { return json.to_owned() };
    let word = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
    let rest: Vec<String> = fields
        .iter()
        .filter(|(name, _)| !PLACED.contains(&name.as_str()))
        .map(|(name, value)| match value {
            Value::String(text) => format!("{name}={text:?}"),
            other => format!("{name}={other}"),
        })
        .collect();
    format!("{} {:<5} {} {}", word("ts"), word("level"), word("msg"), rest.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_time_level_text_and_fields() {
        let line = shown(r#"{"ts":"T","level":"warn","target":"x","msg":"refused","node_id":1,"code":"no_quorum"}"#);
        assert_eq!(line, "T warn  refused node_id=1 code=\"no_quorum\"");
        assert_eq!(shown("not json"), "not json");
    }
}
