//! What tools see of the lab: the administrator's own picture in the tools' words, so that an assistant and
//! `ollamax status` never say different things.

use std::sync::Arc;

use futures::FutureExt as _;
use serde_json::{Map, Value};

use ollamax_gateway::grpc::{Admin, AdminError};
use ollamax_gateway::ports::{Needed, Node as Clients};
use ollamax_proto::v1;
use ollamax_tools::ports::Answer;
use ollamax_tools::views::{Attention, Cluster, Gpu, Model, ModelCopy, Node, NodeHealth, Part, Runtime, Transfer};
use ollamax_tools::{Lab, ToolError};
use ollamax_types::ErrorCode;

/// The administrator's picture, and what the clients' door knows of its node.
pub(crate) struct LabOverAdmin {
    admin: Admin,
    clients: Arc<dyn Clients>,
}

// === impl LabOverAdmin ===

impl LabOverAdmin {
    pub(crate) fn new(admin: Admin, clients: Arc<dyn Clients>) -> Self {
        Self { admin, clients }
    }
}

impl Lab for LabOverAdmin {
    fn health(&self) -> NodeHealth {
        let readiness = self.clients.readiness();
        let parts = readiness.components.iter().map(|part| Part {
            name: part.name.to_owned(),
            works: part.works,
            needed: needed(part.needed).to_owned(),
            detail: part.detail.clone(),
        });
        NodeHealth {
            node: self.clients.name(),
            started: readiness.started,
            stopping: readiness.stopping,
            live: readiness.is_live(),
            ready: readiness.is_ready(),
            parts: parts.collect(),
        }
    }

    fn cluster(&self) -> Result<Cluster, ToolError> {
        Ok(cluster(self.admin.status_reply().map_err(refused)?))
    }

    fn nodes(&self) -> Result<Vec<Node>, ToolError> {
        let reply = self.admin.status_reply().map_err(refused)?;
        // Only a node with engines tells of consensus.
        if reply.raft.is_none() {
            return Err(refused(self.admin.without_engines()));
        }
        Ok(reply.nodes.into_iter().map(node).collect())
    }

    fn transfers(&self) -> Answer<Vec<Transfer>> {
        let admin = self.admin.clone();
        let told = |reply: v1::ListPullsReply| reply.pulls.into_iter().map(transfer).collect::<Vec<Transfer>>();
        async move { admin.pulls().await.map(told).map_err(refused) }.boxed()
    }

    fn models(&self) -> Result<Vec<Model>, ToolError> {
        let reply = self.admin.models("").map_err(refused)?;
        Ok(reply.models.into_iter().map(model).collect())
    }

    fn model(&self, name: &str) -> Result<Model, ToolError> {
        // The empty name is that of all.
        let asked = if name.is_empty() { " " } else { name };
        let found = self.admin.models(asked).map_err(refused)?.models.into_iter().next();
        let missing = || AdminError::new(ErrorCode::ModelNotFound, "no node has it", "", "ollamax model list");
        found.map(model).ok_or_else(|| refused(missing()))
    }
}

/// An administrator's error in the tools' words.
pub(crate) fn refused(error: AdminError) -> ToolError {
    let AdminError { code, what, why, next } = error;
    let message = if why.is_empty() { what } else { format!("{what}: {why}") };
    ToolError::new(code, message, in_tools(next))
}

/// What is to be done next, where the command would do what a tool asks a person about: that tool instead.
fn in_tools(next: String) -> String {
    const INSISTING: &str = "call delete_model with force true, of which a person is asked";
    if next.starts_with("ollamax model rm ") && next.ends_with(" --force") {
        return INSISTING.to_owned();
    }
    match next.strip_suffix("or the same again with --force") {
        Some(before) => format!("{before}or {INSISTING}"),
        None => next,
    }
}

const fn needed(needed: Needed) -> &'static str {
    match needed {
        Needed::ToLive => "to_live",
        Needed::ToServe => "to_serve",
        Needed::Shown => "shown",
    }
}

