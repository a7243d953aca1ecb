//! Pulls, as an administrator asks for them.
//!
//! What is wanted goes on record, and one stream tells of all nodes that have a part in it; in a cluster that knows no
//! wishes every node that is named pulls for itself. A failure of one node ends the stream behind the last word of the
//! others. A caller who leaves stops listening and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use tokio::time::Instant;
use tonic::{Request, Status, Streaming};

use ollamax_core::catalog::{
    Cordon, Fault, Member, MemberState, OnceKey, Refusal, Replicas, View, Want, Wish, models, places_kept, read,
};
use ollamax_metadata as metadata;
use ollamax_proto::v1;
use ollamax_proto::v1::models_server::Models;
use ollamax_transfer as transfer;
use ollamax_transfer::{Ask, LedgerError, PullError, PullLimit, PullProgress, PullSpec, Stage};
use ollamax_types::limits::PULL_WATCHERS_MAX;
use ollamax_types::{ErrorCode, ModelName, NodeId, Rate, Role};

use super::daemon::AdminError;
use super::{Admin, Engines, Reply, bundles, id_of, reply};
use crate::error::words_of;
use crate::order::{self, Order};
use crate::wishfile::places;

pub mod convert;
mod elsewhere;
mod limited;
mod lowered;
pub mod verified;
mod wished;

/// Who asked, for people.
pub(super) const ASKED_BY: &str = "admin";

/// What is told of one node: its name, and how far it is.
type Told = (String, Arc<PullProgress>);
pub(super) type PullStream = BoxStream<'static, Result<v1::PullProgress, Status>>;

/// The pulls of the cluster, at one node.
#[derive(Clone)]
pub(super) struct Pulls(pub(super) Admin);

// === impl Pulls ===

impl Pulls {
    /// Has a model pulled for whoever this is; with a key once.
    pub(super) async fn start(
        &self,
        asked: v1::PullRequest,
        asked_by: &str,
        once: Option<OnceKey>,
    ) -> Result<PullStream, AdminError> {
        let Engines { metadata, transfer, .. } = self.0.engines()?;
        let name = parse(&asked.name)?;
        let limit = limited::limit(&name, asked.limit_bytes_per_second)?;
        let version = order::cluster_version(&*metadata.view())?;
        if version >= order::WISHES_VERSION {
            let is_said = is_said(&asked);
            let replicas = self.wanted(&metadata, &name, &asked)?;
            let (want, insecure) = (self.want(&asked)?, asked.insecure);
            let asked_by = asked_by.to_owned();
            let ask = Ask { name, replicas, is_said, want, insecure, version: None, asked_by, once };
            return wish(transfer, metadata, ask, asked.wait, limit).await;
        }
        replicas_of(&asked)?;
        // One node without a name is this one, as ever.
        if asked.on_all || self.want(&asked)?.is_some() || asked.replicas.is_some_and(|count| count > 1) {
            return Err(needs_wishes(version));
        }
        let targets = self.targets(metadata.node(), &asked.nodes)?;
        if let Some(limit) = limit {
            limited::tell(&transfer, targets.iter().map(|target| target.id).collect(), &limit).await;
        }
        let told = targets.into_iter().map(|target| {
            let spec = PullSpec { name: name.clone(), insecure: asked.insecure, asked_by: ASKED_BY.to_owned() };
            let states = Order { transfer: transfer.clone(), node: target.id, spec }.states().boxed();
            let states = if asked.wait { states } else { until_accepted(states).boxed() };
            states.map(move |state| (target.name.clone(), state)).boxed()
        });
        Ok(merged(stream::select_all(told)))
    }

    /// Where copies are wanted, as far as somebody says it; else as it is usual for this name.
    pub(super) fn wanted(
        &self,
        metadata: &metadata::Handle,
        name: &ModelName,
        asked: &v1::PullRequest,
    ) -> Result<Replicas, AdminError> {
        let replicas = replicas_of(asked)?;
        if !is_said(asked) {
            let view = metadata.view();
            let kept = read::wish(&*view, name)?.map(|wish| places_kept(&*view, &wish)).transpose()?.flatten();
            return Ok(kept.unwrap_or(replicas));
        }
        if asked.nodes.is_empty() { Ok(replicas) } else { self.named(metadata, &asked.nodes) }
    }

