//! One request of the assistant's, from its line to its last word: at the first node that answers, at the next one
//! where that is safe, and with an error that says what to do where it is not.
//!
//! Always: a request that may have been begun goes to another node only if it changes nothing more the second time, and
//! one that changes something only where its caller has the same rights; what may have been done is never told as not
//! done, whatever is heard later, also where a node asked again says that it cannot say; a node's death is told within
//! [`SEARCH_MAX`], unless another node goes on; a subscription that was acknowledged is opened again until the
//! assistant ends it, with the caller's own rights as soon as there is a way that has them: elsewhere its tasks may be
//! somebody else's; that others have no such task or tool, may not use it, or have no tasks at all, is no answer to a
//! caller with more rights, whether the protocol says so or a tool.

use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use ollamax_types::ErrorCode;

use super::era::{self, Era};
use super::exchange::{Outcome, Sent, Ways, exchange};
use super::hints::{self, Hints, Keys, Known};
use super::message::{self, INTERNAL_ERROR, INVALID_PARAMS, Request};
use super::nodes::Nodes;
use super::telling::{Out, Telling};
use crate::output;

/// How long one node may take to be connected to.
const CONNECT_MAX: Duration = Duration::from_millis(500);
/// How long a node is looked for, from the moment from which nobody works at the request.
const SEARCH_MAX: Duration = Duration::from_millis(1_500);
/// How long one node may take to answer what this process asks for itself.
const OWN_MAX: Duration = Duration::from_millis(500);
/// How long a node is looked for that answers it.
const OWN_SEARCH_MAX: Duration = Duration::from_millis(750);
/// How long a node is silent before it is asked whether it is there, and how long it may take to say so, twice.
const SILENCE_MAX: Duration = Duration::from_millis(1_500);
/// Between two such questions while it says so.
const LOOK_EACH: Duration = Duration::from_secs(5);
/// Before a node is asked again for a change that may have been begun there.
const AGAIN: Duration = Duration::from_millis(250);
/// Between two attempts to open a subscription again; twice as long each time.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The tool that tells of its caller's own tasks, and of no others to whoever is no administrator.
const LISTS_TASKS: &str = "list_tasks";
/// What a node says to whoever lacks a permission, and of nothing else that is forbidden.
const LACKS: &str = " needs the permission ";

/// Lines to people that wait for somebody to read them.
const SAID_MAX: usize = 64;
/// To the thread that writes them, so that a pipe which nobody empties holds nothing else up.
static SAID: LazyLock<Option<SyncSender<String>>> = LazyLock::new(|| {
    let (said, coming) = sync_channel::<String>(SAID_MAX);
    let writing = std::thread::Builder::new().name("said".to_owned());
    writing.spawn(move || coming.iter().for_each(|line| output::pass_on(&line))).is_ok().then_some(said)
});

/// What the requests of one assistant have in common.
pub(crate) struct Bridge {
    ways: Arc<dyn Ways>,
    nodes: Nodes,
    known: Known,
    keys: Keys,
    asked: AtomicU64,
    /// A way with the caller's own rights has answered.
    has_own_rights: AtomicBool,
}

/// Why a request has no answer.
#[derive(Debug, PartialEq)]
enum Failed {
    /// Nothing was done: what each node said, and the last one's own error where each had one of the protocol.
    NoNode(Vec<String>, Option<Value>),
    /// Nothing was done: nodes answered that take the caller for another one, and no way with its own rights did. What
    /// each said.
    Elsewhere(Vec<String>),
    /// It was sent to this node, and nobody knows what was done. How it may be sent again.
    Unknown(String, Again),
}

/// How a request may be sent again of which nobody knows what was done.
#[derive(Debug, Clone, PartialEq)]
enum Again {
    /// It would have effect twice.
    Not,
    /// As it is.
    AsItIs,
    /// With this key.
    WithKey(String),
}

/// Why an answer is not the last word on a request.
enum Open {
    /// It says nothing of what was begun before, but this.
    Passes(String),
    /// It is another caller's.
    OfAnother,
}

