//! The header reader against the demo model, every truncation of it, and damaged headers.

use super::*;

fn demo() -> Vec<u8> {
    std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/demo/demo.gguf")).expect("the demo model")
}

fn read(bytes: &[u8]) -> Result<Gguf, GgufError> {
    Gguf::read(bytes, bytes.len() as u64, Arrays::Short)
}

#[test]
fn the_demo_model_is_described() {
    let gguf = read(&demo()).expect("valid");
    assert_eq!(gguf.architecture(), Some("llama"));
    assert_eq!(gguf.number("context_length"), Some(512));
    assert_eq!(gguf.quantization(), "Q8_0");
    assert!(gguf.parameter_size().ends_with('M'), "{}", gguf.parameter_size());
    assert!(!gguf.is_embedding());
    assert_eq!(gguf.tensor_table().len(), 39);
    assert_eq!(gguf.model_info()["tokenizer.ggml.tokens"], json!([]));
    assert!(!gguf.model_info().contains_key("tokenizer.chat_template"));
}

#[test]
fn long_arrays_are_kept_on_request() {
    let bytes = demo();
    let gguf = Gguf::read(&bytes[..], bytes.len() as u64, Arrays::All).expect("valid");
    assert_eq!(gguf.model_info()["tokenizer.ggml.tokens"].as_array().map(Vec::len), Some(1024));
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = demo();
    let cuts = (0..64).chain((64..bytes.len()).step_by(4999)).chain([bytes.len() / 2, bytes.len() - 1]);
    for cut in cuts {
        assert!(read(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    assert!(matches!(read(&bytes[..bytes.len() / 2]), Err(GgufError::DataCut { .. })));
}

#[test]
fn damaged_headers_cost_an_error_and_no_memory() {
    let bytes = demo();
    let check = |at: usize, value: &[u8]| {
        let mut copy = bytes.clone();
        copy[at..at + value.len()].copy_from_slice(value);
        assert!(read(&copy).is_err(), "byte {at}");
    };
    check(0, b"GGML");
    check(4, &1_u32.to_le_bytes());
    check(4, &9_u32.to_le_bytes());
    check(8, &u64::MAX.to_le_bytes());
    check(8, &0_u64.to_le_bytes());
    check(16, &u64::MAX.to_le_bytes());
    check(24, &u64::MAX.to_le_bytes());
    check(24, &(1_u64 << 40).to_le_bytes());
}

#[test]
fn flipped_bytes_never_panic() {
    let bytes = demo();
    for at in 0..4096 {
        let mut copy = bytes.clone();
        copy[at] ^= 0xff;
        drop(read(&copy));
    }
}

#[test]
fn sizes_are_written_as_ollama_writes_them() {
    let check = |count: u64, expected: &str| assert_eq!(human_number(count), expected);
    check(999, "999");
    check(1_500, "2K");
    check(2_113_728, "2.11M");
    check(137_000_000, "137M");
    check(8_000_000_000, "8B");
    check(8_030_261_248, "8.0B");
}