    /// The nodes named, as what is wanted.
    fn named(&self, metadata: &metadata::Handle, names: &[String]) -> Result<Replicas, AdminError> {
        let targets = self.targets(metadata.node(), names)?;
        Ok(Replicas::Nodes(targets.into_iter().map(|target| target.id).collect()))
    }

    /// Which nodes come into question, where somebody says it.
    fn want(&self, asked: &v1::PullRequest) -> Result<Option<Want>, AdminError> {
        let (gpu_memory_bytes_min, disk_free_bytes_min) = (asked.gpu_memory_bytes_min, asked.disk_free_bytes_min);
        if asked.labels.is_empty() && asked.avoid.is_empty() && (gpu_memory_bytes_min, disk_free_bytes_min) == (0, 0) {
            return Ok(None);
        }
        let labels = asked.labels.iter().map(|label| (label.key.clone(), label.value.clone())).collect();
        let avoid = asked.avoid.iter().map(|node| Ok(self.0.find(node)?.id));
        let avoid = avoid.collect::<Result<_, AdminError>>()?;
        Ok(Some(Want { labels, gpu_memory_bytes_min, avoid, disk_free_bytes_min }))
    }

    /// The nodes named, or this one. Each must be meant to hold models.
    fn targets(&self, own: NodeId, names: &[String]) -> Result<Vec<Member>, AdminError> {
        let own = own.to_string();
        let names = if names.is_empty() { std::slice::from_ref(&own) } else { names };
        let mut targets: Vec<Member> = Vec::new();
        for name in names {
            let found = self.0.find(name)?;
            if found.role == Role::Gateway {
                let what = format!("node {} is a gateway", found.name);
                let next = "name another with --node: ollamax node list";
                return Err(AdminError::new(ErrorCode::PreconditionFailed, what, "gateways hold no models", next));
            }
            if !targets.iter().any(|target| target.id == found.id) {
                targets.push(found);
            }
        }
        Ok(targets)
    }

    pub(super) fn list(&self) -> Result<v1::ListPullsReply, AdminError> {
        let Engines { metadata, transfer, .. } = self.0.engines()?;
        let members = read::members(&*metadata.view())?;
        let names: BTreeMap<NodeId, String> = members.into_iter().map(|member| (member.id, member.name)).collect();
        let name_of = |node: NodeId| names.get(&node).cloned().unwrap_or_else(|| node.to_string());
        let listed = |pull: &Arc<PullProgress>| v1::PullProgress {
            limit_bytes_per_second: transfer.limit_of_pull(&pull.name).map(Rate::bytes),
            ..convert::to_wire(pull, &name_of)
        };
        Ok(v1::ListPullsReply { pulls: transfer.pulls().iter().map(listed).collect() })
    }

    async fn limit(&self, asked: v1::LimitPullRequest) -> Result<v1::LimitPullReply, AdminError> {
        let Engines { metadata, transfer, .. } = self.0.engines()?;
        let name = parse(&asked.name)?;
        let limit = limited::limit(&name, asked.bytes_per_second)?;
        let limit =
            limit.map_or(PullLimit { name, rate: None, ahead: false }, |limit| PullLimit { ahead: false, ..limit });
        let members = read::members(&*metadata.view())?;
        let standing = members.into_iter().filter(Member::is_standing).map(|member| member.id).collect();
        let nodes = limited::tell(&transfer, standing, &limit).await;
        Ok(v1::LimitPullReply { nodes })
    }

    /// How far all nodes are with what is wanted of a model.
    async fn follow(&self, asked: &v1::FollowWishRequest) -> Result<PullStream, AdminError> {
        let Engines { metadata, transfer, .. } = self.0.engines()?;
        let name = parse(&asked.name)?;
        // Who asks has just changed it, maybe through another node.
        metadata.read_barrier().await?;
        if read::wish(&*metadata.view(), &name)?.is_none() {
            return Err(Refusal::WishNotFound(name).into());
        }
        let name_of = names(metadata.clone());
        let Some(watch) = transfer.overview(&name) else {
            let error = PullError::TooManyWatchers(PULL_WATCHERS_MAX);
            return Err(AdminError::of_pull(&name_of(metadata.node()), &error));
        };
        let accept_by = (!asked.wait).then(|| Instant::now() + wished::ACCEPT_WAIT);
        Ok(wished::told(order::followed(watch).boxed(), accept_by, name_of, None))
    }

