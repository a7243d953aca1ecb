//! Which runtime stands beside this node. One, chosen once and stored.
//!
//! Pure: the facts come from [`crate::facts`]. The rule that matters: at boot an Ollama may come up after us, so a
//! unit, a binary or a store of Ollama means wait for it; the engine is never started beside it. Only an
//! administrator's explicit `runtime.kind` or `runtime.url` overrides what was stored; `OLLAMA_HOST`, which a shell may
//! set for its clients, counts at the first choice alone, and never where a node of OllamaMax answers.

use std::fmt;

use url::Url;

use crate::address;
use crate::config::Kind;

/// What was chosen at an earlier start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// The Ollama at this address.
    Ollama {
        /// Base URL.
        url: Url,
    },
    /// The bundled engine.
    Engine,
}

/// What answered at the address where Ollama would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// An Ollama (or what speaks like one).
    Ollama,
    /// A node of OllamaMax: never a runtime.
    OllamaMax,
    /// Nothing, or something else; the text says what.
    Nothing(String),
}

/// Everything that the choice depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `runtime.kind`.
    pub kind: Kind,
    /// `runtime.url`, where it is set.
    pub url: Option<Url>,
    /// `OLLAMA_HOST`, where it is set and readable.
    pub ollama_host: Option<Url>,
    /// The address of this node's own `api` listener: a runtime there would be ourselves.
    pub own_api: Option<Url>,
    /// The sign that Ollama is installed here, for example "/usr/bin/ollama exists".
    pub installed: Option<String>,
    /// What was chosen before.
    pub stored: Option<Stored>,
    /// What answers at [`Facts::candidate`] now.
    pub probe: Probe,
}

/// The runtime to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// None; this node only routes.
    None,
    /// The Ollama at this address.
    Ollama {
        /// Base URL.
        url: Url,
    },
    /// The bundled engine, started by this node.
    Engine,
    /// The Ollama that is expected at this address and does not answer yet.
    Wait {
        /// Base URL.
        url: Url,
        /// Why it is expected, for `status` and the log.
        reason: String,
    },
}

// === impl Probe ===

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ollama => f.write_str("an Ollama"),
            Self::OllamaMax => f.write_str("a node of OllamaMax"),
            Self::Nothing(text) => f.write_str(text),
        }
    }
}

// === impl Choice ===

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none: this node only routes"),
            Self::Ollama { url } => write!(f, "the Ollama at {url}"),
            Self::Engine => f.write_str("the bundled engine"),
            Self::Wait { url, reason } => write!(f, "the Ollama that is expected at {url}: {reason}"),
        }
    }
}

// === impl Facts ===

impl Facts {
    /// Where Ollama would be: the configured address, else what was stored, else `OLLAMA_HOST` unless it means this
    /// node itself, else the default.
    #[must_use]
    pub fn candidate(&self) -> Url {
        let named = self.url.as_ref().or_else(|| self.stored_ollama()).or_else(|| self.foreign_ollama_host());
        named.cloned().unwrap_or_else(default_url)
    }

    /// An `OLLAMA_HOST` that names another runtime than the one that this node has used before: it changes nothing.
    #[must_use]
    pub fn overruled_host(&self) -> Option<&Url> {
        let used = self.url.as_ref().or_else(|| self.stored_ollama())?;
        self.foreign_ollama_host().filter(|host| !address::same_endpoint(used, host))
    }

    /// Whether the candidate comes from `OLLAMA_HOST` and a node of OllamaMax answers there: the variable is then meant
    /// for clients, and the choice is made without it.
    #[must_use]
    pub fn host_is_a_node(&self) -> bool {
        let from_host = self.url.is_none() && self.stored_ollama().is_none() && self.foreign_ollama_host().is_some();
        from_host && self.probe == Probe::OllamaMax
    }

    fn stored_ollama(&self) -> Option<&Url> {
        match &self.stored {
            Some(Stored::Ollama { url }) => Some(url),
            Some(Stored::Engine) | None => None,
        }
    }

