//! `ollamax migrate`: changes of the form of what the cluster has on record, there and back, and their ledger.
//!
//! The node asks for one step after another and tells of each. What was interrupted goes on with the same command.

use indicatif::ProgressBar;
use serde_json::{Value, json};

use ollamax_proto::v1::migration::Status;
use ollamax_proto::v1::{
    ListMigrationsReply, ListMigrationsRequest, Migration, Rehearsal, RunMigrationsReply, RunMigrationsRequest,
};

use crate::args::{Global, MigrateArgs, MigrateCommand, Output};
use crate::client;
use crate::error::{Failure, request_id};
use crate::{output, text};

/// What a run did, or a dry run showed.
#[derive(Debug, Default)]
struct Run {
    planned: Vec<u32>,
    waiting: Vec<u32>,
    cluster_version: u32,
    /// Each as it ended.
    done: Vec<(Migration, Option<Rehearsal>)>,
}

/// Runs one of them.
pub(crate) async fn run(global: &Global, command: MigrateCommand) -> Result<(), Failure> {
    match command {
        MigrateCommand::Up(args) => walk(global, args, false).await,
        MigrateCommand::Down(args) => walk(global, args, true).await,
        MigrateCommand::Status { phase } => status(global, phase.phase.unwrap_or_default()).await,
    }
}

async fn status(global: &Global, phase: String) -> Result<(), Failure> {
    let request = ListMigrationsRequest { phase };
    let listed = client::connect_versions(global).await?.list_migrations(request).await?.into_inner();
    if global.output == Output::Json {
        let view = listed.view.unwrap_or_default();
        let fields = json!({
            "clusterVersion": listed.cluster_version,
            "appliedIndex": view.applied_index,
            "migrations": listed.migrations.iter().map(shown).collect::<Vec<_>>(),
        });
        return output::json("MigrationList", fields);
    }
    output::text(&page(&listed))
}

async fn walk(global: &Global, args: MigrateArgs, down: bool) -> Result<(), Failure> {
    let MigrateArgs { phase, from, to, dry_run, force } = args;
    let (phase, from, to) = (phase.phase.unwrap_or_default(), from.unwrap_or(0), to.unwrap_or(0));
    let request = RunMigrationsRequest { down, phase, from, to, dry_run, force };
    let run = follow(global, request).await?;
    if let Some(failure) = run.done.iter().find_map(|(one, tried)| stopped(one, tried.as_ref())) {
        let through = run.done.iter().filter(|(one, tried)| stopped(one, tried.as_ref()).is_none());
        through.for_each(|(one, tried)| output::talk(global.output, &sentence(one, tried.as_ref())));
        return Err(failure);
    }
    if global.output == Output::Json {
        return output::json("MigrationRun", fields(&run, down, dry_run));
    }
    output::text(&told(&run, down))
}

