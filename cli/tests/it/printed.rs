//! What each command prints when all goes well, as a table and as JSON.

use std::fs::File;
use std::path::Path;

use prost::Message as _;
use serde_json::Value;

use ollamax_proto::v1::check::Outcome;
use ollamax_proto::v1::verify_news::Sight;
use ollamax_proto::v1::{
    CallToolReply, CallToolRequest, CancelPullRequest, CancelTaskReply, CheckUpgradeReply, DecideTaskRequest,
    EventsRequest, ExportHead, ExportPart, GetTaskReply, JoinRequest, ListModelsReply, ListTasksReply,
    ListTasksRequest, ListWishesReply, ModelCopy, ModelView, NodeLabel, PullRequest, PushRequest, RunMigrationsRequest,
    RuntimeProgress, TaskView, VerifyNews, VerifyRequest, WishChanges, WishFile, WishView, export_part,
};
use ollamax_types::ErrorCode;

use crate::daemon::{Answer, Daemon, told};
use crate::lab;
use crate::terminal::{Said, command, compare, finish, page, run};

/// The page in `expected/`, and the command lines on it.
const PAGES: &[(&str, &[&str])] = &[
    ("init", &["init --cluster lab --name n1"]),
    ("join", &["join TOKEN --name gpu"]),
    ("leave", &["leave --yes"]),
    ("token", &["token create --ttl 2h --uses 2", "token list", "token revoke t1"]),
    ("status", &["status"]),
    ("node-list", &["node list"]),
    ("node-show", &["node show n2"]),
    ("node-changes", &["node drain n2", "node undrain n2", "node remove n3 --yes"]),
    (
        "node-placement",
        &[
            "node label n2 room=a rack-",
            "node cordon n2",
            "node uncordon n2",
            "node drain n2 --models",
            "node drain n2 --models --dry-run",
        ],
    ),
    ("autopilot", &["autopilot show", "autopilot set dead_after 30m", "autopilot reset cleanup_dead"]),
    (
        "model",
        &[
            "model list",
            "model list --capability tools",
            "model show demo",
            "model import FILE --name demo --node n1 --node n2",
            "model pull llama3.2 --node n1 --node n2 --wait",
            "model pull llama3.2 --cancel",
            "model pulls",
            "model limit llama3.2 20MB/s",
        ],
    ),
    ("model-verify", &["model verify llama3.2"]),
    (
        "model-wishes",
        &[
            "model plan FILE",
            "model apply FILE --yes",
            "model wishes",
            "model move llama3.2 --from n2 --to n3",
            "model repair",
        ],
    ),
    (
        "kv",
        &[
            "kv get motd",
            "kv put motd hello",
            "kv cas motd hello --modified 41",
            "kv list",
            "kv list --keys",
            "kv quota",
        ],
    ),
    ("kv-lease", &["kv lease grant --ttl 30s", "kv lease renew 43", "kv lease revoke 43", "kv lease list"]),
    ("backup", &["backup create", "backup list", "backup new-key"]),
    ("raft", &["raft status", "raft transfer-leader n2", "raft snapshot"]),
    ("migrate", &["migrate status", "migrate up --phase core --to 1"]),
    ("upgrade", &["upgrade check"]),
    (
        "wait",
        &[
            "wait",
            "wait --for quorum",
            "wait --for leader",
            "wait --for caught-up",
            "wait --for node=n2",
            "wait --for members=3",
        ],
    ),
    ("tool", &["tool list", "tool describe health_check", "tool call health_check", "tool openapi"]),
    (
        "task",
        &[
            "task list",
            "task show task_00000000000000000000000000000002",
            "task show task_00000000000000000000000000000002 --wait",
            "task cancel task_00000000000000000000000000000002",
            "task retry task_00000000000000000000000000000001",
            "approve task_00000000000000000000000000000001 --yes",
        ],
    ),
    ("ps", &["ps"]),
    ("run", &["run demo hello", "run demo hello --verbose"]),
    ("logs", &["logs -n 2"]),
    ("events", &["events --since 12 --kind member_joined --kind quota_set"]),
    ("doctor", &["doctor"]),
];

