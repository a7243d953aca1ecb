//! All tools of a node: who sees which, and what becomes of a call.
//!
//! Always: names are unique and in order, so that every node shows the same bytes; what a caller may not call it does
//! not see; a call is checked before its tool runs, and bounded while it does. A tool that fails, hangs, floods, panics
//! or lies about its schema spoils its own call and no other, and every call is answered. What works in a task is on
//! record before its call is answered, and its call may end, and be asked again, without hurting it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use ollamax_types::limits::{TASK_ARGUMENTS_BYTES_MAX, TASK_PRIORITY_USUAL};
use ollamax_types::{ErrorClass, ErrorCode};

use crate::error::{CallError, DeclarationError, ToolError};
use crate::once::{self, OnceKey};
use crate::ports::{NewTask, Tasks};
use crate::principal::{Caller, Principal};
use crate::progress::Progress;
use crate::rate::{AT_ONCE_MAX, Place, Places, Rates};
use crate::task;
use crate::tool::{Call, How, Limits, Tool};
use crate::views::TaskView;
use crate::work::Work;

/// Arguments of a call, as JSON; those of a task are kept on record, and smaller.
pub const ARGUMENTS_BYTES_MAX: usize = 256 << 10;
/// Tools that a catalogue shows to anybody.
pub const TOOLS_MAX: usize = 40;
/// The bucket of a caller's calls of tools that do not exist; no tool has this name.
const NO_TOOL: &str = "";
/// The bucket of a caller's questions for tasks that its node does not show; no tool has this name either.
const NO_TASK: &str = "tasks/get";
/// When a caller whose calls all run is told to try again.
const PLACE_WAIT: Duration = Duration::from_secs(1);
/// How long a call waits for its task.
pub const TASK_WAIT_MAX: Duration = Duration::from_secs(45);

/// Which families are switched on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Families {
    /// All there are.
    #[default]
    All,
    /// These.
    Only(BTreeSet<String>),
}

/// The tools of a node.
#[derive(Default)]
pub struct Catalogue {
    tools: BTreeMap<&'static str, Tool>,
    rates: Rates,
    places: Places,
    /// `None`: this node keeps no tasks.
    tasks: Option<Arc<dyn Tasks>>,
}

/// What became of a call at once.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is one for each call, for a moment")]
pub enum Started {
    /// It is answered.
    Answered(Value),
    /// A task works at it.
    Task(TaskView),
}

impl fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalogue").field("tools", &self.tools.keys()).finish_non_exhaustive()
    }
}

// === impl Families ===

impl Families {
    fn has(&self, family: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(family),
        }
    }
}

// === impl Catalogue ===

impl Catalogue {
    /// Puts one together from the families that are switched on.
    ///
    /// # Errors
    /// When two tools have one name, or there are too many.
    pub fn new(all: Vec<Tool>, families: &Families) -> Result<Self, DeclarationError> {
        let wrong =
            |name: &str, problem: &str| DeclarationError { tool: name.to_owned(), problems: vec![problem.to_owned()] };
        let mut tools = BTreeMap::new();
        for tool in all.into_iter().filter(|tool| families.has(tool.spec().family)) {
            let name = tool.spec().name;
            if tools.insert(name, tool).is_some() {
                return Err(wrong(name, "another tool has its name"));
            }
            if tools.len() > TOOLS_MAX {
                return Err(wrong(name, "it is one too many for one catalogue"));
            }
        }
        Ok(Self { tools, ..Self::default() })
    }

    /// With the tasks of its cluster, in which long work is done.
    #[must_use]
    pub fn with_tasks(self, tasks: Arc<dyn Tasks>) -> Self {
        Self { tasks: Some(tasks), ..self }
    }

    /// What a caller sees, in the order of names.
    pub fn listed(&self, principal: &Principal) -> impl Iterator<Item = &Tool> {
        self.tools.values().filter(move |tool| principal.may(tool.spec().permission))
    }

