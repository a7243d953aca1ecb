//! What is wrong with a JSON text, in the words of Go's decoder, which Ollama's clients read.
//!
//! Pure. Looks at the first value and nothing behind it, as that decoder does, and only when another decoder refused
//! the text. No text makes it panic or recurse. The gateway compiles this very file, so that both doors say the same.

/// Deeper texts are refused by Go.
const DEPTH_MAX: usize = 10_000;

/// The first fault of the first value; `None` where Go finds none.
pub(crate) fn find(text: &[u8]) -> Option<String> {
    match (Scan { text, at: 0, open: Vec::new() }).value() {
        Ok(()) => None,
        Err(Fault::CutOff) => Some("unexpected EOF".to_owned()),
        Err(Fault::Character(byte, place)) => Some(format!("invalid character {} {place}", quoted(byte))),
    }
}

enum Fault {
    CutOff,
    Character(u8, String),
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
    /// The closing bracket of each list and object around this place.
    open: Vec<u8>,
}

// === impl Scan ===

impl Scan<'_> {
    fn value(&mut self) -> Result<(), Fault> {
        loop {
            match self.solid()? {
                b'{' => {
                    self.enter(b'}')?;
                    if self.solid()? != b'}' {
                        self.key()?;
                        continue;
                    }
                }
                b'[' => {
                    self.enter(b']')?;
                    if self.solid()? != b']' {
                        continue;
                    }
                }
                b'"' => self.string()?,
                b't' => self.word("true")?,
                b'f' => self.word("false")?,
                b'n' => self.word("null")?,
                b'-' | b'0'..=b'9' => self.number()?,
                byte => return fault(byte, "looking for beginning of value"),
            }
            if self.leave()? {
                return Ok(());
            }
        }
    }

    /// What follows a value; true if that was the whole.
    fn leave(&mut self) -> Result<bool, Fault> {
        while let Some(end) = self.open.last().copied() {
            match (self.solid()?, end) {
                (b',', b'}') => {
                    self.at += 1;
                    self.key()?;
                    return Ok(false);
                }
                (b',', _) => {
                    self.at += 1;
                    return Ok(false);
                }
                (byte, _) if byte == end => {
                    self.at += 1;
                    self.open.pop();
                }
                (byte, b'}') => return fault(byte, "after object key:value pair"),
                (byte, _) => return fault(byte, "after array element"),
            }
        }
        Ok(true)
    }

    fn enter(&mut self, end: u8) -> Result<(), Fault> {
        if self.open.len() == DEPTH_MAX {
            return fault(self.text[self.at], "exceeded max depth");
        }
        self.open.push(end);
        self.at += 1;
        Ok(())
    }

    fn key(&mut self) -> Result<(), Fault> {
        match self.solid()? {
            b'"' => self.string()?,
            byte => return fault(byte, "looking for beginning of object key string"),
        }
        match self.solid()? {
            b':' => self.at += 1,
            byte => return fault(byte, "after object key"),
        }
        Ok(())
    }

    fn string(&mut self) -> Result<(), Fault> {
        self.at += 1;
        loop {
            match self.next()? {
                b'"' => return Ok(()),
                b'\\' => match self.next()? {
                    b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => {}
                    b'u' => {
                        for _ in 0..4 {
                            let byte = self.next()?;
                            if !byte.is_ascii_hexdigit() {
                                return fault(byte, r"in \u hexadecimal character escape");
                            }
                        }
                    }
                    byte => return fault(byte, "in string escape code"),
                },
                byte if byte < b' ' => return fault(byte, "in string literal"),
                _ => {}
            }
        }
    }

    fn word(&mut self, word: &str) -> Result<(), Fault> {
        for expected in word.bytes() {
            match self.next()? {
                byte if byte == expected => {}
                byte => return fault(byte, &format!("in literal {word} (expecting '{}')", char::from(expected))),
            }
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), Fault> {
        self.skip(b"-");
        if !self.skip(b"0") {
            self.digits("in numeric literal")?;
        }
        if self.skip(b".") {
            self.digits("after decimal point in numeric literal")?;
        }
        if self.skip(b"eE") {
            self.skip(b"+-");
            self.digits("in exponent of numeric literal")?;
        }
        Ok(())
    }

    /// One digit or more.
    fn digits(&mut self, place: &str) -> Result<(), Fault> {
        match self.next()? {
            b'0'..=b'9' => {}
            byte => return fault(byte, place),
        }
        while self.skip(b"0123456789") {}
        Ok(())
    }

    fn skip(&mut self, any: &[u8]) -> bool {
        let is_there = self.text.get(self.at).is_some_and(|byte| any.contains(byte));
        self.at += usize::from(is_there);
        is_there
    }

    fn next(&mut self) -> Result<u8, Fault> {
        let byte = self.text.get(self.at).copied().ok_or(Fault::CutOff)?;
        self.at += 1;
        Ok(byte)
    }

    /// The next byte that is no space; it is not taken.
    fn solid(&mut self) -> Result<u8, Fault> {
        while self.skip(b" \t\r\n") {}
        self.text.get(self.at).copied().ok_or(Fault::CutOff)
    }
}

