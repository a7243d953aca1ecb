//! From a conversation to tokens that fit: the oldest messages go first, the system's and the last one stay.

use llama_cpp_2::token::LlamaToken;

use crate::protocol::Prompt;
use crate::runner::{Loaded, OrderError};
use crate::template::{self, Marks, Message};

const TOO_LONG: &str = "the input length exceeds the context length";

/// How many tokens a prompt may have, and what to do when it has more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Most tokens.
    pub(super) tokens: usize,
    /// Tokens at the start that stay when the middle is cut out.
    pub(super) keep: usize,
    /// Cut what is too long, instead of refusing it.
    pub(super) truncate: bool,
}

impl Loaded<'_> {
    /// The prompt as tokens, no more than there is room for.
    pub(super) fn prompt_tokens(&self, prompt: &Prompt, room: Room) -> Result<Vec<LlamaToken>, OrderError> {
        let mut tokens = match prompt {
            Prompt::Raw { before, text } => self.continue_with(before, text)?,
            Prompt::Chat { before, messages, template } => {
                let template = match template {
                    Some(template) => Some(template.clone()),
                    None => self.model.meta_val_str("tokenizer.chat_template").ok(),
                };
                let render = |messages: &[Message]| -> Result<Vec<LlamaToken>, OrderError> {
                    let text = match &template {
                        Some(template) => template::render(template, messages, &self.marks()),
                        None => Ok(template::plain(messages)),
                    };
                    self.continue_with(before, &text.map_err(|error| OrderError::Request(error.to_string()))?)
                };
                fit(messages, room, render)?
            }
        };
        if tokens.is_empty() {
            return Err(OrderError::Request("the prompt is empty".to_owned()));
        }
        if tokens.len() > room.tokens {
            if !room.truncate {
                return Err(OrderError::Request(TOO_LONG.to_owned()));
            }
            let keep = room.keep.min(room.tokens / 2);
            tokens.drain(keep..tokens.len() - (room.tokens - keep));
        }
        Ok(tokens)
    }

    fn continue_with(&self, before: &[i32], text: &str) -> Result<Vec<LlamaToken>, OrderError> {
        let known = 0..self.model.n_vocab();
        if before.iter().any(|token| !known.contains(token)) {
            return Err(OrderError::Request("context holds tokens that this model does not have".to_owned()));
        }
        let mut tokens: Vec<_> = before.iter().copied().map(LlamaToken::new).collect();
        tokens.extend(self.tokenize(text, tokens.is_empty()));
        Ok(tokens)
    }

    /// Tokens of a text; at the start of a prompt with the model's begin mark, once.
    pub(super) fn tokenize(&self, text: &str, start: bool) -> Vec<LlamaToken> {
        let vocab = self.model.vocab();
        let mut tokens = vocab.tokenize(text.as_bytes(), start, true);
        let bos = vocab.bos();
        if start && vocab.should_add_bos() && tokens.len() > 1 && tokens[0] == bos && tokens[1] == bos {
            tokens.remove(0);
        }
        tokens
    }

    fn marks(&self) -> Marks {
        let vocab = self.model.vocab();
        let known = 0..vocab.n_tokens();
        let text = |token: LlamaToken| {
            let text = if known.contains(&token.0) { vocab.text(token) } else { None };
            text.map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
        };
        Marks { bos: text(vocab.bos()), eos: text(vocab.eos()) }
    }
}

/// Leaves out as few of the oldest messages as the room asks for; what is still too long is for the caller to cut.
fn fit<T>(
    messages: &[Message],
    room: Room,
    render: impl Fn(&[Message]) -> Result<Vec<T>, OrderError>,
) -> Result<Vec<T>, OrderError> {
    let whole = render(messages)?;
    if whole.len() <= room.tokens || !room.truncate || messages.is_empty() {
        return Ok(whole);
    }
    let last = messages.len() - 1;
    let droppable = messages[..last].iter().filter(|message| message.role != "system").count();
    let without = |count: usize| {
        let mut left = count;
        let kept = messages.iter().enumerate().filter(|(index, message)| {
            let drop = *index < last && message.role != "system" && left > 0;
            left -= usize::from(drop);
            !drop
        });
        kept.map(|(_, message)| message.clone()).collect::<Vec<_>>()
    };
    let mut shortest = render(&without(droppable))?;
    let (mut fewest, mut enough) = (1, droppable);
    while fewest < enough {
        let middle = fewest.midpoint(enough);
        let tokens = render(&without(middle))?;
        if tokens.len() <= room.tokens {
            (enough, shortest) = (middle, tokens);
        } else {
            fewest = middle + 1;
        }
    }
    Ok(shortest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(roles: &[&str], tokens: usize, expected: &str) {
        let messages: Vec<_> = roles
            .iter()
            .enumerate()
            .map(|(index, role)| Message { role: (*role).to_owned(), content: index.to_string() })
            .collect();
        let render = |messages: &[Message]| Ok(messages.iter().flat_map(|m| m.content.chars()).collect::<Vec<_>>());
        let room = Room { tokens, keep: 0, truncate: true };
        let fitted: String = fit(&messages, room, render).expect("renders").into_iter().collect();
        assert_eq!(fitted, expected, "{roles:?} in {tokens}");
    }

    #[test]
    fn the_oldest_messages_go_first_and_no_more_than_needed() {
        let talk = ["system", "user", "assistant", "user", "assistant", "user"];
        check(&talk, 6, "012345");
        check(&talk, 5, "02345");
        check(&talk, 3, "045");
        check(&talk, 2, "05");
        check(&talk, 1, "05");
        check(&["user"], 0, "0");
        check(&["user", "user", "system", "user"], 3, "123");
        check(&[], 0, "");
    }
}
