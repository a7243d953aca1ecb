//! What the lab is: its consensus, its members, what is on its way between them; and taking a node out of use.

use std::sync::Arc;

use futures::FutureExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use ollamax_tools::page::page;
use ollamax_tools::views::{Node, Transfer};
use ollamax_tools::{Call, Changes, DeclarationError, Example, Lab, Ports, Spec, Tool, ToolError};
use ollamax_types::ModelName;

use crate::Nothing;

pub(crate) const FAMILY: &str = "cluster";

const CLUSTER_STATUS: Spec = Spec {
    name: "cluster_status",
    title: "Get cluster status",
    description: "Tells the cluster's name, who leads, whether changes can be made, how many failures it still \
                  bears, and what wants attention with the command that mends it.",
    family: FAMILY,
    examples: &[Example { title: "Who leads?", arguments: "{}" }],
    ..Spec::READ
};

const LIST_NODES: Spec = Spec {
    name: "list_nodes",
    title: "List nodes",
    description: "Lists the machines of the cluster: role, health, model runtime, loaded models, memory, free disk, \
                  graphics cards, labels. Ask with health suspect or dead for those that are not heard; a model \
                  runtime that is down is told in runtime.",
    examples: &[
        Example { title: "All nodes", arguments: "{}" },
        Example { title: "Those that are not heard", arguments: r#"{"health": "dead"}"# },
    ],
    ..CLUSTER_STATUS
};

const LIST_TRANSFERS: Spec = Spec {
    name: "list_transfers",
    title: "List transfers",
    description: "Lists the models that nodes are fetching now: how far each is, how fast, how long it will take, and \
                  why one failed.",
    examples: &[
        Example { title: "All transfers", arguments: "{}" },
        Example { title: "Those of one model", arguments: r#"{"model": "llama3.2:latest"}"# },
    ],
    ..CLUSTER_STATUS
};

const DRAIN_NODE: Spec = Spec {
    name: "drain_node",
    title: "Drain a node",
    description: "Takes a node out of use (it finishes what it does and gets nothing new), or back into use.",
    family: FAMILY,
    examples: &[
        Example { title: "Before maintenance", arguments: r#"{"node": "gpu-1", "drained": true}"# },
        Example { title: "Afterwards", arguments: r#"{"node": "gpu-1", "drained": false}"# },
    ],
    ..Spec::CHANGE
};

// Which nodes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NodesAsked {
    /// Those of this health alone.
    health: Option<HealthAsked>,
    /// How many at once; 50 where it is not said.
    #[schemars(range(min = 1, max = 200))]
    limit: Option<u32>,
    /// The next_cursor of the page before.
    #[schemars(length(max = 64))]
    cursor: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum HealthAsked {
    Alive,
    Suspect,
    Dead,
    Unknown,
}

// Nodes, and where the next page begins.
#[derive(Debug, Serialize, JsonSchema)]
struct Nodes {
    /// In the order of their ids.
    nodes: Vec<Node>,
    /// Where the next page begins; null: this was the last.
    next_cursor: Option<String>,
}

// Which transfers.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TransfersAsked {
    /// Those of this model alone.
    #[schemars(length(min = 1, max = 512))]
    model: Option<String>,
}

// Transfers.
#[derive(Debug, Serialize, JsonSchema)]
struct Transfers {
    /// In the order of models and nodes.
    transfers: Vec<Transfer>,
    /// How many there are beside those that are listed.
    omitted: usize,
}

// Which node, and whether it is to be out of use.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DrainAsked {
    /// Its name or id.
    #[schemars(length(min = 1, max = 64))]
    node: String,
    drained: bool,
    /// A repeated call with the same key has effect once.
    #[schemars(length(min = 1, max = 128))]
    #[expect(dead_code, reason = "the catalogue reads it")]
    idempotency_key: Option<String>,
}

// How the node is now.
#[derive(Debug, Serialize, JsonSchema)]
struct Drained {
    node: String,
    drained: bool,
}

/// Transfers that are listed at once.
const TRANSFERS_MAX: usize = 100;

/// The tools of the family that are about nodes.
pub(crate) fn tools(ports: &Ports) -> Result<Vec<Tool>, DeclarationError> {
    let (status, nodes, transfers) = (Arc::clone(&ports.lab), Arc::clone(&ports.lab), Arc::clone(&ports.lab));
    let changes = Arc::clone(&ports.changes);
    Ok(vec![
        Tool::reading(CLUSTER_STATUS, move |_: Nothing| status.cluster())?,
        Tool::reading(LIST_NODES, move |asked: NodesAsked| list_nodes(&*nodes, &asked))?,
        Tool::new(LIST_TRANSFERS, move |_: Call, asked: TransfersAsked| {
            list_transfers(Arc::clone(&transfers), asked).boxed()
        })?,
        Tool::new(DRAIN_NODE, move |call: Call, asked: DrainAsked| drain(Arc::clone(&changes), call, asked).boxed())?,
    ])
}

// === impl HealthAsked ===

impl HealthAsked {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
            Self::Unknown => "unknown",
        }
    }
}

