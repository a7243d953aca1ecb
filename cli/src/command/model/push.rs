//! `ollamax model push`: the runtime of a node gives a model to the registry of its name.

use serde_json::json;

use ollamax_proto::v1::{PushRequest, RuntimeProgress};

use crate::args::{Global, Output, PushArgs};
use crate::client;
use crate::error::{Failure, request_id};
use crate::{output, text};

use super::work::Work;

/// Asks for it and follows it to its end.
pub(super) async fn run(global: &Global, args: PushArgs) -> Result<(), Failure> {
    let PushArgs { name, node, insecure } = args;
    let mut work = Work::new(output::may_draw(global.output));
    let asked = PushRequest { name, node: node.unwrap_or_default(), insecure };
    let last = follow(global, asked, &mut work).await;
    work.clear();
    let last = last?;
    if last.digest.is_empty() {
        let next = "repeat the command: what the registry has of it is not sent again";
        return Err(Failure::new(7, "the daemon ended before the push did", "it is stopping", next));
    }
    let RuntimeProgress { name, node_id, node_name, digest, .. } = last;
    if global.output == Output::Json {
        let digest = hex::encode(&digest);
        let fields = json!({"name": name, "node": node_name, "nodeId": node_id, "digest": digest});
        return output::json("ModelPush", fields);
    }
    output::line(&format!("{node_name} pushed {name} ({})", text::digest(&digest)))
}

/// What the daemon says last.
async fn follow(global: &Global, asked: PushRequest, work: &mut Work) -> Result<RuntimeProgress, Failure> {
    let answer = client::connect_models(global).await?.push(asked).await?;
    let (id, mut told) = (request_id(answer.metadata()), answer.into_inner());
    let mut last = RuntimeProgress::default();
    while let Some(progress) = told.message().await.map_err(|status| Failure::from(status).with_request_id(&id))? {
        work.show(&progress);
        last = progress;
    }
    Ok(last)
}
