//! The words for names, versions and lifecycle: what each prints, and what the daemon is asked.

use prost::Message as _;
use serde_json::{Value, json};

use ollamax_proto::v1::{
    ActView, CollectReply, CollectRequest, CollectedView, FixedReply, FollowWishRequest, GuardView, HistoryReply,
    Keeper, OldNameView, PinModelReply, PinModelRequest, PlanView, ReasonView, RemoveModelReply, RemoveModelRequest,
    RollbackRequest, RulesReply, RulesRequest, SetPhaseReply, SetPhaseRequest, TagModelRequest, VersionView,
    WhyModelReply,
};
use ollamax_types::ErrorCode;

use crate::daemon::{Daemon, Script, refused, told};
use crate::lab;
use crate::terminal::{Said, compare, page, run};

/// 2026-01-02 03:04:05 UTC.
const THEN_MS: u64 = 1_767_323_045_000;
/// One day later.
const NEXT_DAY_MS: u64 = THEN_MS + 86_400_000;
const RULES: &str = r#"{
  "on": true,
  "rules": [
    {
      "match": "*",
      "unused_days": 60,
      "then": "drop_copy"
    }
  ]
}"#;

fn named() -> String {
    "llama3.2:latest".to_owned()
}

fn script() -> Script {
    let mut script = lab::script();
    script.extend([
        ("History", told(&history())),
        ("Rollback", told(&fixed(1, &named()))),
        ("TagModel", told(&fixed(0, "mine:latest"))),
        ("PinModel", told(&PinModelReply { name: named(), digest: vec![7; 32] })),
        ("RemoveModel", told(&removal())),
        ("SetPhase", told(&SetPhaseReply {})),
        ("Rules", told(&rules())),
        ("WhyModel", told(&reasons())),
        ("Collect", told(&collected(&[]))),
    ]);
    script
}

fn history() -> HistoryReply {
    let keeper = |node_id: u64, until_ms: Option<u64>| Keeper {
        node_id,
        node_name: format!("n{node_id}"),
        is_kept: until_ms.is_some(),
        until_ms,
    };
    let version = |number: u64, digest: u8, keeper: Keeper| VersionView {
        number,
        digest: vec![digest; 32],
        size_bytes: 2_000_000_485,
        at_ms: THEN_MS,
        how: "pulled".to_owned(),
        by: "node/1".to_owned(),
        is_head: number == 2,
        keepers: vec![keeper],
        ..VersionView::default()
    };
    HistoryReply {
        name: named(),
        versions: vec![version(2, 8, keeper(1, None)), version(1, 7, keeper(2, Some(NEXT_DAY_MS)))],
        pinned: vec![7; 32],
        phase: "active".to_owned(),
        note: String::new(),
        silent: Vec::new(),
    }
}

fn fixed(number: u64, name: &str) -> FixedReply {
    let nodes = vec!["n1".to_owned(), "n2".to_owned()];
    FixedReply { name: name.to_owned(), number, digest: vec![7; 32], size_bytes: 2_000_000_485, round: 9, nodes }
}

fn removal() -> RemoveModelReply {
    let act = ActView {
        name: named(),
        node_id: 2,
        node_name: "n2".to_owned(),
        deed: "drop".to_owned(),
        digest: vec![7; 32],
        size_bytes: 2_000_000_485,
        frees_bytes: 2_000_000_485,
        ..ActView::default()
    };
    let plan = Some(PlanView { acts: vec![act], frees_bytes: 2_000_000_485 });
    RemoveModelReply { name: named(), plan, left: vec!["n1".to_owned()], ..RemoveModelReply::default() }
}

fn rules() -> RulesReply {
    let act = ActView {
        name: named(),
        node_id: 2,
        node_name: "n2".to_owned(),
        deed: "drop".to_owned(),
        frees_bytes: 2_000_000_485,
        why: "not used for 63 days; rule 1 says 60".to_owned(),
        rule: 1,
        ..ActView::default()
    };
    let plan = Some(PlanView { acts: vec![act], frees_bytes: 2_000_000_485 });
    RulesReply { rules: RULES.to_owned(), on: true, plan }
}

fn reasons() -> WhyModelReply {
    let reason = |node_id: u64, text: &str| ReasonView { node_id, text: text.to_owned() };
    let reasons = vec![
        reason(0, "wanted on 2 nodes: asked by admin 3 days ago"),
        reason(1, "n1 has it since 3 days"),
        reason(3, "n3 has not: it was removed there by hand"),
    ];
    WhyModelReply { name: named(), reasons, silent: Vec::new() }
}

