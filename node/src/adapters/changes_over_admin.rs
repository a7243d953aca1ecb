//! What tools change in the lab, over the administrator's own changes: the same guards, the same words, under the name
//! of whoever calls.
//!
//! What takes long ends only where it is done, fails for good, or somebody has it end. Its command has effect once in
//! all attempts of its task: whoever begins it again joins what is under way, and goes on by what the record says then,
//! also where people have changed that since. Who has it end ends what the task asked for, and nothing of others.

use futures::FutureExt as _;
use futures::stream::StreamExt as _;
use tokio::time::{Instant, timeout};

use ollamax_core::catalog::{self, Fault, Location, Model, Once, read};
use ollamax_core::health::Health;
use ollamax_core::placement::size_text;
use ollamax_gateway::grpc::{Admin, AdminError, By, TakenBack};
use ollamax_proto::v1;
use ollamax_security::draw_request_id;
use ollamax_tools::ports::{Answer, Changes, DeleteAsked, Deleted, EventView, PullAsked, Pulled, Rescanned};
use ollamax_tools::tool::{Call, Foreseen};
use ollamax_tools::work::Work;
use ollamax_tools::{Caller, OnceKey, ToolError};
use ollamax_types::{ErrorCode, ModelName, NodeId, Timestamp};

use crate::adapters::lab_over_admin::refused;
use crate::adapters::rescan_over_net::Rescans;
use crate::adapters::tasks_over_metadata::{moment, name_of};
use crate::follow::{next_look, pause_after};
use crate::slot::{MemberEngines, Slot};

use self::copies::{Copies, plan_lines};

mod copies;

/// Nodes that one line of a plan names.
const NODES_NAMED_MAX: usize = 16;

/// The administrator's changes, and what only the assembly can have done.
#[derive(Debug, Clone)]
pub(crate) struct ChangesOverAdmin {
    admin: Admin,
    slot: Slot,
    rescans: Rescans,
}

// === impl ChangesOverAdmin ===

impl ChangesOverAdmin {
    pub(crate) const fn new(admin: Admin, slot: Slot, rescans: Rescans) -> Self {
        Self { admin, slot, rescans }
    }

    fn engines(&self) -> Result<MemberEngines, ToolError> {
        self.slot.get().ok_or_else(|| refused(self.admin.without_engines()))
    }

    async fn pulled(self, work: Work, asked: PullAsked) -> Result<Pulled, ToolError> {
        let (by, mut copies) = (by_work(&work, "pull"), Copies::default());
        // It is to end from the start: a lost node began it, or that it ends could not be put on record.
        if work.cancelled.is_cancelled() {
            return Err(self.ended(&by, &asked.model, None).await);
        }
        let mut states = self.admin.pull_by(&by, pull_request(&asked)).await.map_err(refused)?;
        // It may come for longer than its key is kept.
        let heard = self.admin.answered(&by).await.map_err(refused)?;
        loop {
            let state = tokio::select! {
                biased;
                () = work.cancelled.cancelled() => {
                    return Err(self.ended(&by, &asked.model, heard.as_ref()).await);
                }
                state = timeout(copies::LOOK_INTERVAL, states.next()) => state,
            };
            match state {
                Ok(Some(state)) => copies.note(state.map_err(|error| lasting(refused(error)))?, Instant::now()),
                Ok(None) => return Ok(copies.there()),
                // Nobody says anything: a node may have gone silent, and the registry may be.
                Err(_) => {}
            }
            if let Some((done, total, text)) = copies.so_far(Instant::now(), &|node| self.hears(node)) {
                work.progress.tell(done, total, text);
            }
        }
    }

    /// A node that stops hears nobody, which says nothing of others.
    fn hears(&self, node: NodeId) -> bool {
        self.slot.get().is_none_or(|engines| is_heard(&engines, node))
    }

    /// Somebody has a pull end: nothing more comes of what was asked for here.
    async fn ended(&self, by: &By, model: &str, heard: Option<&Once>) -> ToolError {
        match self.admin.take_back_by(by, model, heard).await {
            Ok(taken_back) => pull_ended(model, taken_back),
            Err(error) => refused(error),
        }
    }

    /// What would come of a pull just now.
    fn foreseen(&self, asked: &PullAsked) -> Result<Vec<String>, ToolError> {
        let engines = self.engines()?;
        let replicas = self.admin.replicas_of_pull(&pull_request(asked)).map_err(refused)?;
        let name = parse(&asked.model)?;
        let look = copies::Look::now(&engines, &name, replicas).map_err(|fault| refused(fault.into()))?;
        Ok(plan_lines(&look, &|node| name_of(&engines, node), &|node| is_heard(&engines, node)))
    }

