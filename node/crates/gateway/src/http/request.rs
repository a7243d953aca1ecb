//! What routing reads of a request body, which itself goes on as the client sent it; and what a call that changes
//! models is asked with.
//!
//! Reads as Go's decoder does, because Ollama's clients rely on it: keys match without regard to case, the last
//! duplicate wins, unknown keys are skipped, text behind the first value is ignored. Nothing is kept of what is
//! skipped, whatever its size. Only what routing needs is checked; everything else is the runtime's to judge.

// The engine refuses the same texts and may import no crate of ours; one file for both keeps the words alike.
#[path = "../../../../engine/src/http/json_fault.rs"]
mod json_fault;

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use ollamax_types::Api;

/// The fields that decide where a request goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Fields {
    pub(crate) model: Text,
    pub(crate) name: Text,
    /// `None` when it is not there or no boolean.
    pub(crate) stream: Option<bool>,
    pub(crate) num_ctx: Option<u32>,
    /// `keep_alive` is there and means "unload".
    pub(crate) unloads: bool,
    pub(crate) has_prompt: bool,
    pub(crate) has_messages: bool,
}

/// A call that changes models. Of its body what counts is checked: no runtime judges it after us, or not alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Pull,
    Push,
    Copy,
    Delete,
    /// The rest of it is the runtime's to judge.
    Create,
}

/// What such a call is asked with; what does not count for it is there and means nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ChangeFields {
    model: Text,
    name: Text,
    from: Text,
    source: Text,
    destination: Text,
    insecure: Flag,
    stream: Flag,
}

/// A field that must be a boolean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Flag {
    /// Not there, or null.
    #[default]
    Missing,
    /// There.
    Is(bool),
    /// There, and of this JSON type instead.
    Wrong(&'static str),
}

/// A field that must be a text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Text {
    /// Not there, or null.
    #[default]
    Missing,
    /// There.
    Is(String),
    /// There, and of this JSON type instead.
    Wrong(&'static str),
}

/// The body cannot be read. The texts are those of Ollama's JSON decoder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    /// Nothing is there; Ollama says so in two ways.
    #[error("{0}")]
    Missing(&'static str),
    #[error("{0}")]
    Syntax(String),
    #[error("json: cannot unmarshal {found} into Go value of type {wanted}")]
    WrongType { found: &'static str, wanted: String },
    #[error("json: cannot unmarshal {found} into Go struct field {request}.{field} of type {wanted}")]
    WrongField { found: &'static str, request: &'static str, field: &'static str, wanted: &'static str },
}

/// Reads the fields of a body.
///
/// # Errors
/// When the body is empty, no JSON, or no object; or when the model is no text.
pub(crate) fn read_fields(api: Api, body: &[u8]) -> Result<Fields, BodyError> {
    let package = if is_openai(api) { "openai" } else { "api" };
    let empty = if is_openai(api) { "EOF" } else { "missing request body" };
    let fields: Box<Fields> = read_object(body, empty, || format!("{package}.{}", request_name(api)))?;
    for (field, text) in [("model", &fields.model), ("name", &fields.name)] {
        let counts = field == "model" || api == Api::Show;
        if let (Text::Wrong(found), true) = (text, counts) {
            return Err(BodyError::WrongField { found, request: request_name(api), field, wanted: "string" });
        }
    }
    Ok(*fields)
}

/// Reads what a call that changes models is asked with.
///
/// # Errors
/// When the body is empty, no JSON, or no object; or when a field that counts is of another type.
pub(crate) fn read_change_fields(change: Change, body: &[u8]) -> Result<ChangeFields, BodyError> {
    let request = change.request();
    let fields: Box<ChangeFields> = read_object(body, "missing request body", || format!("api.{request}"))?;
    for &field in change.texts() {
        if let Text::Wrong(found) = fields.text_of(field) {
            return Err(BodyError::WrongField { found, request, field, wanted: "string" });
        }
    }
    for (field, flag) in [("insecure", fields.insecure), ("stream", fields.stream)] {
        if let (Flag::Wrong(found), true) = (flag, change.flags().contains(&field)) {
            return Err(BodyError::WrongField { found, request, field, wanted: "bool" });
        }
    }
    Ok(*fields)
}

/// Reads an object; `empty` is said where nothing is there, `wanted` names the object in Go.
fn read_object<F: Keys>(
    body: &[u8],
    empty: &'static str,
    wanted: impl FnOnce() -> String,
) -> Result<Box<F>, BodyError> {
    if body.trim_ascii().is_empty() {
        return Err(BodyError::Missing(empty));
    }
    let mut decoder = serde_json::Deserializer::from_slice(body);
    let top = Top::<F>::deserialize(&mut decoder).map_err(|error| {
        let unread = || format!("JSON that this node cannot read: {error}");
        BodyError::Syntax(json_fault::find(body).unwrap_or_else(unread))
    })?;
    match top {
        Top::Object(fields) => Ok(fields),
        Top::Other(found) => Err(BodyError::WrongType { found, wanted: wanted() }),
    }
}

const fn is_openai(api: Api) -> bool {
    matches!(api, Api::OpenAiChat | Api::OpenAiEmbeddings)
}

const fn request_name(api: Api) -> &'static str {
    match api {
        Api::Generate => "GenerateRequest",
        Api::Chat => "ChatRequest",
        Api::Embed => "EmbedRequest",
        Api::Show => "ShowRequest",
        Api::OpenAiChat => "ChatCompletionRequest",
        Api::OpenAiEmbeddings => "EmbedRequest",
    }
}