fn collected(silent: &[&str]) -> CollectReply {
    let kept = CollectedView {
        node_id: 2,
        node_name: "n2".to_owned(),
        name: named(),
        digest: vec![7; 32],
        size_bytes: 2_000_000_485,
    };
    let names = vec![OldNameView { name: "old:latest".to_owned(), since_ms: THEN_MS }];
    let silent = silent.iter().map(|node| (*node).to_owned()).collect();
    CollectReply { kept: vec![kept], silent, names, names_left: 0 }
}

#[tokio::test]
async fn every_word_of_the_registry_prints_what_it_always_did() {
    let daemon = Daemon::start(script()).await;
    let mut all: Vec<(String, Said)> = Vec::new();
    for line in [
        "model history llama3.2",
        "model rollback llama3.2 --dry-run",
        "model rollback llama3.2 --to 1 --wait",
        "model pin llama3.2",
        "model unpin llama3.2",
        "model tag llama3.2 mine",
        "model rm llama3.2 --node n2 --dry-run",
        "model rm llama3.2 --node n2 --yes",
        "model deprecate llama3.2 --note old",
        "model disable llama3.2",
        "model enable llama3.2",
        "model rules show",
        "model rules plan",
        "model why llama3.2",
        "model gc --dry-run",
    ] {
        for line in [line.to_owned(), format!("{line} -o json")] {
            let said = run(&daemon, &line.split(' ').collect::<Vec<_>>()).await;
            assert_eq!(said.exit, 0, "{line}: {said:?}");
            all.push((line, said));
        }
    }
    compare("model-registry", &page(&all));
}

#[tokio::test]
async fn the_daemon_is_asked_for_what_the_words_say() {
    let daemon = Daemon::start(script()).await;
    std::fs::write(daemon.data_dir.join("rules.json"), RULES).expect("written");
    let asked = async |line: &str, method: &str| {
        let said = run(&daemon, &line.split(' ').collect::<Vec<_>>()).await;
        assert_eq!(said.exit, 0, "{line}: {said:?}");
        daemon.last_request(method)
    };
    let name = || "llama3.2".to_owned();

    let rollback = RollbackRequest::decode(&*asked("model rollback llama3.2 --to 1 --wait", "Rollback").await);
    assert_eq!(rollback, Ok(RollbackRequest { name: name(), to: "1".to_owned(), dry_run: false }));
    let follow = FollowWishRequest::decode(&*daemon.last_request("FollowWish"));
    assert_eq!(follow, Ok(FollowWishRequest { name: named(), wait: true }));

    let pin = PinModelRequest::decode(&*asked("model pin llama3.2 07ab", "PinModel").await);
    assert_eq!(pin, Ok(PinModelRequest { name: name(), version: "07ab".to_owned(), unpin: false }));
    let unpin = PinModelRequest::decode(&*asked("model unpin llama3.2", "PinModel").await);
    assert_eq!(unpin, Ok(PinModelRequest { name: name(), version: String::new(), unpin: true }));

    let tag = TagModelRequest::decode(&*asked("model tag llama3.2 mine", "TagModel").await);
    assert_eq!(tag, Ok(TagModelRequest { name: name(), new_name: "mine".to_owned() }));

    let line = "model rm llama3.2 --node a,b --force --yes";
    let removal = RemoveModelRequest::decode(&*asked(line, "RemoveModel").await);
    let nodes = vec!["a".to_owned(), "b".to_owned()];
    assert_eq!(removal, Ok(RemoveModelRequest { name: name(), nodes, dry_run: false, force: true }));

    for (line, phase, note) in [
        ("model deprecate llama3.2 --note old", "deprecated", "old"),
        ("model disable llama3.2", "disabled", ""),
        ("model enable llama3.2", "active", ""),
    ] {
        let (phase, note) = (phase.to_owned(), note.to_owned());
        let set = SetPhaseRequest::decode(&*asked(line, "SetPhase").await);
        assert_eq!(set, Ok(SetPhaseRequest { name: name(), phase, note }));
    }

    for (line, plan, set, on) in [
        ("model rules show", false, None, None),
        ("model rules plan", true, None, None),
        ("model rules on", false, None, Some(true)),
        ("model rules off", false, None, Some(false)),
        ("model rules set rules.json", false, Some(RULES.to_owned()), None),
    ] {
        let rules = RulesRequest::decode(&*asked(line, "Rules").await);
        assert_eq!(rules, Ok(RulesRequest { plan, set, on }), "{line}");
    }

    let collect = CollectRequest::decode(&*asked("model gc --node a --dry-run", "Collect").await);
    assert_eq!(collect, Ok(CollectRequest { nodes: vec!["a".to_owned()], dry_run: true }));
}

