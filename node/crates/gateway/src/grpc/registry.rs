//! Names, versions and lifecycle, as an administrator asks for them: history, rollback, pin, tag, phase, why.
//!
//! What is shown is read from this node's own state. What changes something is chosen from a state that is not behind
//! and goes on record, and the guards are those of the state alone. A dry run asks this node's state whether it would
//! take the change, and changes nothing. Which versions a node keeps beside its models only that node knows: all are
//! asked at once, for a bounded time, and who does not say it is named.

use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use jiff::Timestamp as Moment;
use tokio::time::{Instant, sleep, timeout};

use ollamax_core::catalog::{self, Answer, Command, Entry, How, Member, PhaseWord, Refusal, Replicas, read};
use ollamax_core::retention::{self, Facts};
use ollamax_proto::v1;
use ollamax_transfer::{KeptVersion, PullError};
use ollamax_types::limits::WISH_TARGETS_MAX;
use ollamax_types::{Digest, ErrorCode, ModelName, NodeId, RequestId, Role, Timestamp};

use super::daemon::AdminError;
use super::pulls::{ASKED_BY, Pulls, parse};
use super::wishes::Names;
use super::{Admin, Engines};
use crate::rules;

mod case;
mod forgetting;
mod removal;
mod ruling;
mod seen;

use case::{Case, Chosen};
use forgetting::Forgotten;

/// How long a node may take to say what it keeps.
const ASK_WAIT: Duration = Duration::from_secs(3);
/// How long a node may take to remove what it need not keep.
const SWEEP_WAIT: Duration = Duration::from_secs(60);
/// How long the leader may take to note which version has come: it looks once in a second.
const NOTED_WAIT: Duration = Duration::from_secs(3);
/// Between two looks whether it has.
const NOTED_LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How many nodes are asked at once.
const ASK_AT_ONCE: usize = 16;

/// What the members keep beside their models, and the names of those who did not say it in time.
#[derive(Debug, Default)]
struct Keeping {
    kept: Vec<(Member, KeptVersion)>,
    silent: Vec<String>,
}

/// A version that a name shall get.
struct Fix {
    name: ModelName,
    chosen: Chosen,
    /// `None`: where the wish says.
    replicas: Option<Replicas>,
    how: How,
    dry_run: bool,
}

/// Changes that would take the pinned version away are refused.
pub(super) fn check_not_pinned(name: &ModelName, pin: Option<Digest>) -> Result<(), AdminError> {
    match pin {
        Some(digest) => Err(Refusal::Pinned { name: name.clone(), digest }.into()),
        None => Ok(()),
    }
}

// === impl Pulls ===

impl Pulls {
    pub(super) async fn history_of(&self, asked: &v1::HistoryRequest) -> Result<v1::HistoryReply, AdminError> {
        let case = self.noted_case(&asked.name).await?;
        let keeping = self.keeping(&case.name).await?;
        let names = Names::of(&*self.0.metadata()?.view())?;
        Ok(case.history(&names, &keeping))
    }

    /// Gives a name an earlier version again.
    pub(super) async fn roll_back(
        &self,
        id: RequestId,
        asked: &v1::RollbackRequest,
    ) -> Result<v1::FixedReply, AdminError> {
        self.0.fresh(asked.dry_run).await?;
        let case = self.case(&asked.name)?;
        let chosen = if asked.to.is_empty() { case.before()? } else { case.noted(&asked.to)? };
        // Where nobody asked for it, it is rolled back where it is.
        let replicas = if case.wish.is_some() { None } else { Some(case.everywhere()) };
        let (name, how) = (case.name.clone(), How::RolledBack { to: chosen.number });
        self.fix(id, &case, Fix { name, chosen, replicas, how, dry_run: asked.dry_run }).await
    }