    async fn deleted(self, work: Work, asked: DeleteAsked) -> Result<Deleted, ToolError> {
        let (engines, name, by) = (self.engines()?, parse(&asked.model)?, by_work(&work, "delete"));
        if work.cancelled.is_cancelled() {
            let is_asked = self.admin.answered(&by).await.map_err(refused)?.is_some();
            return Err(if is_asked { not_waited_for(&name) } else { not_deleted(&name) });
        }
        let told = self.admin.remove_by(&by, &removal(&asked, false)).await.map_err(refused)?;
        let acts = told.plan.unwrap_or_default().acts;
        // From here on this node knows what is to go, so that what it does not know of is to stay.
        engines.metadata.read_barrier().await.map_err(|error| refused(error.into()))?;
        let mut changes = engines.metadata.changes();
        loop {
            let began = Instant::now();
            let (copies, model) = on_record(&engines, &name).map_err(|fault| refused(fault.into()))?;
            let (gone, left): (Vec<_>, Vec<_>) = acts.iter().partition(|act| is_gone(act, &copies));
            let (done, total) = (gone.len() as u64, acts.len() as u64);
            work.progress.tell(done, Some(total), format!("{done} of {total} copies are gone"));
            // A silent node removes its copy when it comes back; nobody waits for that, nor for what is wanted again.
            let is_coming =
                |act: &&v1::ActView| is_to_go(act, model.as_ref()) && is_heard(&engines, NodeId(act.node_id));
            if !left.iter().any(is_coming) {
                let bytes = gone.iter().map(|act| act.frees_bytes).sum();
                return Ok(Deleted { nodes: gone.iter().map(|act| act.node_name.clone()).collect(), bytes });
            }
            let woken = next_look(&mut changes, pause_after(began.elapsed()), copies::LOOK_INTERVAL);
            match work.cancelled.run_until_cancelled(woken).await {
                Some(true) => {}
                Some(false) => return Err(stopping()),
                None => return Err(not_waited_for(&name)),
            }
        }
    }
}

impl Changes for ChangesOverAdmin {
    fn pin(&self, by: &Call, model: &str, version: Option<&str>) -> Answer<String> {
        let (admin, by, asked) = (self.admin.clone(), by_call(by), pinning(model, version));
        async move {
            let pinned = admin.pin_by(&by, &asked).await.map_err(refused)?;
            Ok(hex::encode(pinned.digest))
        }
        .boxed()
    }

    fn plan_pin(&self, model: &str, version: Option<&str>) -> Answer<String> {
        let (admin, asked) = (self.admin.clone(), pinning(model, version));
        async move { Ok(hex::encode(admin.foresee_pin(&asked).await.map_err(refused)?.digest)) }.boxed()
    }

    fn plan_unpin(&self, model: &str) -> Answer<()> {
        let (admin, asked) = (self.admin.clone(), unpinning(model));
        async move { admin.foresee_pin(&asked).await.map(|_| ()).map_err(refused) }.boxed()
    }

    fn unpin(&self, by: &Call, model: &str) -> Answer<()> {
        let (admin, by, asked) = (self.admin.clone(), by_call(by), unpinning(model));
        async move { admin.pin_by(&by, &asked).await.map(|_| ()).map_err(refused) }.boxed()
    }

    fn set_phase(&self, by: &Call, model: &str, phase: &str, instead: Option<&str>) -> Answer<()> {
        let (admin, by) = (self.admin.clone(), by_call(by));
        let note = instead.map(|other| format!("use {other}")).unwrap_or_default();
        let asked = v1::SetPhaseRequest { name: model.to_owned(), phase: phase.to_owned(), note };
        async move { admin.set_phase_by(&by, asked).await.map_err(refused) }.boxed()
    }

    fn set_drained(&self, by: &Call, node: &str, drained: bool) -> Answer<()> {
        let (admin, by, node) = (self.admin.clone(), by_call(by), node.to_owned());
        async move { admin.drain_by(&by, &node, drained).await.map_err(refused) }.boxed()
    }

    fn rescan(&self) -> Answer<Vec<Rescanned>> {
        let (rescans, engines) = (self.rescans.clone(), self.engines());
        async move { rescans.all(&engines?).await.map_err(|fault| refused(fault.into())) }.boxed()
    }

    fn plan_pull(&self, asked: &PullAsked) -> Answer<Foreseen> {
        std::future::ready(self.foreseen(asked).map(Foreseen::of)).boxed()
    }

