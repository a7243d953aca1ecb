//! `ollamax-node verify`: is everything that a data directory promises there, and whole?
//!
//! Its daemon must not run. Nothing on disk changes. Exit codes are those of `ollamax`: 0 sound, 1 damaged (what was
//! found is on stdout then, too) or not readable, 3 nothing there, 4 in use or of a later release, 6 not allowed.

use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;

use serde_json::{Value, json};

use ollamax_store::{Verification, VerifyError};

use crate::offline::{EXIT_CONFLICT, EXIT_FAILED, Failure, Form, denied, show};

const EXIT_NOT_FOUND: u8 = 3;
/// What has to be read of a directory; who may not read these is not told that they are damaged.
const READ: [&str; 3] = ["raft/lock", "raft/high-water", "raft/db/CURRENT"];

/// Looks at a data directory and tells what was found.
///
/// # Errors
/// When it is damaged, which was shown then, and when it cannot be looked at.
pub(crate) fn run(data_dir: &Path, form: Form) -> Result<(), Failure> {
    for name in READ {
        let path = data_dir.join(name);
        if let Some(denied) = File::open(&path).err().and_then(|error| denied(&path, &error)) {
            return Err(denied);
        }
    }
    let found = ollamax_store::verify(data_dir).map_err(|error| refusal(&error))?;
    show(form, "Verification", &page(data_dir, &found), shown(data_dir, &found))?;
    verdict(&found)
}

fn verdict(found: &Verification) -> Result<(), Failure> {
    if found.is_sound() { Ok(()) } else { Err(Failure::shown(EXIT_FAILED)) }
}

fn refusal(error: &VerifyError) -> Failure {
    let exit = match error {
        VerifyError::NothingThere { .. } => EXIT_NOT_FOUND,
        VerifyError::Locked { .. } | VerifyError::NewerFormat { .. } => EXIT_CONFLICT,
        VerifyError::Disk(_) => EXIT_FAILED,
    };
    Failure::new(exit, error.to_string(), error.next()).with_code(error.code())
}

fn shown(data_dir: &Path, found: &Verification) -> Value {
    let identity = found.identity.as_ref().map(|identity| {
        json!({
            "id": identity.node,
            "cluster": identity.cluster.to_string(),
            "incarnation": identity.incarnation.to_string(),
        })
    });
    let (log, state) = (&found.log, &found.state);
    let families: serde_json::Map<String, Value> =
        state.families.iter().map(|(name, count)| ((*name).to_owned(), Value::from(*count))).collect();
    let damages: Vec<Value> = found
        .damages
        .iter()
        .map(|damage| json!({"place": damage.place, "problem": damage.problem, "next": damage.next}))
        .collect();
    json!({
        "sound": found.is_sound(),
        "dataDir": data_dir.display().to_string(),
        "node": identity,
        "log": {
            "firstIndex": log.first,
            "lastIndex": log.last,
            "purgedIndex": log.purged,
            "syncedIndex": log.synced,
            "entries": log.entries,
            "bytes": log.bytes,
            "surplus": log.surplus,
            "votes": log.votes,
        },
        "state": {
            "appliedIndex": state.index,
            "stateHash": hex::encode(state.hash),
            "records": state.records,
            "families": families,
        },
        "damages": damages,
        "damagesUnlisted": found.damages_unlisted,
    })
}

fn page(data_dir: &Path, found: &Verification) -> String {
    let (log, state) = (&found.log, &found.state);
    let known = |index: Option<u64>| index.map_or_else(|| "none".to_owned(), |index| index.to_string());
    let verdict = match found.damages.len() as u64 + found.damages_unlisted {
        0 => "sound".to_owned(),
        1 => "damaged in 1 place".to_owned(),
        count => format!("damaged in {count} places"),
    };
    let mut lines = vec![format!("{} is {verdict}.", data_dir.display())];
    if let Some(identity) = &found.identity {
        lines.push(format!("  node   {} of cluster {}", identity.node, identity.cluster));
    }
    lines.push(format!(
        "  log    {} entries, {} bytes: {} to {}; purged up to {}, synced up to {}",
        log.entries,
        log.bytes,
        known(log.first),
        known(log.last),
        known(log.purged),
        known(log.synced)
    ));
    if log.surplus > 0 {
        lines.push(format!("         {} more that were never promised; the next start cuts them", log.surplus));
    }
    lines.push(format!("  votes  {}", log.votes));
    let hash = hex::encode(state.hash);
    lines.push(format!("  state  {} records, applied up to {}, hash {hash}", state.records, known(state.index)));
    for (family, count) in &state.families {
        lines.push(format!("         {count} {family}"));
    }
    let mut page = lines.join("\n") + "\n";
    for damage in &found.damages {
        let (place, problem, next) = (&damage.place, &damage.problem, &damage.next);
        write!(page, "  ! {place}\n      why: {problem}\n      try: {next}\n").expect("a String grows as needed");
    }
    if found.damages_unlisted > 0 {
        writeln!(page, "  ! {} more are not listed", found.damages_unlisted).expect("a String grows as needed");
    }
    page
}

