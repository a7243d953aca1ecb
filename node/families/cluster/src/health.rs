//! How the node and the lab are: one word with reasons, or everything.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use ollamax_tools::views::{Attention, Cluster, Node, NodeHealth};
use ollamax_tools::{DeclarationError, Example, Lab, Spec, Tool, ToolError};
use ollamax_types::ErrorCode;

use crate::Nothing;

const FAMILY: &str = "health";

const HEALTH_CHECK: Spec = Spec {
    name: "health_check",
    title: "Check health",
    description: "Says in one word whether this node and its cluster are well (ok, degraded, unavailable), and lists \
                  what is wrong. Call it first when something does not work.",
    family: FAMILY,
    examples: &[Example { title: "Is everything well?", arguments: "{}" }],
    ..Spec::READ
};

const GET_HEALTH_STATUS: Spec = Spec {
    name: "get_health_status",
    title: "Get health in full",
    description: "Tells of every part of this node whether it works, of every member whether it is heard and whether \
                  its model runtime answers, and everything that wants attention with the command that mends it.",
    ..HEALTH_CHECK
};

/// One word, with reasons.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
struct Check {
    /// How it is: ok, degraded, unavailable.
    status: &'static str,
    /// The answering node.
    node: String,
    /// What is wrong, most urgent first.
    problems: Vec<String>,
}

/// Everything.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
struct Health {
    /// How it is: ok, degraded, unavailable.
    status: &'static str,
    /// The answering node.
    node: NodeHealth,
    /// The members; empty where the node belongs to no cluster.
    members: Vec<MemberHealth>,
    /// What wants attention, most urgent first.
    attention: Vec<Attention>,
}

/// How a member is.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
struct MemberHealth {
    /// Its name.
    name: String,
    /// Alive, suspect, dead or unknown, in small letters, as the answering node hears it.
    health: String,
    /// Milliseconds since it was heard.
    silent_ms: u64,
    /// Its model runtime: up, down, absent, unknown.
    runtime: String,
    /// Why the runtime is down.
    runtime_reason: String,
}

/// The family's tools.
pub(crate) fn tools(lab: &Arc<dyn Lab>) -> Result<Vec<Tool>, DeclarationError> {
    let (check, full) = (Arc::clone(lab), Arc::clone(lab));
    Ok(vec![
        Tool::reading(HEALTH_CHECK, move |_: Nothing| Ok(check_of(&check.health(), &check.cluster()?)))?,
        Tool::reading(GET_HEALTH_STATUS, move |_: Nothing| health_of(&*full))?,
    ])
}

/// A node that cannot serve is unavailable; one that can is well if nothing wants attention and all its parts work.
fn status_of(node: &NodeHealth, cluster: &Cluster) -> &'static str {
    let works = node.parts.iter().all(|part| part.works);
    match (node.ready, works && cluster.attention.is_empty()) {
        (false, _) => "unavailable",
        (true, false) => "degraded",
        (true, true) => "ok",
    }
}

fn check_of(node: &NodeHealth, cluster: &Cluster) -> Check {
    let starting = (!node.started).then(|| "this node is starting".to_owned());
    let stopping = node.stopping.then(|| "this node is stopping".to_owned());
    let broken = node.parts.iter().filter(|part| !part.works).map(|part| format!("{}: {}", part.name, part.detail));
    let wanting =
        cluster.attention.iter().map(
            |Attention { what, next, .. }| {
                if next.is_empty() { what.clone() } else { format!("{what}; run: {next}") }
            },
        );
    Check {
        status: status_of(node, cluster),
        node: node.node.clone(),
        problems: starting.into_iter().chain(stopping).chain(broken).chain(wanting).collect(),
    }
}

fn health_of(lab: &dyn Lab) -> Result<Health, ToolError> {
    let (node, cluster) = (lab.health(), lab.cluster()?);
    let members = match lab.nodes() {
        Ok(nodes) => nodes.into_iter().map(member_of).collect(),
        // How a node is can be asked before it belongs to anything, and while it starts.
        Err(error) if matches!(error.code, ErrorCode::NotInitialised | ErrorCode::Starting) => Vec::new(),
        Err(error) => return Err(error),
    };
    Ok(Health { status: status_of(&node, &cluster), node, members, attention: cluster.attention })
}

fn member_of(node: Node) -> MemberHealth {
    let Node { name, health, silent_ms, runtime, .. } = node;
    let (runtime, runtime_reason) =
        runtime.map_or_else(|| ("unknown".to_owned(), String::new()), |runtime| (runtime.state, runtime.reason));
    MemberHealth { name, health, silent_ms, runtime, runtime_reason }
}

#[cfg(test)]
mod tests {
    use ollamax_tools::mem::MemLab;
    use ollamax_tools::views::{Part, Runtime};

    use super::*;

    fn node(ready: bool, works: bool) -> NodeHealth {
        let part = Part { name: "disk".to_owned(), works, needed: "shown".to_owned(), detail: "full".to_owned() };
        NodeHealth {
            node: "n1".to_owned(),
            started: true,
            live: true,
            ready,
            parts: vec![part],
            ..NodeHealth::default()
        }
    }

    fn cluster(wants: bool) -> Cluster {
        let attention = Attention {
            id: "node_silent".to_owned(),
            what: "node n2 is silent".to_owned(),
            next: "ollamax node list".to_owned(),
            ..Attention::default()
        };
        Cluster { attention: if wants { vec![attention] } else { Vec::new() }, ..Cluster::default() }
    }

    #[test]
    fn one_word_says_how_it_is_and_the_reasons_stand_beside_it() {
        let check = |ready, works, wants, status: &str, problems: &[&str]| {
            let found = check_of(&node(ready, works), &cluster(wants));
            assert_eq!((found.status, found.problems), (status, problems.iter().map(ToString::to_string).collect()));
        };
        check(true, true, false, "ok", &[]);
        check(true, false, false, "degraded", &["disk: full"]);
        check(true, true, true, "degraded", &["node n2 is silent; run: ollamax node list"]);
        check(false, false, true, "unavailable", &["disk: full", "node n2 is silent; run: ollamax node list"]);
        let starting = NodeHealth { started: false, ready: false, ..node(true, true) };
        assert_eq!(check_of(&starting, &cluster(false)).problems, ["this node is starting"]);
    }

    #[test]
    fn health_is_told_before_there_is_a_cluster_and_of_every_member_afterwards() {
        let alone = MemLab { health: node(false, true), ..MemLab::default() };
        let told = health_of(&alone).expect("told");
        assert_eq!((told.status, told.members.len()), ("unavailable", 0));
        let down = Runtime { state: "down".to_owned(), reason: "refused".to_owned(), ..Runtime::default() };
        let heard = Node { name: "n1".to_owned(), runtime: Some(down), ..Node::default() };
        let nodes = Some(vec![heard, Node { name: "n2".to_owned(), ..Node::default() }]);
        let told = health_of(&MemLab { health: node(true, true), nodes, ..MemLab::default() }).expect("told");
        let runtimes: Vec<(&str, &str)> =
            told.members.iter().map(|one| (one.runtime.as_str(), one.runtime_reason.as_str())).collect();
        assert_eq!(runtimes, [("down", "refused"), ("unknown", "")]);
    }
}