    /// Gives a version another name, where it is.
    pub(super) async fn tag(&self, id: RequestId, asked: &v1::TagModelRequest) -> Result<v1::FixedReply, AdminError> {
        self.0.fresh(false).await?;
        let (case, name) = (self.case(&asked.name)?, parse(&asked.new_name)?);
        if name == case.name {
            let what = format!("{name} has this name already");
            return Err(AdminError::new(ErrorCode::BadRequest, what, "", "ollamax model tag llama3.2 mine:stable"));
        }
        let chosen = Chosen { number: 0, ..case.standing()? };
        let replicas = Some(Replicas::Nodes(case.holders(chosen.digest)));
        let how = How::Tagged { from: case.name.clone() };
        self.fix(id, &case, Fix { name, chosen, replicas, how, dry_run: false }).await
    }

    async fn fix(&self, id: RequestId, case: &Case, fix: Fix) -> Result<v1::FixedReply, AdminError> {
        let Fix { name, chosen: Chosen { number, digest, size_bytes }, replicas, how, dry_run } = fix;
        let nodes = case.targets(replicas.as_ref());
        let told = name.to_string();
        let command = Command::FixVersion { name, digest, size_bytes, replicas, how };
        let round = match self.0.change_or_try(id, command, dry_run).await? {
            Some(Answer::Wish { round }) => round,
            Some(other) => return Err(AdminError::unexpected(&other)),
            None => 0,
        };
        let names = Names::of(&*self.0.metadata()?.view())?;
        let nodes = nodes.into_iter().map(|node| names.name(node)).collect();
        Ok(v1::FixedReply { name: told, number, digest: digest.0.to_vec(), size_bytes, round, nodes })
    }

    /// Holds a name at a version, or lets it go.
    pub(super) async fn pin(
        &self,
        id: RequestId,
        asked: &v1::PinModelRequest,
    ) -> Result<v1::PinModelReply, AdminError> {
        let (command, reply) = self.pinning(asked).await?;
        self.0.change(id, command).await?;
        Ok(reply)
    }

    /// The change that holds a name at a version, or lets it go, and what is told of it.
    pub(super) async fn pinning(
        &self,
        asked: &v1::PinModelRequest,
    ) -> Result<(Command, v1::PinModelReply), AdminError> {
        self.0.fresh(false).await?;
        let case = self.case(&asked.name)?;
        let (digest, wanted) = if asked.unpin {
            (case.pinned(), None)
        } else {
            let chosen = if asked.version.is_empty() { case.standing()? } else { case.chosen(&asked.version)? };
            (Some(chosen.digest), Some(chosen.digest))
        };
        let digest = digest.map(|digest| digest.0.to_vec()).unwrap_or_default();
        let reply = v1::PinModelReply { name: case.name.to_string(), digest };
        Ok((Command::PinModel { name: case.name, digest: wanted }, reply))
    }

    pub(super) async fn phase(
        &self,
        id: RequestId,
        asked: v1::SetPhaseRequest,
    ) -> Result<v1::SetPhaseReply, AdminError> {
        self.0.change(id, phasing(asked)?).await?;
        Ok(v1::SetPhaseReply {})
    }

    /// Why a model is where it is.
    pub(super) async fn why(&self, asked: &v1::WhyModelRequest) -> Result<v1::WhyModelReply, AdminError> {
        let case = self.case(&asked.name)?;
        let keeping = self.keeping(&case.name).await?;
        let mut reasons = self.reasons(&case.name)?;
        // What lies under the name is no surprise.
        let aside = keeping.kept.iter().filter(|(member, kept)| !case.has(member.id, kept.digest));
        reasons.extend(aside.map(|(member, kept)| v1::ReasonView {
            node_id: member.id.0,
            text: kept_text(&member.name, kept, case.number_of(kept.digest)),
        }));
        reasons.extend(self.coming(&case.name)?);
        Ok(v1::WhyModelReply { name: case.name.to_string(), reasons, silent: keeping.silent })
    }

    /// What the state says.
    fn reasons(&self, name: &ModelName) -> Result<Vec<v1::ReasonView>, AdminError> {
        let metadata = self.0.metadata()?;
        let view = metadata.view();
        let names = Names::of(&*view)?;
        let reasons = retention::why(&*view, name, metadata.log_time(), &|node| names.name(node))?;
        let shown = |reason: retention::Reason| v1::ReasonView {
            node_id: reason.about.map_or(0, |node| node.0),
            text: reason.text,
        };
        Ok(reasons.into_iter().map(shown).collect())
    }

