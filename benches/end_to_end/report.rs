//! The table of results: ours and its limit side by side, with what is to be reached.

use std::fmt::Write;

use serde_json::{Value, json};

/// One thing that was measured, in one round.
pub(crate) struct Figure {
    pub(crate) what: &'static str,
    /// `rows/s`, `ms`, …
    pub(crate) unit: &'static str,
    pub(crate) ours: f64,
    /// What it stands beside, measured in the same round.
    pub(crate) beside: Option<(&'static str, f64)>,
    pub(crate) goal: Goal,
}

/// What is to be reached.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    /// It is shown, no more.
    None,
    AtLeast(f64),
    AtMost(f64),
    /// This many times what it stands beside.
    TimesAtLeast(f64),
    /// This many times what it stands beside.
    TimesAtMost(f64),
    /// Between these times what it stands beside.
    TimesWithin(f64, f64),
}

/// All figures of all rounds.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

/// One figure's rounds.
struct Row {
    first: Figure,
    ours: Vec<f64>,
    beside: Vec<f64>,
    /// Within each round.
    ratios: Vec<f64>,
}

impl Report {
    /// Adds the figures of a round.
    pub(crate) fn add(&mut self, figures: Vec<Figure>) {
        for figure in figures {
            let is_same = |row: &Row| row.first.what == figure.what && same_name(&row.first, &figure);
            let (ours, beside) = (figure.ours, figure.beside.map(|(_, limit)| limit));
            let place = self.rows.iter().position(is_same).unwrap_or_else(|| {
                self.rows.push(Row { first: figure, ours: Vec::new(), beside: Vec::new(), ratios: Vec::new() });
                self.rows.len() - 1
            });
            let row = &mut self.rows[place];
            row.ours.push(ours);
            row.beside.extend(beside);
            row.ratios.extend(beside.map(|beside| ours / beside));
        }
    }

    pub(crate) fn markdown(&self) -> String {
        let mut table = String::from("| what | ours | beside it | times | lowest–highest | goal |\n");
        table += "|---|--:|--:|--:|--:|---|\n";
        for row in &self.rows {
            let Figure { what, unit, beside, .. } = &row.first;
            let beside = beside.map_or(String::new(), |(name, _)| format!("{name}: {}", shown(median(&row.beside))));
            let (times, range) = if row.ratios.is_empty() {
                (String::new(), range(&row.ours))
            } else {
                (format!("{:.2}", median(&row.ratios)), range(&row.ratios))
            };
            let ours = shown(median(&row.ours));
            let _ = writeln!(table, "| {what} | {ours} {unit} | {beside} | {times} | {range} | {} |", row.verdict());
        }
        table
    }

    pub(crate) fn json(&self) -> String {
        let rows = self.rows.iter().map(|row| {
            json!({
                "what": row.first.what,
                "unit": row.first.unit,
                "ours": median(&row.ours),
                "ours_of_rounds": row.ours,
                "beside": row.first.beside.map(|(name, _)| name),
                "beside_of_rounds": row.beside,
                "times": if row.ratios.is_empty() { Value::Null } else { json!(median(&row.ratios)) },
                "times_of_rounds": row.ratios,
                "goal": row.verdict(),
            })
        });
        serde_json::to_string_pretty(&rows.collect::<Vec<_>>()).expect("plain values") + "\n"
    }
}

impl Row {
    /// The goal, and whether the round in the middle reaches it.
    fn verdict(&self) -> String {
        let (value, sign, bound) = match self.first.goal {
            Goal::None => return String::new(),
            Goal::AtLeast(bound) => (median(&self.ours), '≥', bound),
            Goal::AtMost(bound) => (median(&self.ours), '≤', bound),
            Goal::TimesAtLeast(bound) => (median(&self.ratios), '≥', bound),
            Goal::TimesAtMost(bound) => (median(&self.ratios), '≤', bound),
            Goal::TimesWithin(low, high) => {
                let is_met = (low..=high).contains(&median(&self.ratios));
                return format!("{}–{}: {}", shown(low), shown(high), said(is_met));
            }
        };
        let is_met = if sign == '≥' { value >= bound } else { value <= bound };
        format!("{sign} {}: {}", shown(bound), said(is_met))
    }
}

fn said(is_met: bool) -> &'static str {
    if is_met { "met" } else { "**not met**" }
}

fn same_name(a: &Figure, b: &Figure) -> bool {
    a.beside.map(|(name, _)| name) == b.beside.map(|(name, _)| name)
}

/// The round in the middle.
fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn range(values: &[f64]) -> String {
    let (lowest, highest) = values.iter().fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(*v), high.max(*v)));
    format!("{}–{}", shown(lowest), shown(highest))
}

/// With three digits.
fn shown(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
