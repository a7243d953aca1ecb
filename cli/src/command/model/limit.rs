//! `ollamax model limit`: how fast the pulls of a model may be, on each node that has a part in them.

use serde_json::json;

use ollamax_proto::v1::LimitPullRequest;
use ollamax_types::Rate;

use crate::args::{Global, Output, PullRate};
use crate::client;
use crate::error::Failure;
use crate::output;

/// Slows pulls down, or lets them go as fast as they can.
pub(super) async fn run(global: &Global, name: &str, rate: PullRate) -> Result<(), Failure> {
    let rate = match rate {
        PullRate::AtMost(rate) => Some(rate),
        PullRate::None => None,
    };
    let request = LimitPullRequest { name: name.to_owned(), bytes_per_second: rate.map(Rate::bytes) };
    let nodes = client::connect_models(global).await?.limit_pull(request).await?.into_inner().nodes;
    if nodes == 0 {
        let why = "it is over, or nobody asked for it";
        return Err(Failure::new(3, format!("no node pulls {name}"), why, "ollamax model pulls"));
    }
    if global.output == Output::Json {
        let bytes_per_second = rate.map(Rate::bytes);
        return output::json("ModelLimit", json!({"name": name, "bytesPerSecond": bytes_per_second, "nodes": nodes}));
    }
    output::line(&told(name, rate, nodes))?;
    output::talk(global.output, "It holds until the pull is over or its node starts again. Next: ollamax model pulls");
    Ok(())
}

fn told(name: &str, rate: Option<Rate>, nodes: u32) -> String {
    let on = if nodes == 1 { "1 node".to_owned() } else { format!("each of {nodes} nodes") };
    match rate {
        Some(rate) => format!("{name} is pulled at {rate} at most, on {on}"),
        None => format!("{name} is pulled as fast as it goes, on {on}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_now_is_told_in_the_words_in_which_it_was_asked() {
        let rate = "20MB/s".parse().ok();
        assert_eq!(told("m", rate, 1), "m is pulled at 20MB/s at most, on 1 node");
        assert_eq!(told("m", rate, 3), "m is pulled at 20MB/s at most, on each of 3 nodes");
        assert_eq!(told("m", None, 1), "m is pulled as fast as it goes, on 1 node");
    }
}