#[tokio::test]
async fn nothing_is_removed_without_consent_nor_where_the_daemon_says_no() {
    let daemon = Daemon::start(script()).await;
    let said = run(&daemon, &["model", "rm", "llama3.2"]).await;
    assert_eq!(said.exit, 2, "{said:?}");
    assert!(said.stderr.contains("n2    070707070707  2.0 GB"), "{said:?}");
    assert!(said.stderr.contains("try: repeat the command with --yes"), "{said:?}");
    let asked = RemoveModelRequest::decode(&*daemon.last_request("RemoveModel")).expect("a request");
    assert!(asked.dry_run, "{asked:?}");

    let words = ["that would remove the last copy of llama3.2:latest", "nobody", "ollamax model rm llama3.2 --force"];
    let mut script = script();
    script.insert("RemoveModel", refused(ErrorCode::PreconditionFailed, words));
    let daemon = Daemon::start(script).await;
    let said = run(&daemon, &["model", "rm", "llama3.2", "--yes"]).await;
    assert_eq!(said.exit, 4, "{said:?}");
    assert!(said.stderr.contains("try: ollamax model rm llama3.2 --force"), "{said:?}");
}

#[tokio::test]
async fn a_dry_run_shows_what_would_go_and_below_it_what_speaks_against_it() {
    let [what, why, next] = ["m:latest is pinned at 07", "somebody wants that", "ollamax model unpin m:latest"];
    let code = ErrorCode::PreconditionFailed.as_str().to_owned();
    let guard = GuardView { code, what: what.to_owned(), why: why.to_owned(), next: next.to_owned() };
    let mut script = script();
    let reply = RemoveModelReply { pinned: vec![7; 32], refusal: Some(guard), ..removal() };
    script.insert("RemoveModel", told(&reply));
    let daemon = Daemon::start(script).await;
    let said = run(&daemon, &["model", "rm", "llama3.2", "--dry-run"]).await;
    assert_eq!(said.exit, 4, "{said:?}");
    assert!(said.stdout.contains("n2    070707070707  2.0 GB  pinned\n"), "{said:?}");
    let error = format!("error: {what}\n  why: {why}\n  try: {next}\n");
    assert!(said.stderr.starts_with(&error), "{said:?}");
    let said = run(&daemon, &["model", "rm", "llama3.2", "--dry-run", "-o", "json"]).await;
    let shown: Value = serde_json::from_str(&said.stdout).expect("an object");
    assert_eq!((said.exit, &shown["refusal"]["what"], &shown["copies"][0]["node"]), (4, &json!(what), &json!("n2")));
    // Without it nobody is asked for a consent that would be worth nothing.
    let said = run(&daemon, &["model", "rm", "llama3.2"]).await;
    assert_eq!((said.exit, said.stdout.as_str()), (4, ""), "{said:?}");
    assert!(said.stderr.starts_with(&error), "{said:?}");
}

#[tokio::test]
async fn a_version_that_is_nowhere_and_a_node_that_is_silent_are_told() {
    let mut script = script();
    let words = ["file does not exist", "on node n1", "look at its spelling"];
    script.insert("FollowWish", refused(ErrorCode::ModelNotFound, words));
    script.insert("Collect", told(&CollectReply { names_left: 1, ..collected(&["n3"]) }));
    let daemon = Daemon::start(script).await;
    let said = run(&daemon, &["model", "rollback", "llama3.2"]).await;
    assert_eq!(said.exit, 3, "{said:?}");
    assert!(said.stderr.starts_with("error: nobody keeps version 1 of llama3.2:latest\n"), "{said:?}");
    let said = run(&daemon, &["model", "gc", "--dry-run"]).await;
    assert!(said.stderr.contains("1 more names would go; the leader has them go by itself."), "{said:?}");
    let said = run(&daemon, &["model", "gc"]).await;
    assert_eq!(said.exit, 7, "{said:?}");
    assert!(said.stdout.contains("n2") && said.stderr.contains("not heard: n3"), "{said:?}");
    assert!(said.stderr.contains("1 names stay for now; the leader has them go by itself."), "{said:?}");
}
