//! A part of a list, and where the next one begins.
//!
//! A cursor is the key of the last row that was told. Rows that come or go between two pages are neither told twice nor
//! hide others.

use std::fmt::Display;
use std::str::FromStr;

use serde::Serialize;

use ollamax_types::ErrorCode;

use crate::error::ToolError;

/// Rows of a page where nobody says how many.
pub const ROWS: u32 = 50;
/// Rows of a page at most.
pub const ROWS_MAX: u32 = 200;
/// Bytes of a page's rows, as JSON: what is larger goes on the next one, so that no list is too large to be told.
pub const PAGE_BYTES_MAX: usize = 48 << 10;

/// The rows behind a cursor, in the order of their keys, and the cursor of the next page where there is one.
///
/// # Errors
/// When the cursor is none of this list's.
pub fn page<T: Serialize, K: Ord + Display + FromStr>(
    mut rows: Vec<T>,
    key: impl Fn(&T) -> K,
    cursor: Option<&str>,
    limit: Option<u32>,
) -> Result<(Vec<T>, Option<String>), ToolError> {
    if let Some(after) = behind::<K>(cursor)? {
        rows.retain(|row| key(row) > after);
    }
    rows.sort_by_cached_key(&key);
    let fitting = rows_max(limit).min(fitting(&rows));
    let goes_on = rows.len() > fitting;
    rows.truncate(fitting);
    let next = if goes_on { rows.last().map(|row| key(row).to_string()) } else { None };
    Ok((rows, next))
}

/// Behind which key a page begins; `None`: it is the first.
pub(crate) fn behind<K: FromStr>(cursor: Option<&str>) -> Result<Option<K>, ToolError> {
    let wrong = |cursor: &str| {
        let message = format!("{cursor:?} is no cursor of this list");
        ToolError::new(ErrorCode::BadRequest, message, "send next_cursor of the page before, or none")
    };
    cursor.map(|cursor| cursor.parse().map_err(|_| wrong(cursor))).transpose()
}

/// Rows of a page at most, where somebody asks for so many.
pub(crate) fn rows_max(limit: Option<u32>) -> usize {
    usize::try_from(limit.unwrap_or(ROWS).clamp(1, ROWS_MAX)).unwrap_or(usize::MAX)
}

/// How many of the first rows fit on a page; one always does.
fn fitting<T: Serialize>(rows: &[T]) -> usize {
    let mut bytes = 0_usize;
    let sizes = rows.iter().map(|row| serde_json::to_string(row).map_or(0, |text| text.len()));
    let fit = sizes.take_while(|size| {
        bytes = bytes.saturating_add(*size);
        bytes <= PAGE_BYTES_MAX
    });
    fit.count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_without_a_gap_and_end() {
        let check = |cursor: Option<&str>, limit: u32, rows: &[u64], next: Option<&str>| {
            let (found, cursor) = page(vec![10, 9, 2, 30], |row: &u64| *row, cursor, Some(limit)).expect("a cursor");
            assert_eq!((found.as_slice(), cursor.as_deref()), (rows, next));
        };
        check(None, 2, &[2, 9], Some("9"));
        check(Some("9"), 2, &[10, 30], None);
        // The row that was last has gone meanwhile.
        check(Some("8"), 1, &[9], Some("9"));
        check(Some("30"), 2, &[], None);
        check(None, 0, &[2], Some("2"));
        check(None, 4, &[2, 9, 10, 30], None);
        let error = page(vec![1], |row: &u64| *row, Some("x"), None).expect_err("no number");
        assert_eq!(error.code, ErrorCode::BadRequest);
    }

    #[test]
    fn a_page_is_bounded_whatever_is_asked() {
        let rows = |limit| page((0..1_000).collect(), |row: &u64| *row, None, limit).expect("no cursor").0.len();
        assert_eq!((rows(None), rows(Some(u32::MAX))), (50, 200));
        let wide = |size: usize| {
            let rows: Vec<String> = ["a", "b", "c"].map(|row| row.repeat(size)).into();
            page(rows, String::clone, None, None).expect("no cursor").0.len()
        };
        assert_eq!((wide(1_000), wide(20_000), wide(100_000)), (3, 2, 1));
    }
}
