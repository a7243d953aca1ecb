//! Every bound of the engine, with its unit. Nothing here depends on a request.

use std::time::Duration;

/// Largest buffered JSON body in bytes; uploads of model files are streamed and not bounded by it.
pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Largest frame in bytes between the server and a runner, in either direction.
pub(crate) const FRAME_BYTES_MAX: usize = 160 * 1024 * 1024;
/// Requests that may wait for one runner; the next one is told that the server is busy.
pub(crate) const QUEUE_LENGTH_MAX: usize = 512;
/// Runners that may be loaded at once; an idle one makes room for the next.
pub(crate) const RUNNERS_MAX: usize = 3;
/// Events of one request that wait for a slow client before its generation pauses.
pub(crate) const EVENT_BUFFER: usize = 64;
/// Chunks of an upload that wait for the disk.
pub(crate) const UPLOAD_BUFFER: usize = 8;
/// Bytes of a refused upload that are still read, so that the client sees why.
pub(crate) const SWALLOW_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How long they are read.
pub(crate) const SWALLOW_TIME: Duration = Duration::from_secs(5);
/// How long a client may refuse to take the next piece of its answer.
pub(crate) const CLIENT_STALL: Duration = Duration::from_secs(300);
/// How long a cancelled runner may take to stop before it is killed.
pub(crate) const CANCEL_GRACE: Duration = Duration::from_secs(20);
/// How long a runner may take to leave after its input was closed.
pub(crate) const RETIRE_GRACE: Duration = Duration::from_secs(2);
/// How long a model may take to load.
pub(crate) const LOAD_TIMEOUT: Duration = Duration::from_secs(600);
/// How long open requests may run on after the server was told to stop.
pub(crate) const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// How long a runner stays loaded after its last request when nobody said otherwise.
pub(crate) const KEEP_ALIVE_DEFAULT: Duration = Duration::from_secs(300);
/// Context length in tokens when neither the request nor the model names one.
pub(crate) const CONTEXT_DEFAULT: u32 = 4096;
/// Largest context length in tokens for a model that does not state its own.
pub(crate) const CONTEXT_MAX: u32 = 1 << 20;
/// Largest number of tokens of one text given to a model that pools its own embeddings.
pub(crate) const POOLED_TOKENS_MAX: u32 = 2048;
/// Prompt tokens computed between two looks at the cancel flag, on a CPU.
pub(crate) const PREFILL_TOKENS_CPU: u32 = 64;
/// A model with fewer bytes of weights than this is run by one thread.
pub(crate) const SMALL_MODEL_BYTES: u64 = 32 * 1024 * 1024;
/// Texts of one embedding request.
pub(crate) const EMBED_INPUTS_MAX: usize = 4096;
/// Stop sequences of one request and bytes of each.
pub(crate) const STOPS_MAX: usize = 64;
/// Longest line kept of what a runner writes to its log, in bytes.
pub(crate) const LOG_LINE_BYTES_MAX: usize = 8 * 1024;
/// Largest manifest or configuration layer read into memory, in bytes.
pub(crate) const LAYER_TEXT_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Manifests listed from one model directory.
pub(crate) const MANIFESTS_MAX: usize = 100_000;
