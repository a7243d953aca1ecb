//! Migrations of the replicated state at one node: the ledger, and walks step by step.
//!
//! The ledger is shown from this node's own state. A walk is asked for step by step, each in its own entry and fenced
//! with the term in which it began: with another leader it ends, as it does when the caller leaves, always behind a
//! whole step. The ledger has the cursor, so the same call goes on there.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt as _};
use tonic::{Request, Response, Status};

use ollamax_core::catalog::migrations::{self, Choice, Phase, Plan, Rehearsal, Spec};
use ollamax_core::catalog::{Answer, Command, Migration, MigrationStatus, View, read};
use ollamax_metadata as metadata;
use ollamax_proto::v1;
use ollamax_proto::v1::migration::Status as Standing;
use ollamax_proto::v1::versions_server::Versions;
use ollamax_types::{ErrorCode, RequestId};

use super::daemon::AdminError;
use super::status::local_view;
use super::{Admin, Reply, id_of, reply};

/// What changes from release to release, at one node.
#[derive(Clone)]
pub(super) struct Upkeep {
    admin: Admin,
}

// === impl Upkeep ===

impl Upkeep {
    pub(super) fn new(admin: Admin) -> Self {
        Self { admin }
    }

    fn list(&self, phase: &str) -> Result<v1::ListMigrationsReply, AdminError> {
        let metadata = self.admin.metadata()?;
        let phase = phase_of(phase)?;
        let view = metadata.view();
        let shown = shown(&read::migrations(&*view)?);
        let of_phase = |row: &v1::Migration| phase.is_none_or(|phase| phase.number() == row.phase);
        Ok(v1::ListMigrationsReply {
            migrations: shown.into_iter().filter(of_phase).collect(),
            cluster_version: version(&*view)?,
            view: Some(local_view(&metadata.status())),
        })
    }

    async fn run(&self, id: RequestId, request: &v1::RunMigrationsRequest) -> Result<RunStream, AdminError> {
        let choice = choice(request)?;
        let metadata = self.admin.metadata()?;
        metadata.read_barrier().await?;
        let view = metadata.view();
        let cluster_version = version(&*view)?;
        let Plan { run, waiting } =
            migrations::plan(migrations::ALL, &read::migrations(&*view)?, cluster_version, &choice);
        let planned = run.clone();
        let first = v1::RunMigrationsReply { planned, waiting, cluster_version, ..v1::RunMigrationsReply::default() };
        if request.dry_run {
            let tried = tokio::task::spawn_blocking(move || rehearsed(&view, &run, choice.down)).await;
            let tried = tried.map_err(|error| {
                let next = "ollamax logs --level error";
                AdminError::new(ErrorCode::Internal, "the dry run broke off", error.to_string(), next)
            })?;
            let replies = std::iter::once(first).chain(tried?).map(Ok::<_, Status>);
            return Ok(stream::iter(replies.collect::<Vec<_>>()).boxed());
        }
        let term = metadata.term();
        let run = Run { metadata, id, term, down: choice.down, force: request.force, left: run.into(), begun: false };
        Ok(stream::once(async { Ok(first) }).chain(stream::unfold(Some(run), Run::step)).boxed())
    }
}

type RunStream = BoxStream<'static, Result<v1::RunMigrationsReply, Status>>;

/// Walks under way for one caller.
struct Run {
    metadata: metadata::Handle,
    id: RequestId,
    /// Fences each step.
    term: u64,
    down: bool,
    force: bool,
    /// Numbers, the one under way first.
    left: VecDeque<u32>,
    /// That one has begun: from now on nobody needs to insist.
    begun: bool,
}

// === impl Run ===

impl Run {
    /// The next step; the stream ends behind the last one, a failed one, and an error.
    async fn step(run: Option<Self>) -> Option<(Result<v1::RunMigrationsReply, Status>, Option<Self>)> {
        let mut run = run?;
        let number = run.left.front().copied()?;
        let row = match run.advance(number).await {
            Ok(row) => row,
            Err(error) => return Some((Err(error.into()), None)),
        };
        run.begun = matches!(row.status, MigrationStatus::Applying | MigrationStatus::Reverting);
        if !run.begun {
            run.left.pop_front();
        }
        let goes_on = row.status != MigrationStatus::Failed;
        let migration = Some(shown_row(migrations::find(number), &row));
        let reply = v1::RunMigrationsReply { migration, ..v1::RunMigrationsReply::default() };
        Some((Ok(reply), goes_on.then_some(run)))
    }

