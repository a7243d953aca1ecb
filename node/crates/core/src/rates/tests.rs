//! Limits as they are written, a bucket walked by hand, and any order of demands by chance.

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;
const CHUNK: u64 = 4 * MIB;

fn rate(bytes: u64) -> Rate {
    Rate::of(bytes).expect("rates of these tests can be set")
}

fn limited(bytes: u64) -> Shares {
    Shares { all: Allowed::Rate(rate(bytes)), background: None }
}

/// The minute of the week of a day, 0 is Monday, and an hour and minute like `0830`.
fn minute(day: u32, time: u32) -> u32 {
    day * MINUTES_PER_DAY + time / 100 * 60 + time % 100
}

// --- limits ---

#[test]
fn the_first_window_that_holds_counts_and_the_rest_at_other_times() {
    let check = |text: &str, rows: &[(u32, u32, &str)]| {
        let limit: Limit = text.parse().unwrap();
        for (day, time, expected) in rows {
            let expected = match *expected {
                "" => Allowed::Everything,
                "off" => Allowed::Nothing,
                rate => Allowed::Rate(rate.parse().unwrap()),
            };
            assert_eq!(limit.at(minute(*day, *time)), expected, "{text:?} on day {day} at {time:04}");
        }
    };
    check("", &[(0, 0, ""), (6, 2359, "")]);
    check("20MB/s", &[(0, 0, "20MB"), (6, 2359, "20MB")]);
    check("off", &[(3, 1200, "off")]);
    let office = "mon-fri 08:00-18:00 20MB/s, 100MB/s";
    check(office, &[(0, 759, "100MB"), (0, 800, "20MB"), (4, 1759, "20MB"), (4, 1800, "100MB"), (5, 1200, "100MB")]);
    // Without a rate at the end there is no limit then; spaces do not matter.
    check("  08:00-18:00   20 MB/s  ", &[(6, 800, "20MB"), (6, 1800, "")]);
    check("08:00-18:00 20MB/s,", &[(6, 800, "20MB"), (6, 1800, "")]);
    check("wed 12:00-13:00 off", &[(2, 1159, ""), (2, 1200, "off"), (2, 1300, ""), (3, 1200, "")]);
    let several = "mon 10:00-11:00 off, mon-sun 10:00-12:00 1MB, 2MB";
    check(several, &[(0, 1030, "off"), (0, 1130, "1MB"), (1, 1030, "1MB"), (1, 1230, "2MB")]);
    // Days over the end of the week.
    let weekend = "sat-mon 00:00-24:00 off";
    check(weekend, &[(4, 2359, ""), (5, 0, "off"), (6, 1200, "off"), (0, 2359, "off"), (1, 0, "")]);
}

#[test]
fn a_window_over_midnight_belongs_to_the_day_on_which_it_began() {
    let check = |text: &str, rows: &[(u32, u32, bool)]| {
        let limit: Limit = text.parse().unwrap();
        for (day, time, holds) in rows {
            let is_closed = limit.at(minute(*day, *time)) == Allowed::Nothing;
            assert_eq!(is_closed, *holds, "{text:?} on day {day} at {time:04}");
        }
    };
    let friday =
        [(4, 600, false), (4, 2159, false), (4, 2200, true), (5, 559, true), (5, 600, false), (5, 2300, false)];
    check("fri 22:00-06:00 off", &friday);
    check("sun 22:00-06:00 off", &[(6, 2200, true), (0, 500, true), (0, 600, false), (6, 500, false)]);
    check("tue 18:00-00:00 off", &[(1, 1759, false), (1, 2359, true), (2, 0, false)]);
    check("tue 09:00-09:00 off", &[(1, 859, false), (1, 900, true), (2, 859, true), (2, 900, false)]);
}

#[test]
fn it_says_when_it_will_allow_something_else() {
    let check = |text: &str, day: u32, time: u32, expected: Option<u32>| {
        let limit: Limit = text.parse().unwrap();
        assert_eq!(limit.until(minute(day, time)), expected, "{text:?} on day {day} at {time:04}");
    };
    check("", 0, 0, None);
    check("off", 0, 0, None);
    check("mon-fri 08:00-18:00 off", 0, 1700, Some(60));
    check("mon-fri 08:00-18:00 off", 4, 1800, Some(3 * MINUTES_PER_DAY - 600));
    check("sun 22:00-06:00 off", 6, 2330, Some(390));
    // What follows allows the same: it is one time.
    check("mon 08:00-10:00 off, mon 10:00-12:00 off", 0, 900, Some(180));
    check("mon-sun 00:00-24:00 off, 1MB", 0, 900, None);
    assert_eq!("mon 08:00-10:00 off".parse::<Limit>().unwrap().until(MINUTES_PER_WEEK + 480), Some(120));
}