/// The search for a node that answers one request.
struct Search {
    tried: Vec<usize>,
    /// Those of them that did nothing since they are starting.
    starting: Vec<usize>,
    ends_at: Instant,
    /// Where it may have been begun.
    begun_at: Vec<usize>,
    /// What may have been done was begun with these rights; why that is not known.
    begun: Option<(bool, String)>,
    said: Vec<String>,
    /// The last one's own error, as long as each had one.
    told: Option<Value>,
    is_untold: bool,
    /// A node took the caller for another one.
    is_elsewhere: bool,
}

// === impl Bridge ===

impl Bridge {
    pub(crate) fn new(ways: Arc<dyn Ways>) -> Self {
        let nodes = Nodes::new(ways.count());
        let (known, keys) = (Known::default(), Keys::default());
        Self { ways, nodes, known, keys, asked: AtomicU64::new(0), has_own_rights: AtomicBool::new(false) }
    }

    /// Answers a request; `client` is what an assistant of the handshake said of itself.
    pub(crate) async fn answer(self: Arc<Self>, mut request: Request, client: Value, out: Out) {
        let era = era::era_of(&request);
        let mut telling = Telling::new(request.id.clone(), era, out);
        if era == Era::Modern
            && let Some(refusal) = era::refusal(&request)
        {
            return telling.last(refusal).await;
        }
        let answer = match (era, request.method.as_str()) {
            (Era::Handshake, "ping") => message::result(&request.id, json!({})),
            (Era::Handshake, "initialize") => {
                let asked = era::own_request("server/discover", &era::client_of(&request.params));
                let discovered = self.own(&asked).await.map(|(_, discovered)| discovered);
                message::result(&request.id, era::initialized(&request.params, discovered.as_ref()))
            }
            _ => {
                if era == Era::Handshake {
                    request.params = era::modernised(request.params, &client);
                }
                self.forwarded(request, &client, &mut telling).await
            }
        };
        telling.last(answer).await;
    }

    /// What nodes answer to a request in the newer era's words.
    async fn forwarded(&self, mut request: Request, client: &Value, telling: &mut Telling) -> Value {
        if request.method == "subscriptions/listen" {
            return self.listen(&request, telling).await;
        }
        let hints = match hints::tool_of(&request).map(ToOwned::to_owned) {
            Some(tool) => self.hints_of(&tool, client).await,
            None => None,
        };
        request.params = hints::with_key(request.params, hints, || self.keys.draw());
        match self.ask(&request, hints, Vec::new(), telling).await {
            Ok((_, answer)) => {
                if request.method == "tools/list" {
                    self.known.learn(&answer["result"]);
                }
                answer
            }
            // Whoever asks for this first of all takes an error for a server of the older era.
            Err(Failed::NoNode(_, None)) if request.method == "server/discover" => {
                message::result(&request.id, era::discovered_without_nodes())
            }
            Err(failed) => failed.told(&request),
        }
    }

    /// Keeps a subscription open, at whichever node there is.
    async fn listen(&self, request: &Request, telling: &mut Telling) -> Value {
        let (mut pause, mut ended, mut left) = (PAUSE_MIN, None, Vec::new());
        loop {
            let begun_at = Instant::now();
            let Some(told) = self.subscribe(request, std::mem::take(&mut left), telling).await else { continue };
            match told {
                // A node that stops ends its subscriptions in good order; another one goes on with them.
                Ok((node, answer)) if answer.get("result").is_some() => {
                    ended = Some((telling.acknowledged(), answer));
                    left.push(node);
                    pause = PAUSE_MIN;
                }
                Ok((_, error)) => return error,
                Err(failed) => {
                    // An end is the assistant's where no other node has taken it since.
                    if let Some((acknowledged, answer)) = ended.take()
                        && acknowledged == telling.acknowledged()
                    {
                        return answer;
                    }
                    if telling.acknowledged() == 0 {
                        return failed.told(request);
                    }
                    telling.nobody_tells().await;
                }
            }
            if begun_at.elapsed() > PAUSE_MAX {
                pause = PAUSE_MIN;
            }
            sleep(pause).await;
            pause = pause.saturating_mul(2).min(PAUSE_MAX);
        }
    }

