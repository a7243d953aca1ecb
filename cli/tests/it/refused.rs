//! How each command fails, for each exit code: three lines and an id for people, one object for programs.

use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prost::Message as _;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use ollamax_proto::v1::migration::Status as Standing;
use ollamax_proto::v1::{CancelPullReply, CheckUpgradeReply, DoctorReply, LimitPullReply, ListModelsReply, Migration};
use ollamax_types::ErrorCode;

use crate::daemon::{Answer, Daemon, REQUEST_ID, Script, refused, told};
use crate::lab;
use crate::terminal::{PATIENCE, Said, command, compare, page, run};

/// Keys of an error, in their order.
const KEYS: [&str; 9] = ["apiVersion", "kind", "exit", "code", "what", "why", "next", "requestId", "chain"];

/// The page in `expected/`, the exit code, the command lines.
const PAGES: &[(&str, i32, &[&str])] = &[
    ("exit-1-failed", 1, &["token create", "run busy hello", "run short hello", "logs", "migrate up"]),
    (
        "exit-2-usage",
        2,
        &[
            "nodee list",
            "node lst",
            "logs --level loud",
            "wait --for everything",
            "join TOKEN --role vote",
            "model import",
            "model import missing.gguf --name demo",
            "token create --ttl 0s",
            "init --cluster ?",
            "leave",
            "node remove n3",
        ],
    ),
    (
        "exit-3-not-found",
        3,
        &[
            "node show n22",
            "node remove nope",
            "model show demo",
            "token revoke nope",
            "run nope hello",
            "dev down",
            "events --since 3",
            "model pull nope",
            "model pull nope --node n2 --cancel",
            "model pull nope --cancel",
            "model limit nope 20MB/s",
        ],
    ),
    (
        "exit-4-conflict",
        4,
        &[
            "node remove n3 --yes",
            "join --token-file open-token",
            "raft transfer-leader n3",
            "wait --for quorum",
            "model pull llama3.2 --replicas 2",
        ],
    ),
    ("exit-5-token", 5, &["join TOKEN"]),
    ("exit-6-forbidden", 6, &["leave --yes"]),
    (
        "exit-7-unreachable",
        7,
        &["status --data-dir nowhere", "ps --data-dir nowhere", "ps --api http://127.0.0.1:1 -v"],
    ),
    ("exit-8-no-quorum", 8, &["node drain n2"]),
    (
        "exit-9-too-late",
        9,
        &[
            "node undrain n2",
            "model import FILE --name demo",
            "wait --for node=n9 --timeout 1ms",
            "wait --data-dir nowhere --timeout 1ms",
        ],
    ),
    ("exit-10-degraded", 10, &["status", "doctor", "upgrade check"]),
];

/// What the daemon says where a command line makes sense.
fn script(exit: i32) -> Script {
    let mut script = lab::script();
    script.extend(change(exit));
    script
}

/// What is said otherwise for one exit code.
fn change(exit: i32) -> Vec<(&'static str, Answer)> {
    match exit {
        1 => vec![
            (
                "CreateToken",
                refused(
                    ErrorCode::StorageFailed,
                    ["the disk refused a write", "Input/output error", "look at the disk"],
                ),
            ),
            ("Logs", Answer::BrokenOff(lab::log_lines()[0].encode_to_vec(), ErrorCode::Overloaded)),
            ("RunMigrations", lab::run_of(failed_migration())),
        ],
        2 => vec![(
            "Init",
            refused(ErrorCode::BadRequest, ["\"?\" is no name", "letters and digits only", "--cluster lab"]),
        )],
        3 => not_found(),
        4 => vec![
            (
                "RemoveNode",
                refused(
                    ErrorCode::PreconditionFailed,
                    ["node 3 (n3) is alive", "a living node leaves by itself", "on that node: ollamax leave"],
                ),
            ),
            ("Status", told(&lab::status_of_a_removed_node())),
            (
                "Pull",
                refused(
                    ErrorCode::PreconditionFailed,
                    [
                        "llama3.2 fits on 1 of 3 nodes",
                        "n2: 12.1 GB needed, 3.0 GB free; n3 is a gateway",
                        "ollamax model pull llama3.2 --replicas 1",
                    ],
                ),
            ),
        ],
        5 => vec![(
            "Join",
            refused(
                ErrorCode::TokenInvalid,
                ["the token has expired", "a token serves a limited time and number of joins", "ollamax token create"],
            ),
        )],
        6 => vec![("Leave", refused(ErrorCode::Forbidden, ["this may not be done here", "", "ask an administrator"]))],
        8 => vec![(
            "DrainNode",
            refused(
                ErrorCode::NoQuorum,
                ["no quorum: a majority of voters did not answer", "n2 and n3 are silent", "ollamax status"],
            ),
        )],
        9 => vec![
            (
                "DrainNode",
                refused(
                    ErrorCode::OutcomeUnknown,
                    [
                        "the change was sent, but its outcome did not come back",
                        "the leader left",
                        "look whether the change is there before you repeat it",
                    ],
                ),
            ),
            ("ImportModel", Answer::BrokenOff(vec![], ErrorCode::DeadlineExceeded)),
        ],
        10 => vec![
            ("Status", told(&lab::status_without_quorum())),
            ("Doctor", told(&DoctorReply { checks: vec![lab::full_disk()] })),
            ("CheckUpgrade", told(&CheckUpgradeReply { checks: vec![lab::one_voter()], view: lab::status().view })),
        ],
        _ => vec![],
    }
}

