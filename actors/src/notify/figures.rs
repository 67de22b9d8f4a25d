//! Figures as people read them, and text that fits on a line.

use chrono::{DateTime, TimeDelta, Utc};

/// `12,400`.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `1 record`, `12,400 records`.
pub(super) fn counted(many: u64, thing: &str) -> String {
    format!("{} {thing}{}", number(many), if many == 1 { "" } else { "s" })
}

/// `40 s`, `6 min`, `2 h 5 min`, `1 day 3 h`, `12 days`: two units at most, and rounded down. What is negative, as when a clock
/// was set back, is none.
pub(super) fn span(time: TimeDelta) -> String {
    let seconds = u64::try_from(time.num_seconds()).unwrap_or_default();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let with_rest = |whole: String, rest: u64, unit: &str| match rest {
        0 => whole,
        rest => format!("{whole} {rest} {unit}"),
    };
    match days {
        0 if minutes == 0 => format!("{seconds} s"),
        0 if hours == 0 => format!("{minutes} min"),
        0 => with_rest(format!("{hours} h"), minutes % 60, "min"),
        1..7 => with_rest(counted(days, "day"), hours % 24, "h"),
        _ => counted(days, "day"),
    }
}

/// `2026-11-22 23:04 UTC`.
pub(super) fn moment(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M UTC").to_string()
}

/// One line of at most so many characters: what would begin a line, move the cursor or turn the direction of the text is a space.
pub(super) fn line(text: &str, longest: usize) -> String {
    let is_gap = |c: char| c.is_whitespace() || !is_printed(c);
    let words: Vec<&str> = text.split(is_gap).filter(|word| !word.is_empty()).collect();
    cut(words.join(" "), longest)
}

/// Several lines of at most so many characters together, without what would move the cursor or turn the direction of the text.
pub(super) fn lines(text: &str, longest: usize) -> String {
    let kept = text.replace("\r\n", "\n").chars().filter(|c| matches!(c, '\n' | '\t') || is_printed(*c)).collect();
    cut(kept, longest)
}

fn is_printed(c: char) -> bool {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    !c.is_control() && !turns && !matches!(c, '\u{2028}' | '\u{2029}')
}

fn cut(mut text: String, longest: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(longest) {
        let end = text[..end].char_indices().last().map_or(0, |(last, _)| last);
        text.truncate(text[..end].trim_end().len());
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_thousands_apart_and_one_of_a_thing_is_singular() {
        assert_eq!([0, 999, 1000, 12_400, 1_234_567].map(number), ["0", "999", "1,000", "12,400", "1,234,567"]);
        assert_eq!([0, 1, 2].map(|many| counted(many, "record")), ["0 records", "1 record", "2 records"]);
    }

    #[test]
    fn a_span_has_two_units_at_most() {
        let seconds = [-5, 0, 59, 60, 3599, 3600, 7500, 86_399, 86_400, 97_200, 2 * 86_400, 7 * 86_400 + 80_000];
        let spans = seconds.map(|seconds| span(TimeDelta::seconds(seconds)));
        let expected = [
            "0 s",
            "0 s",
            "59 s",
            "1 min",
            "59 min",
            "1 h",
            "2 h 5 min",
            "23 h 59 min",
            "1 day",
            "1 day 3 h",
            "2 days",
            "7 days",
        ];
        assert_eq!(spans, expected);
    }

    #[test]
    fn a_line_is_one_line_whatever_the_text_holds() {
        let text = "  duplicate key\r\nBcc: all@example.com\u{2028}\u{202e}x\0\ty\u{85}z  ";
        assert_eq!(line(text, 100), "duplicate key Bcc: all@example.com x y z");
        assert_eq!(line("äöü äöü", 5), "äöü…");
        assert_eq!([line("abcde", 5), line("abcdef", 5), line("", 5)], ["abcde", "abcd…", ""]);
    }

    #[test]
    fn lines_stay_lines_and_nothing_else_does() {
        assert_eq!(lines("a\r\nb\n\tc\u{1b}[2Jd\u{202e}", 100), "a\nb\n\tc[2Jd");
    }
}