// === impl Fields ===

impl Fields {
    /// The model as the client wrote it; empty when it wrote none. `/api/show` takes the old key `name` too.
    pub(crate) fn model(&self, api: Api) -> &str {
        match (&self.model, &self.name) {
            (Text::Is(model), _) if !model.is_empty() => model,
            (_, Text::Is(name)) if api == Api::Show => name,
            _ => "",
        }
    }

    /// Whether the answer is a stream.
    pub(crate) fn streams(&self, api: Api) -> bool {
        match api {
            Api::Generate | Api::Chat => self.stream != Some(false),
            Api::OpenAiChat => self.stream == Some(true),
            Api::Embed | Api::Show | Api::OpenAiEmbeddings => false,
        }
    }

    /// Whether this asks to take the model out of memory and for nothing else.
    pub(crate) const fn is_unload(&self, api: Api) -> bool {
        match api {
            Api::Generate => self.unloads && !self.has_prompt,
            Api::Chat => self.unloads && !self.has_messages,
            Api::Embed | Api::Show | Api::OpenAiChat | Api::OpenAiEmbeddings => false,
        }
    }
}

// === impl Change ===

impl Change {
    /// What Go calls its body.
    pub(crate) const fn request(self) -> &'static str {
        match self {
            Self::Pull => "PullRequest",
            Self::Push => "PushRequest",
            Self::Copy => "CopyRequest",
            Self::Delete => "DeleteRequest",
            Self::Create => "CreateRequest",
        }
    }

    /// The texts that count.
    const fn texts(self) -> &'static [&'static str] {
        match self {
            Self::Pull | Self::Push | Self::Delete => &["model", "name"],
            Self::Copy => &["source", "destination"],
            Self::Create => &["model", "name", "from"],
        }
    }

    /// The flags that count.
    const fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Pull | Self::Push => &["insecure", "stream"],
            Self::Copy | Self::Delete => &[],
            Self::Create => &["stream"],
        }
    }
}

// === impl ChangeFields ===

impl ChangeFields {
    /// The model as the client wrote it; empty when it wrote none. The old key `name` counts too.
    pub(crate) fn model(&self) -> &str {
        match (&self.model, &self.name) {
            (Text::Is(model), _) if !model.is_empty() => model,
            (_, Text::Is(name)) => name,
            _ => "",
        }
    }

    /// What a model is made from, as the client wrote it; empty when it wrote nothing.
    pub(crate) fn base(&self) -> &str {
        self.from.as_str()
    }

    /// The model that gets another name, as the client wrote it.
    pub(crate) fn source(&self) -> &str {
        self.source.as_str()
    }

