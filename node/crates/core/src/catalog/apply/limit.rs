//! The limits that more than one command checks. Each refusal names the field, the limit and the value; a text that is
//! only told is cut.

use std::time::Duration;

use ollamax_types::ModelName;
use ollamax_types::limits::{ADDRESS_BYTES_MAX, ADDRESSES_MAX, IDENTIFIER_BYTES_MAX, LABEL_BYTES_MAX, MODEL_BYTES_MAX};

use super::{Stop, invalid};
use crate::catalog::command::Refusal;

/// A name for people: 1 to 63 bytes, no spaces, no control characters.
pub(super) fn check_label(field: &str, text: &str) -> Result<(), Stop> {
    check_bytes(field, text, LABEL_BYTES_MAX)?;
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(invalid(format!("{field} {text:?} holds a space or control character")));
    }
    Ok(())
}

/// A peer id or token id.
pub(super) fn check_identifier(field: &str, text: &str) -> Result<(), Stop> {
    check_bytes(field, text, IDENTIFIER_BYTES_MAX)
}

/// The addresses of one listener.
pub(super) fn check_addresses(field: &str, addresses: &[String]) -> Result<(), Stop> {
    check_count(field, addresses.len(), ADDRESSES_MAX)?;
    addresses.iter().try_for_each(|address| check_bytes(field, address, ADDRESS_BYTES_MAX))
}

/// A text of 1 to `max` bytes.
pub(super) fn check_bytes(field: &str, text: &str, max: usize) -> Result<(), Stop> {
    match text.len() {
        0 => Err(invalid(format!("{field} is empty"))),
        length if length > max => Err(invalid(format!("{field} has {length} bytes; the limit is {max}"))),
        _ => Ok(()),
    }
}

/// As much of a text as fits in `max` bytes.
pub(super) fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// At most `max` items.
pub(super) fn check_count(field: &str, count: usize, max: usize) -> Result<(), Stop> {
    if count > max {
        return Err(invalid(format!("{field} has {count} items; the limit is {max}")));
    }
    Ok(())
}

/// The files of a model, together.
pub(super) fn check_size(name: &ModelName, size_bytes: u64) -> Result<(), Stop> {
    if size_bytes > MODEL_BYTES_MAX {
        return Err(invalid(format!("{name} has {size_bytes} bytes; the limit is {MODEL_BYTES_MAX}")));
    }
    Ok(())
}

/// More than may be kept of something.
pub(super) fn exceeded(what: impl Into<String>, needed: u64, limit: u64, unit: &str) -> Stop {
    Stop::Refused(Refusal::QuotaExceeded { what: what.into(), needed, limit, unit: unit.to_owned() })
}

/// A life in milliseconds between two bounds.
pub(super) fn check_ttl(what: &str, ttl_ms: u64, min: Duration, max: Duration) -> Result<(), Stop> {
    let ttl = Duration::from_millis(ttl_ms);
    if ttl < min || ttl > max {
        let (min, max) = (min.as_secs(), max.as_secs());
        return Err(invalid(format!("{what} lives {min} to {max} seconds, not {} ms", ttl.as_millis())));
    }
    Ok(())
}
