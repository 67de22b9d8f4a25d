//! Figures as people read them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use indicatif::{HumanCount, HumanFloatCount};

/// `100,000`.
pub(super) fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

/// `1 record`, `100,000 records`.
pub(super) fn counted(number: u64, thing: &str) -> String {
    format!("{} {thing}{}", count(number), if number == 1 { "" } else { "s" })
}

/// `24,390/s`.
pub(super) fn rate(per_second: f64) -> String {
    format!("{}/s", HumanFloatCount(per_second.round()))
}

/// How many a second that was.
pub(super) fn rate_of(number: u64, took: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate is not read to the sixteenth digit")]
    let number = number as f64;
    number / took.as_secs_f64().max(0.001)
}

/// How many of a hundred, rounded down, so that 100% is all.
pub(super) fn percent(done: u64, total: u64) -> String {
    let percent = if total == 0 { 100 } else { u128::from(done) * 100 / u128::from(total) };
    format!("{percent}%")
}

/// `3.2 ms`, `4.1 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`.
pub(super) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 if time < Duration::from_millis(100) => format!("{:.1} ms", time.as_secs_f64() * 1000.0),
        0 => format!("{} ms", time.as_millis()),
        1..60 if time.subsec_millis() == 0 => format!("{seconds} s"),
        1..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// As [`span`], of seconds as the API gives them.
pub(super) fn seconds(seconds: f64) -> String {
    span(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// `3.2 s ago`.
pub(super) fn ago(time: DateTime<Utc>) -> String {
    format!("{} ago", span((Utc::now() - time).to_std().unwrap_or_default()))
}

/// `30s`, `5m`, `1h`, `90d`; a bare number is in seconds.
pub(super) fn parse_span(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let seconds = match unit {
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => 0,
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds)) {
        Some(span) if span > 0 => Ok(Duration::from_secs(span)),
        _ => Err("takes a time such as 30s, 5m, 1h or 90d".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_reads_in_the_unit_that_suits_it() {
        let read = |millis| span(Duration::from_millis(millis));
        assert_eq!([read(3), read(250), read(4100), read(20_000)], ["3.0 ms", "250 ms", "4.1 s", "20 s"]);
        assert_eq!([read(200_000), read(7_500_000), read(273_600_000)], ["3 min 20 s", "2 h 5 min", "3 d 4 h"]);
    }

    #[test]
    fn a_span_is_written_with_its_unit() {
        assert_eq!(parse_span("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_span("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse_span("45"), Ok(Duration::from_secs(45)));
        assert_eq!(parse_span("90d"), Ok(Duration::from_secs(7_776_000)));
        for wrong in ["", "s", "0s", "1 day", "-3s", "99999999999999999999h"] {
            assert!(parse_span(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_hundred_percent_is_all() {
        assert_eq!([percent(999, 1000), percent(1000, 1000), percent(0, 0)], ["99%", "100%", "100%"]);
    }
}
