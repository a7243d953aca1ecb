//! `ollamax node label`, `cordon`, `uncordon` and `drain --models`: what a node is for models.
//!
//! A node that is emptied goes on answering with what it still has. What nobody wished for stays on it, and so does
//! what is wished for on that very node; both are told, with what to do.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use ollamax_proto::v1::model_left::Fate;
use ollamax_proto::v1::{Cordon, CordonNodeReply, CordonNodeRequest, LabelNodeRequest, ModelLeft, NodeLabel};

use crate::args::{DrainArgs, Global, LabelWord, Output};
use crate::error::Failure;
use crate::{client, output, text};

/// Between two looks at a node that somebody waits for.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Changes labels, or shows them.
pub(super) async fn label(global: &Global, node: String, words: Vec<LabelWord>) -> Result<(), Failure> {
    let (mut set, mut unset) = (Vec::new(), Vec::new());
    for word in words {
        match word {
            LabelWord::Set(key, value) => set.push(NodeLabel { key, value }),
            LabelWord::Unset(key) => unset.push(key),
        }
    }
    let request = LabelNodeRequest { node: node.clone(), set, unset };
    let reply = client::connect(global).await?.label_node(request).await?.into_inner();
    if global.output == Output::Json {
        let labels = as_object(&reply.labels);
        return output::json("NodeLabels", json!({"id": reply.node_id, "labels": labels}));
    }
    let labels = in_words(&reply.labels);
    output::line(&format!("Node {node} has {}.", if labels.is_empty() { "no labels" } else { labels.as_str() }))
}

/// Gives a node no new models, or gives it some again.
pub(super) async fn cordon(global: &Global, node: String, cordon: Cordon) -> Result<(), Failure> {
    let reply = ask(global, &node, cordon, false).await?;
    if global.output == Output::Json {
        return output::json("Node", json!({"id": reply.node_id, "cordon": word(cordon)}));
    }
    let now = if cordon == Cordon::Open { "takes models again" } else { "takes no new models; those it has stay" };
    output::line(&format!("Node {node} {now}."))
}

/// Has the models of a node go elsewhere.
pub(super) async fn empty(global: &Global, args: &DrainArgs) -> Result<(), Failure> {
    let DrainArgs { node, dry_run, wait, .. } = args;
    let mut reply = ask(global, node, Cordon::Emptying, *dry_run).await?;
    while *wait && reply.models.iter().any(is_going) {
        sleep(LOOK_INTERVAL).await;
        reply = ask(global, node, Cordon::Emptying, true).await?;
    }
    if global.output == Output::Json {
        let models: Vec<Value> = reply.models.iter().map(shown).collect();
        let cordon = (!dry_run).then(|| word(Cordon::Emptying));
        return output::json("Node", json!({"id": reply.node_id, "cordon": cordon, "models": models}));
    }
    output::text(&page(node, &reply, *dry_run))?;
    output::talk(global.output, &format!("Next: {}", next(node, &reply, *dry_run)));
    Ok(())
}

async fn ask(global: &Global, node: &str, cordon: Cordon, dry_run: bool) -> Result<CordonNodeReply, Failure> {
    let request = CordonNodeRequest { node: node.to_owned(), cordon: cordon.into(), dry_run };
    Ok(client::connect(global).await?.cordon_node(request).await?.into_inner())
}

fn is_going(model: &ModelLeft) -> bool {
    model.fate() == Fate::Goes
}

fn page(node: &str, reply: &CordonNodeReply, dry_run: bool) -> String {
    let first = match (dry_run, reply.models.iter().filter(|model| is_going(model)).count()) {
        (_, 0) => format!("Nothing goes from node {node} to others.\n"),
        (true, count) => format!("{} would go from node {node} to others.\n", text::count(count, "model")),
        (false, count) => format!("{} will go from node {node} to others.\n", text::count(count, "model")),
    };
    if reply.models.is_empty() {
        return first;
    }
    let rows = reply.models.iter().map(|model| {
        vec![model.name.clone(), text::bytes(model.size_bytes), model.elsewhere.to_string(), fate(model).to_owned()]
    });
    first + &output::table(&["NAME", "SIZE", "ELSEWHERE", "WHAT BECOMES OF IT"], rows.collect())
}