/// The name of a value on the wire, as tools write it.
fn word(name: &str) -> String {
    if name.ends_with("UNSPECIFIED") { "unknown".to_owned() } else { name.to_lowercase() }
}

fn cluster(reply: v1::StatusReply) -> Cluster {
    let phase = word(reply.phase().as_str_name());
    let raft = reply.raft.unwrap_or_default();
    let named = |node: u64| reply.nodes.iter().find(|one| one.id == node).map(|one| one.name.clone());
    let leader = (raft.leader != 0).then(|| named(raft.leader).unwrap_or_else(|| raft.leader.to_string()));
    let attention = reply.attention.into_iter().map(|one| {
        let v1::Attention { id, what, why, next } = one;
        Attention { id, what, why, next }
    });
    Cluster {
        phase,
        name: reply.cluster_name,
        id: hex::encode(reply.cluster),
        node: reply.node_name,
        version: reply.daemon_version,
        leader,
        has_quorum: raft.has_quorum,
        voters: raft.voters,
        learners: raft.learners,
        healthy_nodes: raft.healthy_nodes,
        failure_tolerance: raft.failure_tolerance,
        view_age_ms: reply.view.map(|view| view.age_ms).filter(|age_ms| *age_ms != u64::MAX),
        attention: attention.collect(),
    }
}

fn node(node: v1::NodeView) -> Node {
    let (state, health) = (word(node.state().as_str_name()), word(node.health().as_str_name()));
    let cordon = word(node.cordon().as_str_name());
    Node {
        id: node.id,
        name: node.name,
        role: node.role,
        state,
        health,
        leader: node.leader,
        voter: node.voter,
        silent_ms: node.silent_ms,
        cordon,
        models: node.models,
        loaded: node.resident.into_iter().map(|resident| resident.name).collect(),
        runtime: node.runtime.map(runtime),
        memory_used_bytes: node.memory_used_bytes,
        memory_total_bytes: node.memory_total_bytes,
        // A node of an older release does not say where its models lie.
        disk_free_bytes: node.models_free_bytes.or(node.disk_free_bytes),
        gpus: node.gpus.into_iter().map(gpu).collect(),
        labels: node.labels.into_iter().map(|label| (label.key, label.value)).collect(),
    }
}

fn runtime(runtime: v1::Runtime) -> Runtime {
    let (kind, state) = (word(runtime.kind().as_str_name()), word(runtime.state().as_str_name()));
    Runtime { kind, state, version: runtime.version, reason: runtime.reason }
}

fn gpu(gpu: v1::Gpu) -> Gpu {
    let v1::Gpu { name, memory_total_bytes, memory_used_bytes, use_permille, .. } = gpu;
    Gpu { name, memory_total_bytes, memory_used_bytes, use_permille }
}

fn transfer(pull: v1::PullProgress) -> Transfer {
    let stage = word(pull.stage().as_str_name());
    Transfer {
        model: pull.name,
        node: pull.node_name,
        stage,
        verified_bytes: pull.verified_bytes,
        total_bytes: pull.total_bytes,
        bytes_per_second: pull.bytes_per_second,
        left_ms: pull.left_ms,
        error: pull.error,
    }
}

fn model(view: v1::ModelView) -> Model {
    let copies = view.copies.into_iter().map(|copy| ModelCopy {
        node: if copy.node_name.is_empty() { copy.node_id.to_string() } else { copy.node_name },
        digest: hex::encode(copy.digest),
        served: copy.served,
        loaded: copy.resident,
    });
    Model {
        name: view.name,
        digest: hex::encode(view.digest),
        size_bytes: view.size_bytes,
        modified_at_ms: view.modified_at_ms,
        details: details(&view.details_json),
        capabilities: view.capabilities,
        phase: view.phase,
        pinned: view.pinned,
        conflict: view.conflict,
        copies: copies.collect(),
    }
}