    /// Opens a subscription, with the caller's own rights where that is possible, and follows it to its end; nothing
    /// where it was open with others' and there is a way with the caller's own again.
    async fn subscribe(
        &self,
        request: &Request,
        left: Vec<usize>,
        telling: &mut Telling,
    ) -> Option<Result<(usize, Value), Failed>> {
        let (own, others): (Vec<usize>, Vec<usize>) =
            (0..self.ways.count()).partition(|node| self.ways.has_own_rights(*node));
        let mut before = None;
        if own.iter().any(|node| !left.contains(node)) {
            match self.ask(request, None, [left.as_slice(), others.as_slice()].concat(), telling).await {
                Err(failed) => before = Some(failed),
                answered => return Some(answered),
            }
        }
        tokio::select! {
            biased;
            told = self.ask(request, None, [left.as_slice(), own.as_slice()].concat(), telling) => {
                Some(told.map_err(|failed| failed.behind(before)))
            }
            () = self.answers_one_of(&own) => None,
        }
    }

    /// Comes true when one of these nodes answers; never where there is none.
    async fn answers_one_of(&self, nodes: &[usize]) {
        if nodes.is_empty() {
            return pending().await;
        }
        let request = era::sign_of_life();
        loop {
            sleep(LOOK_EACH).await;
            for node in nodes {
                let (by, mut telling) = (Instant::now() + OWN_MAX, Telling::nobody());
                let asking = timeout(OWN_MAX, self.ask_at(*node, &request, by, &mut telling));
                if matches!(asking.await, Ok(Outcome::Answered(answer)) if answer.get("result").is_some()) {
                    self.answered(*node, &self.ways.name(*node));
                    return;
                }
            }
        }
    }

    /// Asks one node after the other, without those that were left, until one answers, or until it would not be safe to
    /// ask another.
    async fn ask(
        &self,
        request: &Request,
        hints: Option<Hints>,
        left: Vec<usize>,
        telling: &mut Telling,
    ) -> Result<(usize, Value), Failed> {
        let again = Again::of(request, hints);
        let mut search = Search::begin(left, Instant::now());
        while let Some(node) = self.next(&mut search).await {
            let name = self.ways.name(node);
            let outcome = self.ask_at(node, request, search.ends_at, telling).await;
            let is_hung = matches!(outcome, Outcome::Hung(_));
            match outcome {
                Outcome::Answered(answer) => {
                    if let Some(why) = starting(&answer) {
                        self.answered(node, &name);
                        search.starting.push(node);
                        search.fail(format!("{name}: {why}"), Some(answer));
                    } else if let Some(why) = self.left_open(request, node, &answer, search.begun.is_some()) {
                        search.leave_open(&name, why);
                    } else {
                        self.answered(node, &name);
                        return Ok((node, answer));
                    }
                }
                Outcome::NotBegun(why, told) => {
                    self.failed(node, &name, &why);
                    search.fail(format!("{name}: {why}"), told);
                }
                Outcome::Unknown(why) | Outcome::Hung(why) => {
                    self.failed(node, &name, &why);
                    if is_hung {
                        self.rest(node, &mut search);
                    }
                    let said = format!("{name}: {why}");
                    // One that it has died of twice is not put to it again.
                    if again == Again::Not || search.begun_at.contains(&node) {
                        return Err(Failed::Unknown(said, again));
                    }
                    search.begun_at.push(node);
                    if hints::changes(request, hints) && search.begun.is_none() {
                        search.begun = Some((self.ways.has_own_rights(node), said.clone()));
                    }
                    search.fail(said, None);
                    search.ends_at = Instant::now() + SEARCH_MAX;
                }
            }
        }
        Err(search.failed(again))
    }

    /// A node hangs: every way to it rests, and this request goes none of them.
    fn rest(&self, node: usize, search: &mut Search) {
        let now = Instant::now();
        for way in (0..self.ways.count()).filter(|way| self.ways.is_same_node(node, *way)) {
            self.nodes.hangs(way, now);
            search.tried.push(way);
        }
    }