    fn pull(&self, work: Work, asked: PullAsked) -> Answer<Pulled> {
        self.clone().pulled(work, asked).boxed()
    }

    fn plan_delete(&self, asked: &DeleteAsked) -> Answer<Foreseen> {
        let (admin, asked) = (self.admin.clone(), removal(asked, true));
        async move {
            // Nothing is written, so it is nobody's change.
            let by = By { request: draw_request_id(), principal: "admin".to_owned(), once: None };
            Ok(deletion(admin.remove_by(&by, &asked).await.map_err(refused)?))
        }
        .boxed()
    }

    fn delete(&self, work: Work, asked: DeleteAsked) -> Answer<Deleted> {
        self.clone().deleted(work, asked).boxed()
    }

    fn events(&self, since: Option<u64>, limit: u32) -> Result<Vec<EventView>, ToolError> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(self.admin.kept_events(since, limit).map_err(refused)?.into_iter().map(event).collect())
    }
}

/// Holds a name at a version; without one, at that for which it stands.
fn pinning(model: &str, version: Option<&str>) -> v1::PinModelRequest {
    let version = version.unwrap_or_default().to_owned();
    v1::PinModelRequest { name: model.to_owned(), version, unpin: false }
}

/// Lets a name go.
fn unpinning(model: &str) -> v1::PinModelRequest {
    v1::PinModelRequest { name: model.to_owned(), version: String::new(), unpin: true }
}

fn by_call(call: &Call) -> By {
    by_caller(&call.caller, call.once)
}

/// Who has a task's work done, with the key of one of its steps.
fn by_work(work: &Work, step: &str) -> By {
    by_caller(&work.caller, Some(work.once(step)))
}

/// A caller as the log names it.
pub(super) fn by_caller(caller: &Caller, once: Option<OnceKey>) -> By {
    let once = once.map(|once| catalog::OnceKey { key: once.key, digest: once.digest });
    By { request: caller.request.clone(), principal: caller.principal.subject().to_string(), once }
}

fn parse(name: &str) -> Result<ModelName, ToolError> {
    let message = || format!("{name:?} is not a model name");
    name.parse().map_err(|_| {
        ToolError::new(ErrorCode::BadRequest, message(), "a name is [host/][namespace/]model[:tag], as llama3.2")
    })
}

fn pull_request(asked: &PullAsked) -> v1::PullRequest {
    v1::PullRequest {
        name: asked.model.clone(),
        nodes: asked.nodes.clone(),
        insecure: asked.insecure,
        wait: true,
        replicas: asked.replicas,
        on_all: asked.all,
        ..v1::PullRequest::default()
    }
}

fn removal(asked: &DeleteAsked, dry_run: bool) -> v1::RemoveModelRequest {
    v1::RemoveModelRequest { name: asked.model.clone(), nodes: asked.nodes.clone(), force: asked.force, dry_run }
}

/// What a deletion would do, for people.
fn deletion(told: v1::RemoveModelReply) -> Foreseen {
    let acts = told.plan.iter().flat_map(|plan| &plan.acts);
    let act = |act: &v1::ActView| {
        let v1::ActView { name, node_name, size_bytes, frees_bytes, .. } = act;
        let (size, free) = (size_text(*size_bytes), size_text(*frees_bytes));
        format!("{name} goes from {node_name}: {size}, {free} of it become free")
    };
    let mut lines: Vec<String> = acts.map(act).collect();
    if !told.left.is_empty() {
        lines.push(format!("{} stays on {}", told.name, some_of(&told.left)));
    }
    if told.is_forgotten {
        lines.push(format!("{} is wanted nowhere any more", told.name));
    }
    let refusal = told.refusal.map(|v1::GuardView { code, what, why, next }| {
        let code = ErrorCode::from_text(&code).unwrap_or(ErrorCode::PreconditionFailed);
        refused(AdminError { code, what, why, next })
    });
    Foreseen { lines, refusal }
}

/// The first of these nodes, and how many there are beside them: of a plan that is too long lines are left out whole.
fn some_of(nodes: &[String]) -> String {
    let (named, more) = nodes.split_at(nodes.len().min(NODES_NAMED_MAX));
    let named = named.join(", ");
    match more.len() {
        0 => named,
        1 => format!("{named} and 1 node more"),
        count => format!("{named} and {count} nodes more"),
    }
}