    /// The other name, as the client wrote it.
    pub(crate) fn destination(&self) -> &str {
        self.destination.as_str()
    }

    /// Whether the registry is asked over plain HTTP.
    pub(crate) fn is_insecure(&self) -> bool {
        self.insecure == Flag::Is(true)
    }

    /// Whether the answer is a stream.
    pub(crate) fn streams(&self) -> bool {
        self.stream != Flag::Is(false)
    }

    fn text_of(&self, field: &str) -> &Text {
        match field {
            "name" => &self.name,
            "from" => &self.from,
            "source" => &self.source,
            "destination" => &self.destination,
            _ => &self.model,
        }
    }
}

// === impl Flag ===

impl Flag {
    /// Takes one more value of the same field: what was of another type once stays so.
    fn take(&mut self, value: Seen) {
        if !matches!(self, Self::Wrong(_)) {
            *self = value.into_flag();
        }
    }
}

// === impl Text ===

impl Text {
    /// Takes one more value of the same field: `null` changes nothing, and what was of another type once stays so.
    fn take(&mut self, value: Seen) {
        if !matches!((&*self, &value), (Self::Wrong(_), _) | (_, Seen::Null)) {
            *self = value.into_text();
        }
    }

    /// Empty where there is none.
    fn as_str(&self) -> &str {
        match self {
            Self::Is(text) => text,
            Self::Missing | Self::Wrong(_) => "",
        }
    }
}

/// What is kept of an object. Each of its keys is offered once, in its order.
trait Keys: Default {
    /// Reads the value of a key that counts; `false`: it does not, and its value was left.
    fn read_key<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<bool, A::Error>;
}

impl Keys for Fields {
    fn read_key<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<bool, A::Error> {
        if key.eq_ignore_ascii_case("model") {
            self.model = map.next_value::<Seen>()?.into_text();
        } else if key.eq_ignore_ascii_case("name") {
            self.name = map.next_value::<Seen>()?.into_text();
        } else if key.eq_ignore_ascii_case("stream") {
            self.stream = map.next_value::<Seen>()?.as_bool();
        } else if key.eq_ignore_ascii_case("keep_alive") {
            self.unloads = map.next_value::<Seen>()?.is_zero_time();
        } else if key.eq_ignore_ascii_case("prompt") {
            self.has_prompt = map.next_value::<Seen>()?.is_something();
        } else if key.eq_ignore_ascii_case("messages") {
            self.has_messages = map.next_value::<Seen>()?.is_something();
        } else if key.eq_ignore_ascii_case("options") {
            map.next_value_seed(OptionsSeed(&mut self.num_ctx))?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }
}

impl Keys for ChangeFields {
    fn read_key<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<bool, A::Error> {
        if key.eq_ignore_ascii_case("model") {
            self.model.take(map.next_value()?);
        } else if key.eq_ignore_ascii_case("name") {
            self.name.take(map.next_value()?);
        } else if key.eq_ignore_ascii_case("from") {
            self.from.take(map.next_value()?);
        } else if key.eq_ignore_ascii_case("source") {
            self.source.take(map.next_value()?);
        } else if key.eq_ignore_ascii_case("destination") {
            self.destination.take(map.next_value()?);
        } else if key.eq_ignore_ascii_case("insecure") {
            // In Go this is a bool, which `null` leaves as it was, and `stream` a pointer to one, which it takes away.
            match map.next_value::<Seen>()? {
                Seen::Null => {}
                value => self.insecure.take(value),
            }
        } else if key.eq_ignore_ascii_case("stream") {
            self.stream.take(map.next_value()?);
        } else {
            return Ok(false);
        }
        Ok(true)
    }
}

enum Top<F> {
    Object(Box<F>),
    Other(&'static str),
}

impl<'de, F: Keys> Deserialize<'de> for Top<F> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TopVisitor(PhantomData))
    }
}

struct TopVisitor<F>(PhantomData<F>);

impl<'de, F: Keys> Visitor<'de> for TopVisitor<F> {
    type Value = Top<F>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Top<F>, A::Error> {
        let mut fields = Box::<F>::default();
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if !fields.read_key(&key, &mut map)? {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Top::Object(fields))
    }

