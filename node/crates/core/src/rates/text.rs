//! Limits as people write them: `mon-fri 08:00-18:00 20MB/s, 100MB/s`.
//!
//! Windows with their rates, the first that holds counts, and at the end the rate of all other times; without one there
//! is no limit then. A window is days and a time of day, or a time of day alone; where it ends before it begins it goes
//! over midnight, and belongs to the day on which it began.

use std::str::FromStr;

use ollamax_types::RateProblem;

use super::{Allowed, Limit, MINUTES_PER_DAY, Window};

/// Most windows of one limit.
const WINDOWS_MAX: usize = 32;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// The text is no limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitProblem {
    /// What should be a rate is none.
    #[error("{0}{instead}", instead = instead_of(.0))]
    Rate(#[from] RateProblem),
    /// What should be a time of day is none.
    #[error("{0:?} is no time of day like 08:00-18:00")]
    Time(String),
    /// What should be days are none.
    #[error("{0:?} is no day like mon and no days like mon-fri")]
    Days(String),
    /// A window stands alone.
    #[error("{0:?} has no rate behind it, like 20MB/s or off")]
    NoRate(String),
    /// A rate without a window that is not the last.
    #[error("{0:?} holds at all times, so that what follows never counts; put it last")]
    NotLast(String),
    /// Two commas with nothing between, or one at the beginning.
    #[error("there is nothing before one of the commas")]
    Empty,
    /// More windows than a week needs.
    #[error("{0} windows are more than {most}", most = WINDOWS_MAX)]
    TooMany(usize),
}

// === impl Limit ===

impl FromStr for Limit {
    type Err = LimitProblem;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts: Vec<&str> = text.split(',').map(str::trim).collect();
        // The last part is the rate of all other times, unless it begins as a window does.
        let rest = match parts.pop() {
            None | Some("") => Allowed::Everything,
            Some(last) if is_window(last) => {
                parts.push(last);
                Allowed::Everything
            }
            Some(last) => allowed(last)?,
        };
        if parts.len() > WINDOWS_MAX {
            return Err(LimitProblem::TooMany(parts.len()));
        }
        let windows = parts.into_iter().map(window).collect::<Result<_, _>>()?;
        Ok(Self { windows, rest })
    }
}

/// What a limit may say in place of such a rate.
const fn instead_of(problem: &RateProblem) -> &'static str {
    match problem {
        RateProblem::TooLittle(_) => "; write off",
        RateProblem::NoUnit(_) | RateProblem::NoRate(_) | RateProblem::OtherUnit(_) | RateProblem::TooMuch(_) => "",
    }
}

/// Whether it begins with days or a time of day.
fn is_window(part: &str) -> bool {
    let word = part.split_whitespace().next().unwrap_or_default();
    word.contains(':') || (word != "off" && word.starts_with(|c: char| c.is_ascii_alphabetic()))
}

fn window(part: &str) -> Result<Window, LimitProblem> {
    if part.is_empty() {
        return Err(LimitProblem::Empty);
    }
    if !is_window(part) {
        return Err(LimitProblem::NotLast(part.to_owned()));
    }
    let mut words = part.split_whitespace();
    let mut word = words.next().unwrap_or_default();
    let mut on = [true; 7];
    if !word.contains(':') {
        on = days(word).ok_or_else(|| LimitProblem::Days(word.to_owned()))?;
        word = words.next().unwrap_or_default();
    }
    let (from, until) = times(word).ok_or_else(|| LimitProblem::Time(word.to_owned()))?;
    let rate: Vec<&str> = words.collect();
    if rate.is_empty() {
        return Err(LimitProblem::NoRate(part.to_owned()));
    }
    Ok(Window { days: on, from, until, allowed: allowed(&rate.join(" "))? })
}

fn allowed(text: &str) -> Result<Allowed, LimitProblem> {
    if text == "off" { Ok(Allowed::Nothing) } else { Ok(Allowed::Rate(text.parse()?)) }
}

/// `mon`, or `mon-fri`; `sat-mon` goes over the end of the week.
fn days(text: &str) -> Option<[bool; 7]> {
    let day = |word: &str| DAYS.iter().position(|day| *day == word);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (day(first)?, day(last)?);
    let mut on = [false; 7];
    let count = (last + 7 - first) % 7 + 1;
    for index in first..first + count {
        on[index % 7] = true;
    }
    Some(on)
}

/// `08:00-18:00` in minutes of the day; the end may be `24:00`.
fn times(text: &str) -> Option<(u32, u32)> {
    let (from, until) = text.split_once('-')?;
    let (from, until) = (minute(from)?, minute(until)?);
    (from < MINUTES_PER_DAY).then_some((from, until))
}

fn minute(text: &str) -> Option<u32> {
    let (hour, minute) = text.split_once(':')?;
    let number = |digits: &str| {
        let is_whole = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        if is_whole { digits.parse::<u32>().ok() } else { None }
    };
    let (hour, minute) = (number(hour)?, number(minute)?);
    let total = hour * 60 + minute;
    (minute < 60 && total <= MINUTES_PER_DAY).then_some(total)
}