/// Whether the copy that was to go is not there any more.
fn is_gone(act: &v1::ActView, copies: &[Location]) -> bool {
    !copies.iter().any(|copy| copy.node.0 == act.node_id && copy.model.digest.0[..] == act.digest[..])
}

/// The copies of a model, and what is to become of them.
fn on_record(engines: &MemberEngines, name: &ModelName) -> Result<(Vec<Location>, Option<Model>), Fault> {
    let view = engines.metadata.view();
    Ok((read::locations_of(&*view, name)?, read::model(&*view, name)?))
}

/// A failure of a pull that was asked for is on record, and does not pass while it is only followed: what looks as if
/// it did passes when somebody asks anew.
fn lasting(error: ToolError) -> ToolError {
    match error.code {
        ErrorCode::Overloaded | ErrorCode::NoQuorum | ErrorCode::OutcomeUnknown => {
            ToolError { code: ErrorCode::PreconditionFailed, ..error }
        }
        _ => error,
    }
}

/// Whether the copy is on record to go.
fn is_to_go(act: &v1::ActView, model: Option<&Model>) -> bool {
    let dropped = model.and_then(|model| model.drops.get(&NodeId(act.node_id)));
    dropped.is_some_and(|dropped| dropped.digest.0[..] == act.digest[..])
}

fn is_heard(engines: &MemberEngines, node: NodeId) -> bool {
    engines.scheduler.health(node) == Health::Alive
}

/// What is said of a pull that somebody had end.
fn pull_ended(model: &str, taken_back: TakenBack) -> ToolError {
    let again = "call pull_model again: it goes on where it stopped";
    let (message, next) = match taken_back {
        TakenBack::Ended => (format!("the pull of {model} was ended; what came so far is kept"), again),
        TakenBack::Nothing => (format!("of this task's pull of {model} nothing is on record any more"), again),
        TakenBack::Met => (format!("{model} is there already, and stays"), "delete_model deletes it"),
        TakenBack::Stays => {
            let message = format!("{model} stays wanted, as that is not this task's alone to end; the pull goes on");
            (message, "delete_model without nodes ends it for all and deletes what is there; a person is asked first")
        }
    };
    // The code by which work says that it was ended.
    ToolError::new(ErrorCode::PullCancelled, message, next)
}

fn not_deleted(name: &ModelName) -> ToolError {
    let message = format!("nothing of {name} was to go yet, and nothing does");
    ToolError::new(ErrorCode::PullCancelled, message, "list_models_detailed shows what is there")
}

fn not_waited_for(name: &ModelName) -> ToolError {
    let message = format!("what is on record goes all the same of {name}; nobody waits for it any more");
    // The code by which work says that it was ended.
    ToolError::new(ErrorCode::PullCancelled, message, "list_models_detailed shows what is left")
}

fn stopping() -> ToolError {
    ToolError::new(ErrorCode::Draining, "this node is stopping", "ask another node")
}

fn event(event: v1::ClusterEvent) -> EventView {
    let v1::ClusterEvent { revision, at_ms, kind, subject, text } = event;
    EventView { revision, at: moment(Timestamp(at_ms)), kind, text: format!("{subject}: {text}") }
}

#[cfg(test)]
mod tests {
    use ollamax_types::{Digest, ModelRecord};

    use super::*;

    fn act(node: u64, digest: u8) -> v1::ActView {
        v1::ActView {
            name: "m:latest".to_owned(),
            node_id: node,
            node_name: format!("n{node}"),
            digest: vec![digest; 32],
            size_bytes: 2_000_000_000,
            frees_bytes: 4,
            ..v1::ActView::default()
        }
    }

    #[test]
    fn a_copy_is_gone_when_its_node_has_the_name_no_more_or_with_another_version() {
        let copy = |node: u64, digest: u8| Location {
            node: NodeId(node),
            model: ModelRecord {
                name: "m".parse().expect("a name"),
                digest: Digest([digest; 32]),
                weights: Digest([digest; 32]),
                size_bytes: 9,
                modified_at: Timestamp(1),
                details_json: "{}".to_owned(),
                capabilities: Vec::new(),
            },
        };
        assert!(!is_gone(&act(1, 7), &[copy(1, 7)]));
        assert!(is_gone(&act(1, 7), &[copy(2, 7)]));
        assert!(is_gone(&act(1, 7), &[copy(1, 8)]));
        assert!(is_gone(&act(1, 7), &[]));
    }