#[test]
fn what_is_no_limit_is_refused_and_says_why() {
    let check = |text: &str, expected: &str| {
        let problem = text.parse::<Limit>().unwrap_err();
        assert_eq!(problem.to_string(), expected, "{text:?}");
    };
    check("20", "\"20\" has no unit; write it like 20MB/s");
    check("mon 08:00-18:00 20, 1MB", "\"20\" has no unit; write it like 20MB/s");
    check("10 B/s", "10 B/s is less than 64 KiB/s; write off");
    check("25:00-26:00", "\"25:00-26:00\" is no time of day like 08:00-18:00");
    for time in
        ["24:00-25:00", "24:00-08:00", "08:60-09:00", "8:00-9:00", "08:00", "08:00-", "+8:00-09:00", "08:00-24:01"]
    {
        check(&format!("{time} 1MB"), &format!("{time:?} is no time of day like 08:00-18:00"));
    }
    check("mon 1MB", "\"1MB\" is no time of day like 08:00-18:00");
    check("mon", "\"\" is no time of day like 08:00-18:00");
    for days in ["monday", "mon-", "mon-fri-sun", "Mon", "fast"] {
        check(&format!("{days} 08:00-09:00 1MB"), &format!("{days:?} is no day like mon and no days like mon-fri"));
    }
    check("mon 08:00-18:00", "\"mon 08:00-18:00\" has no rate behind it, like 20MB/s or off");
    let not_last = "\"1MB/s\" holds at all times, so that what follows never counts; put it last";
    check("1MB/s, mon 08:00-18:00 2MB/s", not_last);
    check(", 1MB/s", "there is nothing before one of the commas");
    check("mon 08:00-09:00 1MB,,1MB", "there is nothing before one of the commas");
    check(&["mon 08:00-09:00 off"; 33].join(","), "33 windows are more than 32");
    assert!(["mon 08:00-09:00 off"; 32].join(",").parse::<Limit>().is_ok());
}

#[test]
fn only_what_never_keeps_anything_back_is_unlimited() {
    let check = |text: &str, expected| assert_eq!(text.parse::<Limit>().unwrap().is_unlimited(), expected, "{text}");
    check("", true);
    check("1GB", false);
    check("off", false);
    check("mon 08:00-09:00 off", false);
    assert!(Limit::default().is_unlimited());
}

// --- the bucket ---

#[test]
fn a_take_is_granted_above_nothing_and_leaves_a_debt() {
    let mut bucket = Bucket::new(0);
    let mut take = |now_ms| bucket.take(now_ms, limited(8 * MIB), Urgency::Asked, CHUNK);
    assert_eq!(take(0), Take::Now, "the burst is one chunk");
    assert_eq!(take(0), Take::Wait { ms: 1 });
    assert_eq!(take(1), Take::Now, "8,388 bytes came in: enough for a chunk on credit");
    assert_eq!(take(1), Take::Wait { ms: 500 });
    assert_eq!(take(500), Take::Wait { ms: 1 });
    assert_eq!(take(501), Take::Now);
    // A second of rest is a burst, an hour is no more.
    assert_eq!((take(3_600_000), take(3_600_000)), (Take::Now, Take::Wait { ms: 1 }));
}

#[test]
fn one_chunk_passes_at_the_slowest_rate_and_no_wait_is_longer_than_a_second() {
    let mut bucket = Bucket::new(0);
    let mut take = |now_ms| bucket.take(now_ms, limited(64 << 10), Urgency::Asked, CHUNK);
    assert_eq!((take(0), take(1)), (Take::Now, Take::Now));
    for second in 0..63 {
        assert_eq!(take(1_000 * second + 2), Take::Wait { ms: 1_000 }, "{second}");
    }
    assert_eq!((take(64_000), take(64_001)), (Take::Wait { ms: 1 }, Take::Now));
}

