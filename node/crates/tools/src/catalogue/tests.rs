//! Who sees which tools, and what becomes of calls, tasks and their work.

use std::future::{pending, ready};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use ollamax_types::TaskId;

use super::*;
use crate::mem::MemTasks;
use crate::principal::Permission;
use crate::tool::{Class, Example, Foreseen, Hints, Idempotency, Spec};

#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Asked {
    name: String,
}

/// Says that it has a number and has a text where the text is no number.
#[derive(JsonSchema)]
struct Liar {
    #[expect(dead_code, reason = "a schema says it")]
    name: u32,
}

impl Serialize for Liar {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        json!({"name": "a text"}).serialize(serializer)
    }
}

const fn spec(name: &'static str, family: &'static str) -> Spec {
    Spec {
        name,
        title: "A tool",
        description: "Does it.",
        family,
        examples: &[Example { title: "m", arguments: r#"{"name": "m"}"# }],
        ..Spec::READ
    }
}

fn echo(spec: Spec) -> Tool {
    Tool::reading(spec, |asked: Asked| Ok(asked)).expect("declared well")
}

fn managing(name: &'static str) -> Spec {
    let hints = Hints { read_only: false, ..Hints::READ };
    Spec { class: Class::LeaderWrite, permission: Permission::Manage, hints, ..spec(name, "b") }
}

fn catalogue(tools: Vec<Tool>) -> Catalogue {
    Catalogue::new(tools, &Families::All).expect("names differ")
}

fn caller(principal: Principal) -> Caller {
    Caller { principal, request: Default::default(), trace: None }
}

async fn code(catalogue: &Catalogue, name: &str, arguments: Value) -> Result<Value, ErrorCode> {
    match catalogue.call(caller(Principal::loopback()), name, arguments).await {
        Ok(value) => Ok(value),
        Err(CallError::Failed(error)) => Err(error.code),
        Err(CallError::UnknownTool(name)) => panic!("{name} is not known"),
    }
}

fn names(catalogue: &Catalogue, principal: &Principal) -> Vec<&'static str> {
    catalogue.listed(principal).map(|tool| tool.spec().name).collect()
}

#[test]
fn a_caller_sees_what_it_may_call_in_the_order_of_names() {
    let all = catalogue(vec![echo(spec("z", "a")), echo(managing("m")), echo(spec("b", "b"))]);
    assert_eq!(names(&all, &Principal::loopback()), ["b", "z"]);
    assert_eq!(names(&all, &Principal::of_socket(0)), ["b", "m", "z"]);
    let only = Families::Only(BTreeSet::from(["b".to_owned()]));
    let some = Catalogue::new(vec![echo(spec("z", "a")), echo(managing("m")), echo(spec("b", "b"))], &only);
    assert_eq!(names(&some.expect("names differ"), &Principal::of_socket(0)), ["b", "m"]);
}

#[test]
fn two_tools_of_one_name_and_a_tool_too_many_are_refused() {
    let twice = Catalogue::new(vec![echo(spec("a", "a")), echo(spec("a", "b"))], &Families::All);
    assert_eq!(twice.expect_err("one name").problems, ["another tool has its name"]);
    let names: [&'static str; TOOLS_MAX + 1] = std::array::from_fn(|at| &*format!("t{at}").leak());
    let many = names.into_iter().map(|name| echo(spec(name, "a"))).collect();
    assert_eq!(Catalogue::new(many, &Families::All).expect_err("too many").problems.len(), 1);
}

#[tokio::test]
async fn a_call_is_checked_before_its_tool_runs() {
    let all = catalogue(vec![echo(spec("look", "a")), echo(managing("change"))]);
    assert_eq!(code(&all, "look", json!({"name": "m"})).await, Ok(json!({"name": "m"})));
    assert_eq!(code(&all, "change", json!({"name": "m"})).await, Err(ErrorCode::Forbidden));
    for wrong in [json!({}), json!({"name": 1}), json!({"name": "m", "more": 1}), json!([]), json!(null)] {
        assert_eq!(code(&all, "look", wrong.clone()).await, Err(ErrorCode::BadRequest), "{wrong}");
    }
    let large = json!({"name": "x".repeat(ARGUMENTS_BYTES_MAX)});
    assert_eq!(code(&all, "look", large).await, Err(ErrorCode::BodyTooLarge));
    let unknown = all.call(caller(Principal::of_socket(0)), &"x".repeat(5_000), json!({})).await;
    assert_eq!(unknown, Err(CallError::UnknownTool("x".repeat(64))));
}

#[tokio::test]
async fn wrong_arguments_are_answered_with_an_example() {
    let all = catalogue(vec![echo(spec("look", "a"))]);
    let answer = all.call(caller(Principal::loopback()), "look", json!({"nome": "m"})).await;
    let Err(CallError::Failed(error)) = answer else { panic!("{answer:?}") };
    assert!(error.message.contains("input schema"), "{error}");
    assert_eq!(error.next, r#"send arguments like {"name": "m"}"#);
    assert_eq!(error.to_json()["code"], "bad_request");
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_hangs_floods_panics_or_lies_spoils_its_own_call() {
    let hangs = Tool::new(spec("hangs", "a"), |_, _: Asked| pending::<Result<Asked, ToolError>>().boxed());
    let floods = Tool::reading(spec("floods", "a"), |_: Asked| Ok(Asked { name: "x".repeat(64 << 10) }));
    let lies = Tool::new(spec("lies", "a"), |_, _: Asked| ready(Ok(Liar { name: 1 })).boxed());
    let panics = Tool::reading(spec("panics", "a"), |asked: Asked| match asked.name.as_str() {
        "m" => panic!("a defect"),
        _ => Ok(asked),
    });
    let all = catalogue([hangs, floods, lies, panics].map(|tool| tool.expect("declared well")).into());
    let asked = || json!({"name": "m"});
    assert_eq!(code(&all, "hangs", asked()).await, Err(ErrorCode::DeadlineExceeded));
    assert_eq!(code(&all, "floods", asked()).await, Err(ErrorCode::BodyTooLarge));
    assert_eq!(code(&all, "lies", asked()).await, Err(ErrorCode::Internal));
    assert_eq!(code(&all, "panics", asked()).await, Err(ErrorCode::Internal));
    assert_eq!(code(&all, "panics", json!({"name": "n"})).await, Ok(json!({"name": "n"})));
}

#[tokio::test(start_paused = true)]
async fn who_calls_too_often_is_told_when_to_try_again_and_nobody_else_is_hurt() {
    let limits = Limits { calls_per_minute: 2, ..Limits::READ };
    let all = catalogue(vec![echo(Spec { limits, ..spec("look", "a") })]);
    let asked = || json!({"name": "m"});
    for _ in 0..2 {
        assert!(code(&all, "look", asked()).await.is_ok());
    }
    let refused = all.call(caller(Principal::loopback()), "look", asked()).await;
    let Err(CallError::Failed(error)) = refused else { panic!("{refused:?}") };
    assert_eq!((error.code, error.next.as_str()), (ErrorCode::Overloaded, "try again in 30000 ms"));
    assert_eq!(error.retry_after, Some(Duration::from_secs(30)));
    assert!(all.call(caller(Principal::of_socket(1)), "look", asked()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn as_many_calls_of_a_caller_and_a_tool_run_at_once_as_may_and_nobody_else_is_hurt() {
    let hangs = Tool::new(spec("hangs", "a"), |_, _: Asked| pending::<Result<Asked, ToolError>>().boxed());
    let all = catalogue(vec![hangs.expect("declared well"), echo(spec("look", "a"))]);
    let asked = || json!({"name": "m"});
    let call = |principal: Principal| Box::pin(all.call(caller(principal), "hangs", asked()));
    let mut running: Vec<_> = (0..AT_ONCE_MAX).map(|_| call(Principal::loopback())).collect();
    for running in &mut running {
        assert!(running.as_mut().now_or_never().is_none(), "it hangs");
    }
    let Err(CallError::Failed(error)) = call(Principal::loopback()).await else { panic!("it is one too many") };
    assert_eq!((error.code, error.retry_after), (ErrorCode::Overloaded, Some(PLACE_WAIT)));
    let foreseen = all.foresee(&caller(Principal::loopback()), "hangs", &asked()).await;
    assert_eq!(foreseen, Err(CallError::Failed(error)), "who is asked first is no exception");
    assert_eq!(code(&all, "look", asked()).await, Ok(asked()));
    assert!(call(Principal::of_socket(1)).now_or_never().is_none(), "another caller's call runs");
    drop(running.pop());
    assert_eq!(code(&all, "hangs", asked()).await, Err(ErrorCode::DeadlineExceeded));
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_refused_and_calls_of_nothing_count_as_calls() {
    let limits = Limits { calls_per_minute: 2, ..Limits::READ };
    let all = catalogue(vec![echo(Spec { limits, ..spec("look", "a") }), echo(Spec { limits, ..managing("change") })]);
    for (name, arguments, refusal) in
        [("look", json!({"nome": "m"}), ErrorCode::BadRequest), ("change", json!({"name": "m"}), ErrorCode::Forbidden)]
    {
        for expected in [refusal, refusal, ErrorCode::Overloaded] {
            assert_eq!(code(&all, name, arguments.clone()).await, Err(expected), "{name}");
        }
    }
    let nothing = async |principal: Principal| all.call(caller(principal), "nothing", json!({})).await;
    let unknown: Result<Value, _> = Err(CallError::UnknownTool("nothing".to_owned()));
    for _ in 0..Limits::READ.calls_per_minute {
        assert_eq!(nothing(Principal::loopback()).await, unknown);
    }
    let refused = nothing(Principal::loopback()).await;
    let Err(CallError::Failed(error)) = refused else { panic!("{refused:?}") };
    assert_eq!((error.code, error.retry_after), (ErrorCode::Overloaded, Some(Duration::from_millis(100))));
    assert!(error.message.contains("does not exist may be called 600 times"), "{error}");
    // Looks for tasks are counted by themselves.
    for _ in 0..Limits::READ.calls_per_minute {
        assert_eq!(all.admit_look(&Principal::loopback()), Ok(()));
    }
    let error = all.admit_look(&Principal::loopback()).expect_err("one too many");
    assert_eq!((error.code, error.retry_after), (ErrorCode::Overloaded, Some(Duration::from_millis(100))));
    assert!(error.message.contains("not shown here may be asked for 600 times"), "{error}");
    // Whoever calls properly is not in the way of who does not.
    assert_eq!(nothing(Principal::of_socket(1)).await, unknown);
    assert!(all.call(caller(Principal::of_socket(1)), "look", json!({"name": "m"})).await.is_ok());
}

#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Long {
    name: String,
    #[schemars(range(min = 0, max = 9))]
    priority: Option<u8>,
    dry_run: Option<bool>,
    idempotency_key: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct Made {
    name: String,
}

const LONG: Spec = Spec {
    name: "make",
    title: "Make",
    description: "Makes it.",
    family: "a",
    limits: Limits { output_bytes_max: 1_000, ..Limits::CHANGE },
    ..Spec::TASK
};

/// Something speaks against "pinned".
fn foreseen(name: &str) -> Foreseen {
    let refusal = (name == "pinned").then(|| ToolError::new(ErrorCode::PreconditionFailed, "it is pinned", "unpin it"));
    Foreseen { lines: vec![format!("makes {name}")], refusal }
}

/// A tool that works in a task; at "panics" it does, and at "floods" its answer is too large.
fn long(spec: Spec) -> Tool {
    let work = |work: Work, asked: Long| async move {
        work.progress.tell(1, Some(1), "made");
        match asked.name.as_str() {
            "panics" => panic!("a defect"),
            "held" => Err(ToolError::new(ErrorCode::PreconditionFailed, "it is pinned", "unpin it")),
            "floods" => Ok(Made { name: "x".repeat(1_000) }),
            _ => Ok(Made { name: asked.name }),
        }
    };
    Tool::work(
        spec,
        |_: &Call, asked: &Long| ready(Ok(foreseen(&asked.name))).boxed(),
        move |given: Work, asked: Long| work(given, asked).boxed(),
    )
    .expect("declared well")
    .checked(|asked: &Long| match asked.name.as_str() {
        "nonsense" => Err(ToolError::new(ErrorCode::ConfigInvalid, "it makes no sense", "")),
        _ => Ok(()),
    })
}

fn with_tasks(tools: Vec<Tool>) -> (Catalogue, MemTasks) {
    let tasks = MemTasks::default();
    (catalogue(tools).with_tasks(Arc::new(tasks.clone())), tasks)
}

async fn start(all: &Catalogue, name: &str, arguments: Value) -> Result<Started, CallError> {
    all.start(caller(Principal::of_socket(1)), name, arguments, Progress::nobody()).await
}

async fn opened(all: &Catalogue, name: &str, arguments: Value) -> TaskView {
    match start(all, name, arguments).await {
        Ok(Started::Task(task)) => task,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn long_work_is_a_task_and_a_dry_run_is_answered_at_once() {
    let (all, tasks) = with_tasks(vec![long(LONG)]);
    let arguments = json!({"name": "m", "dry_run": null, "idempotency_key": "k"});
    let task = opened(&all, "make", arguments.clone()).await;
    assert_eq!((task.tool.as_str(), task.status.as_str(), task.subject.as_str()), ("make", "queued", "uid/1"));
    let asked = tasks.asked(&task.id).expect("it was asked for");
    assert_eq!((asked.arguments, asked.repeatable, asked.needs_approval), (json!({"name": "m"}), true, false));
    // The same key: the same task, unless it is another call.
    assert_eq!(opened(&all, "make", arguments).await, task);
    let other = start(&all, "make", json!({"name": "n", "idempotency_key": "k"})).await;
    let Err(CallError::Failed(error)) = other else { panic!("{other:?}") };
    assert_eq!(error.code, ErrorCode::PreconditionFailed);
    // A dry run opens nothing and uses no key up.
    let dry = start(&all, "make", json!({"name": "o", "dry_run": true, "idempotency_key": "k"})).await;
    let plan = json!({"task": null, "plan": ["makes o"], "result": null, "next": null});
    assert_eq!(dry, Ok(Started::Answered(plan)));
    let nonsense = start(&all, "make", json!({"name": "nonsense"})).await;
    let Err(CallError::Failed(error)) = nonsense else { panic!("{nonsense:?}") };
    assert_eq!(error.code, ErrorCode::ConfigInvalid);
    let large = start(&all, "make", json!({"name": "x".repeat(TASK_ARGUMENTS_BYTES_MAX)})).await;
    let Err(CallError::Failed(error)) = large else { panic!("{large:?}") };
    assert_eq!(error.code, ErrorCode::BodyTooLarge);
    assert_eq!(tasks.tasks().len(), 1);
}

#[tokio::test]
async fn a_task_has_the_priority_that_its_call_says_and_the_usual_one_where_it_says_none() {
    let (all, tasks) = with_tasks(vec![long(LONG)]);
    for (said, expected) in [(json!(9), 9), (json!(0), 0), (Value::Null, TASK_PRIORITY_USUAL)] {
        let task = opened(&all, "make", json!({"name": "m", "priority": said})).await;
        assert_eq!(task.priority, expected, "{said}");
        let asked = tasks.asked(&task.id).expect("it was asked for");
        assert_eq!(asked.priority, expected, "{said}");
    }
    for wrong in [json!(10), json!(-1), json!("high")] {
        let refused = start(&all, "make", json!({"name": "m", "priority": wrong})).await;
        let Err(CallError::Failed(error)) = refused else { panic!("{refused:?}") };
        assert_eq!(error.code, ErrorCode::BadRequest);
    }
}

#[tokio::test]
async fn a_task_that_a_person_must_agree_to_is_answered_before_anybody_does() {
    let hints = Hints { destructive: true, ..Hints::CHANGE };
    let (all, tasks) = with_tasks(vec![long(Spec { needs_approval: true, hints, ..LONG })]);
    let answer =
        all.call(caller(Principal::of_socket(1)), "make", json!({"name": "m"})).await.expect("it is asked for");
    assert_eq!((&answer["task"]["status"], &answer["result"]), (&json!("waiting"), &Value::Null));
    assert_eq!(answer["task"]["plan"], json!(["makes m"]), "{answer}");
    let id = answer["task"]["id"].as_str().expect("an id");
    assert!(answer["next"].as_str().is_some_and(|next| next.contains(&format!("ollamax approve {id}"))), "{answer}");
    tasks.set(id, |task| task.status = "cancelled".to_owned());
    let task = tasks.task(id).expect("it is there");
    assert!(all.finished(&task).is_some_and(|answer| answer.is_err()));
}

#[tokio::test]
async fn nobody_is_asked_for_what_would_be_refused_and_a_call_that_came_before_is_the_same_one_still() {
    let hints = Hints { destructive: true, ..Hints::CHANGE };
    // "late" is pinned as soon as it was planned once.
    let planned = AtomicBool::new(false);
    let plan = move |_: &Call, asked: &Long| {
        let is_late = asked.name == "late" && planned.swap(true, Ordering::Relaxed);
        ready(Ok::<_, ToolError>(foreseen(if is_late { "pinned" } else { &asked.name }))).boxed()
    };
    let work = |_: Work, asked: Long| ready(Ok::<_, ToolError>(Made { name: asked.name })).boxed();
    let destroys = Tool::work(Spec { needs_approval: true, hints, ..LONG }, plan, work).expect("declared well");
    let (all, tasks) = with_tasks(vec![destroys]);
    let refused = start(&all, "make", json!({"name": "pinned", "idempotency_key": "p"})).await;
    let Err(CallError::Failed(error)) = refused else { panic!("{refused:?}") };
    assert_eq!((error.code, error.next.as_str()), (ErrorCode::PreconditionFailed, "unpin it"));
    assert_eq!(tasks.tasks(), [], "nobody is asked");
    let dry = start(&all, "make", json!({"name": "pinned", "dry_run": true})).await;
    let Ok(Started::Answered(dry)) = dry else { panic!("{dry:?}") };
    assert_eq!(dry["plan"], json!(["makes pinned", "it would be refused: it is pinned"]));
    let late = json!({"name": "late", "idempotency_key": "l"});
    let task = opened(&all, "make", late.clone()).await;
    assert_eq!((task.plan.as_slice(), task.is_waiting()), (&["makes late".to_owned()][..], true));
    assert_eq!(opened(&all, "make", late).await, task);
    assert!(start(&all, "make", json!({"name": "late"})).await.is_err(), "that is another call");
}

#[tokio::test]
async fn a_call_to_which_a_person_must_agree_is_checked_before_anybody_is_asked_and_begun_once_for_each_round() {
    let hints = Hints { destructive: true, ..Hints::CHANGE };
    let destroys = Spec { name: "destroy", needs_approval: true, hints, ..LONG };
    let (all, tasks) = with_tasks(vec![long(LONG), long(destroys)]);
    let arguments = json!({"name": "m"});
    assert!(all.needs_approval("destroy", &arguments));
    assert!(!all.needs_approval("destroy", &json!({"name": "m", "dry_run": true})));
    assert!(!all.needs_approval("make", &arguments) && !all.needs_approval("nothing", &arguments));
    let check = async |principal: Principal, arguments: Value, expected: Result<&str, ErrorCode>| {
        let found = match all.foresee(&caller(principal), "destroy", &arguments).await {
            Err(CallError::Failed(error)) => Err(error.code),
            Err(other) => panic!("{other:?}"),
            Ok(lines) => Ok(lines.join("; ")),
        };
        assert_eq!(found, expected.map(ToOwned::to_owned), "{arguments}");
    };
    check(Principal::of_socket(1), arguments.clone(), Ok("makes m")).await;
    check(Principal::loopback(), arguments.clone(), Err(ErrorCode::Forbidden)).await;
    check(Principal::of_socket(1), json!({"nome": "m"}), Err(ErrorCode::BadRequest)).await;
    check(Principal::of_socket(1), json!({"name": "nonsense"}), Err(ErrorCode::ConfigInvalid)).await;
    check(Principal::of_socket(1), json!({"name": "pinned"}), Err(ErrorCode::PreconditionFailed)).await;
    assert_eq!(tasks.tasks().len(), 0, "nothing has begun");
    let begin = async |round: &str, arguments: &Value| {
        let once = Some(OnceKey::of_round(round, arguments));
        let call = Call { caller: caller(Principal::of_socket(1)), once, progress: Progress::nobody() };
        match all.start_as(call, "destroy", arguments.clone()).await {
            Ok(Started::Task(task)) => task,
            other => panic!("{other:?}"),
        }
    };
    let task = begin("r", &arguments).await;
    assert!(task.is_waiting(), "{task:?}");
    assert_eq!(begin("r", &arguments).await, task);
    assert_ne!(begin("s", &arguments).await.id, task.id);
    // What the caller calls the same call is the same call, in whichever round.
    let keyed = json!({"name": "m", "idempotency_key": "k"});
    assert_eq!(begin("r", &keyed).await.id, begin("t", &keyed).await.id);
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_its_task_and_is_told_how_it_stands_when_time_is_up() {
    let (all, tasks) = with_tasks(vec![long(LONG)]);
    let call =
        |name: &str| all.call(caller(Principal::of_socket(1)), "make", json!({"name": name, "idempotency_key": name}));
    let standing = call("a").await.expect("it goes on");
    assert_eq!((&standing["task"]["status"], &standing["result"]), (&json!("queued"), &Value::Null));
    assert!(standing["next"].as_str().is_some_and(|next| next.contains("get_task")), "{standing}");
    let id = standing["task"]["id"].as_str().expect("an id").to_owned();
    let done = |task: &mut TaskView| {
        (task.status, task.result) = ("completed".to_owned(), Some(json!({"name": "a"})));
    };
    let (answer, ()) = tokio::join!(call("a"), async { tasks.set(&id, done) });
    let answer = answer.expect("it is done");
    assert_eq!((&answer["task"]["status"], &answer["result"]), (&json!("completed"), &json!({"name": "a"})));
    assert_eq!(all.finished(&tasks.task(&id).expect("it is there")), Some(Ok(answer)));
}

#[tokio::test]
async fn work_is_done_by_its_owner_and_what_it_does_wrong_is_its_own_fault() {
    let (all, _) = with_tasks(vec![long(LONG), echo(spec("look", "a"))]);
    let told = Mutex::new(Vec::new());
    let work = async |principal: Principal, tool: &str, arguments: Value| {
        let (progress, step) = Progress::channel();
        let (caller, cancelled) = (caller(principal), CancellationToken::new());
        let work = Work { caller, task: TaskId([1; 16]), begun: 1, progress, cancelled };
        let done = all.work(work, tool, arguments).await.map_err(|error| error.code);
        told.lock().expect("not poisoned").push(step.borrow().done);
        done
    };
    let admin = || Principal::of_socket(1);
    assert_eq!(work(admin(), "make", json!({"name": "m"})).await, Ok(json!({"name": "m"})));
    assert_eq!(*told.lock().expect("not poisoned"), [1]);
    assert_eq!(work(admin(), "make", json!({"name": "panics"})).await, Err(ErrorCode::Internal));
    assert_eq!(work(admin(), "make", json!({"name": "floods"})).await, Err(ErrorCode::BodyTooLarge));
    assert_eq!(work(admin(), "make", json!({"nome": "m"})).await, Err(ErrorCode::BadRequest));
    assert_eq!(work(Principal::loopback(), "make", json!({"name": "m"})).await, Err(ErrorCode::Forbidden));
    for tool in ["look", "of_another_release"] {
        assert_eq!(work(admin(), tool, json!({"name": "m"})).await, Err(ErrorCode::NotImplemented), "{tool}");
    }
}

#[tokio::test]
async fn what_was_agreed_to_and_is_refused_all_the_same_says_that_things_have_changed() {
    let hints = Hints { destructive: true, ..Hints::CHANGE };
    let agreed = long(Spec { name: "destroy", needs_approval: true, hints, ..LONG });
    let (all, _) = with_tasks(vec![long(LONG), agreed]);
    let check = async |tool: &str, expected: &str| {
        let (progress, cancelled) = (Progress::nobody(), CancellationToken::new());
        let caller = caller(Principal::of_socket(1));
        let work = Work { caller, task: TaskId([1; 16]), begun: 1, progress, cancelled };
        let error = all.work(work, tool, json!({"name": "held"})).await.expect_err("it is refused");
        assert_eq!((error.message.as_str(), error.next.as_str()), (expected, "unpin it"), "{tool}");
    };
    check("make", "it is pinned").await;
    check("destroy", "things have changed since it was asked for: it is pinned").await;
}

#[tokio::test]
async fn without_tasks_long_work_is_refused_and_dry_runs_are_answered() {
    let all = catalogue(vec![long(LONG)]);
    let refused = start(&all, "make", json!({"name": "m"})).await;
    let Err(CallError::Failed(error)) = refused else { panic!("{refused:?}") };
    assert_eq!(error.code, ErrorCode::NotImplemented);
    assert!(start(&all, "make", json!({"name": "m", "dry_run": true})).await.is_ok());
}

#[tokio::test]
async fn a_change_hears_which_call_it_is_and_a_repetition_is_the_same_one() {
    #[derive(Deserialize, Serialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Keyed {
        name: String,
        idempotency_key: Option<String>,
    }
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    let change =
        Tool::new(Spec { idempotency: Idempotency::ByKey, ..managing("change") }, move |call: Call, asked: Keyed| {
            hears.lock().expect("not poisoned").push(call.once);
            ready(Ok(asked)).boxed()
        });
    let all = catalogue(vec![change.expect("declared well")]);
    for arguments in [
        json!({"name": "m", "idempotency_key": "k"}),
        json!({"idempotency_key": "k", "name": "m"}),
        json!({"name": "m"}),
        json!({"name": "n", "idempotency_key": "k"}),
    ] {
        start(&all, "change", arguments).await.expect("it is changed");
    }
    let heard = heard.lock().expect("not poisoned");
    let [Some(first), Some(again), None, Some(other)] = heard[..] else { panic!("{heard:?}") };
    assert_eq!(first, again);
    assert!(first.key == other.key && first.digest != other.digest);
}
