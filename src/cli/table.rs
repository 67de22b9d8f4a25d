//! Tables for people: aligned columns, two spaces between them, nothing else.

use std::fmt::{self, Write};

/// A table, or with a header of blanks a list of names and values.
pub(super) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

/// What stands at a column's head, and to which side its cells go.
#[derive(Clone, Copy)]
pub(super) enum Column {
    /// For words.
    Left(&'static str),
    /// For figures.
    Right(&'static str),
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Self::Left(title) | Self::Right(title) => title,
        }
    }
}

impl Table {
    pub(super) fn new<const N: usize>(columns: [Column; N]) -> Self {
        Self { columns: columns.into(), rows: Vec::new() }
    }

    /// Two columns without a header: names and values.
    pub(super) fn of_facts() -> Self {
        Self::new([Column::Left(""), Column::Left("")])
    }

    /// Adds a row, with a cell for each column.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.columns.len());
        self.rows.push(cells.map(on_one_line).into());
    }

    /// Adds a name and its value to a table of facts.
    pub(super) fn fact(&mut self, name: &str, value: impl fmt::Display) {
        self.row([name.to_owned(), value.to_string()]);
    }
}

/// A cell may hold what anybody sent, and must neither break its line nor steer a terminal.
fn on_one_line(cell: String) -> String {
    if !cell.contains(char::is_control) {
        return cell;
    }
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    cell.chars().map(escaped).collect()
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let titles: Vec<String> = self.columns.iter().map(|column| column.title().to_uppercase()).collect();
        let has_header = titles.iter().any(|title| !title.is_empty());
        let lines: Vec<&Vec<String>> = has_header.then_some(&titles).into_iter().chain(&self.rows).collect();
        let width = |number: usize| lines.iter().map(|line| line[number].chars().count()).max().unwrap_or_default();
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        for line in lines {
            let mut text = String::new();
            for ((cell, column), width) in line.iter().zip(&self.columns).zip(&widths) {
                let between = if text.is_empty() { "" } else { "  " };
                match column {
                    Column::Left(_) => write!(text, "{between}{cell:<width$}")?,
                    Column::Right(_) => write!(text, "{between}{cell:>width$}")?,
                }
            }
            writeln!(f, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_go_left_and_figures_right() {
        let mut table = Table::new([Column::Left("name"), Column::Right("lag"), Column::Left("state")]);
        table.row(["hubspot".into(), "7".into(), "live".into()]);
        table.row(["é".into(), "12,000".into(), "backfilling".into()]);
        let lines = ["NAME        LAG  STATE", "hubspot       7  live", "é        12,000  backfilling", ""];
        assert_eq!(table.to_string(), lines.join("\n"));
    }

    #[test]
    fn a_cell_stays_on_its_line_and_steers_no_terminal() {
        let mut table = Table::new([Column::Left("name"), Column::Left("message")]);
        table.row(["a\nb\u{1b}[2J".into(), "é".into()]);
        assert_eq!(table.to_string(), "NAME           MESSAGE\na\\nb\\u{1b}[2J  é\n");
    }

    #[test]
    fn facts_have_no_header() {
        let mut facts = Table::of_facts();
        facts.fact("state", "live");
        facts.fact("quarantined", 0);
        assert_eq!(facts.to_string(), "state        live\nquarantined  0\n");
    }
}
