//! Continuing a text, token by token.
//!
//! Equal prompts give equal results at temperature 0, whatever came before: prompts are computed in chunks that start
//! at fixed positions, and what stays in the cache from the last prompt is reused in whole chunks only, so every value
//! is computed by the same steps as in a fresh process. Tokens that were generated are never reused.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::RopeType;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use tokio::time::Instant;

use crate::protocol::{Event, Generate, Outcome, Reason};
use crate::runner::chat::Room;
use crate::runner::text::Text;
use crate::runner::{Loaded, OrderError, sampler};

/// A model with its context, ready to continue texts.
pub(super) struct Writer<'a> {
    loaded: &'a Loaded<'a>,
    context: LlamaContext<'a>,
    /// Whole chunks of the last prompt that are still in the cache.
    cached: Vec<LlamaToken>,
}

/// One text being written.
struct Job<'o> {
    order: &'o Generate,
    cancel: &'o AtomicBool,
    tokens: Vec<LlamaToken>,
    /// Positions in use.
    position: usize,
    written: u64,
}

impl Job<'_> {
    fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Acquire)
    }
}

// === impl Writer ===

impl<'a> Writer<'a> {
    /// Makes the context.
    pub(super) fn new(loaded: &'a Loaded<'a>) -> Result<Self, OrderError> {
        let context = loaded.context(loaded.context_params(loaded.num_ctx))?;
        Ok(Self { loaded, context, cached: Vec::new() })
    }

    /// Continues one text; every piece goes out as it is made.
    pub(super) fn generate(
        &mut self,
        order: &Generate,
        cancel: &AtomicBool,
        emit: &mut dyn FnMut(Event) -> io::Result<()>,
    ) -> Result<Outcome, OrderError> {
        let started = Instant::now();
        let room = Room { tokens: self.loaded.num_ctx as usize - 1, keep: self.keep(order), truncate: order.truncate };
        let tokens = self.loaded.prompt_tokens(&order.prompt, room)?;
        let prompt_tokens = tokens.len() as u64;
        let mut job = Job { order, cancel, tokens, position: 0, written: 0 };
        let mut chain = sampler::chain(self.loaded.model, &order.sampling, order.json, self.loaded.num_ctx)?;
        let penalised = job.tokens.len().saturating_sub(self.loaded.num_ctx as usize);
        if !order.json {
            chain.accept_many(&job.tokens[penalised..]);
        }
        let filled = self.prefill(&mut job);
        if filled.is_err() {
            self.forget();
        }
        let prompt_ns = nanos(started);
        let started = Instant::now();
        let reason = if filled? { self.write(&mut job, &mut chain, emit)? } else { Reason::Cancelled };
        Ok(Outcome {
            reason,
            prompt_tokens,
            prompt_ns,
            tokens: job.written,
            tokens_ns: nanos(started),
            context: job.tokens.iter().map(|token| token.0).collect(),
        })
    }

    fn keep(&self, order: &Generate) -> usize {
        usize::try_from(order.sampling.num_keep).unwrap_or(self.loaded.num_ctx as usize / 2)
    }

    fn forget(&mut self) {
        self.context.clear_kv_cache();
        self.cached.clear();
    }

    /// Computes the prompt; false if it was cancelled.
    fn prefill(&mut self, job: &mut Job<'_>) -> Result<bool, OrderError> {
        let chunk = self.loaded.chunk as usize;
        let common = self.cached.iter().zip(&job.tokens).take_while(|(old, new)| old == new).count();
        let mut reused = common.min(job.tokens.len() - 1) / chunk * chunk;
        if reused == 0 || !self.cut(reused) {
            self.forget();
            reused = 0;
        }
        self.cached.truncate(reused);
        job.position = reused;
        let mut batch = LlamaBatch::new(chunk, 1);
        while job.position < job.tokens.len() {
            if job.cancelled() {
                return Ok(false);
            }
            let end = (job.position + chunk).min(job.tokens.len());
            batch.clear();
            for at in job.position..end {
                let last = at + 1 == job.tokens.len();
                batch.add(job.tokens[at], position(at), &[0], last).map_err(OrderError::native)?;
            }
            self.context.decode(&mut batch).map_err(OrderError::native)?;
            if end - job.position == chunk {
                self.cached.extend_from_slice(&job.tokens[job.position..end]);
            }
            job.position = end;
        }
        // Decoding only queues the work on a GPU; without this the time would be counted as generation.
        self.context.synchronize();
        Ok(true)
    }