#[tokio::test]
async fn every_command_prints_what_it_always_did() {
    let daemon = Daemon::start(lab::script()).await;
    std::fs::write(daemon.data_dir.join("FILE"), b"GGUF and the rest").expect("written");
    for (name, lines) in PAGES {
        let mut all = Vec::new();
        for line in *lines {
            for line in [(*line).to_owned(), format!("{line} -o json")] {
                let said = run(&daemon, &line.split(' ').collect::<Vec<_>>()).await;
                assert_eq!(said.exit, 0, "{line}: {said:?}");
                if line.ends_with("json") {
                    is_for_programs(name, &said);
                }
                all.push((line, said));
            }
        }
        compare(name, &page(&all));
    }
}

/// One object with a version and a kind, and nobody is talked to; of a stream one in each line. Lines of a log are the
/// daemon's own.
fn is_for_programs(name: &str, said: &Said) {
    assert_eq!(said.stderr, "", "{name}");
    if name == "logs" {
        assert!(said.stdout.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{said:?}");
        return;
    }
    let objects: Vec<&str> = if name == "events" { said.stdout.lines().collect() } else { vec![said.stdout.as_str()] };
    for object in objects {
        let object: Value = serde_json::from_str(object).expect("one object");
        assert_eq!(object["apiVersion"], "ollamax/v1", "{name}");
        assert!(object["kind"].is_string(), "{name}");
    }
}

#[tokio::test]
async fn a_token_comes_from_standard_input() {
    let daemon = Daemon::start(lab::script()).await;
    std::fs::write(daemon.data_dir.join("token"), "TOKEN\n").expect("written");
    for words in [["join", "-"].as_slice(), &["join", "--token-file", "-"]] {
        let mut command = command(Path::new(env!("CARGO_BIN_EXE_ollamax")), &daemon.data_dir, words);
        command.stdin(File::open(daemon.data_dir.join("token")).expect("opened"));
        let said = finish(command, &daemon).await;
        assert_eq!(said.exit, 0, "{words:?}: {said:?}");
        let asked = JoinRequest::decode(&*daemon.last_request("Join")).expect("a request");
        assert_eq!(asked.token, "TOKEN");
    }
}

#[tokio::test]
async fn a_stream_of_events_is_asked_for_as_the_words_say_and_says_how_to_go_on() {
    let daemon = Daemon::start(lab::script()).await;
    let said = run(&daemon, &["events", "--follow", "--since", "12", "--kind", "quota_set"]).await;
    let asked = EventsRequest::decode(&*daemon.last_request("Follow")).expect("a request");
    let kinds = vec!["quota_set".to_owned()];
    assert_eq!(asked, EventsRequest { since: 12, kinds, follow: true, progress_ms: 0 });
    // The daemon ended it.
    assert_eq!(said.exit, 7, "{said:?}");
    assert!(said.stderr.contains("try: ollamax events --follow --since 45 --kind quota_set"), "{said:?}");
}

#[tokio::test]
async fn a_tool_is_called_with_the_arguments_as_they_were_written() {
    let daemon = Daemon::start(lab::script()).await;
    std::fs::write(daemon.data_dir.join("arguments"), r#"{"limit": 2}"#).expect("written");
    let asked = async |words: &[&str]| {
        let mut command = command(Path::new(env!("CARGO_BIN_EXE_ollamax")), &daemon.data_dir, words);
        command.stdin(File::open(daemon.data_dir.join("arguments")).expect("opened"));
        let said = finish(command, &daemon).await;
        assert_eq!(said.exit, 0, "{words:?}: {said:?}");
        let asked = CallToolRequest::decode(&*daemon.last_request("CallTool")).expect("a request");
        (asked.name, asked.arguments_json)
    };
    let check = async |words: &[&str], expected: &str| {
        assert_eq!(asked(words).await, ("list_nodes".to_owned(), expected.to_owned()), "{words:?}");
    };
    check(&["tool", "call", "list_nodes"], "").await;
    check(&["tool", "call", "list_nodes", r#"{"health": "dead"}"#], r#"{"health": "dead"}"#).await;
    check(&["tool", "call", "list_nodes", "-"], r#"{"limit": 2}"#).await;
}

#[tokio::test]
async fn who_ends_a_task_that_is_over_hears_so_and_ends_with_four() {
    let mut script = lab::script();
    script.insert("CancelTask", told(&CancelTaskReply { task: Some(lab::tasks::completed()) }));
    let daemon = Daemon::start(script).await;
    let said = run(&daemon, &["task", "cancel", "task_2"]).await;
    let what = "task task_00000000000000000000000000000002 is over already: completed";
    assert_eq!((said.exit, said.stdout.as_str()), (4, ""), "{said:?}");
    assert!(said.stderr.starts_with(&format!("error: {what}\n")), "{said:?}");
    let said = run(&daemon, &["task", "cancel", "task_2", "-o", "json"]).await;
    assert_eq!((said.exit, said.stdout.as_str()), (4, ""), "{said:?}");
    let told: Value = serde_json::from_str(&said.stderr).expect("one object");
    assert_eq!((&told["kind"], &told["code"]), (&"Error".into(), &"precondition_failed".into()), "{told}");
    assert_eq!(told["what"], what);
}

#[tokio::test]
async fn a_tool_that_works_in_a_task_is_waited_for_unless_somebody_does_not_want_to() {
    let check = async |began: TaskView, ended: TaskView, words: &[&str], exit: i32, says: &str| {
        let began = CallToolReply { result_json: String::new(), task: Some(began) };
        let mut script = lab::script();
        script.extend([("CallTool", told(&began)), ("GetTask", told(&GetTaskReply { task: Some(ended) }))]);
        let daemon = Daemon::start(script).await;
        let said = run(&daemon, &[&["tool", "call", "pull_model"][..], words].concat()).await;
        assert_eq!(said.exit, exit, "{words:?}: {said:?}");
        assert!(said.stdout.contains(says) || (exit != 0 && said.stderr.contains(says)), "{words:?}: {said:?}");
        let asked = CallToolRequest::decode(&*daemon.last_request("CallTool")).expect("a request");
        assert!(asked.no_wait, "waiting is done where it is shown: {words:?}");
    };
    let (queued, completed, failed, waiting) =
        (lab::tasks::queued, lab::tasks::completed, lab::tasks::failed, lab::tasks::waiting);
    check(queued(), completed(), &[], 0, "\"nodes\": [").await;
    check(queued(), completed(), &["-o", "json"], 0, "\"task\": \"task_00000000000000000000000000000002\"").await;
    check(queued(), completed(), &["--no-wait", "--wait"], 0, "\"nodes\": [").await;
    check(queued(), completed(), &["--no-wait"], 0, "task_00000000000000000000000000000001 is queued").await;
    check(queued(), failed(), &[], 3, "the registry has no model nope").await;
    check(waiting(), waiting(), &[], 4, "ollamax approve task_00000000000000000000000000000003").await;
    check(waiting(), waiting(), &["--no-wait"], 0, "task_00000000000000000000000000000003 is waiting").await;
}

#[tokio::test]
async fn tasks_are_asked_for_as_the_words_say_and_page_by_page() {
    let check = async |words: &[&str], next_cursor: &str, expected: ListTasksRequest| {
        let page = ListTasksReply { next_cursor: next_cursor.to_owned(), ..lab::tasks::listed() };
        let mut script = lab::script();
        script.extend([("ListTasks", told(&page))]);
        let daemon = Daemon::start(script).await;
        let said = run(&daemon, &[&["task", "list"][..], words].concat()).await;
        assert_eq!(said.exit, 0, "{words:?}: {said:?}");
        let asked = ListTasksRequest::decode(&*daemon.last_request("ListTasks")).expect("a request");
        assert_eq!(asked, expected, "{words:?}");
    };
    let request = || ListTasksRequest { limit: 200, ..ListTasksRequest::default() };
    check(&[], "", request()).await;
    let (status, tool) = ("open".to_owned(), "pull_model".to_owned());
    let narrow = ListTasksRequest { status, tool, mine: true, limit: 3, ..request() };
    check(&["--status", "open", "--tool", "pull_model", "--mine", "--limit", "3"], "more", narrow).await;
    let over = ListTasksRequest { status: "over".to_owned(), ..request() };
    check(&["--state", "over"], "", over).await;
    // Pages of three, and one is missing behind the second.
    let last = ListTasksRequest { limit: 1, cursor: "more".to_owned(), ..request() };
    check(&["--limit", "7"], "more", last).await;
}

#[tokio::test]
async fn approval_is_a_yes_that_somebody_says_or_a_no() {
    let mut script = lab::script();
    script.insert("GetTask", told(&GetTaskReply { task: Some(lab::tasks::waiting()) }));
    let daemon = Daemon::start(script).await;
    // Nobody can be asked here: it is shown, and the command that says yes.
    let said = run(&daemon, &["approve", "task_1"]).await;
    assert_eq!(said.exit, 2, "{said:?}");
    for words in ["delete_model {}", "uid/0", "demo goes from n2: 2.0 GB", "repeat the command with --yes"] {
        assert!(said.stderr.contains(words), "{words}: {said:?}");
    }
    assert!(daemon.last_request("DecideTask").is_empty(), "nobody has agreed");
    for (word, expected) in [("--yes", true), ("--deny", false)] {
        let said = run(&daemon, &["approve", "task_1", word]).await;
        assert_eq!(said.exit, 0, "{said:?}");
        let asked = DecideTaskRequest::decode(&*daemon.last_request("DecideTask")).expect("a request");
        assert_eq!((asked.id.as_str(), asked.approved, asked.attempt), ("task_1", expected, None));
    }
    let said = run(&daemon, &["approve"]).await;
    let asked = ListTasksRequest::decode(&*daemon.last_request("ListTasks")).expect("a request");
    assert_eq!((said.exit, asked.status.as_str()), (0, "waiting"), "{said:?}");
    assert!(said.stdout.contains("WOULD DO") && said.stdout.contains("demo goes from n1"), "{said:?}");
    assert_eq!(run(&daemon, &["approve", "--deny"]).await.exit, 2);
    // What this daemon does not know to wait may wait again by now: nothing is approved that was not shown.
    let daemon = Daemon::start(lab::script()).await;
    let said = run(&daemon, &["approve", "task_1"]).await;
    assert_eq!(said.exit, 4, "{said:?}");
    assert!(said.stderr.contains("does not wait for approval: it is completed"), "{said:?}");
    assert!(daemon.last_request("DecideTask").is_empty(), "{said:?}");
}

#[tokio::test]
async fn migrations_are_asked_for_as_the_words_say() {
    let daemon = Daemon::start(lab::script()).await;
    let asked = async |words: &[&str]| {
        let said = run(&daemon, words).await;
        assert_eq!(said.exit, 0, "{words:?}: {said:?}");
        RunMigrationsRequest::decode(&*daemon.last_request("RunMigrations")).expect("a request")
    };
    assert_eq!(asked(["migrate", "up"].as_slice()).await, RunMigrationsRequest::default());
    let words = "migrate down --phase 0 --from 9 --to 2 --dry-run --force".split(' ').collect::<Vec<_>>();
    let phase = "0".to_owned();
    let expected = RunMigrationsRequest { down: true, phase, from: 9, to: 2, dry_run: true, force: true };
    assert_eq!(asked(words.as_slice()).await, expected);
}

#[tokio::test]
async fn a_pull_that_nobody_waits_for_is_told_when_it_is_taken_on() {
    let mut script = lab::script();
    script.insert("Pull", told(&lab::fetching(1)));
    let daemon = Daemon::start(script).await;
    let mut all = Vec::new();
    for line in ["model pull llama3.2 --insecure", "model pull llama3.2 --insecure -o json"] {
        let said = run(&daemon, &line.split(' ').collect::<Vec<_>>()).await;
        assert_eq!(said.exit, 0, "{line}: {said:?}");
        all.push((line.to_owned(), said));
        let asked = PullRequest::decode(&*daemon.last_request("Pull")).expect("a request");
        let name = "llama3.2".to_owned();
        assert_eq!(asked, PullRequest { name, insecure: true, ..PullRequest::default() });
    }
    compare("model-pull", &page(&all));
}

#[tokio::test]
async fn a_model_leaves_in_a_file_and_comes_from_one() {
    let daemon = Daemon::start(lab::script()).await;
    std::fs::write(daemon.data_dir.join("FILE"), b"GGUF and the rest").expect("written");
    let mut all = Vec::new();
    for (line, exit) in [
        ("model export llama3.2 llama3.2.ollamax", 0),
        ("model export llama3.2 again.ollamax -o json", 0),
        ("model export llama3.2 llama3.2.ollamax", 4),
        ("model import llama3.2.ollamax", 0),
        ("model import llama3.2.ollamax -o json", 0),
        ("model import llama3.2.ollamax --check", 0),
        ("model import llama3.2.ollamax --check -o json", 0),
        ("model import llama3.2.ollamax --node n2", 2),
        ("model import FILE", 2),
        ("model import FILE --check", 2),
        ("model export llama3.2 - -o json", 2),
    ] {
        let said = run(&daemon, &line.split(' ').collect::<Vec<_>>()).await;
        assert_eq!(said.exit, exit, "{line}: {said:?}");
        all.push((line.to_owned(), said));
    }
    compare("model-bundle", &page(&all));
    for file in ["llama3.2.ollamax", "again.ollamax"] {
        assert_eq!(std::fs::read(daemon.data_dir.join(file)).expect("it is there"), lab::bundle(), "{file}");
        assert!(!daemon.data_dir.join(format!("{file}.part")).exists(), "{file}");
    }
    let said = run(&daemon, &["model", "export", "llama3.2", "-"]).await;
    assert_eq!((said.exit, said.stdout.as_bytes()), (0, lab::bundle().as_slice()));
    assert!(
        said.stderr.starts_with("exported llama3.2:latest (070707070707), 512 B, to standard output\n"),
        "{said:?}"
    );
}

#[tokio::test]
async fn a_model_is_made_and_pushed_by_a_runtime() {
    let daemon = Daemon::start(lab::script()).await;
    std::fs::write(daemon.data_dir.join("FILE"), b"GGUF and the rest").expect("written");
    std::fs::write(daemon.data_dir.join("Modelfile"), "FROM ./FILE\nPARAMETER mirostat 1\n").expect("written");
    std::fs::write(daemon.data_dir.join("wrong"), "FROM demo\nTEMPERATURE 1\n").expect("written");
    let mut all = Vec::new();
    for (line, exit) in [
        ("model create lab/mine FILE --replicas 2", 0),
        ("model create lab/mine --modelfile Modelfile --replicas 2 -o json", 0),
        ("model create lab/mine --modelfile Modelfile", 0),
        ("model create lab/mine --modelfile wrong", 2),
        ("model create lab/mine", 2),
        ("model create lab/mine Modelfile", 2),
        ("model push me/mine", 0),
        ("model push me/mine -o json", 0),
    ] {
        let said = run(&daemon, &line.split(' ').collect::<Vec<_>>()).await;
        assert_eq!(said.exit, exit, "{line}: {said:?}");
        all.push((line.to_owned(), said));
    }
    compare("model-create", &page(&all));
    for line in ["model create lab/mine FILE --from demo", "model create lab/mine --from demo --replicas 0"] {
        let said = run(&daemon, &line.split(' ').collect::<Vec<_>>()).await;
        assert_eq!((said.exit, said.stdout.as_str()), (2, ""), "{line}: {said:?}");
    }
    let said = run(&daemon, &["model", "push", "me/mine", "--node", "n2", "--insecure"]).await;
    assert_eq!(said.exit, 0, "{said:?}");
    let asked = PushRequest::decode(&*daemon.last_request("Push")).expect("a request");
    assert_eq!(asked, PushRequest { name: "me/mine".to_owned(), node: "n2".to_owned(), insecure: true });
}

#[tokio::test]
async fn a_work_that_the_daemon_does_not_end_is_not_called_done() {
    let mut script = lab::script();
    script.insert("Create", told(&RuntimeProgress::default()));
    script.insert("Push", told(&RuntimeProgress::default()));
    let daemon = Daemon::start(script).await;
    for words in [&["model", "create", "lab/mine", "--from", "demo"][..], &["model", "push", "me/mine"]] {
        let said = run(&daemon, words).await;
        assert_eq!((said.exit, said.stdout.as_str()), (7, ""), "{said:?}");
        assert!(said.stderr.starts_with("error: the daemon ended before the "), "{said:?}");
    }
}

#[tokio::test]
async fn a_bundle_that_breaks_off_leaves_no_file() {
    let mut script = lab::script();
    let head = ExportHead { digest: vec![7; 32], length_bytes: 512, name: "llama3.2:latest".to_owned() };
    let head = ExportPart { part: Some(export_part::Part::Head(head)) };
    for answer in [Answer::BrokenOff(head.encode_to_vec(), ErrorCode::DigestMismatch), told(&head)] {
        script.insert("Export", answer);
        let daemon = Daemon::start(script.clone()).await;
        let said = run(&daemon, &["model", "export", "llama3.2", "out"]).await;
        assert!(said.exit != 0 && said.stdout.is_empty(), "{said:?}");
        assert!(!daemon.data_dir.join("out").exists() && !daemon.data_dir.join("out.part").exists(), "{said:?}");
    }
}

#[tokio::test]
async fn a_damaged_file_that_nobody_mended_is_a_failure_and_one_that_was_mended_is_none() {
    let rows = [(None, 1), (Some(false), 1), (Some(true), 0)];
    for (repaired, exit) in rows {
        let mut script = lab::script();
        let mut damaged = VerifyNews { repaired, pieces: vec![3, 17], ..lab::verified(2, 2_000_000_000) };
        damaged.set_sight(Sight::Damaged);
        let news = [lab::verified(1, 485), damaged];
        script.insert("Verify", Answer::Told(news.iter().map(prost::Message::encode_to_vec).collect()));
        let daemon = Daemon::start(script).await;
        let said = run(&daemon, &["model", "verify", "llama3.2", "--node", "n1,n2", "--no-repair"]).await;
        assert_eq!(said.exit, exit, "{said:?}");
        let result = if exit == 0 { "replaced by a sound file; pieces 3, 17" } else { "damaged: pieces 3, 17" };
        assert!(said.stdout.contains(result), "{said:?}");
        let told = said.stderr.starts_with("error: 1 of 2 files is damaged: sha256-020202020202, pieces 3, 17\n");
        assert_eq!(told, exit != 0, "{said:?}");
        let asked = VerifyRequest::decode(&*daemon.last_request("Verify")).expect("a request");
        let (name, nodes) = ("llama3.2".to_owned(), vec!["n1".to_owned(), "n2".to_owned()]);
        assert_eq!(asked, VerifyRequest { name, nodes, no_repair: true });
    }
}

#[tokio::test]
async fn as_many_copies_are_asked_for_as_the_words_say() {
    let daemon = Daemon::start(lab::script()).await;
    let nodes = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let rows = [
        ("", None, false, nodes(&[]), None),
        ("--replicas 3", Some(3), false, nodes(&[]), None),
        ("--replicas all", None, true, nodes(&[]), None),
        ("--node n1,n2 --node n3", None, false, nodes(&["n1", "n2", "n3"]), None),
        ("--limit-rate 20MB/s", None, false, nodes(&[]), Some(20_000_000)),
    ];
    for (words, replicas, on_all, nodes, limit_bytes_per_second) in rows {
        let line = format!("model pull llama3.2 --wait {words}");
        let said = run(&daemon, &line.split_whitespace().collect::<Vec<_>>()).await;
        assert_eq!(said.exit, 0, "{line}: {said:?}");
        let asked = PullRequest::decode(&*daemon.last_request("Pull")).expect("a request");
        let name = "llama3.2".to_owned();
        let asked_for = PullRequest { name, nodes, wait: true, replicas, on_all, ..PullRequest::default() };
        let expected = PullRequest { limit_bytes_per_second, ..asked_for };
        assert_eq!(asked, expected, "{line}");
    }
    for words in
        ["--replicas 0", "--replicas two", "--replicas 2 --node n1", "--replicas 2 --cancel", "--limit-rate 20"]
    {
        let line = format!("model pull llama3.2 {words}");
        let said = run(&daemon, &line.split(' ').collect::<Vec<_>>()).await;
        assert_eq!(said.exit, 2, "{line}: {said:?}");
    }
}

#[tokio::test]
async fn a_pull_says_which_nodes_come_into_question() {
    let daemon = Daemon::start(lab::script()).await;
    let words = "model pull llama3.2 --wait --label room=a --label os=linux --gpu-memory-min 16GB --disk-free-min 50GB \
                 --avoid n3,n4";
    let said = run(&daemon, &words.split(' ').collect::<Vec<_>>()).await;
    assert_eq!(said.exit, 0, "{said:?}");
    let asked = PullRequest::decode(&*daemon.last_request("Pull")).expect("a request");
    let label = |(key, value): (&str, &str)| NodeLabel { key: key.to_owned(), value: value.to_owned() };
    assert_eq!(asked.labels, [("room", "a"), ("os", "linux")].map(label));
    assert_eq!((asked.gpu_memory_bytes_min, asked.avoid), (16_000_000_000, vec!["n3".to_owned(), "n4".to_owned()]));
    assert_eq!(asked.disk_free_bytes_min, 50_000_000_000);
    for words in ["--label room", "--gpu-memory-min 16", "--disk-free-min 10%", "--avoid n3 --cancel"] {
        let line = format!("model pull llama3.2 {words}");
        let said = run(&daemon, &line.split(' ').collect::<Vec<_>>()).await;
        assert_eq!(said.exit, 2, "{line}: {said:?}");
    }
}

#[tokio::test]
async fn what_a_file_says_is_done_when_somebody_agreed() {
    let daemon = Daemon::start(lab::script()).await;
    std::fs::write(daemon.data_dir.join("wishes.toml"), "a text").expect("written");
    let said = run(&daemon, &["model", "apply", "wishes.toml"]).await;
    assert_eq!(said.exit, 2, "{said:?}");
    assert!(said.stderr.contains("this needs your consent") && said.stderr.contains("--yes"), "{said:?}");
    let said = run(&daemon, &["model", "apply", "wishes.toml", "--yes"]).await;
    assert_eq!(said.exit, 0, "{said:?}");
    let asked = WishFile::decode(&*daemon.last_request("ApplyWishes")).expect("a request");
    assert_eq!(asked.text, "a text");
    let mut script = lab::script();
    script.insert("PlanWishes", told(&WishChanges::default()));
    let daemon = Daemon::start(script).await;
    std::fs::write(daemon.data_dir.join("wishes.toml"), "a text").expect("written");
    let said = run(&daemon, &["model", "apply", "wishes.toml"]).await;
    let nothing = "Nothing to do: every wish is as the file says it.\n";
    assert_eq!((said.exit, said.stdout.as_str()), (0, nothing), "{said:?}");
}

#[tokio::test]
async fn whoever_takes_a_node_out_is_told_what_only_it_has_and_what_names_it() {
    let mine = |name: &str, node_id: u64| {
        let copy = ModelCopy { node_id, served: true, ..ModelCopy::default() };
        ModelView { name: name.to_owned(), copies: vec![copy], ..ModelView::default() }
    };
    let models = vec![mine("mine:latest", 1), mine("other:latest", 3)];
    let wish = WishView { name: "slow:latest".to_owned(), nodes: vec!["n3".to_owned()], ..WishView::default() };
    let mut script = lab::script();
    script.insert("ListModels", told(&ListModelsReply { models, ..ListModelsReply::default() }));
    script.insert("ListWishes", told(&ListWishesReply { wishes: vec![wish] }));
    let daemon = Daemon::start(script.clone()).await;
    let check = async |words: &[&str], expected: &[&str]| {
        let said = run(&daemon, words).await;
        let all = said.stdout + &said.stderr;
        assert!(expected.iter().all(|part| all.contains(part)), "{words:?}: {all}");
    };
    check(&["leave"], &["stop its daemon; nobody else has mine:latest (", "nobody can be asked"]).await;
    let removed = ["for good; nobody else has other:latest (", "; slow:latest is wished for on it by name"];
    check(&["node", "remove", "n3"], &removed).await;
    check(&["leave", "--yes"], &["left its cluster", "Nobody else had mine:latest.\n"]).await;
    check(&["node", "remove", "n3", "--yes"], &["Nobody else had other:latest.\n", "slow:latest is still wished"])
        .await;
    let said = run(&daemon, &["node", "remove", "n3", "--yes", "-o", "json"]).await;
    let shown: Value = serde_json::from_str(&said.stdout).expect("one object");
    assert_eq!((&shown["onlyCopies"][0], &shown["wishes"][0]), (&"other:latest".into(), &"slow:latest".into()));

    script.remove("ListModels");
    let daemon = Daemon::start(script).await;
    let said = run(&daemon, &["leave"]).await;
    assert!(said.stderr.contains("which models only it has is not known"), "{said:?}");
}

#[tokio::test]
async fn where_one_node_cannot_pull_the_others_are_shown_all_the_same() {
    let mut script = lab::script();
    script.insert("Pull", Answer::BrokenOff(lab::pulled(1).encode_to_vec(), ErrorCode::DiskFull));
    let daemon = Daemon::start(script).await;
    let words = ["model", "pull", "llama3.2", "--node", "n1", "--node", "n2", "--wait"];
    let said = run(&daemon, &words).await;
    assert_eq!((said.exit, said.stdout.as_str()), (1, "n1 has llama3.2:latest (070707070707)\n"), "{said:?}");
    assert!(said.stderr.starts_with("error: the answer broke off\n") && !said.stderr.contains("Next:"), "{said:?}");
    let asked = PullRequest::decode(&*daemon.last_request("Pull")).expect("a request");
    assert_eq!((asked.nodes, asked.wait), (vec!["n1".to_owned(), "n2".to_owned()], true));
}

#[tokio::test]
async fn who_waits_for_a_pull_without_a_terminal_is_told_what_each_node_does() {
    let mut script = lab::script();
    script.insert("Pull", told(&lab::fetching(1)));
    let daemon = Daemon::start(script).await;
    let words = ["model", "pull", "llama3.2", "--wait"];
    let said = run(&daemon, &words).await;
    assert_eq!((said.exit, said.stdout.as_str()), (7, ""), "{said:?}");
    assert!(said.stderr.starts_with("n1: fetching\nerror: the daemon ended before the pull did\n"), "{said:?}");
    let words: Vec<&str> = words.into_iter().chain(["-o", "json"]).collect();
    let said = run(&daemon, &words).await;
    assert!(said.exit == 7 && said.stderr.starts_with('{') && !said.stderr.contains("n1"), "{said:?}");
}

#[tokio::test]
async fn a_pull_is_ended_on_each_node_that_is_named() {
    let daemon = Daemon::start(lab::script()).await;
    for (words, node) in [(&["--cancel"][..], ""), (&["--cancel", "--node", "n1", "--node", "n2"][..], "n2")] {
        let words: Vec<&str> = ["model", "pull", "llama3.2"].iter().chain(words).copied().collect();
        let said = run(&daemon, &words).await;
        assert_eq!(said.exit, 0, "{said:?}");
        let asked = CancelPullRequest::decode(&*daemon.last_request("CancelPull")).expect("a request");
        let (name, node) = ("llama3.2".to_owned(), node.to_owned());
        assert_eq!(asked, CancelPullRequest { name, node });
    }
}

#[tokio::test]
async fn an_upgrade_that_must_not_begin_ends_with_1_and_says_nothing_beside_why() {
    let mut check = lab::one_voter();
    check.set_outcome(Outcome::Fail);
    let mut script = lab::script();
    script.insert("CheckUpgrade", told(&CheckUpgradeReply { checks: vec![check], view: None }));
    let daemon = Daemon::start(script).await;
    for words in [&["upgrade", "check"][..], &["upgrade", "check", "-o", "json"]] {
        let said = run(&daemon, words).await;
        assert_eq!((said.exit, said.stderr.as_str()), (1, ""), "{said:?}");
        assert!(said.stdout.contains("fail") && said.stdout.contains("three voters can spare one"), "{said:?}");
    }
}

#[tokio::test]
async fn help_shows_examples_and_exit_codes() {
    let daemon = Daemon::start(lab::script()).await;
    let said = run(&daemon, &["--help"]).await;
    compare("help", &page(&[("--help".to_owned(), said)]));
    let said = run(&daemon, &["completion", "bash", "-o", "json"]).await;
    assert!(said.exit == 0 && said.stdout.contains("_ollamax()"), "a script is a script: {said:?}");
}