    pub(super) async fn cancel(&self, asked: v1::CancelPullRequest) -> Result<v1::CancelPullReply, AdminError> {
        let Engines { metadata, transfer, .. } = self.0.engines()?;
        let name = parse(&asked.name)?;
        let own = metadata.node().to_string();
        let target = self.0.find(if asked.node.is_empty() { &own } else { &asked.node })?;
        let failed = |error: PullError| match error {
            PullError::Ledger(error) => of_record(error),
            error => AdminError::of_pull(&target.name, &error),
        };
        // Without a name it is the wish that ends, with all its copies that are on their way.
        let is_open = asked.node.is_empty() && !order::is_met(&*metadata.view(), &name)?;
        let is_forgotten = is_open && transfer.forget(&name).await.map_err(failed)?;
        let is_ended = transfer.cancel_at(target.id, &name).await.map_err(failed)?;
        Ok(v1::CancelPullReply { found: is_forgotten || is_ended })
    }
}

pub(super) fn parse(name: &str) -> Result<ModelName, AdminError> {
    name.parse().map_err(|_| {
        let (why, next) = ("a name is [host/][namespace/]model[:tag]", "ollamax model pull llama3.2");
        AdminError::new(ErrorCode::BadRequest, format!("{name:?} is not a model name"), why, next)
    })
}

/// Whether somebody says how many copies there shall be, or where.
const fn is_said(asked: &v1::PullRequest) -> bool {
    asked.on_all || asked.replicas.is_some() || !asked.nodes.is_empty()
}

/// How many copies are wanted, where no node is named.
fn replicas_of(asked: &v1::PullRequest) -> Result<Replicas, AdminError> {
    let bad = |what: &str| {
        let next = "ollamax model pull NAME --replicas 2, or --replicas all, or --node a,b";
        Err(AdminError::new(ErrorCode::BadRequest, what, "", next))
    };
    match (asked.replicas, asked.on_all) {
        (Some(_), true) => bad("a number of copies and all nodes are two wishes"),
        (Some(_), _) | (_, true) if !asked.nodes.is_empty() => bad("a number of copies and named nodes are two wishes"),
        (Some(0), false) => bad("no copies is no wish"),
        (Some(count), false) => Ok(Replicas::Count(count)),
        (None, true) => Ok(Replicas::All),
        (None, false) => Ok(Replicas::Count(order::REPLICAS)),
    }
}

/// Puts on record what is wanted, and follows it.
pub(super) async fn wish(
    transfer: transfer::Handle,
    metadata: metadata::Handle,
    ask: Ask,
    wait: bool,
    limit: Option<PullLimit>,
) -> Result<PullStream, AdminError> {
    let (name, own) = (ask.name.clone(), metadata.node());
    let name_of = names(metadata.clone());
    let said = ask.is_said.then(|| {
        let (metadata, name) = (metadata.clone(), name.clone());
        let all = Box::new(move || everywhere(&*metadata.view(), &name).ok());
        wished::Said { replicas: ask.replicas.clone(), all }
    });
    match transfer.ask(ask).await {
        Ok(watch) => {
            let accept_by = (!wait).then(|| Instant::now() + wished::ACCEPT_WAIT);
            let looks = order::followed(watch).boxed();
            let looks = match limit {
                Some(limit) => limited::slowed(looks, transfer, limit),
                None => looks,
            };
            let is_unsaid = said.is_none();
            let told = wished::told(looks, accept_by, Arc::clone(&name_of), said);
            let with_record = move |told: Result<v1::PullProgress, Status>| -> Result<v1::PullProgress, Status> {
                let progress = told?;
                // Of a record that cannot be read nothing is known here; whoever changes it says so.
                let view = metadata.view();
                let Ok(Some(wish)) = read::wish(&*view, &name) else { return Ok(progress) };
                let nodes = leaving(&*view, &wish).unwrap_or_default();
                let there = lowered::there(&*view, &wish).unwrap_or_default();
                let leaving = nodes.into_iter().map(|node| name_of(node)).collect();
                let kept = kept(&wish).filter(|_| is_unsaid).map(|replicas| places(replicas, &*name_of));
                let kept = kept.unwrap_or_default();
                Ok(v1::PullProgress { leaving, kept, ..lowered::told(progress, &there) })
            };
            Ok(told.map(with_record).boxed())
        }
        Err(PullError::Ledger(LedgerError::Impossible { replicas, fits, of, why })) => {
            let why: Vec<String> = why.iter().map(|(node, unfit)| unfit.of(&name_of(*node))).collect();
            Err(impossible(&name, &replicas, (fits, of), &why.join("; ")))
        }
        Err(PullError::Ledger(error)) => Err(of_record(error)),
        Err(error) => Err(AdminError::of_pull(&name_of(own), &error)),
    }
}

