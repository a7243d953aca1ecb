//! The log for `ollamax logs`: the last lines, then those that follow, filtered by level and request.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tonic::Status;

use ollamax_proto::v1;

use crate::telemetry::Ring;

/// Lines shown when nobody says how many.
const LINES_DEFAULT: u32 = 100;

/// Starts the stream. A reader that is too slow is told how many lines it lost.
#[must_use]
pub(crate) fn lines(ring: &Ring, request: v1::LogsRequest) -> BoxStream<'static, Result<v1::LogLine, Status>> {
    let count = if request.lines == 0 { LINES_DEFAULT } else { request.lines };
    let (held, follow) = ring.tail(usize::MAX);
    let filter = Filter { severity: severity(&request.level), request_id: request.request_id };
    let passing: Vec<Arc<str>> = held.into_iter().filter(|line| filter.passes(line)).collect();
    let skip = passing.len().saturating_sub(count as usize);
    let last = futures::stream::iter(passing.into_iter().skip(skip).map(|line| Ok(shown(&line))));
    if !request.follow {
        return last.boxed();
    }
    let following = BroadcastStream::new(follow).filter_map(move |line| {
        let kept = match line {
            Ok(line) => filter.passes(&line).then(|| shown(&line)),
            Err(BroadcastStreamRecvError::Lagged(lost)) => {
                let json = serde_json::json!({"level": "warn", "msg": "this reader is too slow", "lines_lost": lost});
                Some(shown(&json.to_string()))
            }
        };
        futures::future::ready(kept.map(Ok))
    });
    last.chain(following).boxed()
}

struct Filter {
    severity: u8,
    request_id: String,
}

impl Filter {
    fn passes(&self, line: &str) -> bool {
        let parsed: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        let level = parsed["level"].as_str().unwrap_or("debug");
        let request = parsed["request_id"].as_str().unwrap_or_default();
        severity(level) <= self.severity && (self.request_id.is_empty() || self.request_id == request)
    }
}

fn severity(level: &str) -> u8 {
    match level {
        "error" => 0,
        "warn" => 1,
        "info" => 2,
        _ => 3,
    }
}

fn shown(line: &str) -> v1::LogLine {
    v1::LogLine { json: line.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_kept_by_level_and_request() {
        let check = |level: &str, request: &str, line: &str, expected: bool| {
            let filter = Filter { severity: severity(level), request_id: request.to_owned() };
            assert_eq!(filter.passes(line), expected, "{level} {request} {line}");
        };
        check("", "", r#"{"level":"debug"}"#, true);
        check("warn", "", r#"{"level":"error"}"#, true);
        check("warn", "", r#"{"level":"info"}"#, false);
        check("", "r1", r#"{"level":"info","request_id":"r1"}"#, true);
        check("", "r1", r#"{"level":"info","request_id":"r2"}"#, false);
    }
}
