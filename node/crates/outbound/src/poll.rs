//! Watches one runtime: is it there, what does it hold, what is in its memory.
//!
//! [`judge`] decides from what a health call did; the loops only ask and publish. Always: the report's `models` is
//! `None` until the runtime has listed them once, an empty list is a value, and a runtime that works for us and lets a
//! health call wait is busy, not gone. Receivers are woken by what matters for routing and the catalog; `expires_at`,
//! which moves with every request, is refreshed in place without waking anybody. Weights that were learnt stay with
//! their manifest for as long as the report shows it. Stopping ends the loops between calls.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use ollamax_types::{ModelRecord, Residency, RuntimeKind, RuntimeState};

use crate::client::Client;
use crate::config::Config;
use crate::error::RuntimeError;
use crate::metrics::Metrics;
use crate::pace::Pace;
use crate::weights::{Asked, Known};

/// Unanswered health calls in a row, with nothing of ours in flight, that mean "hung"; calls in a row whose connection
/// broke that mean "gone". One alone may be chance, and "down" takes waiting requests away from the runtime.
pub const UNANSWERED_MAX: u32 = 2;

/// What is known of the runtime beside this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Which runtime.
    pub kind: RuntimeKind,
    /// Base URL; empty while none is known.
    pub url: String,
    /// Process id of the engine; `None` for a runtime that somebody else runs.
    pub pid: Option<u32>,
    /// Whether it was built to use GPUs, as the bundled engine says; `None` for a runtime that does not say.
    pub gpu: Option<bool>,
    /// Version as the runtime says; empty until it said it.
    pub version: String,
    /// Whether it can be sent work.
    pub state: RuntimeState,
    /// Models in its store; `None` until it listed them once. Kept while it is down: busy or restarting is not empty.
    /// Shared, and the same list as long as the runtime lists the same: comparing and passing it on cost nothing.
    pub models: Option<Arc<Vec<ModelRecord>>>,
    /// Models in its memory; empty while it is down.
    pub resident: Vec<Residency>,
}

/// What one health call did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It was answered.
    Answered,
    /// It failed while this many requests of ours were in flight, the runtime's last sign of life that long ago.
    Failed {
        /// How.
        error: RuntimeError,
        /// Requests of this node at the runtime.
        in_flight: u32,
        /// Time since the runtime answered a control call or sent a byte of inference.
        quiet_for: Duration,
    },
}

/// The state, and what led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// What routing sees.
    pub state: RuntimeState,
    /// Health calls in a row that were not answered.
    pub unanswered: u32,
}

/// The next standing. Pure.
#[must_use]
pub fn judge(before: &Standing, event: &Event, hang_after: Duration) -> Standing {
    match event {
        Event::Answered => Standing { state: RuntimeState::Up, unanswered: 0 },
        Event::Failed { error, in_flight, quiet_for } => {
            let unanswered = before.unanswered.saturating_add(1);
            let is_patient = match error {
                RuntimeError::TimedOut { .. } => {
                    let is_busy = *in_flight > 0 && *quiet_for < hang_after;
                    is_busy || unanswered < UNANSWERED_MAX
                }
                RuntimeError::Disconnected { .. } | RuntimeError::Broken(_) => unanswered < UNANSWERED_MAX,
                RuntimeError::Unreachable { .. }
                | RuntimeError::NotOllama { .. }
                | RuntimeError::IsOllamaMax { .. }
                | RuntimeError::Refused { .. }
                | RuntimeError::TooLarge { .. }
                | RuntimeError::UploadFailed { .. } => false,
            };
            let state = match (&before.state, is_patient) {
                (RuntimeState::Up, true) => RuntimeState::Up,
                _ => RuntimeState::Down(error.to_string()),
            };
            Standing { state, unanswered }
        }
    }
}

/// The loops over one client. They end when `stop` is cancelled.
#[derive(Debug)]
pub(crate) struct PollService<'a> {
    pub(crate) client: &'a Client,
    pub(crate) config: &'a Config,
    /// Stands before the reason while the runtime has never answered, for example why it is waited for.
    pub(crate) waiting_because: Option<&'a str>,
    pub(crate) report: &'a watch::Sender<Report>,
    pub(crate) metrics: &'a Metrics,
}

// === impl Report ===

impl Report {
    /// Nothing known yet.
    #[must_use]
    pub const fn absent(kind: RuntimeKind) -> Self {
        Self {
            kind,
            url: String::new(),
            pid: None,
            gpu: None,
            version: String::new(),
            state: RuntimeState::Absent,
            models: None,
            resident: Vec::new(),
        }
    }

