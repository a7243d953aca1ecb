//! Steps of migrations, and the ledger that says where each stands.
//!
//! The ledger carries the cursor, so whoever asks next goes on where the last step ended, under whatever leader. A
//! migration that is begun finds those before it done, and one that is taken back those behind it taken back, unless
//! somebody insists. What has met a contradiction is on record as failed, and changes nothing until it is begun anew.

use ollamax_types::Timestamp;

use super::{Applied, Scene, Step, Stop, invalid, put};
use crate::catalog::command::{Answer, Refusal};
use crate::catalog::migrations::{self, Spec, Trouble, Walk};
use crate::catalog::read;
use crate::catalog::record::{Key, Migration, MigrationStatus, Record};
use crate::catalog::view::Mutation;

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    pub(super) number: u32,
    pub(super) down: bool,
    pub(super) force: bool,
}

/// What is to be done about it.
enum Next {
    /// It stands there already.
    Nothing(Migration),
    /// One step of this walk, from this row on.
    Walk(Migration, Walk),
}

pub(super) fn migrate(scene: &Scene<'_>, wish: Wish) -> Step {
    step(migrations::ALL, scene, wish)
}

/// As [`migrate`], of a table.
pub(super) fn step(table: &[Spec], scene: &Scene<'_>, wish: Wish) -> Step {
    // One that needs more is, to every release at this cluster version, one that does not exist.
    let known = |spec: &&Spec| spec.number == wish.number && spec.needs <= scene.cluster.version;
    let Some(spec) = table.iter().find(known) else {
        let (number, version) = (wish.number, scene.cluster.version);
        return Err(invalid(format!("there is no migration {number:03} at cluster version {version}")));
    };
    let row = read::migration(scene.view, spec.number)?;
    let next =
        if wish.down { back(scene, spec, row, wish.force)? } else { there(table, scene, spec, row, wish.force)? };
    match next {
        Next::Nothing(row) => Ok(told(Vec::new(), row)),
        Next::Walk(row, walk) => walked(scene, row, walk),
    }
}

fn there(table: &[Spec], scene: &Scene<'_>, spec: &Spec, row: Option<Migration>, force: bool) -> Result<Next, Stop> {
    match row {
        Some(row) if row.status == MigrationStatus::Applied => Ok(Next::Nothing(row)),
        Some(row) if row.status == MigrationStatus::Applying => Ok(Next::Walk(row, spec.up)),
        Some(row) if row.status == MigrationStatus::Reverting && !force => Err(under_way(&row, "down")),
        _ => {
            if !force {
                check_before(table, scene, spec.number)?;
            }
            Ok(Next::Walk(begun(scene, spec, force), spec.up))
        }
    }
}

fn back(scene: &Scene<'_>, spec: &Spec, row: Option<Migration>, force: bool) -> Result<Next, Stop> {
    let number = spec.number;
    let Some(down) = spec.down else { return Err(refused(format!("migration {number:03} has no way back"))) };
    match row {
        None => Err(refused(format!("migration {number:03} was never applied; see: ollamax migrate status"))),
        Some(row) if row.status == MigrationStatus::Reverted => Ok(Next::Nothing(row)),
        Some(row) if row.status == MigrationStatus::Reverting => Ok(Next::Walk(row, down)),
        Some(row) if row.status == MigrationStatus::Applying && !force => Err(under_way(&row, "up")),
        Some(row) => {
            if !force {
                check_behind(scene, number)?;
            }
            Ok(Next::Walk(begun_back(scene, row, force), down))
        }
    }
}

/// One step, and what the ledger says of it.
fn walked(scene: &Scene<'_>, row: Migration, walk: Walk) -> Step {
    let now = scene.entry.log_time;
    let (row, mut mutations) = match walk(scene.view, row.cursor.as_ref()) {
        Ok(step) => (further(row, &step, now), step.mutations),
        Err(Trouble::Contradiction(text)) => (failed(row, &text), Vec::new()),
        Err(Trouble::Fault(fault)) => return Err(fault.into()),
    };
    mutations.push(put(Key::Migration(row.number), Record::Migration(Box::new(row.clone()))));
    Ok(told(mutations, row))
}

