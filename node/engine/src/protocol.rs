//! What the server and the runner of a model say to each other: length-prefixed JSON over the runner's pipes.
//!
//! A frame is four bytes of length, big-endian, and that many bytes of JSON. Both ends are the same program at the
//! same version, so the form may change with it. The runner answers one order at a time with any number of events, of
//! which the last is `Done`, `Vectors` or `Failed`. Only `Cancel` may be sent while an order is being worked on.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::limits;
use crate::options::Sampling;
use crate::template::Message;

/// From the server to the runner.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Continue a text.
    Generate(Box<Generate>),
    /// Turn texts into vectors.
    Embed(Embed),
    /// Stop what is being worked on.
    Cancel,
}

/// A text to continue.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Generate {
    /// What to continue.
    pub(crate) prompt: Prompt,
    /// Cut a prompt that is too long, instead of refusing it.
    pub(crate) truncate: bool,
    /// Forget the oldest half when the context is full, instead of stopping.
    pub(crate) shift: bool,
    /// Give only JSON.
    pub(crate) json: bool,
    /// How to choose tokens.
    pub(crate) sampling: Sampling,
}

/// What to continue.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Prompt {
    /// These tokens, then this text as it stands.
    Raw {
        /// Tokens of earlier turns.
        before: Vec<i32>,
        /// The text.
        text: String,
    },
    /// A conversation, by the model's template or this one.
    Chat {
        /// Tokens of earlier turns.
        before: Vec<i32>,
        /// Oldest first.
        messages: Vec<Message>,
        /// Instead of the template in the file.
        template: Option<String>,
    },
}

/// Texts to turn into vectors.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Embed {
    /// One vector each.
    pub(crate) inputs: Vec<String>,
    /// Cut a text that is too long, instead of refusing it.
    pub(crate) truncate: bool,
}

/// From the runner to the server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Event {
    /// The model is loaded; the first event of every runner that gets so far.
    Loaded(Footprint),
    /// The order is being worked on; the first event of every order. Without it the runner never saw the order.
    Accepted,
    /// The next piece of text.
    Text(String),
    /// The end of a text.
    Done(Outcome),
    /// All vectors of an order.
    Vectors {
        /// One for each input, each of length 1.
        vectors: Vec<Vec<f32>>,
        /// Tokens of all inputs.
        tokens: u64,
    },
    /// The order, or the load, came to nothing; the runner of an order goes on.
    Failed {
        /// Whose fault it is.
        fault: Fault,
        /// What to tell the client.
        message: String,
    },
}

/// What a loaded model takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Footprint {
    /// Weights and context, in bytes.
    pub(crate) total_bytes: u64,
    /// The part of it on GPUs, in bytes.
    pub(crate) vram_bytes: u64,
    /// Tokens that the model sees at once.
    pub(crate) context_length: u32,
}

/// How a text ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Why it ended.
    pub(crate) reason: Reason,
    /// Tokens of the prompt.
    pub(crate) prompt_tokens: u64,
    /// Nanoseconds spent on the prompt.
    pub(crate) prompt_ns: u64,
    /// Tokens generated.
    pub(crate) tokens: u64,
    /// Nanoseconds spent on them.
    pub(crate) tokens_ns: u64,
    /// Prompt and answer as tokens.
    pub(crate) context: Vec<i32>,
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reason {
    /// The model ended it, or a stop sequence did.
    Stop,
    /// It reached the limit of tokens.
    Length,
    /// The client left.
    Cancelled,
}

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Fault {
    /// The request cannot be answered as it is.
    Request,
    /// The runner could not do it.
    Runner,
    /// There was not enough memory to load the model.
    Memory,
}

impl Event {
    /// True for the last event of an order.
    pub(crate) fn is_last(&self) -> bool {
        !matches!(self, Self::Text(_) | Self::Accepted | Self::Loaded(_))
    }
}

impl Reason {
    /// As the API writes it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Stop | Self::Cancelled => "stop",
        }
    }
}

/// Reads one frame; `None` at a clean end.
pub(crate) fn read_frame<T: DeserializeOwned>(input: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match input.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > limits::FRAME_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "frame too large"));
    }
    let mut bytes = vec![0; length];
    input.read_exact(&mut bytes)?;
    Ok(Some(serde_json::from_slice(&bytes)?))
}

/// Writes one frame.
pub(crate) fn write_frame(output: &mut impl Write, frame: &impl Serialize) -> io::Result<()> {
    let bytes = serde_json::to_vec(frame)?;
    let length = u32::try_from(bytes.len()).ok().filter(|length| *length as usize <= limits::FRAME_BYTES_MAX);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "frame too large"))?;
    output.write_all(&length.to_be_bytes())?;
    output.write_all(&bytes)?;
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_as_they_were_sent() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &Event::Text("ä\n".to_owned())).expect("write");
        write_frame(&mut bytes, &Event::Loaded(Footprint::default())).expect("write");
        let mut input = &bytes[..];
        assert!(matches!(read_frame(&mut input), Ok(Some(Event::Text(text))) if text == "ä\n"));
        assert!(matches!(read_frame(&mut input), Ok(Some(Event::Loaded(_)))));
        assert!(matches!(read_frame::<Event>(&mut input), Ok(None)));
    }

    #[test]
    fn garbage_is_an_error_and_no_allocation() {
        let check = |bytes: &[u8]| assert!(read_frame::<Event>(&mut &bytes[..]).is_err());
        check(&[0xff; 8]);
        check(&[0, 0, 0, 2, b'{']);
        check(&[0, 0, 0, 2, b'{', b'}']);
    }
}
