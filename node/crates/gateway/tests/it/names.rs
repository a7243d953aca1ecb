//! Names, versions and phases at the administrators' door: what is told, what goes on record, and what is refused.

use ollamax_core::catalog::{Command, How, OnceKey, Phase, Replicas, Want, read};
use ollamax_gateway::grpc::{Admin, By};
use ollamax_proto::v1;
use ollamax_types::{ErrorCode, NodeId, RequestId};

use crate::desk::{Desk, House, SIZE_BYTES, check_refused, digest, kept, named, refused};

const UNKNOWN: (ErrorCode, &str, &str) =
    (ErrorCode::ModelNotFound, "model nothing:latest not found", "ollamax model pull nothing:latest");
const NO_NAME: (ErrorCode, &str, &str) =
    (ErrorCode::BadRequest, "\"a b\" is not a model name", "ollamax model pull llama3.2");

fn history(name: &str) -> v1::HistoryRequest {
    v1::HistoryRequest { name: name.to_owned() }
}

fn rollback(name: &str, to: &str, dry_run: bool) -> v1::RollbackRequest {
    v1::RollbackRequest { name: name.to_owned(), to: to.to_owned(), dry_run }
}

fn pin(name: &str, version: &str) -> v1::PinModelRequest {
    v1::PinModelRequest { name: name.to_owned(), version: version.to_owned(), unpin: false }
}

fn unpin(name: &str) -> v1::PinModelRequest {
    v1::PinModelRequest { unpin: true, ..pin(name, "") }
}

fn tag(name: &str, new_name: &str) -> v1::TagModelRequest {
    v1::TagModelRequest { name: name.to_owned(), new_name: new_name.to_owned() }
}

fn phase(name: &str, phase: &str, note: &str) -> v1::SetPhaseRequest {
    v1::SetPhaseRequest { name: name.to_owned(), phase: phase.to_owned(), note: note.to_owned() }
}

fn why(name: &str) -> v1::WhyModelRequest {
    v1::WhyModelRequest { name: name.to_owned() }
}

/// The name of a node, and whether it keeps the version beside its models.
type Keeper<'a> = (&'a str, bool);

impl Desk {
    /// Numbers and versions of the history of a name, and how it came to the newest.
    fn noted(&self, name: &str) -> (Vec<(u64, u8)>, Option<How>) {
        let versions = read::versions(&*self.metadata.view(), &named(name)).expect("readable");
        let newest = versions.last().map(|version| version.how.clone());
        (versions.iter().map(|version| (version.number, version.digest.0[0])).collect(), newest)
    }
}

#[tokio::test]
async fn a_history_that_is_asked_for_at_once_ends_with_the_version_that_has_just_come() {
    let desk = Desk::with_wish().await;
    let told = async { desk.models().history(history("m")).await.expect("told").into_inner() };
    let (told, ()) = tokio::join!(told, desk.note("m", 1));
    assert_eq!(told.versions.first().map(|version| (version.number, version.is_head)), Some((1, true)));
    desk.finish().await;
}

