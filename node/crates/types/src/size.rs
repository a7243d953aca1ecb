//! Sizes as people write them: a whole number with a unit, like `16GB` or `16GiB`.

/// Largest unit first, so that none is taken for the end of another.
const UNITS: [(&str, u64); 8] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// How many bytes it says; `None` where it is no such number, has no unit, or is too large to count.
#[must_use]
pub fn bytes_of(text: &str) -> Option<u64> {
    let (digits, scale) = UNITS.iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, *scale)))?;
    let digits = digits.trim_end();
    let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    if is_number { digits.parse::<u64>().ok()?.checked_mul(scale) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_whole_number_with_a_unit() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(bytes_of(text), expected, "{text:?}");
        check("16GB", Some(16_000_000_000));
        check("16 GB", Some(16_000_000_000));
        check("16GiB", Some(16 << 30));
        check("7B", Some(7));
        check("0kB", Some(0));
        for text in ["", "GB", "16", "16gb", "1.5GB", "-1GB", "+1GB", "16GBs", "18446744073709551616B", "99999999TB"] {
            check(text, None);
        }
    }
}
