//! Model names as Ollama writes them: `[host/][namespace/]model[:tag]`.
//!
//! A `Name` is always complete and always safe as a path below the manifest folder: no empty part, no dot at the start.

use std::fmt;
use std::path::PathBuf;

const HOST: &str = "registry.ollama.ai";
const NAMESPACE: &str = "library";
const TAG: &str = "latest";
const HOST_BYTES_MAX: usize = 350;
const PART_BYTES_MAX: usize = 80;

/// A complete model name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Name {
    host: String,
    namespace: String,
    model: String,
    tag: String,
}

impl Name {
    /// Reads a name and fills in what it leaves out; `None` if it breaks the grammar.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.split_once("://").map_or(text, |(_, rest)| rest);
        let (path, tag) = match text.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (text, TAG),
        };
        let mut parts = path.rsplitn(3, '/');
        let model = parts.next()?;
        let namespace = parts.next().unwrap_or(NAMESPACE);
        let host = parts.next().unwrap_or(HOST);
        Self::from_parts([host, namespace, model, tag])
    }

    /// A name from its four parts, as they stand in the manifest folder.
    pub(crate) fn from_parts([host, namespace, model, tag]: [&str; 4]) -> Option<Self> {
        let valid = host.len() <= HOST_BYTES_MAX
            && is_part(host, "_-.:")
            && [(namespace, "_-"), (model, "_-."), (tag, "_-.")]
                .iter()
                .all(|(part, extra)| part.len() <= PART_BYTES_MAX && is_part(part, extra));
        valid.then(|| Self {
            host: host.to_owned(),
            namespace: namespace.to_owned(),
            model: model.to_owned(),
            tag: tag.to_owned(),
        })
    }

    /// Where its manifest lies below the manifest folder.
    pub(crate) fn path(&self) -> PathBuf {
        [&self.host, &self.namespace, &self.model, &self.tag].iter().collect()
    }

    /// True if both names mean the same model; case does not count.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.host.eq_ignore_ascii_case(&other.host)
            && self.namespace.eq_ignore_ascii_case(&other.namespace)
            && self.model.eq_ignore_ascii_case(&other.model)
            && self.tag.eq_ignore_ascii_case(&other.tag)
    }

    /// Who owns the model: its namespace.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name with every part.
    pub(crate) fn full(&self) -> String {
        format!("{}/{}/{}:{}", self.host, self.namespace, self.model, self.tag)
    }
}

/// The short form: default host and namespace are left out, the tag never is.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host != HOST {
            write!(f, "{}/{}/", self.host, self.namespace)?;
        } else if self.namespace != NAMESPACE {
            write!(f, "{}/", self.namespace)?;
        }
        write!(f, "{}:{}", self.model, self.tag)
    }
}

fn is_part(part: &str, extra: &str) -> bool {
    let mut letters = part.chars();
    letters.next().is_some_and(|first| first.is_ascii_alphanumeric() || first == '_')
        && letters.all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_completed_and_shown_short_again() {
        let check = |input: &str, short: &str, path: &str| {
            let name = Name::parse(input).unwrap_or_else(|| panic!("{input}"));
            assert_eq!(name.to_string(), short);
            assert_eq!(name.path().to_string_lossy(), path);
        };
        check("demo", "demo:latest", "registry.ollama.ai/library/demo/latest");
        check("llama3.2:1b", "llama3.2:1b", "registry.ollama.ai/library/llama3.2/1b");
        check("me/demo", "me/demo:latest", "registry.ollama.ai/me/demo/latest");
        check("h:5000/me/demo:x", "h:5000/me/demo:x", "h:5000/me/demo/x");
        check("https://h/me/demo", "h/me/demo:latest", "h/me/demo/latest");
    }

    #[test]
    fn names_that_could_leave_the_folder_are_refused() {
        for bad in
            ["", ":", "..", "../x", "a/../b", "a//b", "/a", "a/b/c/d", "-a", ".a", "a:", "a b", "é", "a.b/c", "a\0"]
        {
            assert_eq!(Name::parse(bad), None, "{bad:?}");
        }
        assert_eq!(Name::parse(&"a".repeat(81)), None);
    }

    #[test]
    fn case_does_not_matter() {
        let name = |text| Name::parse(text).expect("valid");
        assert!(name("Demo:Latest").same(&name("demo")));
        assert!(!name("demo:1").same(&name("demo")));
    }
}