/// Who loses its copy when all have it that are to: who had it for the sake of a number, and is not among those that
/// were named since. The pinned version of a name goes from nowhere.
fn leaving(view: &dyn View, wish: &Wish) -> Result<Vec<NodeId>, Fault> {
    let Wish { name, plan: Some(plan), surplus, .. } = wish else { return Ok(Vec::new()) };
    let mut staying = plan.targets.clone();
    if let Some(pin) = models::pin_of(view, name)? {
        let copies = read::locations_of(view, name)?.into_iter();
        staying.extend(copies.filter(|copy| copy.model.digest == pin).map(|copy| copy.node));
    }
    Ok(surplus.iter().copied().filter(|node| !staying.contains(node)).collect())
}

/// The members that a wish for all nodes means: who takes new copies, and is not kept away from.
fn everywhere(view: &dyn View, name: &ModelName) -> Result<BTreeSet<NodeId>, Fault> {
    let want = read::wish(view, name)?.map(|wish| wish.want).unwrap_or_default();
    let is_meant = |member: &Member| {
        let may_hold = member.role != Role::Gateway && member.state == MemberState::Active;
        may_hold && member.cordon == Cordon::Open && member.suits(&want)
    };
    let members = read::members(view)?.into_iter().filter(is_meant);
    Ok(members.map(|member| member.id).collect())
}

/// Where a model stays wanted that somebody asked for who said nothing of places; `None`: as it is for everybody.
fn kept(wish: &Wish) -> Option<&Replicas> {
    Some(&wish.replicas).filter(|replicas| **replicas != Replicas::Count(order::REPLICAS))
}

/// What nodes are called.
fn names(metadata: metadata::Handle) -> wished::NameOf {
    Arc::new(move |node: NodeId| bundles::name_of(&metadata, node))
}

/// What somebody wants that did not go on record.
fn of_record(error: LedgerError) -> AdminError {
    match error {
        LedgerError::NeedsVersion { needed, actual } if needed > order::WISHES_VERSION => {
            let what = format!("--disk-free-min needs cluster version {needed}; this cluster runs {actual}");
            let why = "a member still runs an older release, which would not keep it";
            AdminError::new(ErrorCode::PreconditionFailed, what, why, "upgrade all members: ollamax upgrade check")
        }
        LedgerError::NeedsVersion { actual, .. } => needs_wishes(actual),
        LedgerError::Refused(refusal) => refusal.into(),
        LedgerError::Failed { code: ErrorCode::OutcomeUnknown, text } => {
            let next = "repeat the command: it joins what is under way";
            AdminError::new(ErrorCode::OutcomeUnknown, text, "it may be on record all the same", next)
        }
        error => {
            let why = "what is wanted goes on record first, and nothing was changed";
            AdminError::new(error.code(), error.to_string(), why, "ollamax status")
        }
    }
}

/// A wish that cannot be met: it fits on so many of so many nodes.
fn impossible(name: &ModelName, replicas: &Replicas, (fits, of): (usize, usize), why: &str) -> AdminError {
    let what = match replicas {
        Replicas::Count(count) if fits == of => format!("{name} cannot come to {count} nodes: there are {of}"),
        _ => format!("{name} fits on {fits} of {of} nodes"),
    };
    let next = match fits {
        0 => "ollamax node list".to_owned(),
        fits => format!("ollamax model pull {name} --replicas {fits}"),
    };
    AdminError::new(ErrorCode::PreconditionFailed, what, why, next)
}

/// Several copies, in a cluster that makes one.
pub(super) fn needs_wishes(actual: u32) -> AdminError {
    let what = format!("--replicas needs cluster version {}; this cluster runs {actual}", order::WISHES_VERSION);
    let why = "a member still runs an older release";
    AdminError::new(ErrorCode::PreconditionFailed, what, why, "upgrade all members, or name each node with --node")
}

