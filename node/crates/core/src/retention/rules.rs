//! Rules for models: which they are about, on what conditions, and what then.
//!
//! All conditions of a rule must hold together. A rule without any is about nothing, so that none is ever written by
//! leaving something out.

use ollamax_types::{DAY_MS, ModelName, Timestamp};

use super::{ModelFacts, why};
use crate::catalog::Phase;

/// Most rules.
pub const RULES_MAX: usize = 64;
/// Longest pattern.
pub const PATTERN_BYTES_MAX: usize = 256;

/// The rules of the cluster. The default is none, and off.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// Whether the leader acts on them.
    pub on: bool,
    /// In order; the first that would do something to a model does.
    pub rules: Vec<Rule>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Names that it is about: `*` stands for any text. Without one it is a model's name.
    pub pattern: String,
    /// Not used for so many days.
    pub unused_days: Option<u32>,
    /// At its present version for so many days.
    pub age_days: Option<u32>,
    /// Deprecated or disabled for so many days.
    pub phase_days: Option<u32>,
    /// A disk with a copy is so full, in percent.
    pub disk_percent: Option<u32>,
    /// What then.
    pub then: Then,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Then {
    /// The model gets the word that it should not be used any more.
    Deprecate,
    /// The model answers nobody any more.
    Disable,
    /// One copy goes: of the node over the percentage of the rule, else of the one whose disk is fullest.
    DropCopy,
    /// The model goes, when it is disabled.
    Delete,
}

/// A condition that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    /// What was found.
    pub(super) found: String,
    /// What the rule says.
    pub(super) limit: u32,
}

// === impl Rules ===

impl Rules {
    /// The rules with their numbers, from 1.
    pub(super) fn numbered(&self) -> impl Iterator<Item = (usize, &Rule)> {
        (1..).zip(self.rules.iter().take(RULES_MAX))
    }
}

// === impl Rule ===

impl Rule {
    /// Whether there is anything on which it depends.
    #[must_use]
    pub fn has_condition(&self) -> bool {
        let days = self.unused_days.or(self.age_days).or(self.phase_days);
        days.or(self.disk_percent).is_some()
    }

    /// Whether its pattern means this model, as it is shown or by its full name, without regard to case.
    #[must_use]
    pub fn is_about(&self, name: &ModelName) -> bool {
        if !self.pattern.contains('*') {
            return self.pattern.parse().is_ok_and(|meant: ModelName| meant == *name);
        }
        let pattern = self.pattern.to_ascii_lowercase();
        let shown = name.to_string().to_ascii_lowercase();
        matches(pattern.as_bytes(), shown.as_bytes()) || matches(pattern.as_bytes(), name.key().as_bytes())
    }

    /// The conditions upon time, where all of them hold.
    pub(super) fn held(&self, model: &ModelFacts, now: Timestamp) -> Option<Vec<Held>> {
        let mut held = Vec::new();
        if let Some(limit) = self.unused_days {
            let days = now.day().saturating_sub(model.used_on());
            held.push(since("not used", days, limit)?);
        }
        if let Some(limit) = self.age_days {
            held.push(since("at this version", days_between(model.version_at, now), limit)?);
        }
        if let Some(limit) = self.phase_days {
            let (word, at) = match &model.phase {
                Phase::Active | Phase::Deleted(_) => return None,
                Phase::Deprecated(since) => ("deprecated", since.at),
                Phase::Disabled(since) => ("disabled", since.at),
            };
            held.push(since(word, days_between(at, now), limit)?);
        }
        Some(held)
    }
}

/// A condition of so many days, where it holds.
fn since(what: &str, days: u32, limit: u32) -> Option<Held> {
    (days >= limit).then(|| Held { found: format!("{what} for {}", why::count(u64::from(days), "day")), limit })
}

/// Whole days from one time to another.
fn days_between(from: Timestamp, to: Timestamp) -> u32 {
    u32::try_from(to.ms_since(from) / DAY_MS).unwrap_or(u32::MAX)
}