    #[test]
    fn a_copy_is_to_go_while_that_is_on_record_of_its_version() {
        let (digest, at, by) = (Digest([7; 32]), Timestamp(1), "admin".to_owned());
        let dropped = catalog::Drop { digest, at, by, insisted: false };
        let model = Model::new("m".parse().expect("a name"), Timestamp(1));
        let model = Model { drops: [(NodeId(1), dropped)].into(), ..model };
        assert!(is_to_go(&act(1, 7), Some(&model)));
        assert!(!is_to_go(&act(1, 8), Some(&model)), "another version came since");
        assert!(!is_to_go(&act(2, 7), Some(&model)) && !is_to_go(&act(1, 7), None), "it is wanted again");
    }

    #[test]
    fn what_a_node_put_on_record_is_not_waited_for_again_and_again() {
        let check = |code: ErrorCode, expected: ErrorCode| {
            let told = lasting(ToolError::new(code, "64 pulls wait already", "later"));
            assert_eq!((told.code, told.message.as_str()), (expected, "64 pulls wait already"));
        };
        check(ErrorCode::Overloaded, ErrorCode::PreconditionFailed);
        check(ErrorCode::DiskFull, ErrorCode::DiskFull);
        check(ErrorCode::Draining, ErrorCode::Draining);
    }

    #[test]
    fn whoever_ends_a_pull_is_told_what_goes_on() {
        let check = |taken_back: TakenBack, expected: &str| {
            let told = pull_ended("m", taken_back);
            assert_eq!((told.code, told.message.as_str()), (ErrorCode::PullCancelled, expected));
        };
        check(TakenBack::Ended, "the pull of m was ended; what came so far is kept");
        check(TakenBack::Nothing, "of this task's pull of m nothing is on record any more");
        check(TakenBack::Met, "m is there already, and stays");
        check(TakenBack::Stays, "m stays wanted, as that is not this task's alone to end; the pull goes on");
        assert!(pull_ended("m", TakenBack::Stays).next.starts_with("delete_model "));
    }

    #[test]
    fn a_deletion_is_told_line_by_line_with_what_stays() {
        let reply = |left: &[&str], is_forgotten: bool| v1::RemoveModelReply {
            name: "m:latest".to_owned(),
            plan: Some(v1::PlanView { acts: vec![act(1, 7)], frees_bytes: 4 }),
            left: left.iter().map(|name| (*name).to_owned()).collect(),
            is_forgotten,
            ..v1::RemoveModelReply::default()
        };
        let goes = "m:latest goes from n1: 2.0 GB, 4 B of it become free";
        assert_eq!(deletion(reply(&["n2"], false)).lines, [goes, "m:latest stays on n2"]);
        let stays = |count: usize| deletion(reply(&vec!["n"; count], false)).lines.pop().unwrap_or_default();
        let first = format!("m:latest stays on {}", ["n"; NODES_NAMED_MAX].join(", "));
        assert_eq!(stays(NODES_NAMED_MAX), first);
        assert_eq!(stays(NODES_NAMED_MAX + 1), format!("{first} and 1 node more"));
        assert_eq!(stays(1_000), format!("{first} and {} nodes more", 1_000 - NODES_NAMED_MAX));
        assert_eq!(deletion(reply(&[], true)).lines, [goes, "m:latest is wanted nowhere any more"]);
        let (code, next) = ("stale_placement".to_owned(), "ollamax model show m".to_owned());
        let guard = v1::GuardView { code, what: "it is pinned".to_owned(), why: "by name".to_owned(), next };
        let told = deletion(v1::RemoveModelReply { refusal: Some(guard), ..reply(&[], false) });
        let refusal = told.refusal.expect("it is held back");
        assert_eq!((refusal.code, refusal.next.as_str()), (ErrorCode::StalePlacement, "ollamax model show m"));
        assert_eq!((told.lines, refusal.message.as_str()), (vec![goes.to_owned()], "it is pinned: by name"));
    }

    #[test]
    fn an_event_is_told_with_what_it_is_about() {
        let (kind, subject, text) = ("model_pinned".to_owned(), "m:latest".to_owned(), "at 07".to_owned());
        let told = event(v1::ClusterEvent { revision: 5, at_ms: 0, kind, subject, text });
        assert_eq!((told.text.as_str(), told.at.as_str()), ("m:latest: at 07", "1970-01-01T00:00:00Z"));
    }

    #[test]
    fn where_nothing_is_said_of_the_place_the_request_says_nothing_either() {
        let asked = PullAsked { model: "m".to_owned(), ..PullAsked::default() };
        let request = pull_request(&asked);
        assert_eq!((request.replicas, request.on_all, request.nodes.len()), (None, false, 0));
    }
}
