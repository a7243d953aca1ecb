//! The trace that a request belongs to, by W3C Trace Context: as its client names it, and as it goes along.
//!
//! Pure. What is malformed is as if it were not there: nobody is refused for it. What is not ours to read (the state)
//! goes along as it came, within a bound, or not at all.

/// Characters of what every version begins with: version, trace, parent and flags, with a `-` between two.
const CHARS: usize = 55;
/// A version that there will never be.
const NO_VERSION: &str = "ff";
/// The version that has nothing behind the flags, and the one that is written.
const VERSION: &str = "00";
/// Flags that this version knows: the trace is recorded, its id is random.
const FLAGS: u8 = 0b11;
/// Characters of a state that goes along.
const STATE_CHARS_MAX: usize = 512;

/// A trace, and what in it caused the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    id: String,
    parent: String,
    flags: u8,
    state: String,
}

// === impl Trace ===

impl Trace {
    /// In which header a trace is named, and under which key of a message.
    pub const HEADER: &'static str = "traceparent";
    /// In which header its state stands, and under which key.
    pub const STATE_HEADER: &'static str = "tracestate";

    /// The trace that is named so; `None`: it is malformed.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (known, more) = text.split_at_checked(CHARS)?;
        let parts: Vec<&str> = known.split('-').collect();
        let [version, id, parent, flags] = parts[..] else { return None };
        let is_known = version != NO_VERSION && (more.is_empty() || (version != VERSION && more.starts_with('-')));
        let are_numbers = is_hex(version, 2) && is_hex(id, 32) && is_hex(parent, 16) && is_hex(flags, 2);
        let is_any = |number: &str| number.bytes().any(|digit| digit != b'0');
        let flags = u8::from_str_radix(flags, 16).ok()? & FLAGS;
        (is_known && are_numbers && is_any(id) && is_any(parent)).then(|| Self {
            id: id.to_owned(),
            parent: parent.to_owned(),
            flags,
            state: String::new(),
        })
    }

    /// With the state that came with it. One that is too long, or no text of a header, is left out whole.
    #[must_use]
    pub fn with_state(self, state: &str) -> Self {
        let is_sane = state.len() <= STATE_CHARS_MAX && state.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        Self { state: if is_sane { state.to_owned() } else { String::new() }, ..self }
    }

    /// The trace as it goes on from a span; as it is where the span is none.
    #[must_use]
    pub fn under(&self, span: [u8; 8]) -> Self {
        let parent = if span == [0; 8] { self.parent.clone() } else { format!("{:016x}", u64::from_be_bytes(span)) };
        Self { parent, ..self.clone() }
    }

    /// The trace's id: 32 hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The id of the span that caused the request: 16 hexadecimal digits.
    #[must_use]
    pub fn parent(&self) -> &str {
        &self.parent
    }

    /// Its state; empty where there is none.
    #[must_use]
    pub fn state(&self) -> &str {
        &self.state
    }

    /// As [`Self::parse`] reads it, without its state.
    #[must_use]
    pub fn named(&self) -> String {
        format!("{VERSION}-{}-{}-{:02x}", self.id, self.parent, self.flags)
    }
}

/// Small letters alone.
fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0af7651916cd43dd8448eb211c80319c";
    const PARENT: &str = "b7ad6b7169203331";

    fn named(id: &str) -> String {
        format!("00-{id}-{PARENT}-01")
    }

    #[test]
    fn a_trace_is_read_as_the_specification_has_it_and_anything_else_is_none() {
        let check = |text: &str, expected: Option<String>| {
            assert_eq!(Trace::parse(text).map(|trace| trace.named()), expected, "{text:?}");
        };
        check(&named(ID), Some(named(ID)));
        check(&format!("00-{ID}-{PARENT}-00"), Some(format!("00-{ID}-{PARENT}-00")));
        check(&format!("cc-{ID}-{PARENT}-01"), Some(named(ID)));
        check(&format!("cc-{ID}-{PARENT}-01-more"), Some(named(ID)));
        check(&format!("00-{ID}-{PARENT}-ff"), Some(format!("00-{ID}-{PARENT}-03")));
        for none in [
            String::new(),
            ID.to_owned(),
            "é".repeat(CHARS),
            format!("ff-{ID}-{PARENT}-01"),
            format!("0x-{ID}-{PARENT}-01"),
            format!("cc-{ID}-{PARENT}-01more"),
            format!("{}-more", named(ID)),
            format!(" {}", named(ID)),
            named(&ID.to_uppercase()),
            named(&"0".repeat(32)),
            named(&ID[1..]),
            named(&format!("{}é", &ID[2..])),
            format!("00-{ID}-{}-01", "0".repeat(16)),
            format!("00-{ID}-{PARENT}-0g"),
            format!("00-{ID}-{PARENT}-+1"),
            format!("00-{ID}-{PARENT}--1"),
        ] {
            check(&none, None);
        }
    }

    #[test]
    fn it_goes_on_under_another_span_with_its_flags_and_its_state() {
        let said = Trace::parse(&named(ID)).expect("a trace").with_state("a=1,b=2");
        let on = said.under([0, 0, 0, 0, 0, 0, 1, 0xab]);
        assert_eq!((on.named(), on.state()), (format!("00-{ID}-00000000000001ab-01"), "a=1,b=2"));
        assert_eq!((on.id(), on.parent(), said.parent()), (ID, "00000000000001ab", PARENT));
        assert_eq!(said.under([0; 8]), said);
    }

    #[test]
    fn a_state_that_is_no_header_or_too_long_is_left_out_whole() {
        let check = |state: &str, expected: &str| {
            let trace = Trace::parse(&named(ID)).expect("a trace").with_state(state);
            assert_eq!(trace.state(), expected, "{state:?}");
        };
        check("vendor=a;b=c, other=~", "vendor=a;b=c, other=~");
        check(&"x".repeat(STATE_CHARS_MAX), &"x".repeat(STATE_CHARS_MAX));
        for none in ["", "a=1\r\nhost: evil", "a=ä", &"x".repeat(STATE_CHARS_MAX + 1)] {
            check(none, "");
        }
    }
}
