//! Numbers as people read them.

/// Bytes with a unit, as file managers show them.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut unit = 0;
    let mut scaled = count;
    let mut rest = 0;
    while scaled >= 1_000 && unit + 1 < UNITS.len() {
        rest = scaled % 1_000;
        scaled /= 1_000;
        unit += 1;
    }
    if unit == 0 || scaled >= 100 {
        format!("{scaled} {}", UNITS[unit])
    } else {
        format!("{scaled}.{} {}", rest / 100, UNITS[unit])
    }
}

/// A span of milliseconds in its largest unit.
pub(crate) fn span(millis: u64) -> String {
    match millis {
        ms if ms < 1_000 => format!("{ms} ms"),
        ms if ms < 120_000 => format!("{} s", ms / 1_000),
        ms if ms < 7_200_000 => format!("{} min", ms / 60_000),
        ms if ms < 172_800_000 => format!("{} h", ms / 3_600_000),
        ms => format!("{} days", ms / 86_400_000),
    }
}

/// Milliseconds since 1970 as a UTC time; empty for 0.
pub(crate) fn time(millis: u64) -> String {
    if millis == 0 {
        return String::new();
    }
    let stamp = i64::try_from(millis).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    stamp.map_or_else(String::new, |stamp| stamp.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

/// The first 12 hex digits of a digest.
pub(crate) fn digest(bytes: &[u8]) -> String {
    hex::encode(bytes).chars().take(12).collect()
}

/// `1 node`, `2 nodes`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// What was perhaps meant by a word that nobody knows; empty when nothing is near.
pub(crate) fn similar<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> String {
    let scored = known.map(|name| (strsim::damerau_levenshtein(given, name), name));
    let near = scored.filter(|(distance, _)| *distance <= given.chars().count() / 2).min();
    near.map_or_else(String::new, |(_, name)| format!("did you mean {name:?}?"))
}

/// Bytes for a table or a line: what would break it, or have it read otherwise than it is, is escaped.
pub(crate) fn in_one_line(bytes: &[u8]) -> String {
    const SHOWN_MAX: usize = 120;
    let text = String::from_utf8_lossy(bytes);
    let mut line = escaped(text.chars().take(SHOWN_MAX));
    if text.chars().nth(SHOWN_MAX).is_some() {
        line.push('…');
    }
    line
}

/// The same of a text that nobody may miss the end of: it is not cut.
pub(crate) fn whole_line(text: &str) -> String {
    escaped(text.chars())
}

fn escaped(text: impl Iterator<Item = char>) -> String {
    text.flat_map(|c| if is_unclear(c) { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

/// What nobody sees: it ends a line, moves the cursor, or turns the direction in which what follows is shown.
fn is_unclear(c: char) -> bool {
    let is_hidden = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}');
    c.is_control() || is_hidden || matches!(c, '\u{ad}' | '\u{61c}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        for (input, expected) in
            [(0, "0 B"), (999, "999 B"), (2_121_280, "2.1 MB"), (40_000_000_000, "40.0 GB"), (123_456_789, "123 MB")]
        {
            assert_eq!(bytes(input), expected);
        }
        for (input, expected) in
            [(5, "5 ms"), (90_000, "90 s"), (600_000, "10 min"), (10_800_000, "3 h"), (864_000_000, "10 days")]
        {
            assert_eq!(span(input), expected);
        }
        assert_eq!(time(1_700_000_000_000), "2023-11-14 22:13:20 UTC");
        assert_eq!(count(1, "node"), "1 node");
        assert_eq!(count(3, "node"), "3 nodes");
    }

    #[test]
    fn the_nearest_word_is_suggested() {
        let known = ["gpu-a", "gpu-b", "laptop"];
        assert_eq!(similar("gpua", known.into_iter()), "did you mean \"gpu-a\"?");
        assert_eq!(similar("lapdog", known.into_iter()), "did you mean \"laptop\"?");
        assert_eq!(similar("x", known.into_iter()), "");
        assert_eq!(similar("", [].into_iter()), "");
    }

    #[test]
    fn a_line_stays_a_line() {
        assert_eq!(in_one_line(b"a\nb\x1b[31m"), "a\\nb\\u{1b}[31m");
        assert_eq!(in_one_line("ä\u{202e}b\u{2028}\u{feff}".as_bytes()), "ä\\u{202e}b\\u{2028}\\u{feff}");
        assert_eq!(in_one_line("a\u{ad}\u{e0041}".as_bytes()), "a\\u{ad}\\u{e0041}");
        assert_eq!(in_one_line(&[b'x'; 200]).chars().count(), 121);
        assert_eq!(whole_line(&format!("{}\r", "x".repeat(200))), format!("{}\\r", "x".repeat(200)));
    }
}