fn fault<T>(byte: u8, place: &str) -> Result<T, Fault> {
    Err(Fault::Character(byte, place.to_owned()))
}

/// A byte as Go quotes the character of that number.
fn quoted(byte: u8) -> String {
    let text = match byte {
        b'\'' => r"\'".to_owned(),
        b'\\' => r"\\".to_owned(),
        b'\n' => r"\n".to_owned(),
        b'\r' => r"\r".to_owned(),
        b'\t' => r"\t".to_owned(),
        0x07 => r"\a".to_owned(),
        0x08 => r"\b".to_owned(),
        0x0b => r"\v".to_owned(),
        0x0c => r"\f".to_owned(),
        0..=0x1f | 0x7f => format!(r"\x{byte:02x}"),
        0x80..=0xa0 | 0xad => format!(r"\u{byte:04x}"),
        _ => char::from(byte).to_string(),
    };
    format!("'{text}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &[u8], expected: Option<&str>) {
        assert_eq!(find(text).as_deref(), expected, "{}", String::from_utf8_lossy(text));
    }

    #[test]
    fn faults_are_told_in_the_words_of_go() {
        let check = |text: &str, character: &str, place: &str| {
            check(text.as_bytes(), Some(&format!("invalid character '{character}' {place}")));
        };
        check("<html>", "<", "looking for beginning of value");
        check("[1,]", "]", "looking for beginning of value");
        check("{model:1}", "m", "looking for beginning of object key string");
        check(r#"{"a":1,}"#, "}", "looking for beginning of object key string");
        check(r#"{"a" 1}"#, "1", "after object key");
        check(r#"{"a":1 "b":2}"#, "\"", "after object key:value pair");
        check(r#"{"a":01}"#, "1", "after object key:value pair");
        check("[1 2]", "2", "after array element");
        check("[1}", "}", "after array element");
        check("\"a\nb\"", r"\n", "in string literal");
        check(r#""\x""#, "x", "in string escape code");
        check(r#""\u12g4""#, "g", r"in \u hexadecimal character escape");
        check("[tru]", "]", "in literal true (expecting 'e')");
        check("[nil]", "i", "in literal null (expecting 'u')");
        check("[False]", "F", "looking for beginning of value");
        check("[-a]", "a", "in numeric literal");
        check("[1.]", "]", "after decimal point in numeric literal");
        check("[1e+]", "]", "in exponent of numeric literal");
        check("{'a':1}", r"\'", "looking for beginning of object key string");
        check("\u{feff}{}", "ï", "looking for beginning of value");
        check(&"[".repeat(10_001), "[", "exceeded max depth");
        check("\0", r"\x00", "looking for beginning of value");
        check("\u{7f}", r"\x7f", "looking for beginning of value");
        check("\\", r"\\", "looking for beginning of value");
    }

    #[test]
    fn a_text_that_stops_is_told_from_one_that_is_whole() {
        for text in ["{", r#"{"a""#, r#"{"a":"#, r#"{"a":1,"#, "[1", "\"a", r#""\u1"#, "tr", "-", "1.", "1e", "[", ""] {
            check(text.as_bytes(), Some("unexpected EOF"));
        }
        let deep = "[".repeat(10_000) + &"]".repeat(10_000);
        for text in ["{}", "[]", " null ", "12", "-0.5e-3", r#"{"a":[{}, "\u00e9\n"]} what follows"#, "1 2", &deep] {
            check(text.as_bytes(), None);
        }
    }

    #[test]
    fn bytes_beyond_ascii_are_quoted_as_the_characters_of_their_numbers() {
        let check = |byte: u8, expected: &str| {
            check(&[byte], Some(&format!("invalid character '{expected}' looking for beginning of value")));
        };
        check(0xff, "ÿ");
        check(0x80, r"\u0080");
        check(0xad, r"\u00ad");
        check(0x1b, r"\x1b");
    }
}