/// What was found and what the rule says, as one line; `None` where nothing was asked.
pub(super) fn told(number: usize, held: &[Held]) -> Option<String> {
    if held.is_empty() {
        return None;
    }
    let found: Vec<&str> = held.iter().map(|held| held.found.as_str()).collect();
    let limits: Vec<String> = held.iter().map(|held| held.limit.to_string()).collect();
    Some(format!("{}; rule {number} says {}", found.join(", "), limits.join(", ")))
}

/// Whether a text is what a pattern describes. It goes back to the last `*` only, so that its work is bounded by the
/// product of the lengths.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut in_text) = (0, 0);
    // Behind the last `*`, and how much of the text that one stands for at least.
    let mut back: Option<(usize, usize)> = None;
    while in_text < text.len() {
        if pattern.get(at) == Some(&b'*') {
            at += 1;
            back = Some((at, in_text));
        } else if pattern.get(at) == text.get(in_text) {
            at += 1;
            in_text += 1;
        } else if let Some((behind, until)) = back {
            at = behind;
            in_text = until + 1;
            back = Some((behind, in_text));
        } else {
            return false;
        }
    }
    pattern.iter().skip(at).all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(pattern: &str) -> Rule {
        let pattern = pattern.to_owned();
        Rule { pattern, unused_days: None, age_days: None, phase_days: None, disk_percent: None, then: Then::Deprecate }
    }

    #[test]
    fn a_pattern_means_names_as_they_are_shown_or_in_full() {
        let check = |pattern: &str, name: &str, expected: bool| {
            let name: ModelName = name.parse().expect("a name");
            assert_eq!(about(pattern).is_about(&name), expected, "{pattern:?} and {name}");
        };
        for pattern in
            ["*", "llama3.2", "llama3.2:latest", "LLAMA3.2", "llama*", "l*2:*", "*:latest", "**ll**", "*a*a*"]
        {
            check(pattern, "llama3.2", true);
        }
        check("registry.ollama.ai/library/*", "llama3.2", true);
        check("library/llama3.2", "llama3.2", true);
        for pattern in ["", "llama", "lama*", "*llama3.2", "llama3.2:1b", "*z*", "l*:1b", "library/llama*", "me/*"] {
            check(pattern, "llama3.2", false);
        }
        check("me/*", "Me/Mine:q4", true);
        check("host:5000/*", "host:5000/me/mine", true);
        check("*:q4*", "me/mine:Q4_K", true);
        check("aab*b:latest", "aabab", true);
        check("*ab*abc:latest", "abababc", true);
    }

    #[test]
    fn a_pattern_of_many_stars_is_soon_done() {
        let pattern = "*a".repeat(PATTERN_BYTES_MAX / 2) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(600).as_bytes()));
    }

    #[test]
    fn what_was_found_stands_beside_what_the_rule_says() {
        let held = |days, limit| since("not used", days, limit);
        assert_eq!(held(59, 60), None);
        let both = [held(63, 60).expect("held"), since("at this version", 1, 1).expect("held")];
        assert_eq!(told(1, &both[..1]).as_deref(), Some("not used for 63 days; rule 1 says 60"));
        let line = "not used for 63 days, at this version for 1 day; rule 2 says 60, 1";
        assert_eq!(told(2, &both).as_deref(), Some(line));
        assert_eq!(told(1, &[]), None);
    }

    #[test]
    fn a_rule_has_a_condition_when_anything_is_asked() {
        assert!(!about("*").has_condition());
        for rule in [
            Rule { unused_days: Some(0), ..about("*") },
            Rule { age_days: Some(1), ..about("*") },
            Rule { phase_days: Some(1), ..about("*") },
            Rule { disk_percent: Some(1), ..about("*") },
        ] {
            assert!(rule.has_condition(), "{rule:?}");
        }
    }
}