#[cfg(test)]
mod tests {
    use ollamax_store::{Damage, LogCounts, StateCounts, StoreIdentity};
    use ollamax_types::{ClusterId, ErrorCode, Incarnation, NodeId};

    use super::*;

    fn sound() -> Verification {
        Verification {
            identity: Some(StoreIdentity {
                cluster: ClusterId([1; 16]),
                node: NodeId(2),
                incarnation: Incarnation([3; 16]),
            }),
            log: LogCounts {
                first: Some(4),
                last: Some(10),
                purged: Some(3),
                synced: Some(10),
                entries: 7,
                bytes: 91,
                surplus: 0,
                votes: 2,
            },
            state: StateCounts { index: Some(8), hash: [0xab; 16], records: 2, families: vec![("settings", 2)] },
            ..Verification::default()
        }
    }

    fn damaged() -> Verification {
        let damage = Damage {
            place: "log entry 5".to_owned(),
            problem: "does not fit its checksum".to_owned(),
            next: "join again".to_owned(),
        };
        Verification { damages: vec![damage], damages_unlisted: 4, ..sound() }
    }

    #[test]
    fn a_page_tells_counts_and_each_damage_with_what_to_do() {
        let expected = "/d is sound.\n  node   2 of cluster 01010101010101010101010101010101\n  log    7 entries, 91 \
                        bytes: 4 to 10; purged up to 3, synced up to 10\n  votes  2\n  state  2 records, applied up to 8, \
                        hash abababababababababababababababab\n         2 settings\n";
        assert_eq!(page(Path::new("/d"), &sound()), expected);
        assert!(verdict(&sound()).is_ok());
        let told = page(Path::new("/d"), &damaged());
        assert!(told.starts_with("/d is damaged in 5 places.\n"), "{told}");
        let listed = "  ! log entry 5\n      why: does not fit its checksum\n      try: join again\n";
        assert!(told.ends_with(&format!("{listed}  ! 4 more are not listed\n")), "{told}");
        let ended = verdict(&damaged()).expect_err("damaged");
        assert_eq!((ended.exit, ended.text.as_str()), (EXIT_FAILED, ""), "it was shown already");
        let fresh = page(Path::new("/d"), &Verification::default());
        assert!(fresh.contains("0 entries, 0 bytes: none to none; purged up to none"), "{fresh}");
    }

    #[test]
    fn programs_get_one_object() {
        let object = shown(Path::new("/d"), &damaged());
        assert_eq!((&object["dataDir"], &object["sound"]), (&"/d".into(), &false.into()));
        assert_eq!(object["node"]["id"], 2);
        assert_eq!(object["log"]["lastIndex"], 10);
        assert_eq!(object["state"]["families"]["settings"], 2);
        assert_eq!(object["damages"][0]["place"], "log entry 5");
        assert_eq!(object["damagesUnlisted"], 4);
        let object = shown(Path::new("/d"), &Verification::default());
        assert_eq!(
            (&object["sound"], &object["node"], &object["log"]["lastIndex"]),
            (&true.into(), &Value::Null, &Value::Null)
        );
    }

    #[test]
    fn what_cannot_be_looked_at_has_an_exit_code_of_its_own() {
        let told = refusal(&VerifyError::Locked { path: "/d/raft/lock".into(), pid: Some(7) });
        assert_eq!((told.exit, told.code), (EXIT_CONFLICT, Some(ErrorCode::IdentityConflict)));
        assert!(told.text.starts_with("/d/raft/lock is in use by process 7\ntry: stop the daemon"), "{told:?}");
        assert_eq!(refusal(&VerifyError::NothingThere { path: "/d/raft".into() }).exit, EXIT_NOT_FOUND);
        let temp = tempfile::tempdir().expect("temp");
        assert_eq!(run(temp.path(), Form::Text).expect_err("nothing there").exit, EXIT_NOT_FOUND);
    }
}
