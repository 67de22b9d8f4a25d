//! How far something is: a bar on a terminal, and elsewhere a line now and then.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::{figures, output::note};

/// Progress towards an end that may be unknown, shown on standard error until it is dropped.
pub(super) struct Progress {
    bar: ProgressBar,
    what: &'static str,
    unit: Unit,
    /// When the last line was written, where there is no terminal.
    noted_at: Option<Instant>,
}

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Bytes,
    Records,
}

/// How often a line is written where there is no terminal.
const NOTE_EVERY: Duration = Duration::from_secs(5);

/// How often a bar is drawn again when nothing moves.
const TICK: Duration = Duration::from_millis(250);

impl Progress {
    /// Says what is done, in a word or two.
    pub(super) fn new(what: &'static str, unit: Unit, end: Option<u64>) -> Self {
        let noted_at = (!std::io::stderr().is_terminal()).then(Instant::now);
        let bar = ProgressBar::with_draw_target(end, ProgressDrawTarget::stderr());
        let counts = match (unit, end) {
            (Unit::Bytes, Some(_)) => "{bar:32} {percent:>3}%  {bytes} of {total_bytes}  {bytes_per_sec}  {left}",
            (Unit::Bytes, None) => "{spinner} {bytes}  {bytes_per_sec}",
            (Unit::Records, Some(_)) => "{bar:32} {percent:>3}%  {human_pos} of {human_len}  {rate}  {left}",
            (Unit::Records, None) => "{spinner} {human_pos}  {rate}",
        };
        let style = ProgressStyle::with_template(&format!("   {what}  {counts}  {{msg}}"));
        let style = style.expect("the template is one").progress_chars("━╸─");
        let rate = |state: &ProgressState, text: &mut dyn std::fmt::Write| {
            let _ = text.write_str(&figures::rate(state.per_sec()));
        };
        let left = |state: &ProgressState, text: &mut dyn std::fmt::Write| {
            // Before anything has moved, nobody can tell.
            if state.pos() > 0 {
                let seconds = state.eta().as_secs().max(1);
                let _ = write!(text, "{} left", figures::span(Duration::from_secs(seconds)));
            }
        };
        bar.set_style(style.with_key("rate", rate).with_key("left", left));
        bar.enable_steady_tick(TICK);
        Self { bar, what, unit, noted_at }
    }

    /// Says nothing where there is no terminal.
    pub(super) fn quiet_elsewhere(mut self) -> Self {
        self.noted_at = None;
        self
    }

    /// What is counted.
    pub(super) fn unit(&self) -> Unit {
        self.unit
    }

    /// The end turns out to be elsewhere.
    pub(super) fn end_at(&self, end: u64) {
        if self.bar.length() != Some(end) {
            self.bar.set_length(end);
        }
    }

    pub(super) fn advance(&mut self, by: u64) {
        self.reach(self.bar.position() + by);
    }

    pub(super) fn reach(&mut self, position: u64) {
        self.bar.set_position(position);
        if self.noted_at.is_some_and(|at| at.elapsed() >= NOTE_EVERY) {
            self.noted_at = Some(Instant::now());
            let of = self.bar.length().map(|end| format!(" of {}", figures::count(end))).unwrap_or_default();
            let unit = if self.unit == Unit::Bytes { " bytes" } else { "" };
            note(format_args!("   {}: {}{of}{unit}", self.what, figures::count(position)));
        }
    }

    /// Says something beside the bar.
    pub(super) fn remark(&self, text: &str) {
        self.bar.set_message(text.to_owned());
    }

    /// Who else may speak while the bar is shown.
    pub(super) fn notes(&self) -> Notes {
        Notes { bar: self.bar.clone() }
    }
}

/// Writes lines above a bar.
#[derive(Clone)]
pub(super) struct Notes {
    bar: ProgressBar,
}

impl Notes {
    pub(super) fn note(&self, text: impl std::fmt::Display) {
        self.bar.suspend(|| note(text));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