    /// Whether two reports mean the same to routing and to the catalog: all but `expires_at`, by which the runtime also
    /// orders what is in its memory.
    #[must_use]
    pub fn means_the_same(&self, other: &Self) -> bool {
        let resident_key = |report: &Self| {
            let rows = report.resident.iter();
            let mut keys: Vec<_> = rows
                .map(|row| (row.name.key(), row.digest, row.weights, row.size_vram_bytes, row.context_length))
                .collect();
            keys.sort_unstable();
            keys
        };
        let head = |report: &Self| (report.kind, report.url.clone(), report.pid, report.version.clone());
        head(self) == head(other)
            && self.state == other.state
            && self.models == other.models
            && resident_key(self) == resident_key(other)
    }

    /// What it knows of all manifests that it shows.
    fn known(&self) -> Known {
        let mut known = Known::new();
        for model in self.models.iter().flat_map(|models| models.iter()) {
            let learnt = known.entry(model.digest).or_default();
            learnt.weights = learnt.weights.or(model.known_weights());
            if learnt.capabilities.is_empty() {
                learnt.capabilities.clone_from(&model.capabilities);
            }
        }
        for row in self.resident.iter().filter(|row| row.weights != row.digest) {
            known.entry(row.digest).or_default().weights = Some(row.weights);
        }
        known
    }

    fn learn(&mut self, known: &Known) {
        fill_resident(&mut self.resident, known);
        if let Some(models) = self.models.as_mut().filter(|models| models.iter().any(|model| learns(model, known))) {
            fill_models(Arc::make_mut(models).as_mut_slice(), known);
        }
    }
}

/// Whether something is known of a model that is not written there.
fn learns(model: &ModelRecord, known: &Known) -> bool {
    known.get(&model.digest).is_some_and(|learnt| {
        let weights = learnt.weights.is_some_and(|weights| weights != model.weights);
        weights || (model.capabilities.is_empty() && !learnt.capabilities.is_empty())
    })
}

/// Writes what is known of these manifests; what a list itself says of what a model can do stays.
fn fill_models(models: &mut [ModelRecord], known: &Known) {
    for model in models {
        let Some(learnt) = known.get(&model.digest) else { continue };
        model.weights = learnt.weights.unwrap_or(model.weights);
        if model.capabilities.is_empty() {
            model.capabilities.clone_from(&learnt.capabilities);
        }
    }
}

fn fill_resident(rows: &mut [Residency], known: &Known) {
    for row in rows {
        row.weights = known.get(&row.digest).and_then(|learnt| learnt.weights).unwrap_or(row.weights);
    }
}

/// Changes the report in place, and wakes its receivers when the change means something.
pub(crate) fn publish(report: &watch::Sender<Report>, change: impl FnOnce(&mut Report)) {
    report.send_if_modified(|current| {
        let before = current.clone();
        change(current);
        !current.means_the_same(&before)
    });
}

/// The list that was held, where the new one says the same.
fn kept(held: Option<Arc<Vec<ModelRecord>>>, listed: Vec<ModelRecord>) -> Arc<Vec<ModelRecord>> {
    held.filter(|held| **held == listed).unwrap_or_else(|| Arc::new(listed))
}

/// The state for people: while the runtime has never answered, with the reason why it is waited for.
fn shown(state: &RuntimeState, waiting_because: Option<&str>) -> RuntimeState {
    match (state, waiting_because) {
        (RuntimeState::Down(reason), Some(why)) => RuntimeState::Down(format!("{why}; {reason}")),
        (state, _) => state.clone(),
    }
}

// === impl PollService ===