    /// Takes everything from `from` on out of the cache; false if this kind of model cannot.
    fn cut(&mut self, from: usize) -> bool {
        let stateful = self.loaded.model.is_recurrent() || self.loaded.model.is_hybrid();
        !stateful && self.context.clear_kv_cache_seq(Some(0), u32::try_from(from).ok(), None).unwrap_or(false)
    }

    fn write(
        &mut self,
        job: &mut Job<'_>,
        chain: &mut LlamaSampler,
        emit: &mut dyn FnMut(Event) -> io::Result<()>,
    ) -> Result<Reason, OrderError> {
        let mut text = Text::new(&job.order.sampling.stop);
        let mut batch = LlamaBatch::new(1, 1);
        let vocab = self.loaded.model.vocab();
        let most = u64::from(self.loaded.num_ctx) * 10;
        let most = u64::try_from(job.order.sampling.num_predict).ok().filter(|n| *n > 0).map_or(most, |n| n.min(most));
        let reason = loop {
            if job.cancelled() {
                return Ok(Reason::Cancelled);
            }
            if job.written >= most {
                break Reason::Length;
            }
            let token = chain.sample(&self.context, -1);
            job.written += 1;
            if vocab.is_eog(token) {
                break Reason::Stop;
            }
            job.tokens.push(token);
            let piece = text.push(&vocab.token_to_piece(token, false, None));
            if !piece.text.is_empty() {
                emit(Event::Text(piece.text))?;
            }
            if piece.stopped {
                return Ok(Reason::Stop);
            }
            if job.position >= self.loaded.num_ctx as usize && !self.shift(job)? {
                break Reason::Length;
            }
            batch.clear();
            batch.add(token, position(job.position), &[0], true).map_err(OrderError::native)?;
            if let Err(error) = self.context.decode(&mut batch) {
                self.forget();
                return Err(OrderError::native(error));
            }
            job.position += 1;
        };
        let rest = text.finish();
        if !rest.is_empty() {
            emit(Event::Text(rest))?;
        }
        Ok(reason)
    }

    /// Makes room by forgetting the older half behind what is to be kept; false if the request or the model forbids it.
    fn shift(&mut self, job: &mut Job<'_>) -> Result<bool, OrderError> {
        let model = self.loaded.model;
        let rigid = matches!(model.rope_type(), Some(RopeType::MRope | RopeType::IMRope | RopeType::Vision))
            || model.is_recurrent()
            || model.is_hybrid()
            || model.meta_val_str("general.architecture").is_ok_and(|name| name.starts_with("deepseek"));
        if !job.order.shift || rigid {
            return Ok(false);
        }
        let keep = self.keep(job.order).min(job.position / 2);
        let drop = ((job.position - keep) / 2).max(1);
        let place = |at: usize| u32::try_from(at).ok();
        let removed = self.context.clear_kv_cache_seq(Some(0), place(keep), place(keep + drop)).unwrap_or(false);
        if !removed {
            return Ok(false);
        }
        self.cached.clear();
        let by = -position(drop);
        self.context.kv_cache_seq_add(0, place(keep + drop), None, by).map_err(OrderError::native)?;
        job.position -= drop;
        Ok(true)
    }
}

fn position(at: usize) -> i32 {
    i32::try_from(at).unwrap_or(i32::MAX)
}

fn nanos(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