#[tokio::test]
async fn a_history_tells_who_has_each_version_who_keeps_it_and_who_does_not_answer() {
    let desk = Desk::with_history().await;
    desk.elsewhere.keeps(2, vec![kept("m", 3), kept("other", 4)]);
    let told = desk.models().history(history("m")).await.expect("told").into_inner();
    let shown: Vec<(u64, u8, bool, Vec<Keeper<'_>>)> = told
        .versions
        .iter()
        .map(|version| {
            let keepers = version.keepers.iter().map(|keeper| (keeper.node_name.as_str(), keeper.is_kept));
            (version.number, version.digest[0], version.is_head, keepers.collect())
        })
        .collect();
    let expected = [
        (2, 2, true, vec![("n1", false)]),
        (1, 1, false, vec![("n2", false)]),
        // Nobody has noted it, and its files are there.
        (0, 3, false, vec![("n2", true)]),
    ];
    assert_eq!(shown, expected);
    assert_eq!((told.phase.as_str(), told.pinned.is_empty()), ("active", true));
    // A gateway keeps nothing and is not asked.
    assert_eq!(told.silent, ["n3"]);
    assert_eq!(desk.elsewhere.asked(), ["n2: what is kept", "n3: what is kept"]);
    for (name, (code, what, next)) in [("nothing", UNKNOWN), ("a b", NO_NAME)] {
        check_refused(desk.models().history(history(name)).await, code, what, next);
    }
    desk.finish().await;
}

#[tokio::test]
async fn a_rollback_goes_on_record_where_the_name_is_and_a_dry_run_does_not() {
    let desk = Desk::with_history().await;
    let before = desk.revision();
    let shown = desk.models().rollback(rollback("m", "", true)).await.expect("possible").into_inner();
    let nodes = vec!["n1".to_owned(), "n2".to_owned()];
    let expected = v1::FixedReply {
        name: "m:latest".to_owned(),
        number: 1,
        digest: digest(1).0.to_vec(),
        size_bytes: SIZE_BYTES,
        round: 0,
        nodes,
    };
    assert_eq!((shown, desk.revision()), (expected.clone(), before));

    let done = desk.models().rollback(rollback("m", "", false)).await.expect("possible").into_inner();
    let wish = desk.wish("m").expect("on record");
    assert_eq!(done, v1::FixedReply { round: wish.round, ..expected });
    let where_it_was = Replicas::Nodes(vec![NodeId(1), NodeId(2)]);
    assert_eq!(
        (wish.digest, wish.replicas, wish.asked_by.as_str()),
        (Some(digest(1)), where_it_was, "node/1 for admin")
    );
    assert_eq!(desk.noted("m"), (vec![(1, 1), (2, 2), (3, 1)], Some(How::RolledBack { to: 1 })));
    desk.finish().await;
}

#[tokio::test]
async fn a_rollback_of_what_somebody_asked_for_stays_where_it_was_asked_for() {
    let desk = Desk::with_wish().await;
    desk.note("m", 1).await;
    desk.note("m", 2).await;
    let done = desk.models().rollback(rollback("m", "1", false)).await.expect("possible").into_inner();
    assert_eq!(done.nodes, ["n1", "n2"], "those of the plan");
    let wish = desk.wish("m").expect("on record");
    assert_eq!((wish.digest, wish.replicas), (Some(digest(1)), Replicas::Count(2)));
    desk.finish().await;
}

#[tokio::test]
async fn a_rollback_that_cannot_be_says_what_to_do_and_changes_nothing() {
    let desk = Desk::with_history().await;
    desk.has(3, "one", 7).await;
    desk.note("one", 7).await;
    desk.models().pin_model(pin("m", "2")).await.expect("pinned");
    let before = desk.revision();
    let refused = [
        ("nothing", "", UNKNOWN),
        ("a b", "", NO_NAME),
        ("m", "9", (ErrorCode::ModelNotFound, "m:latest has no version 9", "ollamax model history m:latest")),
        ("one", "", (ErrorCode::ModelNotFound, "one:latest had no other version", "ollamax model history one:latest")),
        (
            "m",
            "1",
            (ErrorCode::PreconditionFailed, "m:latest is pinned at 020202020202", "ollamax model unpin m:latest"),
        ),
    ];
    for (name, to, (code, what, next)) in refused {
        for dry_run in [true, false] {
            check_refused(desk.models().rollback(rollback(name, to, dry_run)).await, code, what, next);
        }
    }
    assert_eq!((desk.wish("m"), desk.noted("m").0), (None, vec![(1, 1), (2, 2)]));
    // What the state refused is an entry, what was refused before is none.
    assert_eq!(desk.revision(), before + 1);
    desk.finish().await;
}

#[tokio::test]
async fn a_pin_holds_the_version_that_is_meant_until_somebody_lets_it_go() {
    let desk = Desk::with_history().await;
    // The newest one without a word; else its number, or how its digest begins.
    for (word, version) in [("", 2), ("1", 1), ("0202", 2), ("sha256:0101", 1)] {
        let told = desk.models().pin_model(pin("m", word)).await.expect("known").into_inner();
        assert_eq!((told.name.as_str(), told.digest), ("m:latest", digest(version).0.to_vec()), "{word:?}");
        let pin = desk.model("m").and_then(|model| model.pin).expect("on record");
        assert_eq!((pin.digest, pin.by.as_str()), (digest(version), "node/1 for admin"), "{word:?}");
    }
    let told = desk.models().pin_model(unpin("m")).await.expect("known").into_inner();
    assert_eq!(told.digest, digest(1).0.to_vec(), "what it was pinned at");
    assert_eq!(desk.model("m").map(|model| model.pin), Some(None));
    let told = desk.models().pin_model(unpin("m")).await.expect("known").into_inner();
    assert!(told.digest.is_empty(), "it was at nothing");
    desk.finish().await;
}

#[tokio::test]
async fn a_pin_is_foreseen_as_it_would_be_and_nothing_is_changed_by_that() {
    let desk = Desk::with_history().await;
    let (admin, before) = (Admin::of(desk.house.clone()), desk.revision());
    let history = "ollamax model history m:latest";
    let check = async |asked: v1::PinModelRequest, expected: Result<Vec<u8>, (ErrorCode, &str)>| {
        let told = admin.foresee_pin(&asked).await;
        let told = told.as_ref().map(|told| (told.name.as_str(), told.digest.clone()));
        let told = told.map_err(|error| (error.code, error.next.as_str()));
        assert_eq!(told, expected.map(|digest| ("m:latest", digest)), "{asked:?}");
    };
    for (word, version) in [("", 2), ("1", 1), ("0202", 2)] {
        check(pin("m", word), Ok(digest(version).0.to_vec())).await;
    }
    check(pin("m", "3"), Err((ErrorCode::ModelNotFound, history))).await;
    check(pin("nothing", ""), Err((UNKNOWN.0, UNKNOWN.2))).await;
    check(unpin("m"), Ok(Vec::new())).await;
    assert_eq!((desk.revision(), desk.model("m").map(|model| model.pin)), (before, Some(None)));
    desk.models().pin_model(pin("m", "1")).await.expect("pinned");
    let before = desk.revision();
    check(pin("m", ""), Ok(digest(1).0.to_vec())).await;
    check(unpin("m"), Ok(digest(1).0.to_vec())).await;
    assert_eq!(desk.revision(), before);
    assert_eq!(desk.model("m").and_then(|model| model.pinned()), Some(digest(1)), "it is still held");
    desk.finish().await;
}

#[tokio::test]
async fn a_pin_to_what_nobody_knows_is_refused_and_leaves_the_one_that_there_is() {
    let desk = Desk::with_history().await;
    desk.models().pin_model(pin("m", "1")).await.expect("pinned");
    let before = desk.revision();
    let history = "ollamax model history m:latest";
    for (name, version, (code, what, next)) in [
        ("nothing", "", UNKNOWN),
        ("a b", "", NO_NAME),
        ("m", "3", (ErrorCode::ModelNotFound, "m:latest has no version 3", history)),
        // Fewer than four digits name nothing.
        ("m", "01x", (ErrorCode::ModelNotFound, "m:latest has no version 01x", history)),
        ("m", "ffff", (ErrorCode::ModelNotFound, "m:latest has no version ffff", history)),
    ] {
        check_refused(desk.models().pin_model(pin(name, version)).await, code, what, next);
    }
    let (code, what, next) = UNKNOWN;
    check_refused(desk.models().pin_model(unpin("nothing")).await, code, what, next);
    assert_eq!(desk.model("m").and_then(|model| model.pinned()), Some(digest(1)));
    assert_eq!(desk.revision(), before);
    desk.finish().await;
}

#[tokio::test]
async fn a_tag_is_another_name_for_the_version_where_it_is() {
    let desk = Desk::with_history().await;
    let told = desk.models().tag_model(tag("m", "lab/mine:stable")).await.expect("free").into_inner();
    let wish = desk.wish("lab/mine:stable").expect("on record");
    let expected = v1::FixedReply {
        name: "lab/mine:stable".to_owned(),
        number: 0,
        digest: digest(2).0.to_vec(),
        size_bytes: SIZE_BYTES,
        round: wish.round,
        nodes: vec!["n1".to_owned()],
    };
    assert_eq!(told, expected);
    assert_eq!((wish.digest, wish.replicas), (Some(digest(2)), Replicas::Nodes(vec![NodeId(1)])));
    assert_eq!(desk.noted("lab/mine:stable"), (vec![(1, 2)], Some(How::Tagged { from: named("m") })));
    desk.finish().await;
}

#[tokio::test]
async fn a_tag_never_replaces_another_version() {
    let desk = Desk::with_history().await;
    desk.has(3, "taken", 7).await;
    let before = desk.revision();
    for (name, new_name, (code, what, next)) in [
        ("nothing", "mine", UNKNOWN),
        ("m", "a b", NO_NAME),
        (
            "m",
            "M:latest",
            (ErrorCode::BadRequest, "M:latest has this name already", "ollamax model tag llama3.2 mine:stable"),
        ),
        (
            "m",
            "taken",
            (
                ErrorCode::DigestConflict,
                "taken:latest exists already, with version 070707070707",
                "ollamax model rm taken:latest, or use another name",
            ),
        ),
    ] {
        check_refused(desk.models().tag_model(tag(name, new_name)).await, code, what, next);
    }
    assert_eq!((desk.wish("mine"), desk.wish("taken")), (None, None));
    assert_eq!(desk.revision(), before + 1, "the last one is the state's own word");
    desk.finish().await;
}

#[tokio::test]
async fn a_phase_goes_on_record_with_who_said_so_and_why() {
    let desk = Desk::with_history().await;
    let shown = |desk: &Desk| {
        let phase = desk.model("m").expect("on record").phase;
        let since = phase.since().map(|since| (since.by.clone(), since.note.clone()));
        (phase.as_str(), since)
    };
    let by_admin = |note: &str| Some(("node/1 for admin".to_owned(), note.to_owned()));
    for (word, note, expected) in
        [("deprecated", "use llama3.2", by_admin("use llama3.2")), ("disabled", "", by_admin("")), ("active", "", None)]
    {
        desk.models().set_phase(phase("m", word, note)).await.expect("done");
        assert_eq!(shown(&desk), (word, expected));
    }
    desk.finish().await;
}

#[tokio::test]
async fn a_phase_that_cannot_be_is_refused_and_a_disabled_model_gets_no_version() {
    let desk = Desk::with_history().await;
    let long = "x".repeat(257);
    for (name, word, note, (code, what, next)) in [
        ("m", "deleted", "", (ErrorCode::BadRequest, "\"deleted\" is no phase", "active, deprecated or disabled")),
        ("a b", "disabled", "", NO_NAME),
        (
            "nothing",
            "disabled",
            "",
            (ErrorCode::ModelNotFound, "nobody has asked for nothing:latest", "ollamax model pull NAME"),
        ),
        (
            "m",
            "disabled",
            long.as_str(),
            (ErrorCode::BadRequest, "the note has 257 bytes; the limit is 256", "correct it and repeat the command"),
        ),
    ] {
        check_refused(desk.models().set_phase(phase(name, word, note)).await, code, what, next);
    }
    assert_eq!(desk.model("m").map(|model| model.phase), Some(Phase::Active));

    desk.models().set_phase(phase("m", "disabled", "")).await.expect("done");
    let (code, what, next) = (ErrorCode::Forbidden, "m:latest is disabled", "ollamax model enable m:latest");
    check_refused(desk.models().rollback(rollback("m", "1", false)).await, code, what, next);
    assert_eq!(desk.wish("m"), None);
    desk.finish().await;
}

#[tokio::test]
async fn why_a_model_is_where_it_is_is_told_line_by_line() {
    let desk = Desk::with_wish().await;
    desk.elsewhere.keeps(2, vec![kept("m", 3), kept("m", 1)]);
    desk.models().pin_model(pin("m", "0101")).await.expect("pinned");
    let told = desk.models().why_model(why("m")).await.expect("known").into_inner();
    let lines: Vec<&str> = told.reasons.iter().map(|reason| reason.text.as_str()).collect();
    let begin = |text: &'static str| lines.iter().filter(move |line| line.starts_with(text)).count();
    for line in [
        "wanted on 2 nodes: asked by node/1 for test",
        "pinned at 010101010101 by node/1 for admin",
        "n1 has it since",
        "n2 has it since",
        // What it has under the name as well is not told.
        "kept on n2 as long as it is pinned: version 030303030303",
    ] {
        assert_eq!(begin(line), 1, "{line}: {lines:?}");
    }
    assert_eq!((lines.len(), told.silent), (5, vec!["n3".to_owned()]));
    let (code, what, next) = UNKNOWN;
    check_refused(desk.models().why_model(why("nothing")).await, code, what, next);
    desk.finish().await;
}

#[tokio::test]
async fn a_cluster_that_is_too_old_takes_none_of_it() {
    let desk = Desk::start_at(3).await;
    desk.has(1, "m", 1).await;
    let before = desk.revision();
    let mut models = desk.models();
    let (code, next) = (ErrorCode::PreconditionFailed, "upgrade all members first");
    let what = "needs cluster version 4; this cluster runs 3";
    check_refused(models.set_phase(phase("m", "disabled", "")).await, code, what, next);
    check_refused(models.pin_model(pin("m", "")).await, code, what, next);
    check_refused(models.tag_model(tag("m", "mine")).await, code, what, next);
    let remove = v1::RemoveModelRequest { name: "m".to_owned(), force: true, ..v1::RemoveModelRequest::default() };
    check_refused(models.remove_model(remove.clone()).await, code, what, next);
    check_refused(models.remove_model(v1::RemoveModelRequest { dry_run: true, ..remove }).await, code, what, next);
    let pull = v1::PullRequest { name: "m".to_owned(), replicas: Some(2), ..v1::PullRequest::default() };
    let told = refused(models.pull(pull).await);
    assert_eq!(told.what, format!("--replicas {what}"));
    assert_eq!((told.code.as_str(), told.why.as_str()), (code.as_str(), "a member still runs an older release"));
    assert_eq!((desk.revision(), desk.model("m")), (before, None));
    desk.finish().await;
}

#[tokio::test]
async fn a_node_of_no_cluster_says_how_it_gets_into_one() {
    let mut models = House::waiting();
    let what = "this node belongs to no cluster yet";
    let (code, next) = (ErrorCode::NotInitialised, "ollamax init (first node) or ollamax join TOKEN (others)");
    check_refused(models.history(history("m")).await, code, what, next);
    check_refused(models.rollback(rollback("m", "", false)).await, code, what, next);
    check_refused(models.pin_model(pin("m", "")).await, code, what, next);
    check_refused(models.tag_model(tag("m", "n")).await, code, what, next);
    check_refused(models.set_phase(phase("m", "disabled", "")).await, code, what, next);
    check_refused(models.why_model(why("m")).await, code, what, next);
    check_refused(models.collect(v1::CollectRequest::default()).await, code, what, next);
    check_refused(models.rules(v1::RulesRequest::default()).await, code, what, next);
    check_refused(models.list_wishes(v1::ListWishesRequest::default()).await, code, what, next);
    check_refused(models.apply_wishes(v1::WishFile::default()).await, code, what, next);
    let remove = v1::RemoveModelRequest { name: "m".to_owned(), ..v1::RemoveModelRequest::default() };
    check_refused(models.remove_model(remove).await, code, what, next);
    let pull = v1::PullRequest { name: "m".to_owned(), ..v1::PullRequest::default() };
    check_refused(models.pull(pull).await, code, what, next);
}

#[tokio::test]
async fn a_node_that_follows_has_the_leader_make_the_change_and_sees_it_at_once() {
    let leader = Desk::start_to_lead().await;
    leader.has(1, "m", 1).await;
    leader.note("m", 1).await;
    let follower = leader.follower().await;
    let told = follower.models().pin_model(pin("m", "1")).await.expect("one hop").into_inner();
    assert_eq!(told.digest, digest(1).0.to_vec());
    let by = leader.model("m").and_then(|model| model.pin).map(|pin| pin.by);
    assert_eq!(by.as_deref(), Some("node/2 for admin"), "whose door it was");
    // It is chosen from a state that is not behind the leader's.
    let told = follower.models().pin_model(unpin("m")).await.expect("one hop").into_inner();
    assert_eq!(told.digest, digest(1).0.to_vec());

    follower.cut_off();
    let before = leader.model("m");
    // Nothing is awaited from the leader any more: time may pass as quickly as it can.
    tokio::time::pause();
    let alone = [
        refused(follower.models().set_phase(phase("m", "disabled", "")).await),
        refused(follower.models().pin_model(pin("m", "1")).await),
        refused(follower.models().rollback(rollback("m", "1", false)).await),
        refused(follower.models().tag_model(tag("m", "mine")).await),
    ];
    tokio::time::resume();
    for told in alone {
        assert_eq!(told.code, ErrorCode::NoQuorum.as_str(), "{told:?}");
        assert!(told.next.starts_with("ollamax status"), "{told:?}");
    }
    assert_eq!((leader.model("m"), leader.wish("m"), leader.wish("mine")), (before, None, None));
    // What is only looked at needs nobody.
    let shown = follower.models().history(history("m")).await.expect("its own state").into_inner();
    assert_eq!(shown.versions.len(), 1);
    follower.finish().await;
    leader.finish().await;
}

#[tokio::test]
async fn a_history_of_a_name_that_is_only_wished_for_is_empty() {
    let desk = Desk::start().await;
    desk.ask("m", Replicas::Count(1), Want::default()).await;
    let told = desk.models().history(history("m")).await.expect("on record").into_inner();
    assert_eq!((told.name.as_str(), told.versions.len()), ("m:latest", 0));
    let refused = refused(desk.models().pin_model(pin("m", "")).await);
    assert_eq!(refused.what, "model m:latest not found", "there is no version to pin it at");
    desk.finish().await;
}

#[tokio::test]
async fn a_pin_that_is_asked_for_again_with_its_key_is_told_the_version_of_the_first_time() {
    let desk = Desk::with_history().await;
    let admin = Admin::of(desk.house.clone());
    let once = Some(OnceKey { key: [7; 32], digest: [8; 32] });
    let by = By { request: RequestId::default(), principal: "uid/0".to_owned(), once };
    let first = admin.pin_by(&by, &pin("m", "")).await.expect("pinned");
    assert_eq!((first.name.as_str(), &first.digest[..]), ("m:latest", &digest(2).0[..]));
    desk.models().pin_model(unpin("m")).await.expect("let go");
    desk.has(1, "m", 3).await;
    desk.note("m", 3).await;
    assert_eq!(admin.pin_by(&by, &pin("m", "")).await, Ok(first.clone()));
    assert_eq!(desk.model("m").expect("on record").pin, None, "and it has no second effect");
    let other = By { once: None, ..by.clone() };
    let today = admin.pin_by(&other, &pin("m", "")).await.expect("pinned");
    assert_eq!(today.digest, digest(3).0);
    // No node has it any more.
    for node in [1, 2] {
        let (present, absent, removed) = (Vec::new(), vec![named("m").key()], Vec::new());
        desk.change(Command::ReportModels { node: NodeId(node), present, absent, removed }).await;
    }
    assert_eq!(admin.pin_by(&by, &pin("m", "")).await, Ok(first));
    let gone = admin.pin_by(&other, &pin("m", "")).await.expect_err("there is none");
    assert_eq!(gone.code, ErrorCode::ModelNotFound);
    desk.finish().await;
}