/// Asks, and shows on stderr how far it is.
async fn follow(global: &Global, request: RunMigrationsRequest) -> Result<Run, Failure> {
    let answer = client::connect_versions(global).await?.run_migrations(request).await?;
    let (id, mut replies) = (request_id(answer.metadata()), answer.into_inner());
    let bar = if output::may_draw(global.output) { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    let mut run = Run::default();
    while let Some(reply) = replies.message().await.map_err(|status| Failure::from(status).with_request_id(&id))? {
        let RunMigrationsReply { planned, waiting, cluster_version, migration, rehearsal } = reply;
        let Some(migration) = migration else {
            (run.planned, run.waiting, run.cluster_version) = (planned, waiting, cluster_version);
            continue;
        };
        bar.set_message(format!("{:03} {}: {} records", migration.number, migration.name, migration.looked_at));
        bar.tick();
        let under_way = rehearsal.is_none() && matches!(migration.status(), Status::Applying | Status::Reverting);
        if !under_way {
            run.done.push((migration, rehearsal));
        }
    }
    bar.finish_and_clear();
    Ok(run)
}

/// Why one did not, or would not, get through.
fn stopped(one: &Migration, tried: Option<&Rehearsal>) -> Option<Failure> {
    let why = tried.map_or(one.error.as_str(), |tried| tried.contradiction.as_str());
    if why.is_empty() || (tried.is_none() && one.status() != Status::Failed) {
        return None;
    }
    let word = if tried.is_some() { "would fail" } else { "failed" };
    let next = "look at the records, with a daemon stopped: ollamax raft verify; then repeat the command";
    Some(Failure::new(1, format!("migration {:03} {word}", one.number), why, next))
}

fn sentence(one: &Migration, tried: Option<&Rehearsal>) -> String {
    let name = format!("{:03} {}", one.number, one.name);
    if let Some(Rehearsal { looked_at, changed, contradiction, broken_off }) = tried {
        let least = if *broken_off { "at least " } else { "" };
        let end = if contradiction.is_empty() { "." } else { " before it fails." };
        return format!("{name} would change {least}{changed} of {looked_at} records{end}");
    }
    let took = text::span(if one.status() == Status::Reverted { one.revert_duration_ms } else { one.duration_ms });
    format!("{name} {} in {took}: {} of {} records changed.", word(one), one.changed, one.looked_at)
}

fn told(run: &Run, down: bool) -> String {
    let mut page: String = run.done.iter().map(|(one, tried)| format!("{}\n", sentence(one, tried.as_ref()))).collect();
    if run.planned.is_empty() {
        page += if down { "Nothing is there to take back.\n" } else { "Nothing is there to apply.\n" };
    }
    if !run.waiting.is_empty() {
        page += &waits(&run.waiting, run.cluster_version);
    }
    page
}

fn waits(numbers: &[u32], cluster_version: u32) -> String {
    let numbers: Vec<String> = numbers.iter().map(|number| format!("{number:03}")).collect();
    format!(
        "Waiting for a higher cluster version than {cluster_version}: {}. It goes up when every member applies more.\n",
        numbers.join(", ")
    )
}

fn page(listed: &ListMigrationsReply) -> String {
    let rows = listed.migrations.iter().map(|one| {
        let (at, took, actor) = match one.status() {
            Status::Pending | Status::Unspecified => (0, None, ""),
            Status::Reverting => (one.started_at_ms, None, one.reverted_by.as_str()),
            Status::Reverted => {
                (one.reverted_at_ms.unwrap_or_default(), Some(one.revert_duration_ms), one.reverted_by.as_str())
            }
            Status::Applied => (one.finished_at_ms.unwrap_or_default(), Some(one.duration_ms), one.actor.as_str()),
            Status::Applying | Status::Failed => (one.started_at_ms, None, one.actor.as_str()),
        };
        vec![
            format!("{:03}", one.number),
            one.group.clone(),
            one.name.clone(),
            word(one).to_owned(),
            text::time(at),
            took.map(text::span).unwrap_or_default(),
            text::in_one_line(actor.as_bytes()),
            if one.forced { "forced" } else { "" }.to_owned(),
        ]
    });
    let columns = ["NUMBER", "GROUP", "NAME", "STATUS", "WHEN (CLUSTER TIME)", "TOOK", "BY", "NOTE"];
    let mut page = output::table(&columns, rows.collect());
    for one in listed.migrations.iter().filter(|one| !one.error.is_empty()) {
        page += &format!("\n{:03} failed: {}\n", one.number, text::in_one_line(one.error.as_bytes()));
    }
    let open = |one: &&Migration| matches!(one.status(), Status::Pending | Status::Reverted);
    let ready = |one: &&Migration| one.needs <= listed.cluster_version;
    let waiting: Vec<u32> =
        listed.migrations.iter().filter(open).filter(|one| !ready(one)).map(|one| one.number).collect();
    if listed.migrations.iter().filter(open).any(|one| ready(&one)) {
        page += "\nNext: ollamax migrate up\n";
    }
    if !waiting.is_empty() {
        page += &format!("\n{}", waits(&waiting, listed.cluster_version));
    }
    page
}

fn word(one: &Migration) -> &'static str {
    match one.status() {
        Status::Pending => "pending",
        Status::Applying => "applying",
        Status::Applied => "applied",
        Status::Reverting => "reverting",
        Status::Reverted => "reverted",
        Status::Failed => "failed",
        Status::Unspecified => "unknown",
    }
}

