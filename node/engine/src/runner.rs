//! The child process that holds one model: it takes orders on its input and gives events on its output.
//!
//! One thread works; another reads orders, so that `Cancel` is seen while the first is busy. Native code may abort on a
//! bad file or prompt: then this process is gone and the server says so. When the server is gone, so is the runner: the
//! end of its input ends it. Nothing but frames is ever written to its output; messages of llama.cpp go to its log.

mod chat;
mod embed;
mod generate;
mod sampler;
mod text;

use std::io::{self, Stdout};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::{LlamaBackendDeviceType, LogOptions, list_llama_ggml_backend_devices};

use self::generate::Writer;
use crate::limits;
use crate::protocol::{Event, Fault, Footprint, Order, read_frame, write_frame};
use crate::shortage::Watch;

/// What a runner is started with.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RunnerArgs {
    /// The GGUF file.
    #[arg(long)]
    pub(crate) model: PathBuf,
    /// Tokens that the model sees at once.
    #[arg(long)]
    pub(crate) num_ctx: u32,
    /// Prompt tokens computed in one go.
    #[arg(long)]
    pub(crate) num_batch: u32,
    /// Layers on the GPU; as many as fit if absent.
    #[arg(long)]
    pub(crate) num_gpu: Option<u32>,
    /// Threads; one per processor if absent.
    #[arg(long)]
    pub(crate) num_thread: Option<u32>,
    /// Read the file instead of mapping it.
    #[arg(long)]
    pub(crate) no_mmap: bool,
}

/// What every order needs of the loaded model.
#[derive(Debug)]
struct Loaded<'a> {
    backend: &'a LlamaBackend,
    model: &'a LlamaModel,
    /// Tokens that the model sees at once.
    num_ctx: u32,
    /// Tokens computed between two looks at the cancel flag; fixed, so that equal prompts give equal results.
    chunk: u32,
    threads: i32,
}