    /// A tool, whoever may call it.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Tool> {
        self.tools.get(name)
    }

    /// Begins a call: tools that answer at once, and dry runs, are answered; for the others a task is opened, which is
    /// on record when this answers.
    ///
    /// # Errors
    /// When there is no such tool; when the caller may not call it, or not so often, or so many at once; when the
    /// arguments do not fit; when the tool fails, takes too long, or answers too much; when no task can be opened.
    /// Calls that are refused count as calls.
    pub async fn start(
        &self,
        caller: Caller,
        name: &str,
        arguments: Value,
        progress: Progress,
    ) -> Result<Started, CallError> {
        self.start_as(Call { caller, once: None, progress }, name, arguments).await
    }

    /// As [`Catalogue::start`], for a call that has effect once also where its arguments have no key.
    ///
    /// # Errors
    /// As [`Catalogue::start`].
    pub async fn start_as(&self, call: Call, name: &str, arguments: Value) -> Result<Started, CallError> {
        let tool = self.admitted(&call.caller.principal, name, &arguments)?;
        let _place = self.place(tool, &call.caller.principal)?;
        Ok(within(tool, self.begin(tool, call, arguments)).await?)
    }

    /// Takes one look at what is newest from what a caller has: whoever asks for a task that its node does not show
    /// costs the leader one.
    ///
    /// # Errors
    /// When the caller has had as many in a minute as it may.
    pub fn admit_look(&self, principal: &Principal) -> Result<(), ToolError> {
        self.pace(principal, NO_TASK, Limits::READ.calls_per_minute, Instant::now())
    }

    /// Whether a person must agree to this call before it begins.
    #[must_use]
    pub fn needs_approval(&self, name: &str, arguments: &Value) -> bool {
        self.find(name).is_some_and(|tool| tool.spec().needs_approval && !is_dry(tool, arguments))
    }

    /// Checks a call as [`Catalogue::start`] does, and does not begin it: a person is asked first, and reads this, line
    /// by line.
    ///
    /// # Errors
    /// As those of [`Catalogue::start`] that are told before a task is opened.
    pub async fn foresee(&self, caller: &Caller, name: &str, arguments: &Value) -> Result<Vec<String>, CallError> {
        let tool = self.admitted(&caller.principal, name, arguments)?;
        let _place = self.place(tool, &caller.principal)?;
        tool.check(arguments)?;
        let call = Call { caller: caller.clone(), once: None, progress: Progress::nobody() };
        let foreseen = async { foreseen(self.record(tool)?, tool, &call, arguments).await };
        Ok(within(tool, foreseen).await?)
    }

    /// Calls a tool, and waits for its task up to [`TASK_WAIT_MAX`]; one that is not over then is told as it stands.
    ///
    /// # Errors
    /// As [`Catalogue::start`], and when the task fails.
    pub async fn call(&self, caller: Caller, name: &str, arguments: Value) -> Result<Value, CallError> {
        match self.start(caller, name, arguments, Progress::nobody()).await? {
            Started::Answered(answer) => Ok(answer),
            Started::Task(task) => Ok(self.answer(&self.wait(task, &Progress::nobody(), TASK_WAIT_MAX).await)?),
        }
    }

    /// Waits for a task that was started, and tells how far it is. One that waits for a person is told at once: nobody
    /// knows of it yet.
    pub async fn wait(&self, task: TaskView, progress: &Progress, up_to: Duration) -> TaskView {
        match &self.tasks {
            Some(tasks) if !task.is_waiting() => task::wait(&**tasks, task, progress, up_to).await,
            _ => task,
        }
    }

    /// Does a task's work, at the node that owns it: without a limit of time, until it is done or cancelled. What it
    /// answers is kept on record.
    ///
    /// # Errors
    /// When this node has no such tool, or whoever asked for it may not have it; when the arguments do not fit; when
    /// the tool fails, or answers too much.
    pub async fn work(&self, work: Work, name: &str, arguments: Value) -> Result<Value, ToolError> {
        let tool = self.find(name).ok_or_else(|| no_worker(name))?;
        let How::Task { work: labour, .. } = tool.how() else { return Err(no_worker(name)) };
        permit(tool, &work.caller.principal)?;
        fits(tool, &arguments)?;
        let run = AssertUnwindSafe(async move { labour(work, arguments).await }).catch_unwind();
        let result = run.await.unwrap_or_else(|_panic| Err(panicked(tool)));
        let result = result.map_err(|error| since_agreed(tool, error))?;
        check_size(tool, &result)?;
        check_form(tool, &task::done(None, None, Some(&result), None))?;
        Ok(result)
    }

    /// The answer of a task that is over, as its call would have had it; `None` where it is not over.
    #[must_use]
    pub fn finished(&self, task: &TaskView) -> Option<Result<Value, ToolError>> {
        task::finished(task)
    }

    /// The answer of a call whose task stands so: what came of it, or where it stands and what to do next.
    ///
    /// # Errors
    /// When the task failed or was cancelled.
    pub fn answer(&self, task: &TaskView) -> Result<Value, ToolError> {
        self.finished(task).unwrap_or_else(|| Ok(task::done(Some(task), None, None, task.next().as_deref())))
    }

    /// The key of the call is taken where the arguments have none.
    async fn begin(&self, tool: &Tool, call: Call, arguments: Value) -> Result<Started, ToolError> {
        let (Call { caller, once, progress }, is_dry) = (call, is_dry(tool, &arguments));
        // What only looks uses up no key.
        let sent = || OnceKey::of(&caller.principal, tool.spec().name, &arguments);
        let once = if is_dry { None } else { sent().or(once) };
        let call = Call { caller, once, progress };
        let answer = match tool.how() {
            How::Now(run) => run(call, arguments).await?,
            How::Listed(look) => look(&self.listed(&call.caller.principal).collect::<Vec<_>>(), arguments)?,
            How::Task { plan, .. } if is_dry => {
                let lines = plan(call, arguments).await?.told();
                task::done(None, Some(&lines), None, None)
            }
            How::Task { .. } => return self.open(tool, &call, &arguments).await.map(Started::Task),
        };
        check_size(tool, &answer)?;
        check_form(tool, &answer)?;
        Ok(Started::Answered(answer))
    }

    async fn open(&self, tool: &Tool, call: &Call, arguments: &Value) -> Result<TaskView, ToolError> {
        let (spec, tasks) = (tool.spec(), self.record(tool)?);
        tool.check(arguments)?;
        let plan = if spec.needs_approval { foreseen(tasks, tool, call, arguments).await } else { Ok(Vec::new()) };
        let plan = match (plan, call.once) {
            (Ok(plan), _) => plan,
            // The same call may have come before, and what it was to do may be done by now.
            (Err(error), Some(once)) => return tasks.task(&once.task().to_string()).map_err(|_| error),
            (Err(error), None) => return Err(error),
        };
        let asked = NewTask {
            tool: spec.name,
            arguments: once::canonical(arguments),
            priority: priority(arguments),
            repeatable: spec.hints.idempotent,
            needs_approval: spec.needs_approval,
            plan,
            once: call.once,
        };
        tasks.open(&call.caller, asked).await
    }

    /// Where tasks are on record.
    fn record(&self, tool: &Tool) -> Result<&dyn Tasks, ToolError> {
        let none = || {
            let message = format!("{} works in a task, and this node keeps none", tool.spec().name);
            ToolError::new(ErrorCode::NotImplemented, message, "ollamax status")
        };
        self.tasks.as_deref().ok_or_else(none)
    }

    /// The tool that a call may run.
    fn admitted(&self, principal: &Principal, name: &str, arguments: &Value) -> Result<&Tool, CallError> {
        let now = Instant::now();
        let Some(tool) = self.find(name) else {
            self.pace(principal, NO_TOOL, Limits::READ.calls_per_minute, now)?;
            return Err(CallError::UnknownTool(shortened(name)));
        };
        self.admit(tool, principal, arguments, now)?;
        Ok(tool)
    }

    /// Takes a call from what the caller has left of a tool: first of all, so that who is refused for something else
    /// does not get to ask without end.
    fn pace(&self, principal: &Principal, tool: &'static str, per_minute: u32, now: Instant) -> Result<(), ToolError> {
        let Err(wait) = self.rates.take(principal.subject(), tool, per_minute, now) else { return Ok(()) };
        let what = match tool {
            NO_TOOL => "a tool that does not exist may be called".to_owned(),
            NO_TASK => "tasks that are not shown here may be asked for".to_owned(),
            tool => format!("{tool} may be called"),
        };
        let message = format!("{what} {per_minute} times in a minute");
        let next = format!("try again in {} ms", wait.as_millis());
        Err(ToolError { retry_after: Some(wait), ..ToolError::new(ErrorCode::Overloaded, message, next) })
    }

    /// A place among the calls that run.
    fn place(&self, tool: &Tool, principal: &Principal) -> Result<Place, ToolError> {
        let name = tool.spec().name;
        self.places.take(principal.subject(), name).ok_or_else(|| {
            let message = format!("{AT_ONCE_MAX} calls of {name} by you run at this node, which is as many as may");
            let error = ToolError::new(ErrorCode::Overloaded, message, "try again when one of them has ended");
            ToolError { retry_after: Some(PLACE_WAIT), ..error }
        })
    }

    /// Whether a call may run.
    fn admit(&self, tool: &Tool, principal: &Principal, arguments: &Value, now: Instant) -> Result<(), ToolError> {
        let spec = tool.spec();
        self.pace(principal, spec.name, spec.limits.calls_per_minute, now)?;
        permit(tool, principal)?;
        // Sizes are told by the text; who sent it has it in memory anyway.
        let limit = if spec.task { TASK_ARGUMENTS_BYTES_MAX } else { ARGUMENTS_BYTES_MAX };
        if arguments.to_string().len() > limit {
            let message = format!("the arguments are larger than {} KiB", limit >> 10);
            return Err(ToolError::new(ErrorCode::BodyTooLarge, message, "send less"));
        }
        fits(tool, arguments)
    }
}