#[test]
fn a_limit_that_changes_counts_at_once() {
    let mut bucket = Bucket::new(0);
    let mut take = |now_ms, all| bucket.take(now_ms, Shares { all, background: None }, Urgency::Asked, CHUNK);
    let (slow, fast) = (Allowed::Rate(rate(MIB)), Allowed::Rate(rate(64 * MIB)));
    for _ in 0..100 {
        assert_eq!(take(0, Allowed::Everything), Take::Now);
    }
    assert_eq!(
        (take(0, slow), take(0, slow)),
        (Take::Now, Take::Wait { ms: 1 }),
        "no debt of the time without a limit"
    );
    assert_eq!(take(10, slow), Take::Now);
    assert_eq!(take(10, slow), Take::Wait { ms: 1_000 });
    assert_eq!(take(10, fast), Take::Wait { ms: 63 }, "what is owed stays owed, and is paid sooner");
    // While nothing may move nothing comes in either.
    assert_eq!(take(20, Allowed::Nothing), Take::Closed { ms: 1_000 });
    assert_eq!(take(60_000, Allowed::Nothing), Take::Closed { ms: 1_000 });
    assert_eq!(take(60_000, fast), Take::Wait { ms: 63 });
    assert_eq!((take(60_063, fast), take(59_000, fast)), (Take::Now, Take::Wait { ms: 62 }), "the clock went back");
}

#[test]
fn who_is_waited_for_goes_first_and_background_has_one_turn_in_a_second() {
    let mut bucket = Bucket::new(0);
    let open = Shares { all: Allowed::Everything, background: None };
    let mut take = |now_ms, urgency| bucket.take(now_ms, open, urgency, CHUNK);
    assert_eq!(take(0, Urgency::Background), Take::Now, "nobody waits");
    assert_eq!(take(0, Urgency::Background), Take::Now);
    assert_eq!(take(100, Urgency::Asked), Take::Now);
    assert_eq!(take(100, Urgency::Background), Take::Wait { ms: 900 });
    assert_eq!(take(900, Urgency::Asked), Take::Now);
    assert_eq!(take(1_000, Urgency::Background), Take::Now, "its turn");
    assert_eq!(take(1_000, Urgency::Background), Take::Wait { ms: 900 });
    assert_eq!(take(1_899, Urgency::Background), Take::Wait { ms: 1 });
    assert_eq!(take(1_900, Urgency::Background), Take::Now, "nobody has asked for a second");
    assert_eq!(take(1_900, Urgency::Background), Take::Now);
}

#[test]
fn background_keeps_to_a_rate_of_its_own() {
    let mut bucket = Bucket::new(0);
    let shares = Shares { all: Allowed::Rate(rate(64 * MIB)), background: Some(rate(4 * MIB)) };
    let mut take = |now_ms, urgency| bucket.take(now_ms, shares, urgency, CHUNK);
    assert_eq!(take(0, Urgency::Background), Take::Now);
    assert_eq!(take(0, Urgency::Background), Take::Wait { ms: 1 });
    assert_eq!(take(1, Urgency::Background), Take::Now);
    assert_eq!(take(1, Urgency::Background), Take::Wait { ms: 1_000 });
    assert_eq!(
        (take(1, Urgency::Asked), take(1, Urgency::Asked)),
        (Take::Now, Take::Now),
        "others have what it may not"
    );
}

// --- laws ---

/// Both sides ask for a chunk as soon as they were told to come again. When each was granted one, milliseconds.
fn greedy(shares: Shares, urgencies: &[Urgency], until_ms: u64, bytes: u64) -> Vec<(Urgency, u64)> {
    let mut bucket = Bucket::new(0);
    let mut due: Vec<(u64, Urgency)> = urgencies.iter().map(|urgency| (0, *urgency)).collect();
    let mut granted = Vec::new();
    while let Some(next) = (0..due.len()).min_by_key(|index| due[*index].0) {
        let (now_ms, urgency) = due[next];
        if now_ms >= until_ms {
            break;
        }
        match bucket.take(now_ms, shares, urgency, bytes) {
            // It takes a moment to come back, so that a simulation without a limit ends.
            Take::Now => {
                granted.push((urgency, now_ms));
                due[next].0 = now_ms + 1;
            }
            Take::Wait { ms } | Take::Closed { ms } => {
                assert!((1..=1_000).contains(&ms), "{ms}");
                due[next].0 = now_ms + ms;
            }
        }
    }
    granted
}

/// Longest time without a grant of this urgency, milliseconds.
fn longest_gap(granted: &[(Urgency, u64)], urgency: Urgency, until_ms: u64) -> u64 {
    let times = granted.iter().filter(|(who, _)| *who == urgency).map(|(_, at)| *at).chain([until_ms]);
    let (longest, _) = times.fold((0, 0), |(longest, last), at| (at.saturating_sub(last).max(longest), at));
    longest
}