    /// The next node, while there is one and time; one that was starting is asked again. A change that may have been
    /// begun goes on with the rights that it was begun with alone, where need be at the same node when that is back.
    async fn next(&self, search: &mut Search) -> Option<usize> {
        loop {
            if let Some(node) = search.next(&self.nodes, |node| self.ways.has_own_rights(node), Instant::now()) {
                return Some(node);
            }
            let is_over = search.begun.is_none() && search.starting.is_empty();
            if is_over || Instant::now() >= search.ends_at {
                return None;
            }
            sleep(AGAIN).await;
            search.again();
        }
    }

    /// Why an answer is not the last word on a request; nothing where it is. Where the request may have been begun
    /// before, an error of the protocol, or one that passes, says nothing of what that came to.
    fn left_open(&self, request: &Request, node: usize, answer: &Value, was_begun: bool) -> Option<Open> {
        let refusal = message::refusal_of(answer);
        if self.is_elsewhere(request, node, refusal.as_ref()) {
            return Some(Open::OfAnother);
        }
        let refusal = refusal.filter(|_| was_begun)?;
        let passes = refusal["code"].is_number() || refusal["retryable"].as_bool() == Some(true);
        passes.then(|| Open::Passes(refusal["message"].as_str().unwrap_or_default().to_owned()))
    }

    /// Whether a node answers to another caller than the one who asks: a task, or a tool that stood in a list, is as
    /// none to it, or may not be used, or it lists that one's tasks. Nothing was done, and the way with the caller's
    /// own rights, which failed or rests, has the word.
    fn is_elsewhere(&self, request: &Request, node: usize, refusal: Option<&Value>) -> bool {
        let is_of_rights = match (hints::tool_of(request), refusal) {
            (Some(tool), Some(refusal)) => {
                let code = &refusal["code"];
                let is_as_none = *code == INVALID_PARAMS || *code == ErrorCode::TaskNotFound.as_str();
                (is_as_none && self.known.of(tool).is_some()) || is_of_permission(refusal)
            }
            (Some(tool), None) => tool == LISTS_TASKS,
            (None, refusal) => refusal.is_some() && request.method.starts_with("tasks/"),
        };
        is_of_rights && self.has_own_rights.load(Ordering::Relaxed) && !self.ways.has_own_rights(node)
    }

    async fn ask_at(&self, node: usize, request: &Request, by: Instant, telling: &mut Telling) -> Outcome {
        let left = by.saturating_duration_since(Instant::now()).min(CONNECT_MAX);
        let way = match timeout(left, self.ways.connect(node)).await {
            Ok(Ok(way)) => way,
            Ok(Err(error)) => return Outcome::NotBegun(error.to_string(), None),
            Err(_) => return Outcome::NotBegun(format!("no connection within {} ms", left.as_millis()), None),
        };
        let sent = self.sent(request);
        // What is remembered of a connection is large.
        let asking = Box::pin(exchange(way, &sent, telling));
        tokio::select! {
            biased;
            outcome = asking => outcome,
            () = self.hangs(node) => Outcome::Hung("it answers nothing any more".to_owned()),
        }
    }

    /// Comes true when a node that a request waits for answers nothing else either, twice.
    async fn hangs(&self, node: usize) {
        let mut was_missed = false;
        sleep(SILENCE_MAX).await;
        loop {
            let is_missed = timeout(SILENCE_MAX, self.look(node)).await.is_err();
            if is_missed && was_missed {
                return;
            }
            was_missed = is_missed;
            if !is_missed {
                sleep(LOOK_EACH).await;
            }
        }
    }

    /// Ends when a node gives a sign of life. That it takes no connection is one: what it works at it may still answer,
    /// and a connection whose other end has gone breaks by itself.
    async fn look(&self, node: usize) {
        if let Ok(way) = self.ways.connect(node).await {
            let sent = self.sent(&era::sign_of_life());
            drop(Box::pin(exchange(way, &sent, &mut Telling::nobody())).await);
        }
    }

    /// A request as a node gets it, under an id that no other one has.
    fn sent(&self, request: &Request) -> Sent {
        let id = self.asked.fetch_add(1, Ordering::Relaxed);
        Sent { id, method: request.method.clone(), params: request.params.clone() }
    }

    fn answered(&self, node: usize, name: &str) {
        if self.ways.has_own_rights(node) {
            self.has_own_rights.store(true, Ordering::Relaxed);
        }
        if self.nodes.answered(node) {
            say(&format!("{name} answers again"));
        }
    }

