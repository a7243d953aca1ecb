//! The routes below `/v1`, in OpenAI's words.

pub(super) mod chat;
pub(super) mod embeddings;
pub(super) mod models;
