//! `ollamax node label`, `cordon`, `uncordon` and `drain --models`: what a node is for models.
//!
//! A node that is emptied goes on answering with what it still has. What nobody wished for stays on it, and so does
//! what is wished for on that very node; both are told, with what to do. What too few others can have keeps nobody
//! waiting: when nothing else is left to go, whoever waits is told why, and what to do.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use ollamax_proto::v1::model_left::Fate;
use ollamax_proto::v1::{Cordon, CordonNodeReply, CordonNodeRequest, LabelNodeRequest, ModelLeft, NodeLabel};
use ollamax_types::ErrorCode;

use crate::args::{DrainArgs, Global, LabelWord, Output};
use crate::error::Failure;
use crate::{client, output, text};

/// Between two looks at a node that somebody waits for.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// So many looks in a row must find that nothing can go any more: a runtime that starts again passes.
const STUCK_LOOKS: u32 = 10;
/// So many models that cannot go are named in an error; all are shown before it.
const NAMED_MAX: usize = 8;

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
    if *wait {
        let say = |left: &str| output::talk(global.output, &format!("Still to go from node {node}: {left}"));
        reply = settled(reply, || ask(global, node, Cordon::Emptying, true), say).await?;
    }
    show(global, args, &reply)?;
    stuck(node, &reply).filter(|_| *wait).map_or(Ok(()), Err)
}

/// What is there when nothing goes any more. What is still to go is said whenever it is less, or something else.
async fn settled<L>(
    first: CordonNodeReply,
    mut look: impl FnMut() -> L,
    mut say: impl FnMut(&str),
) -> Result<CordonNodeReply, Failure>
where
    L: Future<Output = Result<CordonNodeReply, Failure>>,
{
    let (mut reply, mut stuck_looks, mut told) = (first, 0, String::new());
    loop {
        let left = going(&reply);
        if left != told {
            if !left.is_empty() {
                say(&left);
            }
            told = left;
        }
        let goes = reply.models.iter().any(is_going);
        stuck_looks = if goes { 0 } else { stuck_looks + 1 };
        if !goes && (stuck_looks > STUCK_LOOKS || !reply.models.iter().any(is_stuck)) {
            return Ok(reply);
        }
        sleep(LOOK_INTERVAL).await;
        reply = look().await?;
    }
}

/// What goes to others and has not yet; empty where nothing does.
fn going(reply: &CordonNodeReply) -> String {
    let going: Vec<&ModelLeft> = reply.models.iter().filter(|model| is_going(model)).collect();
    if going.is_empty() {
        return String::new();
    }
    let size_bytes = going.iter().map(|model| model.size_bytes).sum();
    let mut names: Vec<&str> = going.iter().take(NAMED_MAX).map(|model| model.name.as_str()).collect();
    if going.len() > NAMED_MAX {
        names.push("and more");
    }
    format!("{}, {}: {}", text::count(going.len(), "model"), text::bytes(size_bytes), names.join(", "))
}

fn show(global: &Global, args: &DrainArgs, reply: &CordonNodeReply) -> Result<(), Failure> {
    let DrainArgs { node, dry_run, .. } = args;
    if global.output == Output::Json {
        let models: Vec<Value> = reply.models.iter().map(shown).collect();
        let cordon = (!dry_run).then(|| word(Cordon::Emptying));
        return output::json("Node", json!({"id": reply.node_id, "cordon": cordon, "models": models}));
    }
    output::text(&page(node, reply, *dry_run))?;
    output::talk(global.output, &format!("Next: {}", next(node, reply, *dry_run)));
    Ok(())
}

/// Why whoever waits need not wait any more.
fn stuck(node: &str, reply: &CordonNodeReply) -> Option<Failure> {
    let stuck: Vec<&ModelLeft> = reply.models.iter().filter(|model| is_stuck(model)).collect();
    if stuck.is_empty() {
        return None;
    }
    let mut why: Vec<String> =
        stuck.iter().take(NAMED_MAX).map(|model| format!("{}: {}", model.name, why_stuck(model))).collect();
    if stuck.len() > NAMED_MAX {
        why.push(format!("{} more", stuck.len() - NAMED_MAX));
    }
    let what = format!("{} cannot leave node {node}", text::count(stuck.len(), "model"));
    Some(Failure::told(ErrorCode::PreconditionFailed, &what, &why.join("; "), &next(node, reply, false)))
}