    async fn advance(&self, number: u32) -> Result<Migration, AdminError> {
        let command = Command::Migrate { number, down: self.down, force: self.force && !self.begun };
        let change = metadata::Change::new(self.id.clone(), "admin", command);
        let change = metadata::Change { fence_term: Some(self.term), ..change };
        let committed = self.metadata.propose_change(change).await.map_err(|error| interrupted(error.into()))?;
        match committed.answer {
            Answer::Migration(row) => Ok(*row),
            Answer::Refused(refusal) => Err(refusal.into()),
            other => Err(AdminError::unexpected(&other)),
        }
    }
}

/// A step whose outcome is not known is no reason to look for it: the ledger knows.
fn interrupted(error: AdminError) -> AdminError {
    if error.code != ErrorCode::OutcomeUnknown {
        return error;
    }
    AdminError { next: "repeat the command: it goes on behind the last step that was done".to_owned(), ..error }
}

/// What each of them would do to this state, each by itself.
fn rehearsed(
    view: &Arc<dyn View + Send + Sync>,
    numbers: &[u32],
    down: bool,
) -> Result<Vec<v1::RunMigrationsReply>, AdminError> {
    let view: &dyn View = &**view;
    let ledger = read::migrations(view)?;
    let mut replies = Vec::new();
    for spec in numbers.iter().filter_map(|number| migrations::find(*number)) {
        let walk = if down { spec.down } else { Some(spec.up) };
        let told = match walk {
            Some(walk) => migrations::rehearse(view, walk)?,
            None => Rehearsal { contradiction: Some("it has no way back".to_owned()), ..Rehearsal::default() },
        };
        let rehearsal = Some(v1::Rehearsal {
            looked_at: told.looked_at,
            changed: told.changed,
            contradiction: told.contradiction.unwrap_or_default(),
            broken_off: told.broken_off,
        });
        let migration = Some(shown_spec(spec, &ledger));
        replies.push(v1::RunMigrationsReply { migration, rehearsal, ..v1::RunMigrationsReply::default() });
    }
    Ok(replies)
}

/// The cluster version; 0 before there is a cluster.
pub(super) fn version(view: &dyn View) -> Result<u32, AdminError> {
    Ok(read::cluster(view)?.map_or(0, |cluster| cluster.version))
}

fn phase_of(text: &str) -> Result<Option<Phase>, AdminError> {
    if text.is_empty() {
        return Ok(None);
    }
    let known = Phase::of_text(text);
    known.map(Some).ok_or_else(|| {
        let words: Vec<&str> = Phase::ALL.iter().map(|phase| phase.group()).collect();
        let next = format!("name one of {}, or its number from 0 on", words.join(", "));
        AdminError::new(ErrorCode::BadRequest, format!("there is no phase {text:?}"), "", next)
    })
}

fn choice(request: &v1::RunMigrationsRequest) -> Result<Choice, AdminError> {
    let some = |number: u32| (number != 0).then_some(number);
    let (from, to) = (some(request.from), some(request.to));
    Ok(Choice { down: request.down, phase: phase_of(&request.phase)?, from, to })
}

/// Everything that is known here or on record, by number.
pub(super) fn shown(ledger: &[Migration]) -> Vec<v1::Migration> {
    let unknown = ledger.iter().filter(|row| migrations::find(row.number).is_none());
    let known = migrations::ALL.iter().map(|spec| shown_spec(spec, ledger));
    let mut all: Vec<_> = known.chain(unknown.map(|row| shown_row(None, row))).collect();
    all.sort_by_key(|migration| migration.number);
    all
}

fn shown_spec(spec: &Spec, ledger: &[Migration]) -> v1::Migration {
    if let Some(row) = ledger.iter().find(|row| row.number == spec.number) {
        return shown_row(Some(spec), row);
    }
    v1::Migration {
        number: spec.number,
        name: spec.name.to_owned(),
        phase: spec.phase.number(),
        group: spec.phase.group().to_owned(),
        about: spec.about.to_owned(),
        needs: spec.needs,
        reversible: spec.down.is_some(),
        status: Standing::Pending.into(),
        ..v1::Migration::default()
    }
}

fn shown_row(spec: Option<&Spec>, row: &Migration) -> v1::Migration {
    let status = match row.status {
        MigrationStatus::Applying => Standing::Applying,
        MigrationStatus::Applied => Standing::Applied,
        MigrationStatus::Reverting => Standing::Reverting,
        MigrationStatus::Reverted => Standing::Reverted,
        MigrationStatus::Failed => Standing::Failed,
    };
    v1::Migration {
        number: row.number,
        name: row.name.clone(),
        phase: row.phase,
        group: row.group.clone(),
        about: spec.map(|spec| spec.about.to_owned()).unwrap_or_default(),
        needs: spec.map_or(0, |spec| spec.needs),
        reversible: row.reversible,
        status: status.into(),
        started_at_ms: row.started_at.0,
        finished_at_ms: row.finished_at.map(|at| at.0),
        actor: row.actor.clone(),
        duration_ms: row.duration_ms,
        error: row.error.clone(),
        reverted_at_ms: row.reverted_at.map(|at| at.0),
        reverted_by: row.reverted_by.clone(),
        revert_duration_ms: row.revert_duration_ms,
        forced: row.forced,
        looked_at: row.looked_at,
        changed: row.changed,
    }
}