fn list_nodes(lab: &dyn Lab, asked: &NodesAsked) -> Result<Nodes, ToolError> {
    let mut nodes = lab.nodes()?;
    if let Some(health) = asked.health {
        nodes.retain(|node| node.health == health.as_str());
    }
    let (nodes, next_cursor) = page(nodes, |node: &Node| node.id, asked.cursor.as_deref(), asked.limit)?;
    Ok(Nodes { nodes, next_cursor })
}

async fn list_transfers(lab: Arc<dyn Lab>, asked: TransfersAsked) -> Result<Transfers, ToolError> {
    let (TransfersAsked { model }, mut transfers) = (asked, lab.transfers().await?);
    if let Some(model) = model {
        // Without a tag it is the latest.
        let full = model.parse::<ModelName>().map_or(model, |name| name.to_string());
        transfers.retain(|transfer| transfer.model == full);
    }
    transfers.sort_by(|a, b| (&a.model, &a.node).cmp(&(&b.model, &b.node)));
    let omitted = transfers.len().saturating_sub(TRANSFERS_MAX);
    transfers.truncate(TRANSFERS_MAX);
    Ok(Transfers { transfers, omitted })
}

async fn drain(changes: Arc<dyn Changes>, call: Call, asked: DrainAsked) -> Result<Drained, ToolError> {
    let DrainAsked { node, drained, .. } = asked;
    changes.set_drained(&call, &node, drained).await?;
    Ok(Drained { node, drained })
}

#[cfg(test)]
mod tests {
    use ollamax_tools::mem::{MemLab, MemPorts};
    use ollamax_tools::{Caller, Catalogue, Families, Principal};
    use ollamax_types::ErrorCode;
    use serde_json::{Value, json};

    use super::*;

    fn lab() -> MemLab {
        let node = |id, name: &str, health: &str| Node {
            id,
            name: name.to_owned(),
            health: health.to_owned(),
            ..Node::default()
        };
        let transfer = |model: &str, node: &str| Transfer {
            model: model.to_owned(),
            node: node.to_owned(),
            stage: "fetching".to_owned(),
            ..Transfer::default()
        };
        MemLab {
            nodes: Some(vec![node(10, "j", "alive"), node(2, "b", "dead"), node(9, "i", "alive")]),
            transfers: vec![transfer("m:latest", "i"), transfer("k:latest", "j"), transfer("m:latest", "b")],
            ..MemLab::default()
        }
    }

    async fn call(lab: MemLab, tool: &str, arguments: Value) -> Result<Value, ErrorCode> {
        call_as(Principal::loopback(), &MemPorts::of(lab), tool, arguments).await
    }

    async fn call_as(by: Principal, ports: &MemPorts, tool: &str, arguments: Value) -> Result<Value, ErrorCode> {
        let tools = crate::tools(&ports.ports()).expect("declared well");
        let all = Catalogue::new(tools, &Families::All).expect("names differ");
        match all.call(Caller { principal: by, request: Default::default(), trace: None }, tool, arguments).await {
            Ok(value) => Ok(value),
            Err(ollamax_tools::CallError::Failed(error)) => Err(error.code),
            Err(error) => panic!("{error}"),
        }
    }