fn why_stuck(model: &ModelLeft) -> String {
    if model.why.is_empty() { "there is no other node".to_owned() } else { model.why.join(", ") }
}

async fn ask(global: &Global, node: &str, cordon: Cordon, dry_run: bool) -> Result<CordonNodeReply, Failure> {
    let request = CordonNodeRequest { node: node.to_owned(), cordon: cordon.into(), dry_run };
    Ok(client::connect(global).await?.cordon_node(request).await?.into_inner())
}

fn is_going(model: &ModelLeft) -> bool {
    model.fate() == Fate::Goes
}

fn is_stuck(model: &ModelLeft) -> bool {
    model.fate() == Fate::Stuck
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
        (Fate::Stuck, _) => "it stays: too few other nodes can have it",
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
    if let Some(model) = stays(Fate::Stuck) {
        return match model.elsewhere {
            0 => format!("ollamax node uncordon {node}, or make room on another node"),
            copies => format!("ollamax model pull {} --replicas {copies}", model.name),
        };
    }
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
    let mut shown =
        json!({"name": model.name, "sizeBytes": model.size_bytes, "elsewhere": model.elsewhere, "fate": fate});
    if is_stuck(model) {
        shown["why"] = why_stuck(model).into();
    }
    shown
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
    use std::future::ready;

    use super::*;

    fn left(name: &str, fate: Fate, elsewhere: u32) -> ModelLeft {
        ModelLeft { name: name.to_owned(), size_bytes: 2_000_000_000, elsewhere, fate: fate.into(), why: vec![] }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_is_let_go_when_nothing_can_go_any_more_and_told_why() {
        let reply = |models: &[ModelLeft]| CordonNodeReply { node_id: 2, models: models.to_vec() };
        let (goes, kept) = (left("a:latest", Fate::Goes, 1), left("b:latest", Fate::Stuck, 1));
        // One goes on its way, and what looked stuck may go yet.
        let mut looks = vec![reply(&[goes.clone(), kept.clone()]); 30];
        looks.extend(vec![reply(std::slice::from_ref(&kept)); 5]);
        looks.extend([reply(&[goes]), reply(&[])]);
        let mut looks = looks.into_iter();
        let first = looks.next().expect("there are some");
        let mut said = Vec::new();
        let look = || ready(Ok(looks.next().expect("it ends before them")));
        let ended = settled(first, look, |left| said.push(left.to_owned()));
        assert_eq!(ended.await, Ok(reply(&[])));
        // Once while it goes, and once more when it goes again.
        assert_eq!(said, ["1 model, 2.0 GB: a:latest"; 2]);

        let full =
            ModelLeft { why: vec!["n3: 12.1 GB needed, 3.0 GB free".to_owned()], ..left("c:latest", Fate::Stuck, 0) };
        let both = || reply(&[kept.clone(), full.clone()]);
        let ended = settled(both(), || ready(Ok(both())), |_| ()).await.expect("it does not wait for ever");
        let failure = stuck("n2", &ended).expect("they are stuck");
        assert_eq!((failure.exit(), failure.what()), (4, "2 models cannot leave node n2"));
        assert_eq!(failure.next(), "ollamax model pull b:latest --replicas 1");
        let why = "b:latest: there is no other node; c:latest: n3: 12.1 GB needed, 3.0 GB free";
        assert!(failure.page(false).contains(why), "{}", failure.page(false));
        let alone = stuck("n2", &reply(&[full])).expect("it is stuck");
        assert_eq!(alone.next(), "ollamax node uncordon n2, or make room on another node");
        assert_eq!(stuck("n2", &reply(&[left("d:latest", Fate::Named, 0)])), None);
    }

    #[test]
    fn what_is_still_to_go_is_said_with_its_size() {
        let reply = |models: Vec<ModelLeft>| CordonNodeReply { node_id: 2, models };
        let (goes, stays) = (left("a:latest", Fate::Goes, 0), left("b:latest", Fate::Named, 0));
        assert_eq!(going(&reply(vec![stays.clone()])), "");
        assert_eq!(going(&reply(vec![goes.clone(), stays, goes.clone()])), "2 models, 4.0 GB: a:latest, a:latest");
        let many = going(&reply(vec![goes; NAMED_MAX + 1]));
        assert!(many.starts_with("9 models, 18.0 GB: ") && many.ends_with(", and more"), "{many}");
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
