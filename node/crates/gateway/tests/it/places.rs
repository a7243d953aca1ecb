//! What people say of nodes for models, and models that a node makes, pushes, checks or carries, at the administrators'
//! door.

use futures::stream;

use ollamax_core::catalog::{Command, Cordon, Member, PhaseWord, read};
use ollamax_gateway::grpc::AdminError;
use ollamax_proto::v1;
use ollamax_proto::v1::model_left::Fate;
use ollamax_proto::v1::{create_part, import_part};
use ollamax_transfer::Place;
use ollamax_types::{ErrorCode, NodeId};

use crate::desk::{Desk, check_refused, digest, named, refused};

const NO_NODE: (ErrorCode, &str, &str) = (ErrorCode::NodeNotFound, "there is no node \"n9\"", "ollamax node list");

fn label(node: &str, set: &[(&str, &str)], unset: &[&str]) -> v1::LabelNodeRequest {
    v1::LabelNodeRequest {
        node: node.to_owned(),
        set: set
            .iter()
            .map(|(key, value)| v1::NodeLabel { key: (*key).to_owned(), value: (*value).to_owned() })
            .collect(),
        unset: unset.iter().map(|key| (*key).to_owned()).collect(),
    }
}

fn cordon(node: &str, cordon: v1::Cordon, dry_run: bool) -> v1::CordonNodeRequest {
    v1::CordonNodeRequest { node: node.to_owned(), cordon: cordon.into(), dry_run }
}

fn push(name: &str, node: &str) -> v1::PushRequest {
    v1::PushRequest { name: name.to_owned(), node: node.to_owned(), insecure: false }
}

impl Desk {
    fn member(&self, node: u64) -> Member {
        read::member(&*self.metadata.view(), NodeId(node)).expect("readable").expect("a member")
    }
}

#[tokio::test]
async fn labels_are_set_shown_and_removed_and_a_wrong_one_leaves_them_all() {
    let desk = Desk::start().await;
    let shown = async |asked: v1::LabelNodeRequest| {
        let told = desk.admin().label_node(asked).await.expect("taken").into_inner();
        told.labels.into_iter().map(|label| format!("{}={}", label.key, label.value)).collect::<Vec<_>>()
    };
    assert_eq!(shown(label("n2", &[("room", "a"), ("rack", "2")], &[])).await, ["rack=2", "room=a"]);
    assert_eq!(shown(label("2", &[("room", "b")], &["rack"])).await, ["room=b"]);
    let before = desk.revision();
    assert_eq!(shown(label("n2", &[], &[])).await, ["room=b"]);
    assert_eq!(desk.revision(), before, "looking is no change");

    let what = "label \"Room\" holds more than a-z, 0-9, dots, dashes and underscores";
    let wrong = desk.admin().label_node(label("n2", &[("rack", "2"), ("Room", "a")], &[])).await;
    check_refused(wrong, ErrorCode::BadRequest, what, "correct it and repeat the command");
    let (code, what, next) = NO_NODE;
    check_refused(desk.admin().label_node(label("n9", &[("room", "a")], &[])).await, code, what, next);
    assert_eq!(desk.member(2).labels.into_iter().collect::<Vec<_>>(), [("room".to_owned(), "b".to_owned())]);
    desk.finish().await;
}

#[tokio::test]
async fn a_node_is_emptied_after_it_was_told_what_becomes_of_each_of_its_models() {
    let desk = Desk::with_wish().await;
    desk.has(1, "found", 3).await;
    let shown = |reply: v1::CordonNodeReply| -> Vec<(String, Fate, u32, Vec<String>)> {
        let models = reply.models.into_iter();
        models.map(|model| (model.name.clone(), model.fate(), model.elsewhere, model.why)).collect()
    };
    let row = |name: &str, fate: Fate, elsewhere: u32, why: &[&str]| {
        (name.to_owned(), fate, elsewhere, why.iter().map(|why| (*why).to_owned()).collect::<Vec<String>>())
    };
    let emptied = |dry_run| cordon("n1", v1::Cordon::Emptying, dry_run);
    let why = vec!["n3 is a gateway".to_owned()];
    let stuck = v1::Impossibility { name: "m:latest".to_owned(), why };
    desk.house.foresee(Ok(v1::OutlookView { stuck: vec![stuck], ..v1::OutlookView::default() }));
    let told = desk.admin().cordon_node(emptied(true)).await.expect("told").into_inner();
    let found = row("found:latest", Fate::Unwished, 0, &[]);
    assert_eq!(shown(told), [found.clone(), row("m:latest", Fate::Stuck, 1, &["n3 is a gateway"])]);
    assert_eq!(desk.member(1).cordon, Cordon::Open);

    // Without a leader nothing is known to be in the way.
    let error = AdminError::new(ErrorCode::NoQuorum, "no leader", "", "");
    desk.house.foresee(Err(error));
    let told = desk.admin().cordon_node(emptied(false)).await.expect("taken").into_inner();
    assert_eq!(shown(told), [found, row("m:latest", Fate::Goes, 1, &[])]);
    assert_eq!(desk.member(1).cordon, Cordon::Emptying);

    let told = desk.admin().cordon_node(cordon("n1", v1::Cordon::Open, false)).await.expect("taken").into_inner();
    assert_eq!((told.models.len(), desk.member(1).cordon), (0, Cordon::Open));
    desk.finish().await;
}

