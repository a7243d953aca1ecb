//! The words by which people choose models for what they can do.
//!
//! Records keep the words of the runtimes as they come ([`crate::capabilities_of`]), also such as stand nowhere here.
//! These are Ollama's, and two more that people say for some of them.

use std::fmt;
use std::str::FromStr;

use crate::id::ParseIdError;

/// What a model shall be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Goes on with a text: chat and generate.
    Completion,
    /// Makes vectors of texts.
    Embedding,
    /// Thinks before it answers.
    Thinking,
    /// The same, as people say it.
    Reasoning,
    /// Calls tools.
    Tools,
    /// Fills a gap in a text.
    Insert,
    /// Sees pictures.
    Vision,
    /// Hears sound.
    Audio,
    /// Makes pictures.
    Image,
    /// Has to do with more than text.
    Multimodal,
}

// === impl Capability ===

impl Capability {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Completion,
        Self::Embedding,
        Self::Thinking,
        Self::Reasoning,
        Self::Tools,
        Self::Insert,
        Self::Vision,
        Self::Audio,
        Self::Image,
        Self::Multimodal,
    ];

    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completion => "completion",
            Self::Embedding => "embedding",
            Self::Thinking => "thinking",
            Self::Reasoning => "reasoning",
            Self::Tools => "tools",
            Self::Insert => "insert",
            Self::Vision => "vision",
            Self::Audio => "audio",
            Self::Image => "image",
            Self::Multimodal => "multimodal",
        }
    }

    /// Whether a model can do it, by the words of its record.
    #[must_use]
    pub fn is_told_by(self, words: &[String]) -> bool {
        let is_told = |one: Self| words.iter().any(|word| word == one.as_str());
        match self {
            Self::Reasoning => is_told(self) || is_told(Self::Thinking),
            Self::Multimodal => [self, Self::Vision, Self::Audio, Self::Image].into_iter().any(is_told),
            one => is_told(one),
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Capability {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|one| one.as_str() == text);
        found.ok_or_else(|| ParseIdError { what: "word for what a model can do", text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_read_as_it_is_written() {
        for one in Capability::ALL {
            assert_eq!(one.to_string().parse(), Ok(one));
        }
        let error = "Vision".parse::<Capability>().unwrap_err();
        assert_eq!(error.to_string(), "\"Vision\" is not a word for what a model can do");
    }

    #[test]
    fn a_word_is_told_by_itself_and_two_by_those_that_they_stand_for() {
        for told in Capability::ALL {
            let words = ["unheard-of".to_owned(), told.to_string()];
            let found: Vec<Capability> = Capability::ALL.into_iter().filter(|one| one.is_told_by(&words)).collect();
            let expected = match told {
                Capability::Thinking => vec![told, Capability::Reasoning],
                Capability::Vision | Capability::Audio | Capability::Image => vec![told, Capability::Multimodal],
                _ => vec![told],
            };
            assert_eq!(found, expected, "{told}");
        }
        assert!(!Capability::Completion.is_told_by(&[]), "nothing is known");
    }
}