    /// `OLLAMA_HOST`, unless it points clients at this very node.
    fn foreign_ollama_host(&self) -> Option<&Url> {
        let host = self.ollama_host.as_ref()?;
        let is_self = self.own_api.as_ref().is_some_and(|own| address::same_endpoint(own, host));
        (!is_self).then_some(host)
    }

    /// Why an Ollama is to be expected, if it is.
    fn expected_because(&self) -> Option<String> {
        if self.kind == Kind::Ollama {
            return Some("runtime.kind is ollama".to_owned());
        }
        if self.url.is_some() {
            return Some("runtime.url names it".to_owned());
        }
        if self.stored_ollama().is_some() {
            return Some("this node has used it before".to_owned());
        }
        if self.foreign_ollama_host().is_some() {
            return Some("OLLAMA_HOST names it".to_owned());
        }
        self.installed.clone()
    }
}

/// Chooses. Pure.
#[must_use]
pub fn choose(facts: &Facts) -> Choice {
    match facts.kind {
        Kind::None => return Choice::None,
        Kind::Engine => return Choice::Engine,
        Kind::Auto if facts.stored == Some(Stored::Engine) && facts.url.is_none() => return Choice::Engine,
        Kind::Auto | Kind::Ollama => {}
    }
    let url = facts.candidate();
    match (&facts.probe, facts.expected_because()) {
        (Probe::Ollama, _) => Choice::Ollama { url },
        (Probe::OllamaMax | Probe::Nothing(_), Some(why)) => {
            let hint = if facts.kind == Kind::Auto { " (set runtime.kind = \"engine\" to do without it)" } else { "" };
            Choice::Wait { url, reason: format!("waiting for Ollama: {why}{hint}") }
        }
        (Probe::OllamaMax | Probe::Nothing(_), None) => Choice::Engine,
    }
}