#[tonic::async_trait]
impl Versions for Upkeep {
    type RunMigrationsStream = RunStream;

    async fn list_migrations(&self, request: Request<v1::ListMigrationsRequest>) -> Reply<v1::ListMigrationsReply> {
        reply(self.list(&request.get_ref().phase))
    }

    async fn run_migrations(&self, request: Request<v1::RunMigrationsRequest>) -> Reply<Self::RunMigrationsStream> {
        let id = id_of(&request);
        self.run(id, request.get_ref()).await.map(Response::new).map_err(Status::from)
    }

    async fn check_upgrade(&self, _request: Request<v1::CheckUpgradeRequest>) -> Reply<v1::CheckUpgradeReply> {
        reply(self.admin.upgrade_check())
    }
}

#[cfg(test)]
mod tests {
    use ollamax_core::catalog::mem::MemView;
    use ollamax_core::catalog::{Due, Key, Lease, Mutation, Record};
    use ollamax_types::Timestamp;

    use super::*;

    fn row(number: u32) -> Migration {
        Migration {
            number,
            name: "n".to_owned(),
            phase: 0,
            group: "core".to_owned(),
            started_at: Timestamp(1),
            finished_at: Some(Timestamp(2)),
            actor: "node/1 for admin".to_owned(),
            duration_ms: 1,
            status: MigrationStatus::Applied,
            error: String::new(),
            reverted_at: None,
            reverted_by: String::new(),
            revert_duration_ms: 0,
            reversible: true,
            forced: false,
            began_at: Timestamp(1),
            cursor: None,
            looked_at: 3,
            changed: 2,
        }
    }

    #[test]
    fn the_ledger_shows_what_nobody_asked_for_and_what_a_newer_release_did() {
        let pending = shown(&[]);
        assert_eq!((pending.len(), pending[0].status(), pending[0].needs), (1, Standing::Pending, 3));
        let both = shown(&[row(1), row(650)]);
        let told: Vec<_> =
            both.iter().map(|one| (one.number, one.status(), one.about.is_empty(), one.changed)).collect();
        assert_eq!(told, [(1, Standing::Applied, false, 2), (650, Standing::Applied, true, 2)]);
        assert_eq!((both[0].finished_at_ms, both[0].reverted_at_ms), (Some(2), None));
    }

    #[test]
    fn a_phase_is_named_by_number_or_word_and_others_are_refused_with_what_there_is() {
        assert_eq!((phase_of("").ok(), phase_of("0").ok()), (Some(None), Some(Some(Phase::Core))));
        assert_eq!(phase_of("knowledge").ok(), Some(Some(Phase::Knowledge)));
        let error = phase_of("7").expect_err("there are seven");
        assert!(error.code == ErrorCode::BadRequest && error.next.contains("core, models, memory"), "{error:?}");
        let request = v1::RunMigrationsRequest { down: true, from: 9, to: 0, ..v1::RunMigrationsRequest::default() };
        assert_eq!(choice(&request).ok(), Some(Choice { down: true, phase: None, from: Some(9), to: None }));
    }

    #[test]
    fn a_dry_run_tells_what_each_would_change_and_what_would_stop_it() {
        let mut view = MemView::default();
        let lease = Lease { ttl_ms: 1, ends_at: Timestamp(9), values: 0, due_at: None };
        let deadline = Mutation::Put(Key::Deadline(Timestamp(9), Due::Lease(4)), Record::Present);
        view.write(&[Mutation::Put(Key::Lease(4), Record::Lease(lease)), deadline]);
        let told = |view: &MemView| {
            let view: Arc<dyn View + Send + Sync> = Arc::new(view.clone());
            let replies = rehearsed(&view, &[1], false).expect("readable");
            replies[0].rehearsal.clone().expect("told")
        };
        let found = told(&view);
        assert_eq!((found.looked_at, found.changed, found.contradiction.as_str()), (2, 1, ""));
        view.write(&[Mutation::Delete(Key::Deadline(Timestamp(9), Due::Lease(4)))]);
        assert_eq!(told(&view).contradiction, "lease/4 has no deadline: it would never end");
    }
}