    fn failed(&self, node: usize, name: &str, why: &str) {
        if self.nodes.failed(node, Instant::now()) {
            say(&format!("{name} does not answer: {why}"));
        }
    }

    /// What a tool says of itself, by the lists that have come, else by one that is asked for.
    async fn hints_of(&self, tool: &str, client: &Value) -> Option<Hints> {
        if let Some(hints) = self.known.of(tool) {
            return Some(hints);
        }
        let now = Instant::now();
        let next = self.nodes.choose(|_| true, now);
        if self.known.is_missed(tool, next.is_some_and(|node| self.ways.has_own_rights(node)), now) {
            return None;
        }
        let (node, list) = self.own(&era::own_request("tools/list", client)).await?;
        self.known.learn(&list);
        let hints = self.known.of(tool);
        if hints.is_none() {
            // So that it is not looked for at each call.
            self.known.miss(tool, self.ways.has_own_rights(node), Instant::now());
        }
        hints
    }

    /// The result of a request of this process's own, and the node that told it; nothing where there is none in time.
    async fn own(&self, request: &Request) -> Option<(usize, Value)> {
        let mut search = Search::begin(Vec::new(), Instant::now());
        search.ends_at = Instant::now() + OWN_SEARCH_MAX;
        while let Some(node) = self.next(&mut search).await {
            let (name, mut telling) = (self.ways.name(node), Telling::nobody());
            match timeout(OWN_MAX, self.ask_at(node, request, search.ends_at, &mut telling)).await {
                Ok(Outcome::Answered(mut answer)) => {
                    self.answered(node, &name);
                    return answer.get_mut("result").map(|result| (node, result.take()));
                }
                Ok(Outcome::NotBegun(why, _) | Outcome::Unknown(why) | Outcome::Hung(why)) => {
                    self.failed(node, &name, &why);
                }
                Err(_) => self.failed(node, &name, &format!("no answer within {} ms", OWN_MAX.as_millis())),
            }
        }
        None
    }
}

/// Whether what is refused is refused for want of a permission: of other callers it may be had.
fn is_of_permission(refusal: &Value) -> bool {
    let lacks = refusal["message"].as_str().is_some_and(|text| text.contains(LACKS));
    refusal["code"] == ErrorCode::Forbidden.as_str() && lacks
}

// === impl Again ===

impl Again {
    fn of(request: &Request, hints: Option<Hints>) -> Self {
        match hints::key_of(request, hints) {
            Some(key) => Self::WithKey(key.to_owned()),
            None if hints::may_repeat(request, hints) => Self::AsItIs,
            None => Self::Not,
        }
    }
}

// === impl Search ===

impl Search {
    fn begin(tried: Vec<usize>, now: Instant) -> Self {
        Self {
            tried,
            starting: Vec::new(),
            ends_at: now + SEARCH_MAX,
            begun_at: Vec::new(),
            begun: None,
            said: Vec::new(),
            told: None,
            is_untold: false,
            is_elsewhere: false,
        }
    }

    /// What was tried may be tried once more: what starts, and where something was begun, all.
    fn again(&mut self) {
        let Self { tried, starting, begun, .. } = self;
        tried.retain(|node| begun.is_none() && !starting.contains(node));
        starting.clear();
    }

    /// A node did not answer.
    fn fail(&mut self, said: String, told: Option<Value>) {
        if !self.said.contains(&said) {
            self.said.push(said);
        }
        self.is_untold |= told.is_none();
        self.told = told;
    }

    /// A node answered, and not with the last word.
    fn leave_open(&mut self, name: &str, why: Open) {
        let why = match why {
            Open::Passes(why) => why,
            Open::OfAnother => {
                self.is_elsewhere = true;
                "it takes you for another caller".to_owned()
            }
        };
        self.fail(format!("{name}: {why}"), None);
    }

    /// What is told of it.
    fn failed(self, again: Again) -> Failed {
        match self.begun {
            Some((_, said)) => Failed::Unknown(said, again),
            None if self.is_elsewhere => Failed::Elsewhere(self.said),
            None => Failed::NoNode(self.said, self.told.filter(|_| !self.is_untold)),
        }
    }