/// What a runtime tells of a model; nothing where that is no object.
fn details(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use ollamax_gateway::grpc::Phase;

    use super::*;

    #[test]
    fn what_is_not_known_on_the_wire_is_unknown_and_not_a_number() {
        let mut view = v1::NodeView { id: 2, name: "b".to_owned(), disk_free_bytes: None, ..v1::NodeView::default() };
        let told = node(view.clone());
        assert_eq!(
            (told.health.as_str(), told.state.as_str(), told.cordon.as_str()),
            ("unknown", "unknown", "unknown")
        );
        assert_eq!((told.runtime, told.disk_free_bytes), (None, None));
        view.set_health(v1::node_view::Health::Suspect);
        view.set_state(v1::node_view::State::Drained);
        view.set_cordon(v1::Cordon::Emptying);
        let mut down = v1::Runtime { reason: "refused".to_owned(), ..v1::Runtime::default() };
        down.set_kind(v1::runtime::Kind::Engine);
        down.set_state(v1::runtime::State::Down);
        view.runtime = Some(down);
        let told = node(view);
        assert_eq!(
            (told.health.as_str(), told.state.as_str(), told.cordon.as_str()),
            ("suspect", "drained", "emptying")
        );
        let runtime = told.runtime.expect("told");
        assert_eq!(
            (runtime.kind.as_str(), runtime.state.as_str(), runtime.reason.as_str()),
            ("engine", "down", "refused")
        );
    }

    #[test]
    fn the_free_disk_is_that_of_the_models_where_it_is_known() {
        let check = |disk_free_bytes, models_free_bytes, expected: Option<u64>| {
            let view = v1::NodeView { disk_free_bytes, models_free_bytes, ..v1::NodeView::default() };
            assert_eq!(node(view).disk_free_bytes, expected);
        };
        check(Some(74), Some(48), Some(48));
        check(Some(74), Some(0), Some(0));
        check(Some(74), None, Some(74));
        check(None, None, None);
    }

    #[test]
    fn the_leader_is_told_by_name_and_a_view_without_an_age_has_none() {
        let named = v1::NodeView { id: 3, name: "c".to_owned(), ..v1::NodeView::default() };
        let reply = |leader: u64, age_ms: u64| v1::StatusReply {
            raft: Some(v1::RaftView { leader, ..v1::RaftView::default() }),
            nodes: vec![named.clone()],
            view: Some(v1::LocalView { applied_index: 1, age_ms }),
            cluster: vec![0xab; 2],
            ..v1::StatusReply::default()
        };
        let told = cluster(reply(3, 7));
        assert_eq!((told.leader.as_deref(), told.view_age_ms, told.id.as_str()), (Some("c"), Some(7), "abab"));
        assert_eq!(cluster(reply(9, 0)).leader.as_deref(), Some("9"));
        let told = cluster(reply(0, u64::MAX));
        assert_eq!((told.leader, told.view_age_ms), (None, None));
        assert_eq!(cluster(v1::StatusReply::default()).phase, "unknown");
    }

    #[test]
    fn details_that_are_no_object_are_left_out() {
        let check = |text: &str, expected: usize| assert_eq!(details(text).len(), expected, "{text}");
        check(r#"{"family": "llama", "parameter_size": "3B"}"#, 2);
        check("", 0);
        check("[1]", 0);
    }

    #[test]
    fn no_tool_names_a_command_that_goes_past_an_approval() {
        let check = |next: &str, expected: &str| {
            let error = refused(AdminError::new(ErrorCode::PreconditionFailed, "it stays", "it is the last", next));
            assert_eq!(error.next, expected);
        };
        let insisting = "call delete_model with force true, of which a person is asked";
        check("ollamax model rm m:latest --force", insisting);
        let silent = "ollamax node list; or the same again with --force";
        check(silent, &format!("ollamax node list; or {insisting}"));
        check("ollamax model rm m:latest, or use another name", "ollamax model rm m:latest, or use another name");
        check("ollamax model unpin m:latest", "ollamax model unpin m:latest");
    }

    #[test]
    fn an_administrators_error_keeps_its_code_and_the_command_to_type() {
        let error = refused(AdminError::without_engines(Phase::Waiting));
        assert_eq!(error.code, ErrorCode::NotInitialised);
        assert!(error.next.contains("ollamax init"), "{error:?}");
    }
}