    /// What the rules will do to it, while they are on.
    fn coming(&self, name: &ModelName) -> Result<Option<v1::ReasonView>, AdminError> {
        let view = self.0.metadata()?.view();
        let rules = rules::of(&*view)?;
        if !rules.on {
            return Ok(None);
        }
        let (names, facts) = (Names::of(&*view)?, self.facts()?);
        let coming = retention::foretell(&facts, &rules, name);
        Ok(coming.map(|coming| v1::ReasonView { node_id: 0, text: coming.text(&|node| names.name(node)) }))
    }

    /// What rules are held against just now.
    fn facts(&self) -> Result<Facts, AdminError> {
        let Engines { metadata, scheduler, .. } = self.0.engines()?;
        let view = metadata.view();
        let sites = rules::sites(&*view, &scheduler.beat(), &scheduler.peers())?;
        Ok(Facts::of(&*view, metadata.log_time(), sites)?)
    }

    /// Has nodes remove what they keep and need not. Where none is named, names go too that nobody has.
    pub(super) async fn collect_kept(
        &self,
        id: RequestId,
        asked: &v1::CollectRequest,
    ) -> Result<v1::CollectReply, AdminError> {
        let (transfer, dry_run) = (self.0.engines()?.transfer, asked.dry_run);
        let mut members = Vec::new();
        for node in &asked.nodes {
            members.push(self.0.find(node)?);
        }
        if members.is_empty() {
            members = self.holders_of_models()?;
        }
        let swept = ask_all(members, SWEEP_WAIT, move |node| {
            let transfer = transfer.clone();
            async move { transfer.sweep_at(node, dry_run).await }
        });
        let Keeping { kept, silent } = swept.await;
        let kept = kept.into_iter().map(|(member, kept)| v1::CollectedView {
            node_id: member.id.0,
            node_name: member.name,
            name: kept.name.to_string(),
            digest: kept.digest.0.to_vec(),
            size_bytes: kept.size_bytes,
        });
        let kept = kept.collect();
        let is_of_all = asked.nodes.is_empty();
        let forgotten = if is_of_all { self.forget_names(id, dry_run).await? } else { Forgotten::default() };
        Ok(v1::CollectReply { kept, silent, names: forgotten.names, names_left: forgotten.left })
    }

    /// What the members keep of a model beside the version that its name stands for.
    async fn keeping(&self, name: &ModelName) -> Result<Keeping, AdminError> {
        let transfer = self.0.engines()?.transfer;
        let kept = ask_all(self.holders_of_models()?, ASK_WAIT, move |node| {
            let (transfer, name) = (transfer.clone(), name.clone());
            async move { transfer.kept_at(node, Some(name)).await }
        });
        Ok(kept.await)
    }

    /// The members that may hold models.
    fn holders_of_models(&self) -> Result<Vec<Member>, AdminError> {
        let members = read::members(&*self.0.metadata()?.view())?;
        Ok(members.into_iter().filter(|member| member.is_standing() && member.role != Role::Gateway).collect())
    }

    /// What is on record of a name, once it is noted which version has just come: whoever waited for a pull and asks
    /// then shall not read of the one before. Where that is not noted, it is waited for in vain for a moment.
    async fn noted_case(&self, name: &str) -> Result<Case, AdminError> {
        let until = Instant::now() + NOTED_WAIT;
        loop {
            let case = self.case(name)?;
            let can_be_noted = Instant::now() < until && self.0.metadata()?.status().has_quorum;
            if !case.is_behind() || !can_be_noted {
                return Ok(case);
            }
            sleep(NOTED_LOOK_INTERVAL).await;
        }
    }

    fn case(&self, name: &str) -> Result<Case, AdminError> {
        Case::read(&*self.0.metadata()?.view(), parse(name)?)
    }
}

// === impl Admin ===

impl Admin {
    /// Makes a change, or only asks this node's state whether it would take it.
    pub(super) async fn change_or_try(
        &self,
        id: RequestId,
        command: Command,
        dry_run: bool,
    ) -> Result<Option<Answer>, AdminError> {
        if dry_run {
            return self.tried(command).map(|()| None);
        }
        Ok(Some(self.change(id, command).await?.answer))
    }