/// Why an order came to nothing.
#[derive(Debug, thiserror::Error)]
enum OrderError {
    /// It cannot be answered as it is.
    #[error("{0}")]
    Request(String),
    /// llama.cpp could not do it.
    #[error("{0}")]
    Native(String),
    /// The server is gone.
    #[error("write event: {0}")]
    Output(#[from] io::Error),
}

impl OrderError {
    fn native(error: impl std::fmt::Display) -> Self {
        Self::Native(error.to_string())
    }
}

/// Serves one model until the input ends. `watch` sees what llama.cpp writes to the log.
pub(crate) fn run(args: &RunnerArgs, watch: &Watch) -> ExitCode {
    llama_cpp_2::send_logs_to_tracing(LogOptions::default());
    let cancel = Arc::new(AtomicBool::new(false));
    let (sender, orders) = sync_channel(1);
    let flag = Arc::clone(&cancel);
    let reader = std::thread::Builder::new().name("orders".to_owned()).spawn(move || read_orders(&sender, &flag));
    if let Err(error) = reader {
        tracing::error!(code = "runtime_failed", %error, "start the thread that reads orders");
        return ExitCode::FAILURE;
    }
    let mut output = io::stdout();
    match serve(args, &orders, &cancel, &mut output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(code = "runtime_failed", %error, "runner ends");
            let fault = match error {
                OrderError::Request(_) => Fault::Request,
                OrderError::Native(_) if watch.saw_it() => Fault::Memory,
                OrderError::Native(_) | OrderError::Output(_) => Fault::Runner,
            };
            drop(write_frame(&mut output, &Event::Failed { fault, message: error.to_string() }));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the server is gone; native code cannot be asked to stop, only ended")]
fn read_orders(sender: &SyncSender<Order>, cancel: &AtomicBool) {
    let mut input = io::stdin().lock();
    loop {
        match read_frame(&mut input) {
            Ok(Some(Order::Cancel)) => cancel.store(true, Ordering::Release),
            Ok(Some(order)) => {
                cancel.store(false, Ordering::Release);
                if sender.send(order).is_err() {
                    return;
                }
            }
            Ok(None) => std::process::exit(0),
            Err(error) => {
                tracing::error!(code = "runtime_failed", %error, "read order");
                std::process::exit(1);
            }
        }
    }
}

fn serve(
    args: &RunnerArgs,
    orders: &Receiver<Order>,
    cancel: &AtomicBool,
    output: &mut Stdout,
) -> Result<(), OrderError> {
    let backend = LlamaBackend::init().map_err(OrderError::native)?;
    let free = gpu_free_bytes();
    let mut params = LlamaModelParams::default().with_use_mmap(!args.no_mmap);
    if let Some(layers) = args.num_gpu {
        params = params.with_n_gpu_layers(layers);
    }
    let model = LlamaModel::load_from_file(&backend, &args.model, &params)
        .map_err(|_| OrderError::Native("unable to load model".to_owned()))?;
    let loaded = Loaded {
        backend: &backend,
        model: &model,
        num_ctx: args.num_ctx.max(4),
        chunk: if free.is_some() { args.num_batch } else { args.num_batch.min(limits::PREFILL_TOKENS_CPU) },
        threads: threads(args.num_thread, model.size()),
    };
    let mut writer = if loaded.pools() { None } else { Some(Writer::new(&loaded)?) };
    write_frame(output, &Event::Loaded(loaded.footprint(free)))?;
    while let Ok(order) = orders.recv() {
        write_frame(output, &Event::Accepted)?;
        let mut emit = |event: Event| write_frame(output, &event);
        let result = match (order, &mut writer) {
            (Order::Generate(order), Some(writer)) => writer.generate(&order, cancel, &mut emit).map(Event::Done),
            (Order::Generate(_), None) => Err(OrderError::Request("this model only makes embeddings".to_owned())),
            (Order::Embed(order), _) => loaded.embed(&order, cancel),
            (Order::Cancel, _) => continue,
        };
        let event = match result {
            Ok(event) => event,
            Err(OrderError::Output(error)) => return Err(error.into()),
            Err(OrderError::Request(message)) => Event::Failed { fault: Fault::Request, message },
            Err(OrderError::Native(message)) => Event::Failed { fault: Fault::Runner, message },
        };
        match write_frame(output, &event) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => write_frame(output, &too_large())?,
            result => result?,
        }
    }
    Ok(())
}

fn too_large() -> Event {
    Event::Failed { fault: Fault::Request, message: "the answer is too large; send fewer inputs at once".to_owned() }
}

/// As many as asked for, else one per processor. Threads wait for each other at every step by spinning, so a model
/// whose `weights` (bytes) one processor reads in a moment gets one: more would slow it, most of all on a busy machine.
fn threads(wanted: Option<u32>, weights: u64) -> i32 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let most = if weights < limits::SMALL_MODEL_BYTES { 1 } else { 32 };
    let count = wanted.map_or_else(|| cores.min(most), |count| count as usize);
    i32::try_from(count).unwrap_or(1)
}

/// Free memory of all GPUs in bytes; `None` if there is none that this build can use.
fn gpu_free_bytes() -> Option<u64> {
    let kind = |kind| matches!(kind, LlamaBackendDeviceType::Gpu | LlamaBackendDeviceType::IntegratedGpu);
    let gpus: Vec<_> =
        list_llama_ggml_backend_devices().into_iter().filter(|device| kind(device.device_type)).collect();
    (!gpus.is_empty()).then(|| gpus.iter().map(|device| device.memory_free as u64).sum())
}

// === impl Loaded ===

impl<'a> Loaded<'a> {
    /// True if the model was made to turn texts into vectors and for nothing else.
    fn pools(&self) -> bool {
        self.number("pooling_type").is_some_and(|kind| kind != 0)
    }

    fn number(&self, key: &str) -> Option<u64> {
        let architecture = self.model.meta_val_str("general.architecture").ok()?;
        self.model.meta_val_str(&format!("{architecture}.{key}")).ok()?.parse().ok()
    }

    fn context_params(&self, tokens: u32) -> LlamaContextParams {
        LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(tokens))
            .with_n_batch(self.chunk)
            .with_n_ubatch(self.chunk)
            .with_n_threads(self.threads)
            .with_n_threads_batch(self.threads)
            .with_no_perf(true)
    }

    fn context(&self, params: LlamaContextParams) -> Result<LlamaContext<'a>, OrderError> {
        self.model
            .new_context(self.backend, params)
            .map_err(|error| OrderError::Native(format!("make a context of {} tokens: {error}", self.num_ctx)))
    }

    fn footprint(&self, free_before: Option<u64>) -> Footprint {
        let heads = u64::from(self.model.n_head().max(1));
        let width = u64::try_from(self.model.n_embd()).unwrap_or(0) / heads * u64::from(self.model.n_head_kv());
        let cache = 4 * u64::from(self.model.n_layer()) * width * u64::from(self.num_ctx);
        let total_bytes = self.model.size() + if self.pools() { 0 } else { cache };
        let taken = free_before.zip(gpu_free_bytes()).map_or(0, |(before, after)| before.saturating_sub(after));
        Footprint { total_bytes, vram_bytes: taken.min(total_bytes), context_length: self.num_ctx }
    }
}