/// Ends with the first state that shows that the pull is taken on.
fn until_accepted(states: BoxStream<'static, Arc<PullProgress>>) -> impl Stream<Item = Arc<PullProgress>> + Send {
    stream::unfold(Some(states), |states| async move {
        let mut states = states?;
        let state = states.next().await?;
        let rest = (state.stage == Stage::Resolving).then_some(states);
        Some((state, rest))
    })
}

/// What all nodes say, and then the first failure.
pub(super) fn merged(told: impl Stream<Item = Told> + Send + 'static) -> PullStream {
    let begin = (told.boxed(), None::<AdminError>);
    let merged = stream::unfold(begin, |(mut told, mut failure)| async move {
        let Some((node, state)) = told.next().await else {
            return Some((Err(Status::from(failure?)), (told, None)));
        };
        if let Stage::Failed(error) = &state.stage {
            failure.get_or_insert_with(|| AdminError::of_pull(&node, error));
        }
        Some((Ok(convert::to_wire(&state, &|_| node.clone())), (told, failure)))
    });
    merged.boxed()
}

impl AdminError {
    /// A pull that did not happen, or its end that could not be asked for, on this node.
    pub(super) fn of_pull(node: &str, error: &PullError) -> Self {
        if let PullError::Bundle { code, text } = error {
            return Self::of_bundle(node, *code, text);
        }
        let (code, words) = (error.code(), words_of(error));
        let (why, next) = match code {
            ErrorCode::ManifestInvalid if words.contains("--insecure") => {
                ("registries are asked over TLS", "if that one is to be asked in plain HTTP: repeat it with --insecure")
            }
            ErrorCode::OriginFailed if words.contains("does not have its file") => (
                "a manifest is there, and a file that it names is not",
                "have the model pushed there anew; repeat it then",
            ),
            ErrorCode::ModelNotFound => {
                ("the registry has no such model or tag", "look at its spelling: [host/][namespace/]model[:tag]")
            }
            ErrorCode::OriginFailed => ("what came so far is kept", "repeat the command: it goes on where it stopped"),
            ErrorCode::OriginRefused => (
                "the registry does not let this node in",
                "pull a model that is open to everybody, or: ollamax model import FILE --name NAME",
            ),
            ErrorCode::ManifestInvalid => (
                "what came is not what was asked for",
                "look whether the name leads to a registry of models, and whether the model is whole there",
            ),
            ErrorCode::DigestMismatch => ("the file was thrown away", "repeat the command: it is fetched anew"),
            ErrorCode::DiskFull => {
                ("a model is fetched where it fits", "free some space there, or name another node with --node")
            }
            ErrorCode::StoreNotWritable | ErrorCode::RuntimeUnavailable | ErrorCode::RuntimeFailed => {
                ("models lie in the store of the runtime beside a node", "on that node: ollamax doctor")
            }
            ErrorCode::StorageFailed => ("its disk refused", "on that node: ollamax logs --level error"),
            ErrorCode::PullCancelled => {
                ("it was ended; what came so far is kept", "ollamax model pull NAME goes on where it stopped")
            }
            ErrorCode::Draining => ("it goes on when that node starts again", "on that node: ollamax model pulls"),
            ErrorCode::Overloaded => ("it has a bound", "repeat the command when a pull of that node is over"),
            ErrorCode::PeerUnreachable => ("what was begun there may go on", "ollamax node list"),
            _ => ("see its log", "on that node: ollamax logs --level warn"),
        };
        Self::new(code, words, format!("on node {node}: {why}"), next)
    }
}

#[tonic::async_trait]
impl Models for Pulls {
    type CreateStream = super::management::ProgressStream;
    type ExportStream = bundles::ExportStream;
    type FollowWishStream = PullStream;
    type ImportStream = PullStream;
    type PullStream = PullStream;
    type VerifyStream = verified::NewsStream;
    type PushStream = super::management::ProgressStream;

    async fn pull(&self, request: Request<v1::PullRequest>) -> Reply<Self::PullStream> {
        reply(self.start(request.into_inner(), ASKED_BY, None).await)
    }

    async fn list_pulls(&self, _request: Request<v1::ListPullsRequest>) -> Reply<v1::ListPullsReply> {
        reply(self.list())
    }

    async fn limit_pull(&self, request: Request<v1::LimitPullRequest>) -> Reply<v1::LimitPullReply> {
        reply(self.limit(request.into_inner()).await)
    }