/// What comes of a call within the time that its tool has. What a panic leaves behind is this call's alone.
async fn within<T>(tool: &Tool, run: impl Future<Output = Result<T, ToolError>>) -> Result<T, ToolError> {
    let limit = tool.spec().limits.timeout;
    // Who speaks to the caller may wait for an answer for ever.
    let done = timeout(limit, AssertUnwindSafe(run).catch_unwind()).await.map_err(|_| too_slow(limit))?;
    done.unwrap_or_else(|_panic| Err(panicked(tool)))
}

/// What a person would agree to, as it is kept. Nobody is asked for what would be refused.
async fn foreseen(tasks: &dyn Tasks, tool: &Tool, call: &Call, arguments: &Value) -> Result<Vec<String>, ToolError> {
    let How::Task { plan, .. } = tool.how() else { return Ok(Vec::new()) };
    // A node that is behind would refuse what can be done, and show what is not so any more.
    tasks.catch_up().await?;
    Ok(task::kept(plan(call.clone(), arguments.clone()).await?.agreeable()?))
}

/// What a person agreed to was not refused when it was foreseen: if it is now, things are not as they were. What was
/// done in an attempt before is not refused, since its key has the answer.
fn since_agreed(tool: &Tool, error: ToolError) -> ToolError {
    let is_refused = error.code == ErrorCode::PreconditionFailed || error.code.class() == ErrorClass::NotFound;
    if !tool.spec().needs_approval || !is_refused {
        return error;
    }
    let message = format!("things have changed since it was asked for: {}", error.message);
    ToolError { message, ..error }
}

