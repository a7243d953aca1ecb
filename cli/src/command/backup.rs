//! `ollamax backup`: the state of the cluster in one file, sealed; and back.
//!
//! Making and listing is the daemon's. Checking and restoring needs none: see `offline.rs`.

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use ollamax_proto::v1::{
    BackupView, CreateBackupProgress, CreateBackupRequest, ListBackupsRequest, NewBackupKeyRequest,
};

use super::offline;
use crate::args::{BackupCommand, Global, Output};
use crate::client;
use crate::error::{Failure, request_id};
use crate::{output, text};

/// What a secret key is for, told whenever one is shown.
pub(crate) const KEY_WORDS: &str = "This key opens the cluster's backups. It is shown once and kept nowhere: without \
                                    it nobody can restore one. Keep it away from these machines.";

/// Runs one of them.
pub(crate) async fn run(global: &Global, command: BackupCommand) -> Result<(), Failure> {
    match command {
        BackupCommand::Create { to } => create(global, whole(to)?).await,
        BackupCommand::List { from } => list(global, whole(from)?).await,
        BackupCommand::NewKey => new_key(global).await,
        BackupCommand::Verify { from, key_file } => offline::verify_backup(global, from, key_file).await,
        BackupCommand::Restore { from, key_file, name } => offline::restore(global, from, key_file, name).await,
    }
}

/// The daemon stands in another folder, so it is told whole paths.
fn whole(place: Option<String>) -> Result<String, Failure> {
    match place {
        None => Ok(String::new()),
        Some(place) if place.contains("://") => Ok(place),
        Some(place) => {
            let path = std::path::absolute(&place).map_err(|error| {
                Failure::usage(format!("{place:?} names no folder: {error}"), "name a folder, or s3://BUCKET/PREFIX")
            })?;
            Ok(path.display().to_string())
        }
    }
}

async fn create(global: &Global, to: String) -> Result<(), Failure> {
    let answer = client::connect_backup(global).await?.create_backup(CreateBackupRequest { to }).await?;
    let (id, mut told) = (request_id(answer.metadata()), answer.into_inner());
    let bar = progress_bar(global);
    let mut last = CreateBackupProgress::default();
    while let Some(message) = told.message().await.map_err(|status| Failure::from(status).with_request_id(&id))? {
        bar.set_position(message.written_bytes);
        bar.set_message(message.doing.clone());
        last = message;
    }
    bar.finish_and_clear();
    let Some(made) = &last.made else {
        let next = "ollamax backup list shows whether it was made";
        return Err(
            Failure::new(7, "the daemon ended before the backup did", "it is stopping", next).with_request_id(&id)
        );
    };
    if global.output == Output::Json {
        let mut fields = shown(made);
        fields["ageMs"] = last.age_ms.into();
        fields["removed"] = last.removed.into();
        return output::json("Backup", fields);
    }
    let size = text::bytes(made.size_bytes);
    output::line(&format!("{} holds revision {}, {size}.", made.place, made.revision))?;
    if let Some(age_ms) = last.age_ms {
        let age = if age_ms == u64::MAX { "an unknown time".to_owned() } else { text::span(age_ms) };
        output::talk(global.output, &format!("No majority answered: it is this node's state, up to {age} old."));
    }
    if last.removed > 0 {
        let gone = usize::try_from(last.removed).unwrap_or(usize::MAX);
        output::talk(global.output, &format!("Removed {}, beyond backup.keep.", text::count(gone, "older backup")));
    }
    output::talk(
        global.output,
        &format!(
            "Models are not in it, nor node keys. It opens with the key of {}.\n\
             Next: {}",
            made.recipient,
            next(made)
        ),
    );
    Ok(())
}

/// How to look whether it can be restored; what reaches a bucket stands in the node's configuration.
fn next(made: &BackupView) -> String {
    let config = if made.place.contains("://") { " --config FILE" } else { "" };
    format!("ollamax backup verify {} --key-file FILE{config}", made.place)
}

