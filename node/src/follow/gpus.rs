//! The GPUs of this machine, read through the library that NVIDIA's driver brings (loaded at run time).
//!
//! A machine without a driver is normal: its list is empty, and one debug line says so. The driver is foreign code that
//! may block: it is called on a thread for blocking work, and while a call takes longer than `READ_TIMEOUT` the list
//! is empty and nothing else waits. A driver that comes later, or comes back, is found within `RETRY_AFTER`.

use std::path::PathBuf;
use std::time::Duration;

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::{MemoryInfo, Utilization};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use ollamax_types::Gpu;
use ollamax_types::limits::GPUS_MAX;

use crate::metrics::GpuMetrics;

/// Time between two readings.
const READ_INTERVAL: Duration = Duration::from_secs(3);
/// How long a reading may take before the GPUs count as unknown.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// Time before a driver that is not there is looked for again.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// Longest name or uuid that is told, characters.
const TEXT_CHARS_MAX: usize = 96;

/// The driver's library, opened when it is first needed.
#[derive(Debug, Default)]
pub(crate) struct Driver {
    /// Where the library lies; `None`: where the system keeps it.
    library: Option<PathBuf>,
    open: Option<Nvml>,
}

/// Reads until `stop`; `latest` always shows the newest list.
pub(crate) async fn follow(
    mut driver: Driver,
    metrics: GpuMetrics,
    latest: watch::Sender<Vec<Gpu>>,
    stop: CancellationToken,
) {
    let mut was_absent = false;
    loop {
        let reading = tokio::task::spawn_blocking(move || {
            let read = driver.read();
            (driver, read)
        });
        let Some(finished) = stop.run_until_cancelled(finish(reading, &latest)).await else { return };
        let read = match finished {
            Ok((returned, read)) => {
                driver = returned;
                read
            }
            Err(error) => {
                latest.send_replace(Vec::new());
                return tracing::warn!(%error, "read the GPUs; they are left out from now on");
            }
        };
        let pause = if read.is_ok() { READ_INTERVAL } else { RETRY_AFTER };
        if let Err(error) = &read
            && !was_absent
        {
            tracing::debug!(%error, "no GPU driver answers; this node tells of no GPUs");
        }
        was_absent = read.is_err();
        let gpus = read.unwrap_or_default();
        metrics.show(&latest.borrow(), &gpus);
        latest.send_replace(gpus);
        if stop.run_until_cancelled(sleep(pause)).await.is_none() {
            return;
        }
    }
}

/// Waits for a reading. While it takes too long there are no GPUs.
async fn finish<T>(reading: impl Future<Output = T>, latest: &watch::Sender<Vec<Gpu>>) -> T {
    let mut reading = std::pin::pin!(reading);
    if let Ok(finished) = timeout(READ_TIMEOUT, &mut reading).await {
        return finished;
    }
    tracing::warn!(waited_ms = READ_TIMEOUT.as_millis(), "the GPU driver does not answer; its GPUs are left out");
    latest.send_replace(Vec::new());
    reading.await
}

// === impl Driver ===

impl Driver {
    /// What the driver says now. After an error the library is opened anew.
    fn read(&mut self) -> Result<Vec<Gpu>, NvmlError> {
        let nvml = match self.open.take() {
            Some(nvml) => nvml,
            None => match &self.library {
                Some(library) => Nvml::builder().lib_path(library.as_os_str()).init()?,
                None => Nvml::init()?,
            },
        };
        let count = nvml.device_count()?;
        let gpus = (0..count).take(GPUS_MAX).filter_map(|index| {
            // A device that was lost is no longer there.
            let device = nvml.device_by_index(index).ok()?;
            let words = (device.uuid().ok(), device.name().ok());
            Some(gpu(index, words, device.memory_info().ok(), device.utilization_rates().ok()))
        });
        let gpus = gpus.collect();
        self.open = Some(nvml);
        Ok(gpus)
    }
}

/// One device, from what it says of itself.
fn gpu(
    index: u32,
    (uuid, name): (Option<String>, Option<String>),
    memory: Option<MemoryInfo>,
    utilization: Option<Utilization>,
) -> Gpu {
    let cut = |text: String| text.chars().take(TEXT_CHARS_MAX).collect();
    Gpu {
        uuid: uuid.map_or_else(|| format!("gpu-{index}"), cut),
        name: name.map_or_else(|| "GPU".to_owned(), cut),
        memory_total_bytes: memory.as_ref().map(|memory| memory.total),
        memory_used_bytes: memory.as_ref().map(|memory| memory.used),
        use_permille: utilization.map(|rates| rates.gpu.min(100) * 10),
    }
}

#[cfg(test)]
mod tests;
