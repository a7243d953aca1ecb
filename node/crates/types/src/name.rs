//! Ollama's model names: `[host/][namespace/]model[:tag]`.
//!
//! A name is kept as its four parts. It compares and sorts without regard to case, as Ollama matches names, and is
//! displayed as Ollama displays it: default host and namespace left out, tag always shown.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

/// Host of a name that gives none.
pub const DEFAULT_HOST: &str = "registry.ollama.ai";
/// Namespace of a name that gives none.
pub const DEFAULT_NAMESPACE: &str = "library";
/// Tag of a name that gives none.
pub const DEFAULT_TAG: &str = "latest";

/// The text is not a model name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid model name")]
pub struct ParseNameError;

/// A full model name. Cheap to clone.
#[derive(Clone)]
pub struct ModelName(Arc<Parts>);

struct Parts {
    host: String,
    namespace: String,
    model: String,
    tag: String,
}

impl ModelName {
    /// `host/namespace/model:tag`, spelled as the name is: it reads back as itself.
    #[must_use]
    pub fn full(&self) -> String {
        let [host, namespace, model, tag] = self.parts();
        format!("{host}/{namespace}/{model}:{tag}")
    }

    /// The same in lower case: equal names have equal keys.
    #[must_use]
    pub fn key(&self) -> String {
        self.full().to_lowercase()
    }

    /// The owner part, which OpenAI's list shows as `owned_by`.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// Host, namespace, model and tag, as the store's folders are named.
    #[must_use]
    pub fn parts(&self) -> [&str; 4] {
        let Parts { host, namespace, model, tag } = &*self.0;
        [host, namespace, model, tag]
    }

    /// The parts in lower case; they are ASCII.
    fn folded(&self) -> impl Iterator<Item = impl Iterator<Item = u8>> {
        self.parts().into_iter().map(|part| part.bytes().map(|byte| byte.to_ascii_lowercase()))
    }
}

fn is_part(text: &str, length_max: usize, extra: &[char]) -> bool {
    let mut characters = text.chars();
    let starts_well = characters.next().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    starts_well && text.len() <= length_max && characters.all(|c| c.is_ascii_alphanumeric() || extra.contains(&c))
}

impl FromStr for ModelName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (path, tag) = match text.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (text, DEFAULT_TAG),
        };
        let parts: Vec<&str> = path.split('/').collect();
        let (host, namespace, model) = match parts[..] {
            [model] => (DEFAULT_HOST, DEFAULT_NAMESPACE, model),
            [namespace, model] => (DEFAULT_HOST, namespace, model),
            [host, namespace, model] => (host, namespace, model),
            _ => return Err(ParseNameError),
        };
        let valid = is_part(host, 350, &['_', '-', '.', ':'])
            && is_part(namespace, 80, &['_', '-'])
            && is_part(model, 80, &['_', '-', '.'])
            && is_part(tag, 80, &['_', '-', '.']);
        if !valid {
            return Err(ParseNameError);
        }
        let [host, namespace, model, tag] = [host, namespace, model, tag].map(str::to_owned);
        Ok(Self(Arc::new(Parts { host, namespace, model, tag })))
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [host, namespace, model, tag] = self.parts();
        let default_host = host.eq_ignore_ascii_case(DEFAULT_HOST);
        if !default_host {
            write!(f, "{host}/")?;
        }
        if !default_host || !namespace.eq_ignore_ascii_case(DEFAULT_NAMESPACE) {
            write!(f, "{namespace}/")?;
        }
        write!(f, "{model}:{tag}")
    }
}

impl fmt::Debug for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelName({self})")
    }
}

impl PartialEq for ModelName {
    fn eq(&self, other: &Self) -> bool {
        self.parts().into_iter().zip(other.parts()).all(|(a, b)| a.eq_ignore_ascii_case(b))
    }
}

impl Eq for ModelName {}

impl Ord for ModelName {
    fn cmp(&self, other: &Self) -> Ordering {
        let parts = self.folded().zip(other.folded());
        parts.map(|(a, b)| a.cmp(b)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    }
}

impl PartialOrd for ModelName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for ModelName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for part in self.folded() {
            part.for_each(|byte| state.write_u8(byte));
            // Names with other borders are other names.
            state.write_u8(b'/');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        let shown = text.parse::<ModelName>().ok().map(|name| name.to_string());
        assert_eq!(shown.as_deref(), expected, "{text}");
    }

    #[test]
    fn reads_and_shows_names_as_ollama_does() {
        check("llama3.2", Some("llama3.2:latest"));
        check("llama3.2:1b", Some("llama3.2:1b"));
        check("registry.ollama.ai/library/llama3.2:1b", Some("llama3.2:1b"));
        check("Me/Mine", Some("Me/Mine:latest"));
        check("localhost:5000/library/m:t", Some("localhost:5000/library/m:t"));
        check("localhost:5000/library/m", Some("localhost:5000/library/m:latest"));
        for bad in ["", ":", "a:", "/a", "a/b/c/d", "a b", "-a", "n.s/m", "a:b:c/d", "../etc/passwd", "a\n"] {
            check(bad, None);
        }
    }

    #[test]
    fn the_full_name_has_all_parts_as_they_are_spelled() {
        for (text, full) in [("Demo", "registry.ollama.ai/library/Demo:latest"), ("h:5/Me/M:Q4", "h:5/Me/M:Q4")] {
            let name: ModelName = text.parse().expect("valid");
            assert_eq!(name.full(), full);
            assert_eq!(name.key(), full.to_lowercase());
        }
    }

    #[test]
    fn equality_order_and_key_fold_case() {
        let (a, b): (ModelName, ModelName) = ("LLAMA:Latest".parse().expect("valid"), "llama".parse().expect("valid"));
        assert_eq!(a, b);
        assert_eq!(a.cmp(&b), Ordering::Equal);
        assert_eq!(a.key(), b.key());
    }
}