fn urgency() -> impl Strategy<Value = Urgency> {
    prop_oneof![Just(Urgency::Asked), Just(Urgency::Background)]
}

/// Rates of all sizes: 64 KiB to 1 GiB a second.
fn any_rate() -> impl Strategy<Value = Rate> {
    (16..31_u32, 0..1_000_u64).prop_map(|(power, more)| rate((1_u64 << power) + (1_u64 << power) * more / 1_000))
}

proptest! {
    #[test]
    fn in_any_time_no_more_is_granted_than_rate_burst_and_one_take_of_each(
        all in any_rate(),
        own in any_rate(),
        demands in prop::collection::vec((prop_oneof![Just(0), 0..40_u64, 0..3_000_u64], urgency(), 1..=CHUNK), 1..150),
    ) {
        let mut bucket = Bucket::new(0);
        let shares = Shares { all: Allowed::Rate(all), background: Some(own) };
        let (mut now_ms, mut granted) = (0, Vec::new());
        for (later_ms, urgency, bytes) in demands {
            now_ms += later_ms;
            if bucket.take(now_ms, shares, urgency, bytes) == Take::Now {
                granted.push((now_ms, urgency, bytes));
            }
        }
        let most = |rate: Rate, ms: u64, takes: u64| {
            rate.bytes() * ms / 1_000 + 1 + (rate.bytes() / 4).max(CHUNK) + takes * CHUNK
        };
        for (first, (begun_ms, _, _)) in granted.iter().enumerate() {
            let (mut both, mut background) = (0, 0);
            for (at, urgency, bytes) in &granted[first..] {
                let ms = at - begun_ms;
                both += bytes;
                prop_assert!(both <= most(all, ms, 2), "{both} in {ms} ms at {all}");
                if *urgency == Urgency::Background {
                    background += bytes;
                }
                prop_assert!(background <= most(own, ms, 1), "background {background} in {ms} ms at {own}");
            }
        }
    }

    #[test]
    fn a_clock_that_stands_grants_a_burst_and_one_take(all in any_rate(), bytes in 1..=CHUNK) {
        let mut bucket = Bucket::new(7);
        let mut granted = 0;
        while bucket.take(7, Shares { all: Allowed::Rate(all), background: None }, Urgency::Asked, bytes) == Take::Now {
            granted += bytes;
            prop_assert!(granted < (all.bytes() / 4).max(CHUNK) + bytes);
        }
    }

    #[test]
    fn neither_waits_for_more_than_one_take_of_the_other(all in any_rate(), bytes in (CHUNK / 64)..=CHUNK) {
        let shares = Shares { all: Allowed::Rate(all), background: None };
        let take_ms = bytes * 1_000 / all.bytes() + 1;
        let until_ms = 10_000 + 10 * take_ms;
        let both = greedy(shares, &[Urgency::Asked, Urgency::Background], until_ms, bytes);
        let asked = longest_gap(&both, Urgency::Asked, until_ms);
        prop_assert!(asked <= 2 * take_ms + 3, "who is waited for waited {asked} ms for takes of {take_ms} ms");
        let background = longest_gap(&both, Urgency::Background, until_ms);
        prop_assert!(background <= 2 * take_ms + 1_003, "background waited {background} ms for takes of {take_ms} ms");
        // It is a turn, not a share: what is waited for has the rest.
        let turns = both.iter().filter(|(who, _)| *who == Urgency::Background).count() as u64;
        prop_assert!(turns <= until_ms / 1_000 + 1, "{turns} turns in {until_ms} ms");
    }

    #[test]
    fn what_is_allowed_is_also_given(all in any_rate(), urgency in urgency(), bytes in (CHUNK / 64)..=CHUNK) {
        let shares = Shares { all: Allowed::Rate(all), background: None };
        let take_ms = bytes * 1_000 / all.bytes() + 1;
        let until_ms = 20_000 + 4 * take_ms;
        let granted = greedy(shares, &[urgency], until_ms, bytes).len() as u64 * bytes;
        // One demand at a time and a millisecond between two: no more than a thousand takes a second come about.
        let least = (all.bytes() * until_ms / 1_000).min(bytes * until_ms * 9 / 10) * 9 / 10;
        prop_assert!(granted + bytes >= least, "{granted} of {least} at {all}");
    }
}