#[tokio::test]
async fn a_cordon_that_makes_no_sense_is_refused() {
    let desk = Desk::start().await;
    let before = desk.revision();
    let (what, next) = ("a node is open, cordoned or emptying", "ollamax node cordon NODE");
    let unsaid = desk.admin().cordon_node(cordon("n1", v1::Cordon::Unspecified, false)).await;
    check_refused(unsaid, ErrorCode::BadRequest, what, next);
    let (code, what, next) = NO_NODE;
    check_refused(desk.admin().cordon_node(cordon("n9", v1::Cordon::Cordoned, false)).await, code, what, next);
    assert_eq!(desk.revision(), before);
    let gateway = desk.admin().cordon_node(cordon("n4", v1::Cordon::Cordoned, false)).await;
    let (what, next) = ("node 4 is a gateway and holds no models", "correct it and repeat the command");
    check_refused(gateway, ErrorCode::BadRequest, what, next);
    assert_eq!(desk.member(4).cordon, Cordon::Open);
    desk.finish().await;
}

#[tokio::test]
async fn a_list_shows_who_has_which_version_and_one_that_nobody_has_is_not_found() {
    let desk = Desk::with_history().await;
    let list = |name: &str| v1::ListModelsRequest { name: name.to_owned() };
    for asked in ["", "m"] {
        let told = desk.admin().list_models(list(asked)).await.expect("told").into_inner();
        let [model] = told.models.as_slice() else { panic!("one name: {told:?}") };
        let copies: Vec<_> = model.copies.iter().map(|copy| (copy.node_name.as_str(), copy.served)).collect();
        assert_eq!((model.name.as_str(), model.conflict, model.pinned), ("m:latest", true, false));
        assert_eq!((copies, model.digest.as_slice()), (vec![("n1", true), ("n2", false)], &digest(2).0[..]));
    }
    let (what, next) =
        ("model \"nothing\" not found", "ollamax model list, or ollamax model import FILE --name nothing");
    check_refused(desk.admin().list_models(list("nothing")).await, ErrorCode::ModelNotFound, what, next);
    let (what, next) = ("\"a b\" is not a model name", "ollamax model list");
    check_refused(desk.admin().list_models(list("a b")).await, ErrorCode::BadRequest, what, next);
    desk.finish().await;
}

#[tokio::test]
async fn a_model_is_pushed_from_a_node_that_has_it() {
    let desk = Desk::with_history().await;
    for (node, by) in [("", "n1"), ("n2", "n2")] {
        let mut lines = desk.models().push(push("m", node)).await.expect("begun").into_inner();
        let line = lines.message().await.expect("no failure").expect("a line");
        assert_eq!((line.node_name.as_str(), line.digest.as_slice()), (by, &digest(1).0[..]), "{node:?}");
        assert!(lines.message().await.expect("no failure").is_none(), "that was all");
    }
    assert_eq!(desk.house.worked_at(), [1, 2].map(NodeId));

    let (code, next) = (ErrorCode::ModelNotFound, "ollamax model push m:latest --node n1");
    check_refused(desk.models().push(push("m", "n3")).await, code, "m:latest is not on n3", next);
    let what = "nothing:latest is not on any node";
    check_refused(desk.models().push(push("nothing", "")).await, code, what, "ollamax model list");
    let (code, what, next) = NO_NODE;
    check_refused(desk.models().push(push("m", "n9")).await, code, what, next);
    assert_eq!(desk.house.worked_at().len(), 2, "no runtime was asked");
    desk.finish().await;
}