    async fn cancel_pull(&self, request: Request<v1::CancelPullRequest>) -> Reply<v1::CancelPullReply> {
        reply(self.cancel(request.into_inner()).await)
    }

    async fn export(&self, request: Request<v1::ExportRequest>) -> Reply<Self::ExportStream> {
        reply(self.export_bundle(request.into_inner()).await)
    }

    async fn import(&self, request: Request<Streaming<v1::ImportPart>>) -> Reply<Self::ImportStream> {
        reply(self.import_bundle(request.into_inner()).await)
    }

    async fn verify(&self, request: Request<v1::VerifyRequest>) -> Reply<Self::VerifyStream> {
        reply(self.verify_files(&request.into_inner()))
    }

    async fn create(&self, request: Request<Streaming<v1::CreatePart>>) -> Reply<Self::CreateStream> {
        reply(self.create_model(request.into_inner()).await)
    }

    async fn push(&self, request: Request<v1::PushRequest>) -> Reply<Self::PushStream> {
        reply(self.push_model(&request.into_inner()).await)
    }

    async fn history(&self, request: Request<v1::HistoryRequest>) -> Reply<v1::HistoryReply> {
        reply(self.history_of(&request.into_inner()).await)
    }

    async fn rollback(&self, request: Request<v1::RollbackRequest>) -> Reply<v1::FixedReply> {
        reply(self.roll_back(id_of(&request), &request.into_inner()).await)
    }

    async fn pin_model(&self, request: Request<v1::PinModelRequest>) -> Reply<v1::PinModelReply> {
        reply(self.pin(id_of(&request), &request.into_inner()).await)
    }

    async fn tag_model(&self, request: Request<v1::TagModelRequest>) -> Reply<v1::FixedReply> {
        reply(self.tag(id_of(&request), &request.into_inner()).await)
    }

    async fn remove_model(&self, request: Request<v1::RemoveModelRequest>) -> Reply<v1::RemoveModelReply> {
        reply(self.remove_copies(id_of(&request), &request.into_inner(), false).await)
    }

    async fn why_model(&self, request: Request<v1::WhyModelRequest>) -> Reply<v1::WhyModelReply> {
        reply(self.why(&request.into_inner()).await)
    }

    async fn set_phase(&self, request: Request<v1::SetPhaseRequest>) -> Reply<v1::SetPhaseReply> {
        reply(self.phase(id_of(&request), request.into_inner()).await)
    }

    async fn rules(&self, request: Request<v1::RulesRequest>) -> Reply<v1::RulesReply> {
        reply(self.rules_for_models(id_of(&request), &request.into_inner()).await)
    }

    async fn collect(&self, request: Request<v1::CollectRequest>) -> Reply<v1::CollectReply> {
        reply(self.collect_kept(id_of(&request), &request.into_inner()).await)
    }

    async fn follow_wish(&self, request: Request<v1::FollowWishRequest>) -> Reply<Self::FollowWishStream> {
        reply(self.follow(&request.into_inner()).await)
    }

    async fn plan_wishes(&self, request: Request<v1::WishFile>) -> Reply<v1::WishChanges> {
        reply(self.planned_wishes(&request.into_inner().text))
    }

    async fn apply_wishes(&self, request: Request<v1::WishFile>) -> Reply<v1::WishChanges> {
        let (id, request) = (id_of(&request), request.into_inner());
        reply(self.applied_wishes(id, &request.text).await)
    }

    async fn list_wishes(&self, request: Request<v1::ListWishesRequest>) -> Reply<v1::ListWishesReply> {
        reply(self.wishes(&request.into_inner().name))
    }

    async fn outlook(&self, request: Request<v1::OutlookRequest>) -> Reply<v1::OutlookReply> {
        let (id, request) = (id_of(&request), request.into_inner());
        reply(self.moves(id, request).await)
    }

