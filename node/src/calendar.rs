//! The time of the week on this machine's clock, for limits that hold at some times only.
//!
//! Its zone is asked each time, so that nothing needs to know of daylight saving. A time that no calendar has counts as
//! the beginning of a week.

use jiff::tz::TimeZone;

use ollamax_types::Timestamp;

/// The minute of the week; 0 is Monday 00:00.
pub(crate) fn minute_of_week(now: Timestamp) -> u32 {
    minute_in(now, TimeZone::system())
}

fn minute_in(now: Timestamp, zone: TimeZone) -> u32 {
    let Some(at) = i64::try_from(now.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()) else {
        return 0;
    };
    let at = at.to_zoned(zone);
    let number = |value: i8| u32::try_from(value).unwrap_or_default();
    (number(at.weekday().to_monday_zero_offset()) * 24 + number(at.hour())) * 60 + number(at.minute())
}

#[cfg(test)]
mod tests {
    use jiff::tz::Offset;

    use super::*;

    #[test]
    fn a_week_begins_on_monday_in_the_zone_of_the_machine() {
        let check = |ms: u64, hours: i8, expected: u32| {
            let zone = TimeZone::fixed(Offset::constant(hours));
            assert_eq!(minute_in(Timestamp(ms), zone), expected, "{ms} at {hours}");
        };
        check(0, 0, 3 * 1_440); // 1970-01-01 was a Thursday
        check(59_999, 0, 3 * 1_440);
        check(60_000, 0, 3 * 1_440 + 1);
        check(0, -1, 3 * 1_440 - 60);
        check(4 * 86_400_000, 0, 0);
        check(4 * 86_400_000 - 1, 0, 7 * 1_440 - 1);
        check(4 * 86_400_000, -8, 7 * 1_440 - 480);
        check(u64::MAX, 0, 0);
    }
}