/// Where Ollama listens unless told otherwise.
#[must_use]
pub fn default_url() -> Url {
    address::parse("").expect("the default address is readable, as a test shows")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        address::parse(text).expect("readable")
    }

    #[test]
    fn the_log_has_a_choice_in_words() {
        let at = || url("http://127.0.0.1:11434");
        let reason = "a unit exists".to_owned();
        assert_eq!(Choice::Ollama { url: at() }.to_string(), "the Ollama at http://127.0.0.1:11434/");
        let waiting = Choice::Wait { url: at(), reason }.to_string();
        assert_eq!(waiting, "the Ollama that is expected at http://127.0.0.1:11434/: a unit exists");
        assert_eq!(Probe::Nothing("connection refused".to_owned()).to_string(), "connection refused");
    }

    fn bare() -> Facts {
        Facts {
            kind: Kind::Auto,
            url: None,
            ollama_host: None,
            own_api: Some(url("127.0.0.1:11435")),
            installed: None,
            stored: None,
            probe: Probe::Nothing("Connection refused".to_owned()),
        }
    }

    fn check(facts: &Facts, expected: &str) {
        let shown = match choose(facts) {
            Choice::None => "none".to_owned(),
            Choice::Ollama { url } => format!("ollama {url}"),
            Choice::Engine => "engine".to_owned(),
            Choice::Wait { url, .. } => format!("wait {url}"),
        };
        assert_eq!(shown, expected, "{facts:?}");
    }

    #[test]
    fn a_machine_without_any_ollama_gets_the_engine() {
        check(&bare(), "engine");
        check(&Facts { probe: Probe::OllamaMax, ..bare() }, "engine");
    }

    #[test]
    fn an_ollama_that_answers_is_used() {
        check(&Facts { probe: Probe::Ollama, ..bare() }, "ollama http://127.0.0.1:11434/");
        let facts = Facts { probe: Probe::Ollama, ollama_host: Some(url("gpu:5")), ..bare() };
        check(&facts, "ollama http://gpu:5/");
        check(&Facts { url: Some(url("other:6")), ..facts }, "ollama http://other:6/");
    }

    #[test]
    fn a_sign_of_ollama_means_wait_and_never_the_engine_beside_it() {
        let facts = Facts { installed: Some("/usr/bin/ollama exists".to_owned()), ..bare() };
        check(&facts, "wait http://127.0.0.1:11434/");
        check(&Facts { probe: Probe::OllamaMax, ..facts }, "wait http://127.0.0.1:11434/");
        check(&Facts { ollama_host: Some(url("gpu:5")), ..bare() }, "wait http://gpu:5/");
        check(&Facts { url: Some(url("gpu:6")), ..bare() }, "wait http://gpu:6/");
        check(&Facts { kind: Kind::Ollama, ..bare() }, "wait http://127.0.0.1:11434/");
    }

    #[test]
    fn what_was_chosen_once_stays() {
        let engine = Facts { stored: Some(Stored::Engine), probe: Probe::Ollama, ..bare() };
        check(&engine, "engine");
        let ollama = Facts { stored: Some(Stored::Ollama { url: url("gpu:5") }), ..bare() };
        check(&ollama, "wait http://gpu:5/");
        check(&Facts { probe: Probe::Ollama, ..ollama.clone() }, "ollama http://gpu:5/");
        check(&Facts { kind: Kind::Engine, ..ollama }, "engine");
        check(&Facts { kind: Kind::Ollama, ..engine.clone() }, "ollama http://127.0.0.1:11434/");
        check(&Facts { url: Some(url("gpu:6")), probe: Probe::Ollama, ..engine.clone() }, "ollama http://gpu:6/");
        check(&Facts { kind: Kind::None, ..engine }, "none");
    }

    #[test]
    fn ollama_host_does_not_move_a_node_from_the_ollama_it_has_used() {
        let stored = Some(Stored::Ollama { url: url("gpu:5") });
        let facts = Facts { stored, ollama_host: Some(url("other:6")), ..bare() };
        check(&facts, "wait http://gpu:5/");
        check(&Facts { probe: Probe::Ollama, ..facts.clone() }, "ollama http://gpu:5/");
        check(&Facts { kind: Kind::Ollama, ..facts.clone() }, "wait http://gpu:5/");
        assert_eq!(facts.overruled_host(), Some(&url("other:6")));
        assert_eq!(Facts { ollama_host: Some(url("gpu:5")), ..facts.clone() }.overruled_host(), None);
        assert_eq!(Facts { stored: None, ..facts.clone() }.overruled_host(), None);
        let explicit = Facts { url: Some(url("gpu:7")), probe: Probe::Ollama, ..facts };
        check(&explicit, "ollama http://gpu:7/");
        assert_eq!(explicit.overruled_host(), Some(&url("other:6")));
    }

    #[test]
    fn ollama_host_at_which_a_node_answers_is_left_out() {
        let facts = Facts { ollama_host: Some(url("a.lan:11435")), probe: Probe::OllamaMax, ..bare() };
        assert!(facts.host_is_a_node());
        let without = Facts { ollama_host: None, ..facts.clone() };
        assert_eq!(without.candidate(), default_url());
        assert!(!without.host_is_a_node(), "what answers at the default address does not come from OLLAMA_HOST");
        check(&Facts { probe: Probe::Nothing(String::new()), ..without.clone() }, "engine");
        check(&Facts { probe: Probe::Ollama, ..without }, "ollama http://127.0.0.1:11434/");
        assert!(!Facts { probe: Probe::Ollama, ..facts.clone() }.host_is_a_node());
        assert!(!Facts { url: Some(url("gpu:7")), ..facts.clone() }.host_is_a_node());
        assert!(!Facts { stored: Some(Stored::Ollama { url: url("gpu:5") }), ..facts }.host_is_a_node());
    }

    #[test]
    fn ollama_host_that_points_at_this_node_is_not_its_runtime() {
        let facts = Facts { ollama_host: Some(url("localhost:11435")), ..bare() };
        assert_eq!(facts.candidate(), default_url());
        check(&facts, "engine");
        check(&Facts { probe: Probe::Ollama, ..facts }, "ollama http://127.0.0.1:11434/");
    }
}