fn fields(run: &Run, down: bool, dry_run: bool) -> Value {
    let done: Vec<Value> = run
        .done
        .iter()
        .map(|(one, tried)| {
            let mut fields = shown(one);
            if let Some(tried) = tried {
                fields["rehearsal"] = json!({
                    "lookedAt": tried.looked_at,
                    "changed": tried.changed,
                    "brokenOff": tried.broken_off,
                });
            }
            fields
        })
        .collect();
    json!({
        "direction": if down { "down" } else { "up" },
        "dryRun": dry_run,
        "clusterVersion": run.cluster_version,
        "planned": run.planned,
        "waiting": run.waiting,
        "migrations": done,
    })
}

fn shown(one: &Migration) -> Value {
    let known = |text: &String| (!text.is_empty()).then(|| text.clone());
    json!({
        "number": one.number,
        "name": one.name,
        "phase": one.phase,
        "group": one.group,
        "about": known(&one.about),
        "needs": one.needs,
        "status": word(one),
        "startedAtMs": (one.started_at_ms != 0).then_some(one.started_at_ms),
        "finishedAtMs": one.finished_at_ms,
        "actor": known(&one.actor),
        "durationMs": one.duration_ms,
        "error": known(&one.error),
        "revertedAtMs": one.reverted_at_ms,
        "revertedBy": known(&one.reverted_by),
        "revertDurationMs": one.revert_duration_ms,
        "reversible": one.reversible,
        "forced": one.forced,
        "lookedAt": one.looked_at,
        "changed": one.changed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(status: Status, needs: u32) -> Migration {
        let (name, group) = ("noted_deadlines".to_owned(), "core".to_owned());
        let mut one = Migration { number: 1, name, group, needs, ..Migration::default() };
        one.set_status(status);
        one
    }

    fn list(one: Migration, cluster_version: u32) -> ListMigrationsReply {
        ListMigrationsReply { migrations: vec![one], cluster_version, view: None }
    }

    #[test]
    fn what_is_pending_says_what_to_do_or_what_it_waits_for() {
        let ends = |one: Migration, version: u32, expected: &str| {
            let page = page(&list(one, version));
            assert!(page.ends_with(expected), "{page}");
        };
        ends(one(Status::Pending, 3), 3, "\nNext: ollamax migrate up\n");
        ends(one(Status::Reverted, 3), 3, "\nNext: ollamax migrate up\n");
        let waits = "Waiting for a higher cluster version than 2: 001. It goes up when every member applies more.\n";
        ends(one(Status::Pending, 3), 2, &format!("\n\n{waits}"));
        let failed = Migration { error: "lease/7 has no deadline".to_owned(), ..one(Status::Failed, 3) };
        ends(failed, 3, "\n001 failed: lease/7 has no deadline\n");
    }

    #[test]
    fn what_stops_one_is_a_failure_whether_it_was_tried_or_done() {
        let failed = Migration { error: "no".to_owned(), ..one(Status::Failed, 3) };
        let told = stopped(&failed, None).expect("it failed");
        assert_eq!((told.exit(), told.what()), (1, "migration 001 failed"));
        let tried = |contradiction: &str| Rehearsal { contradiction: contradiction.to_owned(), ..Rehearsal::default() };
        let told = stopped(&one(Status::Pending, 3), Some(&tried("no"))).expect("it would fail");
        assert_eq!(told.what(), "migration 001 would fail");
        // One that failed before is tried anew.
        assert_eq!(stopped(&failed, Some(&tried(""))), None);
        assert_eq!(stopped(&one(Status::Applied, 3), None), None);
    }

    #[test]
    fn a_dry_run_says_what_would_be_changed() {
        let tried = Rehearsal { looked_at: 6, changed: 4, ..Rehearsal::default() };
        let pending = one(Status::Pending, 3);
        assert_eq!(sentence(&pending, Some(&tried)), "001 noted_deadlines would change 4 of 6 records.");
        let more = Rehearsal { broken_off: true, ..tried };
        assert_eq!(sentence(&pending, Some(&more)), "001 noted_deadlines would change at least 4 of 6 records.");
        let nothing = Run { cluster_version: 2, waiting: vec![1], ..Run::default() };
        assert!(told(&nothing, false).starts_with("Nothing is there to apply.\nWaiting for"), "{nothing:?}");
        assert_eq!(told(&Run::default(), true), "Nothing is there to take back.\n");
    }
}
