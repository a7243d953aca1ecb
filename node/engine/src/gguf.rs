//! Reads the head of a GGUF file: metadata, tensor table, and whether the file is as long as its table says.
//!
//! Pure and bounded: no length field of the file is trusted before it was compared with what is left of the file, so
//! a damaged file costs an error and never memory. Weights themselves are not read. A file that passes here may still
//! be refused by llama.cpp (an unknown architecture, a missing tensor); that happens in a runner and is reported there.

mod kind;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use serde_json::{Number, Value, json};

use crate::gguf::kind::{Kind, file_type_name};

const MAGIC: &[u8; 4] = b"GGUF";
const KEY_BYTES_MAX: u64 = 64 * 1024;
const STRING_BYTES_MAX: u64 = 16 * 1024 * 1024;
const ENTRIES_MAX: u64 = 1 << 20;
const ARRAY_SHOWN_MAX: u64 = 1 << 20;
const NESTING_MAX: u8 = 3;
const DIMENSIONS_MAX: u32 = 4;
const ALIGNMENT_DEFAULT: u64 = 32;

/// Which arrays of the metadata are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrays {
    /// Only those of five elements or fewer; longer ones become empty, as Ollama shows them.
    Short,
    /// All of them, up to a bound.
    All,
}

/// The head of a GGUF file.
#[derive(Debug)]
pub(crate) struct Gguf {
    metadata: BTreeMap<String, Value>,
    tensors: Vec<Tensor>,
    parameters: u64,
}

/// One row of the tensor table.
#[derive(Debug)]
pub(crate) struct Tensor {
    name: String,
    kind: &'static str,
    shape: Vec<u64>,
}

/// Why a file is no usable GGUF.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GgufError {
    /// The file cannot be read.
    #[error("read model file: {0}")]
    Io(#[source] io::Error),
    /// The first bytes are something else.
    #[error("invalid file magic: this is not a GGUF file")]
    Magic,
    /// A version that this program does not know.
    #[error("GGUF version {0} is not supported, only 2 and 3 are")]
    Version(u32),
    /// The file ends inside its own head.
    #[error("the GGUF file is truncated: it ends inside its header")]
    HeaderCut,
    /// The file ends inside its weights.
    #[error("the GGUF file is truncated: it needs {needed} bytes and has {actual}; copy it again")]
    DataCut {
        /// Bytes that the tensor table asks for.
        needed: u64,
        /// Bytes that the file has.
        actual: u64,
    },
    /// A field that contradicts the format.
    #[error("the GGUF file is damaged: {0}")]
    Damaged(&'static str),
    /// A tensor in a form that this program does not know.
    #[error("tensor {name:?} has the unknown type {kind}")]
    TensorKind {
        /// The tensor.
        name: String,
        /// Its number in the file.
        kind: u32,
    },
}

// === impl Gguf ===

impl Gguf {
    /// Reads and checks the head of the file at `path`.
    pub(crate) fn open(path: &Path, arrays: Arrays) -> Result<Self, GgufError> {
        let file = File::open(path).map_err(GgufError::Io)?;
        let length = file.metadata().map_err(GgufError::Io)?.len();
        Self::read(BufReader::with_capacity(256 * 1024, file), length, arrays)
    }

    /// Reads and checks the head of a file of `length` bytes.
    pub(crate) fn read(input: impl Read, length: u64, arrays: Arrays) -> Result<Self, GgufError> {
        let mut source = Source { input, at: 0, length, arrays };
        if &source.array::<4>().map_err(|error| magic_error(error, length))? != MAGIC {
            return Err(GgufError::Magic);
        }
        let version = source.u32()?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::Version(version));
        }
        let (tensor_count, entry_count) = (source.u64()?, source.u64()?);
        if tensor_count == 0 {
            return Err(GgufError::Damaged("it holds no tensors"));
        }
        if tensor_count > ENTRIES_MAX || entry_count > ENTRIES_MAX {
            return Err(GgufError::Damaged("it claims more entries than any model has"));
        }
        let mut metadata = BTreeMap::new();
        for _ in 0..entry_count {
            let key = source.string(KEY_BYTES_MAX)?;
            let kind = source.u32()?;
            metadata.insert(key, source.value(kind, 0)?);
        }
        let alignment = metadata.get("general.alignment").and_then(Value::as_u64).unwrap_or(ALIGNMENT_DEFAULT);
        if alignment == 0 || !alignment.is_power_of_two() {
            return Err(GgufError::Damaged("its alignment is not a power of two"));
        }
        let (tensors, parameters, data) = read_tensors(&mut source, tensor_count)?;
        let overflow = GgufError::Damaged("its tensor sizes overflow");
        let start = source.at.checked_next_multiple_of(alignment);
        let needed = start.and_then(|start| start.checked_add(data)).ok_or(overflow)?;
        if needed > length {
            return Err(GgufError::DataCut { needed, actual: length });
        }
        let gguf = Self { metadata, tensors, parameters };
        if gguf.architecture().is_none() {
            return Err(GgufError::Damaged("general.architecture is missing"));
        }
        Ok(gguf)
    }

    /// A metadata text.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.metadata.get(key)?.as_str()
    }

    /// A metadata number below the architecture's prefix, as `context_length`.
    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        self.metadata.get(&format!("{}.{key}", self.architecture()?))?.as_u64()
    }

    /// `general.architecture`.
    pub(crate) fn architecture(&self) -> Option<&str> {
        self.text("general.architecture")
    }

    /// `2.11M`, `8B`, as Ollama writes it.
    pub(crate) fn parameter_size(&self) -> String {
        human_number(self.parameters)
    }

    /// `Q4_K_M` and so on; `unknown` if the file does not say.
    pub(crate) fn quantization(&self) -> &'static str {
        file_type_name(self.metadata.get("general.file_type").and_then(Value::as_u64))
    }

    /// True if the model's answer to a text is a vector: it names a way to pool.
    pub(crate) fn is_embedding(&self) -> bool {
        self.number("pooling_type").is_some_and(|kind| kind != 0)
    }

    /// The metadata as `/api/show` gives it.
    pub(crate) fn model_info(&self) -> serde_json::Map<String, Value> {
        let mut info: serde_json::Map<_, _> = self
            .metadata
            .iter()
            .filter(|(key, _)| !matches!(key.as_str(), "general.name" | "tokenizer.chat_template"))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        info.insert("general.parameter_count".to_owned(), json!(self.parameters));
        info
    }

    /// The tensor table as `/api/show` gives it.
    pub(crate) fn tensor_table(&self) -> Vec<Value> {
        let row = |tensor: &Tensor| json!({"name": tensor.name, "type": tensor.kind, "shape": tensor.shape});
        self.tensors.iter().map(row).collect()
    }
}