    /// The next node that was not tried, while there is one and time.
    fn next(&mut self, nodes: &Nodes, has_own_rights: impl Fn(usize) -> bool, now: Instant) -> Option<usize> {
        let begun_with = self.begun.as_ref().map(|(rights, _)| *rights);
        let may_ask =
            |node: usize| !self.tried.contains(&node) && begun_with.is_none_or(|rights| has_own_rights(node) == rights);
        let node = nodes.choose(may_ask, now).filter(|_| now < self.ends_at)?;
        self.tried.push(node);
        Some(node)
    }
}

// === impl Failed ===

impl Failed {
    /// This one, where others were asked before and failed so.
    fn behind(self, before: Option<Self>) -> Self {
        match (before, self) {
            (Some(Self::NoNode(mut said, earlier)), Self::NoNode(more, told)) => {
                said.extend(more);
                // The node's own error counts where each had one.
                Self::NoNode(said, earlier.and(told))
            }
            (_, failed) => failed,
        }
    }

    /// What the assistant is told.
    fn told(self, request: &Request) -> Value {
        let mut data = json!({"told_by": "ollamax mcp"});
        let (code, text, next) = match self {
            Self::NoNode(_, Some(told)) => return told,
            Self::NoNode(said, None) => {
                let text = format!("no node answers: {}", said.join("; "));
                let next = "where a way may not be used, do what is said of it; where no daemon runs, start it: \
                            ollamax-node run, and see what keeps it: ollamax doctor; or name a node that runs: \
                            ollamax mcp --node http://HOST:PORT";
                (ErrorCode::PeerUnreachable, text, next.to_owned())
            }
            Self::Elsewhere(said) => {
                let text = format!(
                    "only this machine's daemon knows your rights and your tasks, and it cannot be asked now: {}",
                    said.join("; ")
                );
                let next = "start this machine's daemon: ollamax-node run; see what keeps it: ollamax doctor; then ask \
                            again";
                (ErrorCode::PeerUnreachable, text, next.to_owned())
            }
            Self::Unknown(said, again) => {
                let called = hints::tool_of(request).unwrap_or(&request.method);
                let text = format!(
                    "the connection broke while {called} was worked at, and what was done is not known: {said}"
                );
                let look =
                    "look at what it changes before it is repeated: list_tasks and list_events say what was begun";
                let next = match again {
                    Again::WithKey(key) => {
                        data["idempotency_key"] = key.clone().into();
                        format!(
                            "when the node is back, repeat it with idempotency_key {key}: it has effect once; or {look}"
                        )
                    }
                    Again::AsItIs => {
                        format!("when the node is back, send it again as it is: it has effect once; or {look}")
                    }
                    Again::Not => look.to_owned(),
                };
                (ErrorCode::OutcomeUnknown, text, next)
            }
        };
        data["code"] = code.as_str().into();
        data["next"] = next.into();
        message::error(&request.id, INTERNAL_ERROR, text, data)
    }
}

/// Why a node did nothing that is a member and starts; nothing where it does not.
fn starting(answer: &Value) -> Option<String> {
    let refusal = message::refusal_of(answer)?;
    let code = if refusal["code"].is_string() { &refusal["code"] } else { &refusal["data"]["code"] };
    (*code == ErrorCode::Starting.as_str()).then(|| refusal["message"].as_str().unwrap_or_default().to_owned())
}