    fn told(value: &Value, list: &str, key: &str) -> Vec<Value> {
        value[list].as_array().expect("a list").iter().map(|row| row[key].clone()).collect()
    }

    #[tokio::test]
    async fn nodes_are_listed_by_id_by_health_and_page_by_page() {
        let names = async |arguments: Value| {
            let value = call(lab(), "list_nodes", arguments).await.expect("listed");
            (told(&value, "nodes", "name"), value["next_cursor"].clone())
        };
        assert_eq!(names(json!({})).await, (vec![json!("b"), json!("i"), json!("j")], Value::Null));
        assert_eq!(names(json!({"health": "dead"})).await, (vec![json!("b")], Value::Null));
        assert_eq!(names(json!({"limit": 2})).await, (vec![json!("b"), json!("i")], json!("9")));
        assert_eq!(names(json!({"limit": 2, "cursor": "9"})).await, (vec![json!("j")], Value::Null));
    }

    #[tokio::test]
    async fn transfers_are_listed_by_model_and_node() {
        let nodes = async |arguments: Value| {
            told(&call(lab(), "list_transfers", arguments).await.expect("listed"), "transfers", "node")
        };
        assert_eq!(nodes(json!({})).await, [json!("j"), json!("b"), json!("i")]);
        assert_eq!(nodes(json!({"model": "m:latest"})).await, [json!("b"), json!("i")]);
        assert_eq!(nodes(json!({"model": "m"})).await, [json!("b"), json!("i")], "without a tag it is the latest");
        assert_eq!(nodes(json!({"model": "x"})).await, Vec::<Value>::new());
    }

    #[tokio::test]
    async fn transfers_beyond_what_is_listed_are_counted() {
        let many = (0..TRANSFERS_MAX + 3).map(|at| Transfer { node: format!("n{at}"), ..Transfer::default() });
        let lab = MemLab { transfers: many.collect(), ..lab() };
        let value = call(lab, "list_transfers", json!({})).await.expect("listed");
        assert_eq!((told(&value, "transfers", "node").len(), &value["omitted"]), (TRANSFERS_MAX, &json!(3)));
    }

    #[tokio::test]
    async fn a_node_is_drained_and_back_in_use_by_who_manages_once_for_each_key() {
        let (ports, admin) = (MemPorts::default(), Principal::of_socket(1));
        let away = call_as(admin.clone(), &ports, "drain_node", json!({"node": "n1", "drained": true})).await;
        assert_eq!(away, Ok(json!({"node": "n1", "drained": true})));
        let back = json!({"node": "n1", "drained": false, "idempotency_key": "k"});
        assert!(call_as(admin, &ports, "drain_node", back.clone()).await.is_ok());
        assert_eq!(call_as(Principal::loopback(), &ports, "drain_node", back).await, Err(ErrorCode::Forbidden));
        assert_eq!(ports.changes.made(), ["drained n1 true", "drained n1 false once"]);
    }

    #[tokio::test]
    async fn a_node_without_a_cluster_tells_its_status_and_refuses_lists() {
        let status = call(MemLab::default(), "cluster_status", json!({})).await.expect("told");
        assert_eq!(status["leader"], Value::Null);
        for tool in ["list_nodes", "list_transfers"] {
            assert_eq!(call(MemLab::default(), tool, json!({})).await, Err(ErrorCode::NotInitialised), "{tool}");
        }
    }

    #[tokio::test]
    async fn wrong_arguments_are_refused_before_anything_is_read() {
        for (tool, arguments) in [
            ("list_nodes", json!({"health": "Dead"})),
            ("list_nodes", json!({"limit": 0})),
            ("list_nodes", json!({"limit": 201})),
            ("list_nodes", json!({"limit": 2.0})),
            ("list_nodes", json!({"cursor": "not a number"})),
            ("list_transfers", json!({"model": ""})),
            ("list_transfers", json!({"models": "m"})),
            ("cluster_status", json!({"verbose": true})),
        ] {
            assert_eq!(call(lab(), tool, arguments.clone()).await, Err(ErrorCode::BadRequest), "{tool} {arguments}");
        }
    }
}
