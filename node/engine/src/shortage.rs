//! Telling lack of memory from other failures of native code, which says it in its log and nowhere else.
//!
//! A runner watches its own log while it loads a model; the server looks at what a runner that died had written.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing_subscriber::fmt::MakeWriter;

/// How llama.cpp, CUDA, the C++ library and the system put it.
const WORDS: [&str; 6] = [
    "failed to allocate",
    "unable to allocate",
    "out of memory",
    "insufficient memory",
    "bad_alloc",
    "cannot allocate memory",
];

/// True if the line speaks of memory that could not be had.
pub(crate) fn is_named_in(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    WORDS.iter().any(|word| line.contains(word))
}

/// Writes a log to standard error and notes when it speaks of a shortage; clones share the note.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watch(Arc<AtomicBool>);

impl Watch {
    /// True once a line spoke of it.
    pub(crate) fn saw_it(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn look(&self, bytes: &[u8]) {
        if is_named_in(&String::from_utf8_lossy(bytes)) {
            self.0.store(true, Ordering::Release);
        }
    }
}

impl Write for Watch {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.look(bytes);
        io::stderr().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl MakeWriter<'_> for Watch {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lack_of_memory_is_told_from_other_failures() {
        let check = |line: &str, expected: bool| {
            let watch = Watch::default();
            watch.look(line.as_bytes());
            assert_eq!(watch.saw_it(), expected, "{line}");
        };
        for line in [
            "ERROR alloc_tensor_range: failed to allocate CPU buffer of size 99999999999",
            "ERROR llama_model_load: error loading model: unable to allocate CUDA0 buffer",
            "ERROR allocating 40000.00 MiB on device 0: cudaMalloc failed: out of memory",
            "WARN ggml_aligned_malloc: insufficient memory (attempted to allocate 1024.00 MB)",
            "terminate called after throwing an instance of 'std::bad_alloc'",
            "ERROR llama_model_load: error loading model: mmap failed: Cannot allocate memory",
            "ERROR failed to initialize the context: failed to allocate buffer for kv cache",
        ] {
            check(line, true);
        }
        for line in [
            "",
            "ERROR llama_model_load: error loading model: unknown model architecture: 'amall'",
            "ERROR error loading model: missing tensor 'blk.0.attn_q.weight'",
            "ggml.c:7: GGML_ASSERT(x) failed",
            "ERROR the context has no memory module",
        ] {
            check(line, false);
        }
    }
}