impl PollService<'_> {
    /// Runs until `stop`.
    pub(crate) async fn run(&self, stop: &CancellationToken) {
        let (came_up, listed) = (Notify::new(), Notify::new());
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.watch_health(&came_up) => {}
            () = self.watch_models(&came_up, &listed) => {}
            () = self.watch_weights(&listed) => {}
        }
    }

    /// Asks each second, and at once when a request got its first byte or ended.
    async fn watch_health(&self, came_up: &Notify) {
        let mut standing = Standing { state: RuntimeState::Absent, unanswered: 0 };
        let mut waiting_because = self.waiting_because;
        let mut pace = Pace::new(self.config.residency_interval());
        loop {
            pace.next(self.client.stirred()).await;
            let is_up = standing.state == RuntimeState::Up;
            let (event, found) = match self.look(is_up).await {
                Ok(found) => (Event::Answered, Some(found)),
                Err(error) => (self.failed(error), None),
            };
            standing = judge(&standing, &event, self.config.hang_after());
            if standing.state == RuntimeState::Up {
                waiting_because = None;
            }
            self.show(is_up, shown(&standing.state, waiting_because), found);
            if !is_up && standing.state == RuntimeState::Up {
                came_up.notify_one();
            }
        }
    }

    /// What is in memory; first, while the runtime does not count as up, whether it is one.
    async fn look(&self, is_up: bool) -> Result<(Option<String>, Vec<Residency>), RuntimeError> {
        let version = if is_up { None } else { Some(self.client.version().await?) };
        Ok((version, self.client.ps().await?))
    }

    fn failed(&self, error: RuntimeError) -> Event {
        self.metrics.health_failures.inc();
        Event::Failed { error, in_flight: self.client.in_flight(), quiet_for: self.client.quiet_for() }
    }

    fn show(&self, was_up: bool, state: RuntimeState, found: Option<(Option<String>, Vec<Residency>)>) {
        let is_up = state == RuntimeState::Up;
        match (&state, was_up) {
            (RuntimeState::Up, false) => tracing::info!(runtime = self.client.url(), "the model runtime answers"),
            (RuntimeState::Down(reason), true) => {
                tracing::warn!(runtime = self.client.url(), reason, "the model runtime is out of routing");
            }
            _ => {}
        }
        self.metrics.up.set(i64::from(is_up));
        publish(self.report, |report| {
            self.client.url().clone_into(&mut report.url);
            report.state = state;
            if let Some((version, resident)) = found {
                let known = report.known();
                report.resident = resident;
                report.learn(&known);
                if let Some(version) = version {
                    report.version = version;
                }
            } else if !is_up {
                report.resident.clear();
            }
        });
    }

    /// Lists the models each few seconds, and at once when the runtime came up; says so each time.
    async fn watch_models(&self, came_up: &Notify, said: &Notify) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.config.models_interval()) => {}
                () = came_up.notified() => {}
                () = self.client.models_changed() => {}
            }
            if self.report.borrow().state != RuntimeState::Up {
                continue;
            }
            let listed = async { Ok((self.client.version().await?, self.client.tags().await?)) };
            let listed: Result<_, RuntimeError> = listed.await;
            match listed {
                Ok((version, mut models)) => {
                    publish(self.report, |report| {
                        fill_models(&mut models, &report.known());
                        report.version = version;
                        report.models = Some(kept(report.models.take(), models));
                    });
                    said.notify_one();
                }
                Err(error) => tracing::debug!(runtime = self.client.url(), %error, "list models"),
            }
        }
    }

    /// Asks for the weights of models and what they can do after each list; no list waits for it.
    async fn watch_weights(&self, listed: &Notify) {
        let mut asked = Asked::default();
        loop {
            listed.notified().await;
            let models =
                asked.next(self.report.borrow().models.as_deref().map_or(&[][..], Vec::as_slice), Instant::now());
            let known = asked.ask(self.client, models).await;
            if !known.is_empty() {
                // All of them at once: each change of the list costs the cluster an entry in its log.
                publish(self.report, |report| report.learn(&known));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ollamax_types::Digest;

    use super::*;
    use crate::weights::Learnt;

    const HANG_AFTER: Duration = Duration::from_secs(30);

    fn timed_out(in_flight: u32, quiet_s: u64) -> Event {
        let error = RuntimeError::TimedOut {
            url: "http://127.0.0.1:1".to_owned(),
            path: "/api/ps".to_owned(),
            after: Duration::from_secs(2),
        };
        Event::Failed { error, in_flight, quiet_for: Duration::from_secs(quiet_s) }
    }

    fn refused(in_flight: u32) -> Event {
        let (url, reason) = (String::new(), "Connection refused".to_owned());
        let error = RuntimeError::Unreachable { url, reason, is_refused: true };
        Event::Failed { error, in_flight, quiet_for: Duration::ZERO }
    }

    /// `U` up, `D` down, `A` absent: the standings after each event, from "up".
    fn check(events: &[Event], expected: &str) {
        let mut standing = Standing { state: RuntimeState::Up, unanswered: 0 };
        let mut seen = String::new();
        for event in events {
            standing = judge(&standing, event, HANG_AFTER);
            seen.push(match standing.state {
                RuntimeState::Up => 'U',
                RuntimeState::Down(_) => 'D',
                RuntimeState::Absent => 'A',
            });
        }
        assert_eq!(seen, expected, "{events:?}");
    }

    #[test]
    fn refused_means_down_at_once_even_with_work_in_flight() {
        check(&[refused(0), Event::Answered], "DU");
        check(&[refused(3)], "D");
    }

    #[test]
    fn a_connection_that_broke_once_may_be_chance() {
        let hung_up = || {
            let error = RuntimeError::Disconnected { url: String::new(), reason: "connection closed".to_owned() };
            Event::Failed { error, in_flight: 1, quiet_for: Duration::ZERO }
        };
        check(&[hung_up(), Event::Answered, hung_up(), hung_up(), Event::Answered], "UUUDU");
        check(&[hung_up(), refused(1)], "UD");
        check(&[hung_up(), timed_out(0, 1)], "UD");
    }

    #[test]
    fn unanswered_twice_with_nothing_in_flight_means_hung() {
        check(&[timed_out(0, 100), timed_out(0, 100), Event::Answered], "UDU");
        check(&[timed_out(0, 0), Event::Answered, timed_out(0, 0)], "UUU");
    }

    #[test]
    fn busy_is_not_gone_until_no_byte_came_for_long() {
        check(&[timed_out(1, 3), timed_out(1, 5), timed_out(1, 29), timed_out(1, 30)], "UUUD");
    }

    #[test]
    fn a_runtime_that_is_down_does_not_come_up_by_being_silent() {
        check(&[refused(0), timed_out(1, 1), timed_out(1, 2)], "DDD");
    }

    #[test]
    fn what_answers_as_something_else_is_down() {
        let html = RuntimeError::NotOllama {
            url: "http://127.0.0.1:1".to_owned(),
            path: "/api/version".to_owned(),
            status: 200,
            found: "content type \"text/html\"".to_owned(),
        };
        check(&[Event::Failed { error: html, in_flight: 0, quiet_for: Duration::ZERO }], "D");
    }

    #[test]
    fn a_list_that_says_the_same_stays_the_same_list() {
        let model = |name: &str| ModelRecord {
            name: name.parse().expect("valid"),
            digest: Digest([1; 32]),
            weights: Digest([1; 32]),
            size_bytes: 1,
            modified_at: ollamax_types::Timestamp(1),
            details_json: "{}".to_owned(),
            capabilities: Vec::new(),
        };
        let first = kept(None, vec![model("a")]);
        assert!(Arc::ptr_eq(&kept(Some(Arc::clone(&first)), vec![model("a")]), &first));
        assert_eq!(*kept(Some(first), vec![model("b")]), [model("b")]);
    }

    #[test]
    fn what_was_learnt_is_written_where_the_list_says_nothing_of_its_own() {
        let model = |capabilities: &[&str]| ModelRecord {
            name: "m".parse().expect("valid"),
            digest: Digest([1; 32]),
            weights: Digest([1; 32]),
            size_bytes: 1,
            modified_at: ollamax_types::Timestamp(1),
            details_json: "{}".to_owned(),
            capabilities: capabilities.iter().map(|word| (*word).to_owned()).collect(),
        };
        let learnt = |weights: Option<u8>, capabilities: &[&str]| {
            let weights = weights.map(|byte| Digest([byte; 32]));
            Known::from([(Digest([1; 32]), Learnt { weights, capabilities: model(capabilities).capabilities })])
        };
        let check = |listed: &[&str], known: &Known, weights: u8, capabilities: &[&str]| {
            let mut report =
                Report { models: Some(Arc::new(vec![model(listed)])), ..Report::absent(RuntimeKind::Ollama) };
            report.learn(known);
            let expected = ModelRecord { weights: Digest([weights; 32]), ..model(capabilities) };
            assert_eq!(report.models.as_deref(), Some(&vec![expected]), "{listed:?} {known:?}");
        };
        check(&[], &Known::new(), 1, &[]);
        check(&[], &learnt(None, &["tools"]), 1, &["tools"]);
        check(&[], &learnt(Some(9), &[]), 9, &[]);
        check(&["vision"], &learnt(Some(9), &["tools"]), 9, &["vision"]);
        check(&["vision"], &learnt(None, &["tools"]), 1, &["vision"]);
    }

    #[test]
    fn only_a_moved_expiry_wakes_nobody() {
        let row = Residency {
            name: "m".parse().expect("valid"),
            digest: Digest([1; 32]),
            weights: Digest([1; 32]),
            size_bytes: 1,
            size_vram_bytes: 0,
            context_length: 4096,
            expires_at: "2026-01-01T00:00:00Z".to_owned(),
            details_json: "{}".to_owned(),
        };
        let (sender, mut receiver) = watch::channel(Report::absent(RuntimeKind::Ollama));
        let mut woken = |change: &dyn Fn(&mut Report)| {
            publish(&sender, |report| change(report));
            let woken = receiver.has_changed().expect("sender lives");
            receiver.mark_unchanged();
            woken
        };
        assert!(woken(&|report| report.resident = vec![row.clone()]));
        let later = Residency { expires_at: "2026-01-01T00:05:00Z".to_owned(), ..row.clone() };
        assert!(!woken(&|report| report.resident = vec![later.clone()]));
        let other = Residency { name: "n".parse().expect("valid"), ..row.clone() };
        assert!(woken(&|report| report.resident.push(other.clone())));
        assert!(!woken(&|report| report.resident.reverse()), "the runtime lists by expiry");
        assert!(woken(&|report| report.resident[0].weights = Digest([2; 32])));
        assert!(woken(&|report| report.models = Some(Arc::default())), "an empty list is a value");
        assert!(!woken(&|report| report.models = Some(Arc::default())));
        assert!(woken(&|report| report.resident.clear()));
    }
}