fn progress_bar(global: &Global) -> ProgressBar {
    let bar = if output::may_draw(global.output) { ProgressBar::no_length() } else { ProgressBar::hidden() };
    match ProgressStyle::with_template("{msg:<16} {bytes} {bytes_per_sec}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

async fn list(global: &Global, from: String) -> Result<(), Failure> {
    let listed = client::connect_backup(global).await?.list_backups(ListBackupsRequest { from }).await?.into_inner();
    if global.output == Output::Json {
        let backups: Vec<Value> = listed.backups.iter().map(shown).collect();
        return output::json("BackupList", json!({"place": listed.place, "backups": backups, "more": listed.more}));
    }
    if listed.backups.is_empty() {
        return output::line(&format!("There are no backups in {}.", listed.place));
    }
    let rows = listed.backups.iter().map(|backup| {
        let readable = backup.problem.is_empty();
        vec![
            backup.name.clone(),
            text::time(backup.taken_at_ms),
            if readable { backup.revision.to_string() } else { String::new() },
            text::bytes(backup.size_bytes),
            if readable { backup.cluster_name.clone() } else { format!("unreadable: {}", backup.problem) },
        ]
    });
    output::text(&output::table(&["NAME", "MADE", "REVISION", "SIZE", "CLUSTER"], rows.collect()))?;
    let more = if listed.more { ", and more" } else { "" };
    output::talk(global.output, &format!("In {}{more}.", listed.place));
    Ok(())
}

async fn new_key(global: &Global) -> Result<(), Failure> {
    let made = client::connect_backup(global).await?.new_backup_key(NewBackupKeyRequest {}).await?.into_inner();
    if global.output == Output::Json {
        let replaced = Some(&made.replaced).filter(|replaced| !replaced.is_empty());
        let fields = json!({
            "secret": made.secret,
            "recipient": made.recipient,
            "replaced": replaced,
            "meaning": KEY_WORDS,
        });
        return output::json("BackupKey", fields);
    }
    output::line(&made.secret)?;
    let old = match made.replaced.as_str() {
        "" => String::new(),
        replaced => format!("\nBackups made before it open with the key of {replaced}: keep that one too."),
    };
    output::talk(global.output, &format!("{KEY_WORDS}{old}"));
    Ok(())
}

fn shown(backup: &BackupView) -> Value {
    let readable = backup.problem.is_empty();
    json!({
        "name": backup.name,
        "place": backup.place,
        "bytes": backup.size_bytes,
        "cluster": readable.then(|| hex::encode(&backup.cluster)),
        "clusterName": readable.then(|| backup.cluster_name.clone()),
        "revision": readable.then_some(backup.revision),
        "takenAtMs": readable.then_some(backup.taken_at_ms),
        "release": readable.then(|| backup.release.clone()),
        "recipient": readable.then(|| backup.recipient.clone()),
        "problem": (!readable).then(|| backup.problem.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_next_works_for_a_folder_and_for_a_bucket() {
        let made =
            |place: &str| BackupView { name: "a.oxb.age".to_owned(), place: place.to_owned(), ..BackupView::default() };
        let expected = "ollamax backup verify /mnt/a.oxb.age --key-file FILE";
        assert_eq!(next(&made("/mnt/a.oxb.age")), expected);
        let expected = "ollamax backup verify s3://lab/x/a.oxb.age --key-file FILE --config FILE";
        assert_eq!(next(&made("s3://lab/x/a.oxb.age")), expected);
    }

    #[test]
    fn a_folder_is_told_whole_and_a_bucket_as_it_is() {
        assert_eq!(whole(None), Ok(String::new()));
        assert_eq!(whole(Some("s3://lab/x".to_owned())), Ok("s3://lab/x".to_owned()));
        assert_eq!(whole(Some("/mnt/nas".to_owned())), Ok("/mnt/nas".to_owned()));
        let relative = whole(Some("nas".to_owned())).expect("a folder");
        assert!(relative.starts_with('/') && relative.ends_with("/nas"), "{relative}");
    }
}