fn fate(model: &ModelLeft) -> &'static str {
    match (model.fate(), model.elsewhere) {
        (Fate::Goes, 0) => "another node gets it, then it goes",
        (Fate::Goes, _) => "it goes when there are copies enough elsewhere",
        (Fate::Named, _) => "it stays: it is wished for on this node by name",
        (Fate::Unwished, 0) => "it stays: nobody asked for it, and no other node has it",
        (Fate::Unwished, _) => "it stays: nobody asked for it here",
        (Fate::Unspecified, _) => "",
    }
}

/// What to do about what stays, else about the node.
fn next(node: &str, reply: &CordonNodeReply, dry_run: bool) -> String {
    if dry_run {
        return format!("ollamax node drain {node} --models");
    }
    if reply.models.iter().any(is_going) {
        return format!("ollamax node drain {node} --models --wait");
    }
    let stays = |fate: Fate| reply.models.iter().find(|model| model.fate() == fate);
    if let Some(model) = stays(Fate::Named) {
        return format!("ollamax model pull {} --replicas 2", model.name);
    }
    if let Some(model) = stays(Fate::Unwished).filter(|model| model.elsewhere == 0) {
        return format!("ollamax model pull {} --replicas 1 --avoid {node}", model.name);
    }
    format!("ollamax node drain {node}; or on that node: ollamax leave")
}

fn shown(model: &ModelLeft) -> Value {
    let fate = match model.fate() {
        Fate::Unspecified => "unknown".to_owned(),
        fate => fate.as_str_name().to_lowercase(),
    };
    json!({"name": model.name, "sizeBytes": model.size_bytes, "elsewhere": model.elsewhere, "fate": fate})
}

/// The word for it; a daemon of before did not say.
pub(super) const fn word(cordon: Cordon) -> &'static str {
    match cordon {
        Cordon::Open | Cordon::Unspecified => "open",
        Cordon::Cordoned => "cordoned",
        Cordon::Emptying => "emptying",
    }
}

/// `key=value`, with commas between.
pub(super) fn in_words(labels: &[NodeLabel]) -> String {
    labels.iter().map(|label| format!("{}={}", label.key, label.value)).collect::<Vec<_>>().join(", ")
}

/// One field for each label.
pub(super) fn as_object(labels: &[NodeLabel]) -> Value {
    labels.iter().map(|label| (label.key.clone(), Value::from(label.value.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(name: &str, fate: Fate, elsewhere: u32) -> ModelLeft {
        ModelLeft { name: name.to_owned(), size_bytes: 2_000_000_000, elsewhere, fate: fate.into() }
    }

    #[test]
    fn what_becomes_of_each_model_of_a_node_is_told_and_what_to_do_next() {
        let reply = |models: Vec<ModelLeft>| CordonNodeReply { node_id: 2, models };
        let all = reply(vec![
            left("a:latest", Fate::Goes, 0),
            left("b:latest", Fate::Named, 1),
            left("c:latest", Fate::Unwished, 0),
        ]);
        insta::assert_snapshot!(page("n2", &all, true), @r"
        1 model would go from node n2 to others.
        NAME      SIZE    ELSEWHERE  WHAT BECOMES OF IT
        a:latest  2.0 GB  0          another node gets it, then it goes
        b:latest  2.0 GB  1          it stays: it is wished for on this node by name
        c:latest  2.0 GB  0          it stays: nobody asked for it, and no other node has it
        ");
        let check =
            |models: &[ModelLeft], expected: &str| assert_eq!(next("n2", &reply(models.to_vec()), false), expected);
        check(&all.models, "ollamax node drain n2 --models --wait");
        check(&all.models[1..], "ollamax model pull b:latest --replicas 2");
        check(&all.models[2..], "ollamax model pull c:latest --replicas 1 --avoid n2");
        check(&[left("d:latest", Fate::Unwished, 1)], "ollamax node drain n2; or on that node: ollamax leave");
        check(&[], "ollamax node drain n2; or on that node: ollamax leave");
        assert_eq!(next("n2", &all, true), "ollamax node drain n2 --models");
        assert_eq!(page("n2", &reply(vec![]), false), "Nothing goes from node n2 to others.\n");
    }

    #[test]
    fn labels_are_shown_in_words_and_as_fields() {
        let labels = [("rack", "2"), ("room", "a")];
        let labels = labels.map(|(key, value)| NodeLabel { key: key.to_owned(), value: value.to_owned() });
        assert_eq!(in_words(&labels), "rack=2, room=a");
        assert_eq!(as_object(&labels), json!({"rack": "2", "room": "a"}));
        assert_eq!(as_object(&[]), json!({}));
    }
}
