//! Learns which weights stand behind each model and what it can do: has it shown, a few models after each list.
//!
//! Owns what was asked in vain ([`Asked`]); what was learnt is in the report alone. Always: one question at a time, at
//! most [`SHOWS_PER_LIST_MAX`] between two lists, and one for each manifest, because a manifest never changes its
//! weights. No list waits for any of it. A question that failed leaves the manifest in the place of the weights and is
//! asked again after [`ASK_AGAIN_AFTER`]; a runtime that does not answer at all is left alone until the next list. What
//! is no longer listed is forgotten.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use ollamax_types::{Digest, ModelRecord};

use crate::client::Client;
use crate::error::RuntimeError;

/// Models that are asked about between two lists: a large store fills over several, and no runtime is flooded.
pub(crate) const SHOWS_PER_LIST_MAX: usize = 16;
/// Rest before a question that failed is asked again.
pub(crate) const ASK_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// What lists need not say of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Learnt {
    /// SHA-256 of the weights; `None`: not known, or it names none.
    pub(crate) weights: Option<Digest>,
    /// What the model can do; empty: not known.
    pub(crate) capabilities: Vec<String>,
}

/// What was learnt, by manifest.
pub(crate) type Known = BTreeMap<Digest, Learnt>;

/// What `/api/show` says of a listed model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// This.
    OfIt(Learnt),
    /// The name has moved since it was listed, so this speaks of another manifest; the next list shows which.
    OfAnother,
}

/// Manifests whose weights were asked for in vain, and when to ask again; `None` is never, as the runtime said that it
/// names none.
#[derive(Debug, Default)]
pub(crate) struct Asked(BTreeMap<Digest, Option<Instant>>);

// === impl Asked ===

impl Asked {
    /// Asks about these models, until the runtime fails to answer at all.
    pub(crate) async fn ask(&mut self, client: &Client, models: Vec<ModelRecord>) -> Known {
        let mut known = Known::new();
        for model in models {
            match client.learn(&model).await {
                Ok(Told::OfIt(learnt)) => {
                    if learnt.weights.is_none() {
                        self.names_none(model.digest);
                    }
                    known.insert(model.digest, learnt);
                }
                Ok(Told::OfAnother) => {}
                Err(error) => {
                    tracing::debug!(runtime = client.url(), model = %model.name, %error, "have a model shown");
                    self.failed(model.digest, Instant::now());
                    if !matches!(error, RuntimeError::Refused { .. }) {
                        break;
                    }
                }
            }
        }
        known
    }

    /// The models to ask about now, one for each manifest.
    pub(crate) fn next(&mut self, listed: &[ModelRecord], now: Instant) -> Vec<ModelRecord> {
        let unknown = listed.iter().filter(|model| model.known_weights().is_none());
        let unknown: BTreeMap<Digest, &ModelRecord> = unknown.map(|model| (model.digest, model)).collect();
        self.0.retain(|manifest, _| unknown.contains_key(manifest));
        let due = |manifest: &Digest| self.0.get(manifest).is_none_or(|again| again.is_some_and(|again| again <= now));
        let due = unknown.into_iter().filter(|(manifest, _)| due(manifest));
        due.map(|(_, model)| model.clone()).take(SHOWS_PER_LIST_MAX).collect()
    }

    fn names_none(&mut self, manifest: Digest) {
        self.0.insert(manifest, None);
    }

    fn failed(&mut self, manifest: Digest, now: Instant) {
        self.0.insert(manifest, Some(now + ASK_AGAIN_AFTER));
    }
}

#[cfg(test)]
mod tests {
    use ollamax_types::Timestamp;

    use super::*;

    fn model(name: &str, manifest: u16) -> ModelRecord {
        let mut digest = Digest([0; 32]);
        digest.0[..2].copy_from_slice(&manifest.to_be_bytes());
        ModelRecord {
            name: name.parse().expect("a name"),
            digest,
            weights: digest,
            size_bytes: 1,
            modified_at: Timestamp(1),
            details_json: "{}".to_owned(),
            capabilities: Vec::new(),
        }
    }

    fn names(models: &[ModelRecord]) -> Vec<String> {
        models.iter().map(|model| model.name.to_string()).collect()
    }

    #[test]
    fn one_question_for_each_manifest_of_unknown_weights() {
        let mut asked = Asked::default();
        let known = ModelRecord { weights: Digest([9; 32]), ..model("known", 3) };
        let listed = [model("a", 1), model("b", 2), model("b-too", 2), known];
        assert_eq!(asked.next(&listed, Instant::now()).len(), 2);
    }

    #[test]
    fn what_failed_is_asked_again_later_and_what_names_no_weights_only_once_it_was_away() {
        let (mut asked, now) = (Asked::default(), Instant::now());
        let listed = [model("a", 1), model("b", 2), model("c", 3)];
        asked.failed(listed[0].digest, now);
        asked.names_none(listed[1].digest);
        assert_eq!(names(&asked.next(&listed, now)), ["c:latest"]);
        assert_eq!(names(&asked.next(&listed, now + ASK_AGAIN_AFTER)), ["a:latest", "c:latest"]);
        assert_eq!(names(&asked.next(&listed[2..], now)), ["c:latest"]);
        assert_eq!(names(&asked.next(&listed, now)), ["a:latest", "b:latest", "c:latest"]);
    }

    #[test]
    fn a_large_store_is_asked_in_portions_and_failures_do_not_hold_up_the_rest() {
        let (mut asked, now) = (Asked::default(), Instant::now());
        let listed: Vec<ModelRecord> = (0..500).map(|at| model(&format!("m{at}"), at)).collect();
        let mut seen = Vec::new();
        loop {
            let portion = asked.next(&listed, now);
            if portion.is_empty() {
                break;
            }
            assert!(portion.len() <= SHOWS_PER_LIST_MAX);
            portion.iter().for_each(|model| asked.failed(model.digest, now));
            seen.extend(portion);
        }
        assert_eq!(names(&seen), names(&listed));
    }
}
