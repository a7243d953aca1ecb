//! Turning texts into vectors of length 1.
//!
//! A model that names a way to pool does so itself, a whole text at a time. Any other model is read token by token and
//! its last states are averaged; the context for that is made for the order and put away after it.

use std::sync::atomic::{AtomicBool, Ordering};

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaPoolingType;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;

use crate::limits;
use crate::protocol::{Embed, Event};
use crate::runner::{Loaded, OrderError};

const POOLING_RANK: u64 = 4;

impl Loaded<'_> {
    /// One vector for each input.
    pub(super) fn embed(&self, order: &Embed, cancel: &AtomicBool) -> Result<Event, OrderError> {
        if self.number("pooling_type") == Some(POOLING_RANK) {
            return Err(OrderError::Request("this model ranks texts, it does not embed them".to_owned()));
        }
        let pools = self.pools();
        let room = if pools {
            self.num_ctx.min(limits::POOLED_TOKENS_MAX).min(self.model.n_ctx_train())
        } else {
            self.num_ctx
        };
        let inputs = self.inputs(order, room as usize)?;
        let longest = inputs.iter().map(Vec::len).max().unwrap_or(1);
        let mut params = self.context_params(u32::try_from(longest).unwrap_or(room)).with_embeddings(true);
        if pools {
            params = params.with_n_ctx(std::num::NonZeroU32::new(room)).with_n_batch(room).with_n_ubatch(room);
        } else {
            params = params.with_pooling_type(LlamaPoolingType::None);
        }
        let mut context = self.context(params)?;
        let mut vectors = Vec::with_capacity(inputs.len());
        for tokens in &inputs {
            if cancel.load(Ordering::Acquire) {
                return Err(OrderError::Request("request canceled".to_owned()));
            }
            context.clear_kv_cache();
            let vector =
                if pools { pooled(&mut context, tokens)? } else { self.averaged(&mut context, tokens, cancel)? };
            vectors.push(normalised(&vector));
        }
        let tokens = inputs.iter().map(|tokens| tokens.len() as u64).sum();
        Ok(Event::Vectors { vectors, tokens })
    }

    fn inputs(&self, order: &Embed, room: usize) -> Result<Vec<Vec<LlamaToken>>, OrderError> {
        let vocab = self.model.vocab();
        let closes = vocab.should_add_sep() || vocab.should_add_eos();
        let tokens = |input: &String| {
            let mut tokens = self.tokenize(input, true);
            if tokens.is_empty() {
                return Err(OrderError::Request("an input is empty".to_owned()));
            }
            if tokens.len() > room && !order.truncate {
                return Err(OrderError::Request("the input length exceeds the context length".to_owned()));
            }
            cut(&mut tokens, room, closes);
            Ok(tokens)
        };
        order.inputs.iter().map(tokens).collect()
    }

    fn averaged(
        &self,
        context: &mut LlamaContext<'_>,
        tokens: &[LlamaToken],
        cancel: &AtomicBool,
    ) -> Result<Vec<f64>, OrderError> {
        let chunk = self.chunk as usize;
        let mut batch = LlamaBatch::new(chunk, 1);
        let mut sum = Vec::new();
        for (number, part) in tokens.chunks(chunk).enumerate() {
            if cancel.load(Ordering::Acquire) {
                return Err(OrderError::Request("request canceled".to_owned()));
            }
            add(&mut batch, part, number * chunk)?;
            context.decode(&mut batch).map_err(OrderError::native)?;
            for at in 0..batch.n_tokens() {
                let state = context.embeddings_ith(at).map_err(OrderError::native)?;
                sum.resize(state.len(), 0.0);
                sum.iter_mut().zip(state).for_each(|(sum, value)| *sum += f64::from(*value));
            }
        }
        Ok(sum)
    }
}

/// Cuts what is too long; the mark at the end, which a model that closes its texts was trained with, stays.
fn cut<T: Copy>(tokens: &mut Vec<T>, room: usize, closes: bool) {
    let last = tokens.last().copied().filter(|_| closes && tokens.len() > room);
    tokens.truncate(room);
    if let (Some(last), Some(end)) = (last, tokens.last_mut()) {
        *end = last;
    }
}

fn pooled(context: &mut LlamaContext<'_>, tokens: &[LlamaToken]) -> Result<Vec<f64>, OrderError> {
    let mut batch = LlamaBatch::new(tokens.len(), 1);
    add(&mut batch, tokens, 0)?;
    context.decode(&mut batch).map_err(OrderError::native)?;
    let vector = context.embeddings_seq_ith(0).map_err(OrderError::native)?;
    Ok(vector.iter().copied().map(f64::from).collect())
}

fn add(batch: &mut LlamaBatch<'_>, tokens: &[LlamaToken], start: usize) -> Result<(), OrderError> {
    batch.clear();
    for (at, token) in tokens.iter().enumerate() {
        let position = i32::try_from(start + at).unwrap_or(i32::MAX);
        batch.add(*token, position, &[0], true).map_err(OrderError::native)?;
    }
    Ok(())
}

/// The same direction with length 1; a vector without direction stays as it is.
#[expect(clippy::cast_possible_truncation, reason = "vectors are sent with single precision")]
fn normalised(vector: &[f64]) -> Vec<f32> {
    let length = vector.iter().map(|value| value * value).sum::<f64>().sqrt();
    let scale = if length > 0.0 { 1.0 / length } else { 1.0 };
    vector.iter().map(|value| (value * scale) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_cut_keeps_the_mark_at_its_end() {
        let check = |room: usize, closes: bool, expected: &[u8]| {
            let mut tokens = vec![1, 2, 3, 9];
            cut(&mut tokens, room, closes);
            assert_eq!(tokens, expected);
        };
        check(3, true, &[1, 2, 9]);
        check(3, false, &[1, 2, 3]);
        check(4, true, &[1, 2, 3, 9]);
        check(9, true, &[1, 2, 3, 9]);
    }

    #[test]
    fn vectors_have_length_one_unless_they_have_none() {
        let check = |input: &[f64], expected: &[f32]| assert_eq!(normalised(input), expected);
        check(&[3.0, 4.0], &[0.6, 0.8]);
        check(&[0.0, 0.0], &[0.0, 0.0]);
        check(&[], &[]);
    }
}