#[tokio::test]
async fn what_was_made_a_moment_ago_through_another_node_is_pushed_and_is_a_base() {
    let leader = Desk::start_to_lead().await;
    let follower = leader.follower().await;
    leader.is_heard_late_by(&follower);
    leader.has(1, "m", 1).await;
    let mut lines = follower.models().push(push("m", "")).await.expect("it is found").into_inner();
    let line = lines.message().await.expect("no failure").expect("a line");
    assert_eq!((line.node_name.as_str(), line.name.as_str()), ("n1", "m:latest"));
    leader.has(1, "base", 2).await;
    let body = bytes::Bytes::from_static(br#"{"from":"base"}"#);
    let head = v1::CreateHead { name: "mine".to_owned(), body, ..v1::CreateHead::default() };
    let parts = stream::iter([v1::CreatePart { part: Some(create_part::Part::Head(head)) }]);
    drop(follower.models().create(parts).await.expect("begun"));
    assert_eq!(follower.house.worked_at(), [1, 1].map(NodeId), "where its base lies");
    follower.finish().await;
    leader.finish().await;
}

#[tokio::test]
async fn a_pinned_name_is_pushed_from_where_its_version_is_and_nothing_is_made_under_it() {
    let desk = Desk::with_history().await;
    desk.has(3, "m", 2).await;
    desk.change(Command::PinModel { name: named("m"), digest: Some(digest(1)) }).await;
    let (code, next) = (ErrorCode::ModelNotFound, "ollamax model push m:latest --node n2");
    check_refused(desk.models().push(push("m", "n3")).await, code, "m:latest is not on n3", next);

    let create = |name: &str| {
        let body = bytes::Bytes::from_static(br#"{"from":"m"}"#);
        let head = v1::CreateHead { name: name.to_owned(), body, ..v1::CreateHead::default() };
        stream::iter([v1::CreatePart { part: Some(create_part::Part::Head(head)) }])
    };
    let told = refused(desk.models().create(create("m")).await);
    assert_eq!(told.next, "ollamax model unpin m:latest", "{told:?}");
    desk.note("off", 3).await;
    let phase = PhaseWord::Disabled;
    desk.change(Command::SetPhase { name: named("off"), phase, note: String::new() }).await;
    let told = refused(desk.models().create(create("off")).await);
    assert_eq!(told.next, "ollamax model enable off:latest", "{told:?}");
    assert_eq!(desk.house.worked_at(), [], "no runtime was asked");
    desk.finish().await;
}

#[tokio::test]
async fn files_are_read_again_on_nodes_that_hold_models() {
    let desk = Desk::start().await;
    let verify = |name: &str, nodes: &[&str]| {
        let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
        v1::VerifyRequest { name: name.to_owned(), nodes, no_repair: false }
    };
    let (code, what, next) = NO_NODE;
    check_refused(desk.models().verify(verify("", &["n1", "n9"])).await, code, what, next);
    let (what, next) = ("node n4 is a gateway", "name another with --node: ollamax node list");
    check_refused(desk.models().verify(verify("", &["n4"])).await, ErrorCode::PreconditionFailed, what, next);
    let (what, next) = ("\"a b\" is not a model name", "ollamax model pull llama3.2");
    check_refused(desk.models().verify(verify("a b", &[])).await, ErrorCode::BadRequest, what, next);

    let mut news = desk.models().verify(verify("m", &["n2"])).await.expect("begun").into_inner();
    let failure = news.message().await.map(tonic::Response::new);
    check_refused(failure, ErrorCode::PeerUnreachable, "node 2: no connection", "ollamax node list");
    desk.finish().await;
}

#[tokio::test]
async fn what_this_node_cannot_give_is_no_bundle_and_what_has_no_head_is_none() {
    let desk = Desk::start().await;
    let export = |name: &str| v1::ExportRequest { name: name.to_owned() };
    let told = refused(desk.models().export(export("m")).await);
    assert_eq!((told.code.as_str(), told.next.as_str()), ("runtime_unavailable", "on that node: ollamax doctor"));
    let (what, next) = ("\"a b\" is not a model name", "ollamax model pull llama3.2");
    check_refused(desk.models().export(export("a b")).await, ErrorCode::BadRequest, what, next);

    // Of a pinned name the pinned version leaves, or none.
    for (node, version) in [(1, 2), (2, 1)] {
        desk.has(node, "m", version).await;
    }
    let pin = |version: u8| Command::PinModel { name: named("m"), digest: Some(digest(version)) };
    desk.change(pin(1)).await;
    let what = format!("m:latest is pinned at {}, and this node has another version", digest(1).short());
    let next = "on n2: ollamax model export m:latest FILE";
    check_refused(desk.models().export(export("m")).await, ErrorCode::PreconditionFailed, &what, next);
    desk.change(pin(2)).await;
    assert_eq!(refused(desk.models().export(export("m")).await).code, "runtime_unavailable", "it is this version");
    // Who has another version is no help.
    let store = tempfile::tempdir().expect("temp");
    desk.runtime.set_place(Place::Store(store.path().to_owned()));
    for (node, version) in [(2, 1), (3, 2)] {
        desk.has(node, "away", version).await;
    }
    desk.change(Command::PinModel { name: named("away"), digest: Some(digest(2)) }).await;
    let (what, next) = ("away:latest is not on this node", "on n3: ollamax model export away:latest FILE");
    check_refused(desk.models().export(export("away")).await, ErrorCode::ModelNotFound, what, next);

    let data = || import_part::Part::Data(bytes::Bytes::from_static(b"tar"));
    for parts in [vec![], vec![v1::ImportPart { part: None }], vec![v1::ImportPart { part: Some(data()) }]] {
        let told = desk.models().import(stream::iter(parts)).await;
        check_refused(told, ErrorCode::BadRequest, "the bundle has no head", "ollamax model import FILE");
    }
    let data = create_part::Part::Data(bytes::Bytes::from_static(b"GGUF"));
    let told = desk.models().create(stream::iter([v1::CreatePart { part: Some(data) }])).await;
    let next = "ollamax model create NAME FILE.gguf, or --from BASE";
    check_refused(told, ErrorCode::BadRequest, "a model that is made has no head", next);
    desk.finish().await;
}