/// Says something to who started the assistant; the assistant does not hear it. Where nobody reads it, it is lost.
pub(crate) fn say(line: &str) {
    if let Some(said) = SAID.as_ref() {
        drop(said.try_send(format!("ollamax mcp: {line}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_says_with_the_right_id_what_to_do() {
        let params = json!({"name": "pull_model"}).as_object().cloned().expect("an object");
        let request = Request { id: json!("a"), method: "tools/call".to_owned(), params };
        let told = Failed::Unknown("n1: gone".to_owned(), Again::WithKey("k".to_owned())).told(&request);
        assert_eq!((&told["id"], &told["error"]["code"]), (&json!("a"), &json!(INTERNAL_ERROR)));
        let text = "the connection broke while pull_model was worked at, and what was done is not known: n1: gone";
        assert_eq!(told["error"]["message"], text);
        assert_eq!(told["error"]["data"]["code"], "outcome_unknown");
        assert_eq!(told["error"]["data"]["idempotency_key"], "k");
        assert!(told["error"]["data"]["next"].as_str().is_some_and(|next| next.contains("idempotency_key k")));
        let told = Failed::Unknown("n1: gone".to_owned(), Again::AsItIs).told(&request);
        assert!(told["error"]["data"]["next"].as_str().is_some_and(|next| next.contains("send it again as it is")));
        let told = Failed::Unknown("n1: gone".to_owned(), Again::Not).told(&request);
        assert!(told["error"]["data"]["next"].as_str().is_some_and(|next| next.starts_with("look at")));
        let told = Failed::Elsewhere(vec!["n1: refused".to_owned(), "n2: another".to_owned()]).told(&request);
        let text = told["error"]["message"].as_str().expect("text");
        assert!(
            text.starts_with("only this machine's daemon") && text.ends_with(": n1: refused; n2: another"),
            "{text}"
        );
        assert_eq!(told["error"]["data"]["code"], "peer_unreachable");
        let told = Failed::NoNode(vec!["n1: refused".to_owned(), "n2: gone".to_owned()], None).told(&request);
        assert_eq!(told["error"]["message"], "no node answers: n1: refused; n2: gone");
        assert_eq!((&told["id"], &told["error"]["data"]["code"]), (&json!("a"), &json!("peer_unreachable")));
        // The daemon may run, and only be shut to this user.
        let next = told["error"]["data"]["next"].as_str().unwrap_or_default();
        assert!(next.starts_with("where a way may not be used") && next.contains("where no daemon runs"), "{next}");
        let own = json!({"error": {"code": 1}});
        assert_eq!(Failed::NoNode(Vec::new(), Some(own.clone())).told(&request), own);
    }

    #[test]
    fn what_has_effect_once_may_be_sent_again_as_it_is_or_with_its_key() {
        let known = Known::default();
        let properties = json!({"idempotency_key": {"type": "string"}});
        known.learn(&json!({"tools": [{"name": "pulls", "inputSchema": {"properties": properties}}]}));
        let check = |method: &str, params: Value, expected: Again| {
            let params = params.as_object().cloned().expect("an object");
            let request = Request { id: json!(7), method: method.to_owned(), params };
            let hints = hints::tool_of(&request).and_then(|tool| known.of(tool));
            assert_eq!(Again::of(&request, hints), expected, "{method}");
        };
        check("tasks/update", json!({"taskId": "a"}), Again::AsItIs);
        check("tasks/cancel", json!({"taskId": "a"}), Again::AsItIs);
        check("tools/call", json!({"name": "pulls", "requestState": "sealed"}), Again::AsItIs);
        let keyed = json!({"name": "pulls", "arguments": {"idempotency_key": "k"}});
        check("tools/call", keyed, Again::WithKey("k".to_owned()));
        check("tools/call", json!({"name": "pulls"}), Again::Not);
        check("tools/call", json!({"name": "unheard_of"}), Again::Not);
        check("a/method", json!({}), Again::Not);
    }

    #[tokio::test(start_paused = true)]
    async fn a_search_tries_each_node_once_and_ends_in_time() {
        let (nodes, now) = (Nodes::new(2), Instant::now());
        let is_first = |node: usize| node == 0;
        let mut search = Search::begin(Vec::new(), now);
        assert_eq!(search.next(&nodes, is_first, now), Some(0));
        assert_eq!(search.next(&nodes, is_first, now), Some(1));
        assert_eq!(search.next(&nodes, is_first, now), None);
        assert_eq!(Search::begin(vec![0], now).next(&nodes, is_first, now), Some(1));
        assert_eq!(Search::begin(Vec::new(), now).next(&nodes, is_first, now + SEARCH_MAX), None);
        // What was begun goes on with the same rights alone.
        let mut search = Search { begun: Some((true, "gone".to_owned())), ..Search::begin(vec![0], now) };
        assert_eq!(search.next(&nodes, is_first, now), None);
    }
}