fn not_found() -> Vec<(&'static str, Answer)> {
    vec![
        (
            "Follow",
            refused(
                ErrorCode::Compacted,
                ["what happened before revision 12 is not kept any more", "it was long ago", "ollamax events"],
            ),
        ),
        ("ListModels", told(&ListModelsReply::default())),
        (
            "Pull",
            refused(
                ErrorCode::ModelNotFound,
                [
                    "pull model manifest: file does not exist",
                    "on node n1: the registry has no such model or tag",
                    "look at its spelling: [host/][namespace/]model[:tag]",
                ],
            ),
        ),
        ("CancelPull", told(&CancelPullReply { found: false })),
        ("LimitPull", told(&LimitPullReply { nodes: 0 })),
        (
            "RevokeToken",
            refused(
                ErrorCode::TokenNotFound,
                ["there is no token \"nope\"", "it was never made here", "ollamax token list"],
            ),
        ),
    ]
}

fn failed_migration() -> Migration {
    let error = "lease/7 has no deadline: it would never end".to_owned();
    Migration { error, finished_at_ms: None, ..lab::migration(Standing::Failed) }
}

#[tokio::test]
async fn every_failure_says_what_why_and_what_to_try() {
    for (name, exit, lines) in PAGES {
        let daemon = Daemon::start(script(*exit)).await;
        for (file, content) in [("FILE", "GGUF and the rest"), ("open-token", "TOKEN")] {
            std::fs::write(daemon.data_dir.join(file), content).expect("written");
        }
        let rights = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(daemon.data_dir.join("open-token"), rights).expect("set");
        let mut all = Vec::new();
        for line in *lines {
            for line in [(*line).to_owned(), format!("{line} -o json")] {
                let said = run(&daemon, &line.split(' ').collect::<Vec<_>>()).await;
                assert_eq!(said.exit, *exit, "{line}: {said:?}");
                if line.ends_with("json") {
                    is_for_programs(&line, &said);
                }
                all.push((line, said));
            }
        }
        compare(name, &page(&all));
    }
}

/// One line on stderr with one object of the one shape. Where the answer itself was shown, it says what is wrong.
fn is_for_programs(line: &str, said: &Said) {
    if said.exit == 10 {
        assert_eq!(said.stderr, "", "{line}");
        return;
    }
    assert_eq!(said.stderr.lines().count(), 1, "{line}: {said:?}");
    let error: Value = serde_json::from_str(&said.stderr).expect("one object");
    let keys: Vec<&str> = error.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(keys, KEYS, "{line}");
    assert_eq!((&error["apiVersion"], &error["kind"]), (&"ollamax/v1".into(), &"Error".into()), "{line}");
    assert_eq!(error["exit"], said.exit, "{line}");
    assert!(error["what"].is_string() && error["next"].is_string(), "{line}: {error}");
    // What a node said has its code and its id; what was found here has neither.
    assert!(error["code"].is_null() || error["requestId"] == REQUEST_ID, "{line}: {error}");
}

#[tokio::test]
async fn an_interrupted_command_says_so() {
    let mut script = lab::script();
    script.insert("Logs", Answer::Held(lab::log_lines()[0].encode_to_vec()));
    let daemon = Daemon::start(script).await;
    interrupt(&daemon, &["logs", "--follow", "-o", "json"], "ready").await;
}

#[tokio::test]
async fn a_conversation_that_waits_for_a_question_hears_ctrl_c() {
    let daemon = Daemon::start(lab::script()).await;
    interrupt(&daemon, &["run", "demo", "-o", "json"], "\"Answer\"").await;
}

#[tokio::test]
async fn who_stops_waiting_for_a_pull_is_told_that_it_goes_on() {
    let mut script = lab::script();
    script.insert("Pull", Answer::Held(lab::fetching(1).encode_to_vec()));
    let daemon = Daemon::start(script).await;
    let words = ["model", "pull", "llama3.2", "--wait"];
    let child = command(Path::new(env!("CARGO_BIN_EXE_ollamax")), &daemon.data_dir, &words).spawn().expect("started");
    let asked = async {
        while daemon.last_request("Pull").is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("in time");
    let pid = i32::try_from(child.id().expect("it runs")).expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGINT).expect("sent");
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("in time").expect("ended");
    let told = "error: interrupted\n  why: a pull that was taken on goes on\n  try: ollamax model pulls\n";
    let stderr = String::from_utf8_lossy(&output.stderr);
    // What the node does may have been told before.
    let stderr = stderr.strip_prefix("n1: fetching\n").unwrap_or(&stderr);
    assert_eq!((output.status.code(), stderr), (Some(130), told));
}

/// Sends SIGINT once a word was printed. Standard input has one line and stays open.
async fn interrupt(daemon: &Daemon, words: &[&str], printed: &str) {
    let mut command = command(Path::new(env!("CARGO_BIN_EXE_ollamax")), &daemon.data_dir, words);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("started");
    let mut keyboard = child.stdin.take().expect("piped");
    keyboard.write_all(b"hello\n").await.expect("typed");
    let mut screen = BufReader::new(child.stdout.take().expect("piped")).lines();
    while !screen.next_line().await.expect("read").expect("a line").contains(printed) {}
    let pid = i32::try_from(child.id().expect("it runs")).expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGINT).expect("sent");
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("in time").expect("ended");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let said = Said { stdout: String::new(), stderr, exit: output.status.code().expect("it ended by itself") };
    assert_eq!(said.exit, 130, "{said:?}");
    is_for_programs(&words.join(" "), &said);
    drop(keyboard);
}
