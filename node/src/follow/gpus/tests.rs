//! A made-up driver, compiled here: two devices, one of which says little.

use std::path::Path;
use std::process::Command;

use prometheus::Registry;
use tokio::sync::oneshot;

use super::*;

const LIBRARY: &str = r#"
#include <stddef.h>
#include <string.h>
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory;
typedef struct { unsigned gpu, memory; } rates;
enum { OK = 0, NOT_SUPPORTED = 3, DRIVER_NOT_LOADED = 9 };
static int devices[2];
int nvmlInit_v2(void) { return INIT; }
int nvmlShutdown(void) { return OK; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = &devices[index]; return OK; }
int nvmlDeviceGetUUID(void *device, char *text, unsigned size) {
    if (device == &devices[1]) return NOT_SUPPORTED;
    strncpy(text, "GPU-8f6a", size);
    return OK;
}
int nvmlDeviceGetName(void *device, char *text, unsigned size) {
    strncpy(text, device == &devices[0] ? "NVIDIA H100" : "NVIDIA GB10", size);
    return OK;
}
int nvmlDeviceGetMemoryInfo_v2(void *device, memory *info) {
    if (device == &devices[1]) return NOT_SUPPORTED;
    info->total = 80ull << 30;
    info->used = 3ull << 30;
    return OK;
}
int nvmlDeviceGetUtilizationRates(void *device, rates *rates) {
    if (device == &devices[1]) return NOT_SUPPORTED;
    rates->gpu = 42;
    return OK;
}
"#;

fn driver(folder: &Path, init: &str) -> Driver {
    let (source, library) = (folder.join("nvml.c"), folder.join(format!("lib{init}.so")));
    std::fs::write(&source, LIBRARY).expect("written");
    let mut compiler = Command::new("cc");
    let compiler = compiler.args(["-shared", "-fPIC", &format!("-DINIT={init}"), "-o"]).arg(&library).arg(&source);
    assert!(compiler.status().expect("a C compiler, as building OllamaMax needs one").success());
    Driver { library: Some(library), open: None }
}

fn h100() -> Gpu {
    Gpu {
        uuid: "GPU-8f6a".to_owned(),
        name: "NVIDIA H100".to_owned(),
        memory_total_bytes: Some(80 << 30),
        memory_used_bytes: Some(3 << 30),
        use_permille: Some(420),
    }
}

fn gb10() -> Gpu {
    Gpu {
        uuid: "gpu-1".to_owned(),
        name: "NVIDIA GB10".to_owned(),
        memory_total_bytes: None,
        memory_used_bytes: None,
        use_permille: None,
    }
}

#[tokio::test]
async fn the_devices_of_a_driver_are_shown_and_counted() {
    let folder = tempfile::tempdir().expect("temp");
    let registry = Registry::new();
    let metrics = GpuMetrics::register(&registry).expect("registered");
    let (sender, mut latest) = watch::channel(Vec::new());
    let stop = CancellationToken::new();
    let following = follow(driver(folder.path(), "OK"), metrics, sender, stop.clone());
    let looking = async {
        let gpus = latest.wait_for(|gpus| !gpus.is_empty()).await.expect("still followed").clone();
        stop.cancel();
        gpus
    };
    assert_eq!(tokio::join!(following, looking).1, [h100(), gb10()]);
    let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).expect("text");
    let values: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(
        values,
        [
            r#"ollamax_gpu_memory_total_bytes{name="NVIDIA H100",uuid="GPU-8f6a"} 85899345920"#,
            r#"ollamax_gpu_memory_used_bytes{name="NVIDIA H100",uuid="GPU-8f6a"} 3221225472"#,
            r#"ollamax_gpu_use_ratio{name="NVIDIA H100",uuid="GPU-8f6a"} 0.42"#,
        ]
    );
}

#[test]
fn without_a_driver_there_are_no_gpus() {
    let folder = tempfile::tempdir().expect("temp");
    let missing = Driver { library: Some(folder.path().join("libnone.so")), open: None }.read();
    assert!(matches!(missing, Err(NvmlError::LibloadingError(_))), "{missing:?}");
    let asleep = driver(folder.path(), "DRIVER_NOT_LOADED").read();
    assert!(matches!(asleep, Err(NvmlError::DriverNotLoaded)), "{asleep:?}");
}

#[tokio::test]
async fn a_machine_without_a_driver_has_an_empty_list() {
    let folder = tempfile::tempdir().expect("temp");
    let missing = Driver { library: Some(folder.path().join("libnone.so")), open: None };
    let metrics = GpuMetrics::register(&Registry::new()).expect("registered");
    let (sender, mut latest) = watch::channel(vec![h100()]);
    let stop = CancellationToken::new();
    let looking = async {
        latest.changed().await.expect("still followed");
        stop.cancel();
    };
    tokio::join!(follow(missing, metrics, sender, stop.clone()), looking);
    assert!(latest.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_hangs_has_no_gpus_until_it_answers() {
    let (sender, mut latest) = watch::channel(vec![h100()]);
    let (answer, reading) = oneshot::channel();
    let looking = async {
        latest.changed().await.expect("still followed");
        assert!(latest.borrow().is_empty());
        answer.send(7).expect("still waited for");
    };
    assert_eq!(tokio::join!(finish(reading, &sender), looking).0, Ok(7));
}

#[test]
fn a_device_that_says_nonsense_stays_within_bounds() {
    let rates = Utilization { gpu: 250, memory: 0 };
    let gpu = gpu(3, (None, Some("x".repeat(500))), None, Some(rates));
    assert_eq!((gpu.uuid.as_str(), gpu.name.len(), gpu.use_permille), ("gpu-3", TEXT_CHARS_MAX, Some(1_000)));
}