/// The table, the number of weights in it, and the bytes of data that it asks for.
fn read_tensors<R: Read>(source: &mut Source<R>, count: u64) -> Result<(Vec<Tensor>, u64, u64), GgufError> {
    let overflow = || GgufError::Damaged("its tensor sizes overflow");
    let (mut tensors, mut parameters, mut end) = (Vec::new(), 0_u64, 0_u64);
    for _ in 0..count {
        let name = source.string(KEY_BYTES_MAX)?;
        let dimensions = source.u32()?;
        if dimensions > DIMENSIONS_MAX {
            return Err(GgufError::Damaged("a tensor has more than four dimensions"));
        }
        let shape = (0..dimensions).map(|_| source.u64()).collect::<Result<Vec<_>, _>>()?;
        let number = source.u32()?;
        let Some(kind) = Kind::of(number) else {
            return Err(GgufError::TensorKind { name, kind: number });
        };
        let elements = shape.iter().try_fold(1_u64, |product, side| product.checked_mul(*side)).ok_or_else(overflow)?;
        let size = kind.size_bytes(elements, shape.first().copied().unwrap_or(1)).ok_or_else(overflow)?;
        let offset = source.u64()?;
        end = end.max(offset.checked_add(size).ok_or_else(overflow)?);
        parameters = parameters.checked_add(elements).ok_or_else(overflow)?;
        tensors.push(Tensor { name, kind: kind.name, shape });
    }
    Ok((tensors, parameters, end))
}

fn magic_error(error: GgufError, length: u64) -> GgufError {
    if length < 4 { GgufError::Magic } else { error }
}

fn human_number(count: u64) -> String {
    let scaled = |unit: f64, decimals: usize, suffix: &str| {
        #[expect(clippy::cast_precision_loss, reason = "shown with two decimals")]
        let number = count as f64 / unit;
        let decimals = if number.fract() == 0.0 { 0 } else { decimals };
        format!("{number:.decimals$}{suffix}")
    };
    match count {
        1_000_000_000.. => scaled(1e9, 1, "B"),
        1_000_000.. => scaled(1e6, 2, "M"),
        1_000.. => format!("{}K", (count + 500) / 1_000),
        _ => count.to_string(),
    }
}

/// A reader that knows how much of the file is left.
struct Source<R> {
    input: R,
    at: u64,
    length: u64,
    arrays: Arrays,
}

impl<R: Read> Source<R> {
    fn left(&self) -> u64 {
        self.length.saturating_sub(self.at)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), GgufError> {
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => GgufError::HeaderCut,
            _ => GgufError::Io(error),
        })?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        self.array().map(u64::from_le_bytes)
    }

    fn string(&mut self, max: u64) -> Result<String, GgufError> {
        let length = self.u64()?;
        if length > self.left() {
            return Err(GgufError::HeaderCut);
        }
        if length > max {
            return Err(GgufError::Damaged("a text in its header is too long"));
        }
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| GgufError::HeaderCut)?];
        self.fill(&mut bytes)?;
        Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    fn value(&mut self, kind: u32, depth: u8) -> Result<Value, GgufError> {
        Ok(match kind {
            0 => json!(self.array::<1>()?[0]),
            1 => json!(i8::from_le_bytes(self.array()?)),
            2 => json!(u16::from_le_bytes(self.array()?)),
            3 => json!(i16::from_le_bytes(self.array()?)),
            4 => json!(self.u32()?),
            5 => json!(i32::from_le_bytes(self.array()?)),
            6 => float(f64::from(f32::from_le_bytes(self.array()?))),
            7 => json!(self.array::<1>()?[0] != 0),
            8 => Value::String(self.string(STRING_BYTES_MAX)?),
            9 => self.list(depth)?,
            10 => json!(self.u64()?),
            11 => json!(i64::from_le_bytes(self.array()?)),
            12 => float(f64::from_le_bytes(self.array()?)),
            _ => return Err(GgufError::Damaged("a metadata value has an unknown type")),
        })
    }

    fn list(&mut self, depth: u8) -> Result<Value, GgufError> {
        if depth >= NESTING_MAX {
            return Err(GgufError::Damaged("its metadata is nested too deeply"));
        }
        let (kind, count) = (self.u32()?, self.u64()?);
        if count > self.left() {
            return Err(GgufError::HeaderCut);
        }
        let keep = count <= 5 || (self.arrays == Arrays::All && count <= ARRAY_SHOWN_MAX);
        let mut kept = Vec::new();
        for _ in 0..count {
            let value = self.value(kind, depth + 1)?;
            if keep {
                kept.push(value);
            }
        }
        Ok(Value::Array(kept))
    }
}

fn float(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests;