    async fn move_model(&self, request: Request<v1::MoveRequest>) -> Reply<v1::MoveReply> {
        let (id, request) = (id_of(&request), request.into_inner());
        reply(self.move_copy(id, request).await)
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use ollamax_core::catalog::mem::{self, MemView};
    use ollamax_core::catalog::{Key, Location, Model, Mutation, Pin, Plan, PlanKind, Record};
    use ollamax_proto::v1::pull_progress::Stage as Step;
    use ollamax_types::{Digest, ModelRecord, Timestamp};

    use super::*;
    use crate::grpc::daemon::CODE_KEY;

    fn state(node: u64, stage: Stage) -> Arc<PullProgress> {
        Arc::new(PullProgress {
            name: "m".parse().expect("a name"),
            node: NodeId(node),
            stage,
            digest: None,
            blobs: Arc::default(),
            sources: vec![],
            bytes_per_second: None,
            left: None,
            wait: None,
            remark: None,
        })
    }

    #[test]
    fn what_a_registry_did_wrong_has_a_next_step_of_its_own() {
        let check = |code: ErrorCode, text: &str, next: &str| {
            let error = PullError::Elsewhere { node: NodeId(2), code, text: text.to_owned() };
            let told = AdminError::of_pull("n2", &error);
            assert_eq!((told.code, told.what.as_str()), (code, text));
            assert!(told.next.contains(next), "{text}: {}", told.next);
        };
        let plain = "pull model manifest: a.lan answers, and not over TLS; in plain HTTP it is asked with --insecure";
        check(ErrorCode::ManifestInvalid, plain, "repeat it with --insecure");
        let absent = "pull abc: a.lan has the model and does not have its file abcabc";
        check(ErrorCode::OriginFailed, absent, "pushed there anew");
        let length = "pull abc: a.lan answers something else than was asked for: a file of 4 bytes instead of 10";
        check(ErrorCode::ManifestInvalid, length, "whether the model is whole there");
        check(ErrorCode::OriginFailed, "a.lan cannot be reached", "it goes on where it stopped");
        check(ErrorCode::ModelNotFound, "file does not exist", "look at its spelling");
    }

    #[tokio::test]
    async fn who_does_not_wait_hears_nothing_after_the_first_state_that_is_accepted() {
        for accepted in [Stage::Waiting, Stage::Checking, Stage::Done, Stage::Failed(PullError::Cancelled)] {
            let states = [state(1, Stage::Resolving), state(1, accepted.clone())];
            // What follows takes forever.
            let states = stream::iter(states).chain(stream::pending()).boxed();
            let heard: Vec<Stage> = until_accepted(states).map(|state| state.stage.clone()).collect().await;
            assert_eq!(heard, [Stage::Resolving, accepted]);
        }
    }

    #[test]
    fn a_wish_is_one_of_a_number_all_and_named_nodes() {
        let asked = |replicas: Option<u32>, on_all: bool, nodes: &[&str]| {
            let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
            let asked = v1::PullRequest { replicas, on_all, nodes, ..v1::PullRequest::default() };
            replicas_of(&asked).map_err(|error| error.code)
        };
        assert_eq!(asked(None, false, &[]), Ok(Replicas::Count(2)));
        assert_eq!(asked(Some(3), false, &[]), Ok(Replicas::Count(3)));
        assert_eq!(asked(None, true, &[]), Ok(Replicas::All));
        let one: &[&str] = &["a"];
        for (replicas, on_all, nodes) in
            [(Some(0), false, &one[1..]), (Some(2), true, &one[1..]), (Some(2), false, one), (None, true, one)]
        {
            assert_eq!(asked(replicas, on_all, nodes), Err(ErrorCode::BadRequest), "{replicas:?} {on_all} {nodes:?}");
        }
    }

    #[test]
    fn who_had_it_for_a_number_and_is_not_named_is_told_before_its_copy_goes() {
        let name: ModelName = "m".parse().expect("a name");
        let check = |what: &str, targets: Option<&[u64]>, surplus: &[u64], is_pinned: bool, expected: &[u64]| {
            let ids = |nodes: &[u64]| nodes.iter().copied().map(NodeId).collect::<Vec<NodeId>>();
            let plan = |targets: &[u64]| Plan {
                ingester: NodeId(1),
                targets: ids(targets),
                made_at: Timestamp(1),
                kind: PlanKind::Asked,
            };
            let wish = Wish {
                replicas: Replicas::Nodes(ids(&[2])),
                plan: targets.map(plan),
                surplus: ids(surplus).into_iter().collect(),
                ..mem::wish(name.clone())
            };
            let pin = is_pinned.then(|| Pin { digest: Digest([1; 32]), by: "test".to_owned(), at: Timestamp(1) });
            let model = Model { pin, ..Model::new(name.clone(), Timestamp(1)) };
            let copy = |node: u64, version: u8| {
                let model = ModelRecord {
                    name: name.clone(),
                    digest: Digest([version; 32]),
                    weights: Digest([version; 32]),
                    size_bytes: 1,
                    modified_at: Timestamp(0),
                    details_json: "{}".to_owned(),
                    capabilities: vec![],
                };
                let location = Location { node: NodeId(node), model };
                Mutation::Put(Key::Location(name.key(), NodeId(node)), Record::Location(location))
            };
            let mut view = MemView::default();
            view.write(&[
                copy(1, 2),
                copy(3, 1),
                Mutation::Put(Key::Model(name.key()), Record::Model(Box::new(model))),
            ]);
            assert_eq!(leaving(&view, &wish), Ok(ids(expected)), "{what}");
        };
        check("two are not named", Some(&[2]), &[1, 3], false, &[1, 3]);
        check("nobody", Some(&[2]), &[], false, &[]);
        check("who is to have it stays", Some(&[2, 3]), &[1, 3], false, &[1]);
        check("it is not planned yet", None, &[1, 3], false, &[]);
        check("what is pinned stays, and no other version", Some(&[2]), &[1, 3], true, &[1]);
    }

    #[test]
    fn what_cannot_be_is_told_with_what_can() {
        let name: ModelName = "llama3.2".parse().expect("a name");
        let three = Replicas::Count(3);
        let error = impossible(&name, &three, (1, 3), "n2: 12.1 GB needed, 3.0 GB free; n3 is a gateway");
        assert_eq!(error.what, "llama3.2:latest fits on 1 of 3 nodes");
        assert_eq!(error.next, "ollamax model pull llama3.2:latest --replicas 1");
        assert_eq!(impossible(&name, &three, (0, 3), "").next, "ollamax node list");
        let too_few = impossible(&name, &three, (2, 2), "");
        assert_eq!(too_few.what, "llama3.2:latest cannot come to 3 nodes: there are 2");
        assert_eq!(too_few.next, "ollamax model pull llama3.2:latest --replicas 2");
        assert_eq!(needs_wishes(3).what, "--replicas needs cluster version 4; this cluster runs 3");
        let old = |needed, actual| of_record(LedgerError::NeedsVersion { needed, actual }).what;
        assert_eq!(old(4, 3), "--replicas needs cluster version 4; this cluster runs 3");
        assert_eq!(old(5, 4), "--disk-free-min needs cluster version 5; this cluster runs 4");
    }

    #[test]
    fn what_may_be_on_record_is_not_called_unchanged() {
        let failed = |code| of_record(LedgerError::Failed { code, text: "the leader is gone".to_owned() });
        let unknown = failed(ErrorCode::OutcomeUnknown);
        assert_eq!(
            (unknown.code, unknown.why.as_str()),
            (ErrorCode::OutcomeUnknown, "it may be on record all the same")
        );
        assert!(failed(ErrorCode::DiskFull).why.ends_with("nothing was changed"));
    }

    #[tokio::test]
    async fn a_failure_of_one_node_is_told_behind_the_last_word_of_the_others() {
        let told = [
            ("n1", state(1, Stage::Fetching)),
            ("n2", state(2, Stage::Failed(PullError::Cancelled))),
            ("n1", state(1, Stage::Done)),
        ];
        let told = stream::iter(told.map(|(node, state)| (node.to_owned(), state)));
        let heard: Vec<Result<v1::PullProgress, Status>> = merged(told).collect().await;
        let shown = |heard: &Result<v1::PullProgress, Status>| match heard {
            Ok(progress) => format!("{} {}", progress.node_name, progress.stage().as_str_name()),
            Err(status) => {
                let code = status.metadata().get(CODE_KEY).and_then(|code| code.to_str().ok());
                format!("{} {}", code.unwrap_or_default(), status.message())
            }
        };
        let shown: Vec<String> = heard.iter().map(shown).collect();
        assert_eq!(shown[..3], ["n1 FETCHING", "n2 FAILED", "n1 DONE"]);
        assert_eq!(shown[3..], ["pull_cancelled the pull was cancelled"]);
        assert_eq!(heard[1].as_ref().map(v1::PullProgress::stage).ok(), Some(Step::Failed));
        let whole = merged(stream::once(ready(("n1".to_owned(), state(1, Stage::Done)))));
        assert_eq!(whole.count().await, 1);
    }
}
