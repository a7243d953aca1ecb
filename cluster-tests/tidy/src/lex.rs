//! Rust text split into code and comments, line by line, with the insides of strings and characters blanked out.
//!
//! Checks look for words; a word in a string must not count as code. This is a scanner, not a parser: it knows
//! strings, raw strings, byte strings, characters, lifetimes, line comments and nested block comments. Text that does
//! not compile may be split wrongly; it does not get past the compiler either.

/// One line of a source file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    /// The code, with strings as `""` and characters as `' '`.
    pub code: String,
    /// The text of comments, with their markers.
    pub comment: String,
    /// Whether any string begins, ends or goes on here.
    pub has_string: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Code,
    LineComment,
    BlockComment { depth: u32 },
    String,
    RawString { hashes: usize },
}

/// Splits `text` into lines.
#[must_use]
pub fn lines(text: &str) -> Vec<Line> {
    let mut scanner =
        Scanner { chars: text.chars().collect(), at: 0, state: State::Code, lines: vec![Line::default()] };
    while scanner.at < scanner.chars.len() {
        scanner.step();
    }
    if text.ends_with('\n') {
        scanner.lines.pop();
    }
    scanner.lines
}

struct Scanner {
    chars: Vec<char>,
    at: usize,
    state: State,
    lines: Vec<Line>,
}

// === impl Scanner ===

impl Scanner {
    fn peek(&self, ahead: usize) -> char {
        self.chars.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn line(&mut self) -> &mut Line {
        self.lines.last_mut().expect("there is always a current line")
    }

    fn step(&mut self) {
        let c = self.peek(0);
        if c == '\n' {
            let in_string = matches!(self.state, State::String | State::RawString { .. });
            self.lines.push(Line { has_string: in_string, ..Line::default() });
            if self.state == State::LineComment {
                self.state = State::Code;
            }
            self.at += 1;
            return;
        }
        match self.state {
            State::Code => self.step_code(c),
            State::LineComment => self.comment(1),
            State::BlockComment { depth } => self.step_block_comment(c, depth),
            State::String => self.step_string(c),
            State::RawString { hashes } => self.step_raw_string(c, hashes),
        }
    }

    /// Takes `count` characters as comment.
    fn comment(&mut self, count: usize) {
        for _ in 0..count {
            let c = self.peek(0);
            self.line().comment.push(c);
            self.at += 1;
        }
    }

    fn step_code(&mut self, c: char) {
        match (c, self.peek(1)) {
            ('/', '/') => {
                self.state = State::LineComment;
                self.comment(2);
            }
            ('/', '*') => {
                self.state = State::BlockComment { depth: 1 };
                self.comment(2);
            }
            ('"', _) => {
                self.open_string(1, State::String);
            }
            ('r' | 'b' | 'c', _) if !self.follows_a_name() && self.try_prefixed_string() => {}
            ('\'', _) => self.character_or_lifetime(),
            _ => {
                self.line().code.push(c);
                self.at += 1;
            }
        }
    }

    fn follows_a_name(&self) -> bool {
        self.at > 0 && (self.chars[self.at - 1].is_alphanumeric() || self.chars[self.at - 1] == '_')
    }

    /// `r"`, `r#"`, `b"`, `br#"`, `c"` and the like; answers whether one began here.
    fn try_prefixed_string(&mut self) -> bool {
        let letters = (0..2).take_while(|ahead| matches!(self.peek(*ahead), 'r' | 'b' | 'c')).count();
        let hashes = (0..).take_while(|ahead| self.peek(letters + ahead) == '#').count();
        if self.peek(letters + hashes) != '"' {
            return false;
        }
        let raw = (0..letters).any(|ahead| self.peek(ahead) == 'r');
        if hashes > 0 && !raw {
            return false;
        }
        self.open_string(letters + hashes + 1, if raw { State::RawString { hashes } } else { State::String });
        true
    }

    fn open_string(&mut self, taken: usize, state: State) {
        self.line().code.push_str("\"\"");
        self.line().has_string = true;
        self.at += taken;
        self.state = state;
    }

    fn character_or_lifetime(&mut self) {
        let end = if self.peek(1) == '\\' {
            (3..12).find(|ahead| self.peek(*ahead) == '\'')
        } else {
            Some(2).filter(|ahead| self.peek(*ahead) == '\'')
        };
        match end {
            Some(end) => {
                self.line().code.push_str("' '");
                self.at += end + 1;
            }
            None => {
                self.line().code.push('\'');
                self.at += 1;
            }
        }
    }

    fn step_block_comment(&mut self, c: char, depth: u32) {
        match (c, self.peek(1)) {
            ('/', '*') => {
                self.state = State::BlockComment { depth: depth + 1 };
                self.comment(2);
            }
            ('*', '/') => {
                self.state = if depth == 1 { State::Code } else { State::BlockComment { depth: depth - 1 } };
                self.comment(2);
            }
            _ => self.comment(1),
        }
    }

    fn step_string(&mut self, c: char) {
        if c == '"' {
            self.state = State::Code;
        }
        // An escaped line break is left to `step`, which counts lines.
        self.at += if c == '\\' && self.peek(1) != '\n' { 2 } else { 1 };
    }

    fn step_raw_string(&mut self, c: char, hashes: usize) {
        if c == '"' && (1..=hashes).all(|ahead| self.peek(ahead) == '#') {
            self.state = State::Code;
            self.at += hashes;
        }
        self.at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, code: &[&str], comments: &[&str]) {
        let found = lines(text);
        let codes: Vec<&str> = found.iter().map(|line| line.code.as_str()).collect();
        assert_eq!(codes, code, "code of {text:?}");
        let comment: Vec<&str> = found.iter().map(|line| line.comment.as_str()).collect();
        assert_eq!(comment, comments, "comments of {text:?}");
    }

    #[test]
    fn code_comments_and_strings_are_told_apart() {
        check("let a = 1; // one\n", &["let a = 1; "], &["// one"]);
        check("f(\"// no comment\");", &["f(\"\");"], &[""]);
        check("f(\"a\\\"b\", c)", &["f(\"\", c)"], &[""]);
        check("f(r#\"a \" b\"#, c)", &["f(\"\", c)"], &[""]);
        check("f(br\"a\\\", c)", &["f(\"\", c)"], &[""]);
        check("a /* b /* c */ d */ e", &["a  e"], &["/* b /* c */ d */"]);
        check("'\"' '\\'' '\\u{1F600}' &'a str", &["' ' ' ' ' ' &'a str"], &[""]);
        check("for_r\"x\"", &["for_r\"\""], &[""]);
    }

    #[test]
    fn strings_over_several_lines_keep_the_line_count() {
        let found = lines("a(\"one\\\n  two\nthree\");\nb();\n");
        let codes: Vec<&str> = found.iter().map(|line| line.code.as_str()).collect();
        assert_eq!(codes, ["a(\"\"", "", ");", "b();"]);
        let strings: Vec<bool> = found.iter().map(|line| line.has_string).collect();
        assert_eq!(strings, [true, true, true, false]);
    }
}
