//! `ollamax-node verify`: is everything that a data directory promises there, and whole?
//!
//! Its daemon must not run. Nothing on disk changes. Exit codes are those of `ollamax`: 0 sound, 1 damaged or not
//! readable, 3 nothing there, 4 in use or of a later release.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use ollamax_store::{Verification, VerifyError};

const EXIT_DAMAGED: u8 = 1;
const EXIT_NOT_FOUND: u8 = 3;
const EXIT_CONFLICT: u8 = 4;

/// What is printed, and how the process ends.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    out: String,
    err: String,
    exit: u8,
}

/// Looks at a data directory and tells what was found.
pub(crate) fn run(data_dir: &Path, as_json: bool) -> ExitCode {
    let told = tell(data_dir, ollamax_store::verify(data_dir), as_json);
    let written = std::io::stdout().write_all(told.out.as_bytes());
    drop(std::io::stderr().write_all(told.err.as_bytes()));
    // Whoever reads the output and nothing else must not take silence for soundness.
    if written.is_ok() { ExitCode::from(told.exit) } else { ExitCode::FAILURE }
}

fn tell(data_dir: &Path, outcome: Result<Verification, VerifyError>, as_json: bool) -> Told {
    let found = match outcome {
        Ok(found) => found,
        Err(error) => return refusal(&error, as_json),
    };
    let out = if as_json { pretty(&shown(data_dir, &found)) } else { page(data_dir, &found) };
    Told { out, err: String::new(), exit: if found.is_sound() { 0 } else { EXIT_DAMAGED } }
}

fn refusal(error: &VerifyError, as_json: bool) -> Told {
    let exit = match error {
        VerifyError::NothingThere { .. } => EXIT_NOT_FOUND,
        VerifyError::Locked { .. } | VerifyError::NewerFormat { .. } => EXIT_CONFLICT,
        VerifyError::Disk(_) => EXIT_DAMAGED,
    };
    let (code, what, next) = (error.code().as_str(), error.to_string(), error.next());
    let err = if as_json {
        let fields = json!({
            "apiVersion": "ollamax/v1", "kind": "Error", "exit": exit, "code": code, "what": what, "why": null,
            "next": next, "requestId": null, "chain": [],
        });
        format!("{fields}\n")
    } else {
        format!("error: {what}\n  try: {next}\n")
    };
    Told { out: String::new(), err, exit }
}

fn pretty(object: &Value) -> String {
    serde_json::to_string_pretty(object).unwrap_or_else(|_| object.to_string()) + "\n"
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
        "apiVersion": "ollamax/v1",
        "kind": "Verification",
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
    use ollamax_types::{ClusterId, Incarnation, NodeId};

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
        let told = tell(Path::new("/d"), Ok(sound()), false);
        let expected = "/d is sound.\n  node   2 of cluster 01010101010101010101010101010101\n  log    7 entries, 91 \
                        bytes: 4 to 10; purged up to 3, synced up to 10\n  votes  2\n  state  2 records, applied up to 8, \
                        hash abababababababababababababababab\n         2 settings\n";
        assert_eq!(told, Told { out: expected.to_owned(), err: String::new(), exit: 0 });
        let told = tell(Path::new("/d"), Ok(damaged()), false);
        assert!(told.out.starts_with("/d is damaged in 5 places.\n"), "{told:?}");
        let listed = "  ! log entry 5\n      why: does not fit its checksum\n      try: join again\n";
        assert!(told.out.ends_with(&format!("{listed}  ! 4 more are not listed\n")), "{told:?}");
        assert_eq!(told.exit, 1);
        let fresh = tell(Path::new("/d"), Ok(Verification::default()), false);
        assert!(fresh.out.contains("0 entries, 0 bytes: none to none; purged up to none"), "{fresh:?}");
    }

    #[test]
    fn programs_get_one_object() {
        let told = tell(Path::new("/d"), Ok(damaged()), true);
        let object: Value = serde_json::from_str(&told.out).expect("one object");
        assert_eq!((&object["kind"], &object["sound"], told.exit), (&"Verification".into(), &false.into(), 1));
        assert_eq!(object["node"]["id"], 2);
        assert_eq!(object["log"]["lastIndex"], 10);
        assert_eq!(object["state"]["families"]["settings"], 2);
        assert_eq!(object["damages"][0]["place"], "log entry 5");
        assert_eq!(object["damagesUnlisted"], 4);
        let fresh = tell(Path::new("/d"), Ok(Verification::default()), true);
        let object: Value = serde_json::from_str(&fresh.out).expect("one object");
        assert_eq!(
            (&object["sound"], &object["node"], &object["log"]["lastIndex"]),
            (&true.into(), &Value::Null, &Value::Null)
        );
    }

    #[test]
    fn what_cannot_be_looked_at_is_told_on_stderr_with_an_exit_code_of_its_own() {
        let locked = || VerifyError::Locked { path: "/d/raft/lock".into(), pid: Some(7) };
        let told = tell(Path::new("/d"), Err(locked()), false);
        assert_eq!((told.out.as_str(), told.exit), ("", 4));
        assert!(told.err.starts_with("error: /d/raft/lock is in use by process 7\n  try: stop the daemon"), "{told:?}");
        let told = tell(Path::new("/d"), Err(locked()), true);
        let object: Value = serde_json::from_str(&told.err).expect("one object");
        assert_eq!((&object["kind"], &object["exit"]), (&"Error".into(), &4.into()));
        assert_eq!(object["code"], "identity_conflict");
        let nothing = VerifyError::NothingThere { path: "/d/raft".into() };
        assert_eq!(tell(Path::new("/d"), Err(nothing), false).exit, 3);
    }
}