    fn visit_unit<E>(self) -> Result<Top<F>, E> {
        Ok(Top::Object(Box::default()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Top<F>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Top::Other("array"))
    }

    fn visit_str<E>(self, _: &str) -> Result<Top<F>, E> {
        Ok(Top::Other("string"))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Top<F>, E> {
        Ok(Top::Other("bool"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Top<F>, E> {
        Ok(Top::Other("number"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Top<F>, E> {
        Ok(Top::Other("number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Top<F>, E> {
        Ok(Top::Other("number"))
    }
}

/// One value: a small one is kept, of a list or object only whether it is empty.
enum Seen {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List { empty: bool },
    Object,
}

impl<'de> Deserialize<'de> for Seen {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SeenVisitor)
    }
}

struct SeenVisitor;

/// Longest text that is kept whole; of a longer one (a prompt) a beginning is enough.
const TEXT_KEPT_BYTES: usize = 1_024;

impl<'de> Visitor<'de> for SeenVisitor {
    type Value = Seen;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Seen, E> {
        Ok(Seen::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Seen, E> {
        Ok(Seen::Bool(value))
    }

    #[expect(clippy::cast_precision_loss, reason = "compared with zero and small bounds only")]
    fn visit_u64<E>(self, value: u64) -> Result<Seen, E> {
        Ok(Seen::Number(value as f64))
    }

    #[expect(clippy::cast_precision_loss, reason = "compared with zero and small bounds only")]
    fn visit_i64<E>(self, value: i64) -> Result<Seen, E> {
        Ok(Seen::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Seen, E> {
        Ok(Seen::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Seen, E> {
        let end = value.floor_char_boundary(TEXT_KEPT_BYTES);
        Ok(Seen::Text(value[..end].to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Seen, A::Error> {
        let mut empty = true;
        while seq.next_element::<IgnoredAny>()?.is_some() {
            empty = false;
        }
        Ok(Seen::List { empty })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Seen, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Seen::Object)
    }
}

// === impl Seen ===

impl Seen {
    fn into_text(self) -> Text {
        match self {
            Self::Null => Text::Missing,
            Self::Text(text) => Text::Is(text),
            other => Text::Wrong(other.kind()),
        }
    }

    fn into_flag(self) -> Flag {
        match self {
            Self::Null => Flag::Missing,
            Self::Bool(value) => Flag::Is(value),
            other => Flag::Wrong(other.kind()),
        }
    }

    /// What Go calls it.
    const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Number(_) => "number",
            Self::Text(_) => "string",
            Self::List { .. } => "array",
            Self::Object => "object",
        }
    }

    const fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    const fn is_something(&self) -> bool {
        match self {
            Self::Null => false,
            Self::Text(text) => !text.is_empty(),
            Self::List { empty } => !*empty,
            Self::Bool(_) | Self::Number(_) | Self::Object => true,
        }
    }

    fn is_zero_time(&self) -> bool {
        match self {
            Self::Number(seconds) => *seconds == 0.0,
            Self::Text(text) => is_zero_duration(text),
            Self::Null | Self::Bool(_) | Self::List { .. } | Self::Object => false,
        }
    }
}

/// Whether a Go duration text is zero: `0`, `0s`, `0m0s`, `0.0h`.
fn is_zero_duration(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let has_unit = text.ends_with(['s', 'm', 'h']);
    let starts_well = text.starts_with(['0', '.']);
    let is_zero = text.bytes().all(|byte| matches!(byte, b'0' | b'.' | b'n' | b'u' | b'm' | b's' | b'h'));
    text == "0" || (has_unit && starts_well && is_zero)
}

/// Reads `num_ctx` out of an `options` object of any shape.
struct OptionsSeed<'a>(&'a mut Option<u32>);

impl<'de> DeserializeSeed<'de> for OptionsSeed<'_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for OptionsSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if key == "num_ctx" {
                *self.0 = match map.next_value::<Seen>()? {
                    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
                    Seen::Number(tokens) if (1.0..=f64::from(u32::MAX)).contains(&tokens) => Some(tokens as u32),
                    _ => None,
                };
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