    fn tried(&self, command: Command) -> Result<(), AdminError> {
        self.refusal_of(command)?.map_or(Ok(()), |refusal| Err(refusal.into()))
    }

    /// What this node's state says against a change; `None`: it would take it.
    fn refusal_of(&self, command: Command) -> Result<Option<Refusal>, AdminError> {
        let metadata = self.metadata()?;
        let (view, index) = metadata.view_at();
        let entry = Entry {
            least_version: command.least_version(),
            log_time: metadata.log_time(),
            request: RequestId::default(),
            principal: format!("node/{} for {ASKED_BY}", metadata.node()),
            namespace: String::new(),
            session: None,
            fence_term: None,
            once: None,
            command,
        };
        match catalog::apply(&*view, index.saturating_add(1), 0, &entry)?.answer {
            Answer::Refused(refusal) => Ok(Some(refusal)),
            _ => Ok(None),
        }
    }
}

/// Asks all of these, some at once, each for so long.
async fn ask_all<A>(members: Vec<Member>, wait: Duration, ask: impl Fn(NodeId) -> A) -> Keeping
where
    A: Future<Output = Result<Vec<KeptVersion>, PullError>>,
{
    let answers: Vec<_> = members
        .into_iter()
        .map(|member| {
            let answer = ask(member.id);
            async move { (member, timeout(wait, answer).await.ok().and_then(Result::ok)) }
        })
        .collect();
    gathered(stream::iter(answers).buffer_unordered(ASK_AT_ONCE).collect().await)
}

/// What was said, in the order of the nodes' names.
fn gathered(mut said: Vec<(Member, Option<Vec<KeptVersion>>)>) -> Keeping {
    said.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
    let mut keeping = Keeping::default();
    for (member, kept) in said {
        match kept {
            Some(kept) => keeping.kept.extend(kept.into_iter().map(|kept| (member.clone(), kept))),
            None => keeping.silent.push(member.name),
        }
    }
    keeping
}

/// The change that takes a model out of use, or into it again.
pub(super) fn phasing(asked: v1::SetPhaseRequest) -> Result<Command, AdminError> {
    let v1::SetPhaseRequest { name, phase, note } = asked;
    let phases = [PhaseWord::Active, PhaseWord::Deprecated, PhaseWord::Disabled];
    let Some(phase) = phases.into_iter().find(|word| word_of(*word) == phase) else {
        let what = format!("{phase:?} is no phase");
        return Err(AdminError::new(ErrorCode::BadRequest, what, "", "active, deprecated or disabled"));
    };
    Ok(Command::SetPhase { name: parse(&name)?, phase, note })
}

const fn word_of(phase: PhaseWord) -> &'static str {
    match phase {
        PhaseWord::Active => "active",
        PhaseWord::Deprecated => "deprecated",
        PhaseWord::Disabled => "disabled",
    }
}

/// A line of `why` about files that lie aside.
fn kept_text(node: &str, kept: &KeptVersion, number: Option<u64>) -> String {
    let what = number.map_or_else(|| format!("version {}", kept.digest.short()), |number| format!("version {number}"));
    match kept.until {
        Some(until) => format!("kept on {node} until {}: {what}", day(until)),
        None => format!("kept on {node} as long as it is pinned: {what}"),
    }
}

/// A day, as people write it.
fn day(at: Timestamp) -> String {
    let moment = i64::try_from(at.0).ok().and_then(|millis| Moment::from_millisecond(millis).ok());
    moment.map_or_else(|| "a time that is no time".to_owned(), |moment| moment.strftime("%Y-%m-%d").to_string())
}

/// A version that no node ever had under this name.
fn no_version(name: &ModelName, version: &str) -> AdminError {
    Refusal::VersionNotFound { name: name.clone(), version: version.to_owned() }.into()
}

/// As many nodes as one command may name.
fn bounded(mut nodes: Vec<NodeId>) -> Vec<NodeId> {
    nodes.sort_unstable();
    nodes.truncate(WISH_TARGETS_MAX);
    nodes
}

#[cfg(test)]
mod tests;
