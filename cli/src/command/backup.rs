//! `ollamax backup`: the state of the cluster in one file, sealed; and back.
//!
//! Making and listing is the daemon's. Checking and restoring needs none: the daemon's program, which lies beside this
//! one, is started for it and answers in one line. A secret key comes from a file or from standard input, never from
//! the command line, where others could see it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::process::Command;

use ollamax_proto::v1::{
    BackupView, CreateBackupProgress, CreateBackupRequest, ListBackupsRequest, NewBackupKeyRequest,
};
use ollamax_types::ErrorCode;

use crate::args::{BackupCommand, Global, Output};
use crate::client;
use crate::error::{Failure, request_id};
use crate::program::sibling;
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
        BackupCommand::Verify { file, key_file } => verify(global, &file, key_file.as_deref()).await,
        BackupCommand::Restore { file, key_file, name } => restore(global, &file, &key_file, name).await,
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
             Next: ollamax backup verify {} --key-file FILE",
            made.recipient, made.place
        ),
    );
    Ok(())
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

async fn verify(global: &Global, file: &Path, key_file: Option<&Path>) -> Result<(), Failure> {
    let mut words: Vec<OsString> = vec!["backup".into(), "verify".into(), file.as_os_str().to_owned()];
    if let Some(key_file) = key_file {
        words.extend(["--key-file".into(), key_file.as_os_str().to_owned()]);
    }
    let told = ask_program(words).await?;
    if global.output == Output::Json {
        return output::json("Backup", told);
    }
    let word = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
    let number = |key: &str| told[key].as_u64().unwrap_or_default();
    let lines = [
        ("Cluster", format!("{} ({})", word("clusterName"), word("cluster"))),
        ("Made", text::time(number("takenAtMs"))),
        ("Revision", number("revision").to_string()),
        ("Release", word("release")),
        ("Key", word("recipient")),
    ];
    let lines: String = lines.iter().map(|(name, value)| format!("{name:<9} {value}\n")).collect();
    output::text(&lines)?;
    if told["opened"] != true {
        output::line("It is whole, as far as can be seen without its key.")?;
        let next = format!("Next: ollamax backup verify {} --key-file FILE", file.display());
        output::talk(global.output, &next);
        return Ok(());
    }
    for (family, records) in told["families"].as_object().into_iter().flatten() {
        output::line(&format!("{:>9} {family}", records.as_u64().unwrap_or_default()))?;
    }
    output::line(&format!("It can be restored: all {} records were read.", number("records")))
}

async fn restore(global: &Global, file: &Path, key_file: &Path, name: Option<String>) -> Result<(), Failure> {
    let data_dir = global.data_dir.as_ref().ok_or_else(|| {
        let what = "where shall it be restored?";
        Failure::usage(what, "name an empty directory, or one that does not exist: --data-dir DIR")
    })?;
    let mut words: Vec<OsString> = vec!["restore".into(), file.as_os_str().to_owned()];
    words.extend(["--key-file".into(), key_file.as_os_str().to_owned()]);
    words.extend(["--data-dir".into(), data_dir.as_os_str().to_owned()]);
    if let Some(name) = name {
        words.extend([OsString::from("--name"), OsString::from(name)]);
    }
    let told = ask_program(words).await?;
    if global.output == Output::Json {
        return output::json("RestoredCluster", told);
    }
    let made = &told["restoredAs"];
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    output::text(&format!(
        "Cluster {} is restored as of revision {}, all {} records.\n\
         It is a new cluster: this is node {} ({}), it leads alone, and revisions go on at {}.\n\
         Models, join tokens and other members are not in it.\n\n\
         Next: ollamax-node run --data-dir {}\n",
        word(&told["clusterName"]),
        told["revision"],
        told["records"],
        made["node"],
        word(&made["nodeName"]),
        made["revision"],
        word(&made["dataDir"]),
    ))
}

/// Starts the daemon's program for one answer. Its standard input is this one's, where a key may come from.
async fn ask_program(words: Vec<OsString>) -> Result<Value, Failure> {
    let program: PathBuf = sibling("ollamax-node")?;
    let mut command = Command::new(&program);
    command.args(words).arg("--json").env_remove("OLLAMAX_DATA_DIR").kill_on_drop(true);
    command.stdin(Stdio::inherit()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let next = "use ollamax and ollamax-node of one release: ollamax --version";
    let failed = |why: String| Failure::new(1, format!("start {}", program.display()), why, next);
    let ended = command.output().await.map_err(|error| failed(error.to_string()))?;
    let told: Result<Value, _> = serde_json::from_slice(&ended.stdout);
    match told {
        Ok(told) if ended.status.success() => Ok(told),
        Ok(told) if told["error"].is_object() => Err(refused(&told["error"])),
        _ => Err(failed(String::from_utf8_lossy(&ended.stderr).trim().to_owned())),
    }
}

/// What the program said under an error code.
fn refused(error: &Value) -> Failure {
    let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
    match ErrorCode::from_text(&text("code")) {
        Some(code) => Failure::told(code, &text("what"), &text("why"), &text("next")),
        None => Failure::new(1, text("what"), text("why"), text("next")),
    }
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
    fn a_folder_is_told_whole_and_a_bucket_as_it_is() {
        assert_eq!(whole(None), Ok(String::new()));
        assert_eq!(whole(Some("s3://lab/x".to_owned())), Ok("s3://lab/x".to_owned()));
        assert_eq!(whole(Some("/mnt/nas".to_owned())), Ok("/mnt/nas".to_owned()));
        let relative = whole(Some("nas".to_owned())).expect("a folder");
        assert!(relative.starts_with('/') && relative.ends_with("/nas"), "{relative}");
    }

    #[test]
    fn an_error_of_the_program_keeps_its_code() {
        let told = json!({"code": "storage_corrupt", "what": "it is damaged", "why": "", "next": "use another"});
        assert_eq!(refused(&told), Failure::told(ErrorCode::StorageCorrupt, "it is damaged", "", "use another"));
        let later = json!({"code": "tide_out", "what": "the tide is out"});
        assert_eq!(refused(&later), Failure::new(1, "the tide is out", "", ""));
    }
}