/// Its schema has bounded it.
fn priority(arguments: &Value) -> u8 {
    let said = arguments.get(once::PRIORITY).and_then(Value::as_u64);
    said.and_then(|said| u8::try_from(said).ok()).unwrap_or(TASK_PRIORITY_USUAL)
}

/// Whether a call of a tool that works in a task only asks what would happen.
fn is_dry(tool: &Tool, arguments: &Value) -> bool {
    tool.spec().task && arguments.get(once::DRY_RUN).and_then(Value::as_bool) == Some(true)
}

fn permit(tool: &Tool, principal: &Principal) -> Result<(), ToolError> {
    let spec = tool.spec();
    if principal.may(spec.permission) {
        return Ok(());
    }
    let message = format!("{} needs the permission {}, which you do not have", spec.name, spec.permission);
    let next = "an administrator does this on a node with the ollamax command; ollamax --help lists what there is";
    Err(ToolError::new(ErrorCode::Forbidden, message, next))
}

fn fits(tool: &Tool, arguments: &Value) -> Result<(), ToolError> {
    let (spec, problems) = (tool.spec(), tool.input().problems(arguments));
    if problems.is_empty() {
        return Ok(());
    }
    let message = format!("the arguments of {} do not fit its input schema: {}", spec.name, problems.join("; "));
    let next = spec.examples.first().map_or_else(
        || "send what tools/list says under inputSchema".to_owned(),
        |example| format!("send arguments like {}", example.arguments),
    );
    Err(ToolError::new(ErrorCode::BadRequest, message, next))
}

/// Another release took the task, or this node has the family switched off.
fn no_worker(name: &str) -> ToolError {
    let message = format!("the node that was to do it has no tool {:?} that works in tasks", shortened(name));
    let next = "give all nodes one release and the same tools.families: ollamax node list";
    ToolError::new(ErrorCode::NotImplemented, message, next)
}

fn too_slow(limit: Duration) -> ToolError {
    let message = format!("the tool did not answer within {} s", limit.as_secs());
    ToolError::new(ErrorCode::DeadlineExceeded, message, "try again, or ask for less")
}

/// The process's panic hook has told the log why.
fn panicked(tool: &Tool) -> ToolError {
    let message = format!("{} broke off", tool.spec().name);
    ToolError::new(
        ErrorCode::Internal,
        message,
        "this is a defect of the program: please report it, with the node's log",
    )
}

/// No answer is larger than its tool's limit.
fn check_size(tool: &Tool, answer: &Value) -> Result<(), ToolError> {
    let spec = tool.spec();
    if answer.to_string().len() <= spec.limits.output_bytes_max {
        return Ok(());
    }
    let message = format!("the result of {} is larger than {} KiB", spec.name, spec.limits.output_bytes_max >> 10);
    Err(ToolError::new(ErrorCode::BodyTooLarge, message, "ask for less: a smaller limit, or one name"))
}

/// Clients compare answers with the schema, and so it is done here: behind [`check_size`], so that it costs little.
fn check_form(tool: &Tool, answer: &Value) -> Result<(), ToolError> {
    let (spec, problems) = (tool.spec(), tool.output().problems(answer));
    if problems.is_empty() {
        return Ok(());
    }
    let message = format!("the result of {} does not fit its output schema: {}", spec.name, problems.join("; "));
    Err(ToolError::new(ErrorCode::Internal, message, "this is a defect of the program: please report it"))
}

/// A name that nobody knows is told, and not at any length.
fn shortened(name: &str) -> String {
    name.chars().take(64).collect()
}

#[cfg(test)]
mod tests;