fn told(mutations: Vec<Mutation>, row: Migration) -> Applied {
    Applied::new(mutations, Answer::Migration(Box::new(row)))
}

fn begun(scene: &Scene<'_>, spec: &Spec, forced: bool) -> Migration {
    let now = scene.entry.log_time;
    Migration {
        number: spec.number,
        name: spec.name.to_owned(),
        phase: spec.phase.number(),
        group: spec.phase.group().to_owned(),
        started_at: now,
        finished_at: None,
        actor: scene.entry.principal.clone(),
        duration_ms: 0,
        status: MigrationStatus::Applying,
        error: String::new(),
        reverted_at: None,
        reverted_by: String::new(),
        revert_duration_ms: 0,
        reversible: spec.down.is_some(),
        forced,
        began_at: now,
        cursor: None,
        looked_at: 0,
        changed: 0,
    }
}

/// The same row, on its way back.
fn begun_back(scene: &Scene<'_>, row: Migration, forced: bool) -> Migration {
    Migration {
        status: MigrationStatus::Reverting,
        error: String::new(),
        reverted_at: None,
        reverted_by: scene.entry.principal.clone(),
        revert_duration_ms: 0,
        forced,
        began_at: scene.entry.log_time,
        cursor: None,
        looked_at: 0,
        changed: 0,
        ..row
    }
}

/// After a step; after the last one it is done.
fn further(row: Migration, step: &migrations::Step, now: Timestamp) -> Migration {
    let changed = row.changed + step.mutations.len() as u64;
    let row = Migration { cursor: step.next.clone(), looked_at: row.looked_at + step.looked_at, changed, ..row };
    if step.next.is_some() {
        return row;
    }
    let took_ms = now.ms_since(row.began_at);
    if row.status == MigrationStatus::Reverting {
        let (status, reverted_at) = (MigrationStatus::Reverted, Some(now));
        return Migration { status, reverted_at, revert_duration_ms: took_ms, ..row };
    }
    Migration { status: MigrationStatus::Applied, finished_at: Some(now), duration_ms: took_ms, ..row }
}

fn failed(row: Migration, text: &str) -> Migration {
    let way = if row.status == MigrationStatus::Reverting { "on the way back: " } else { "" };
    Migration { status: MigrationStatus::Failed, error: format!("{way}{text}"), cursor: None, ..row }
}

/// Those with lower numbers come first.
fn check_before(table: &[Spec], scene: &Scene<'_>, number: u32) -> Result<(), Stop> {
    let before = table.iter().filter(|spec| spec.number < number && spec.needs <= scene.cluster.version);
    for spec in before {
        let row = read::migration(scene.view, spec.number)?;
        if row.is_none_or(|row| row.status != MigrationStatus::Applied) {
            let other = spec.number;
            return Err(refused(format!(
                "migration {number:03} comes after {other:03}, which is not applied; first: ollamax migrate up --to \
                 {other}"
            )));
        }
    }
    Ok(())
}

/// Those with higher numbers are taken back first.
fn check_behind(scene: &Scene<'_>, number: u32) -> Result<(), Stop> {
    let ledger = read::migrations(scene.view)?;
    let stands = |row: &&Migration| row.number > number && row.status != MigrationStatus::Reverted;
    let Some(row) = ledger.iter().find(stands) else { return Ok(()) };
    let (other, status) = (row.number, row.status.as_str());
    Err(refused(format!(
        "migration {number:03} goes back after {other:03}, which is {status}; first: ollamax migrate down --to {other}"
    )))
}

fn under_way(row: &Migration, command: &str) -> Stop {
    let (number, status) = (row.number, row.status.as_str());
    refused(format!("migration {number:03} is {status}; first finish that: ollamax migrate {command} --to {number}"))
}

fn refused(text: String) -> Stop {
    Refusal::Migration(text).into()
}
