// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Text in columns.

use std::fmt;

/// Rows of texts under headings, each column as wide as its widest text.
#[derive(Clone, Debug)]
pub struct Columns<const N: usize> {
    rows: Vec<[String; N]>,
}

/// Between two columns.
const GAP: &str = "  ";

impl<const N: usize> Columns<N> {
    /// Columns with these headings.
    pub fn new(headings: [&str; N]) -> Self {
        Self {
            rows: vec![headings.map(ToOwned::to_owned)],
        }
    }

    /// Appends a row.
    pub fn row(&mut self, texts: [String; N]) {
        self.rows.push(texts);
    }

    fn width(&self, column: usize) -> usize {
        let widths = self.rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or(0)
    }
}

impl<const N: usize> fmt::Display for Columns<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: [usize; N] = std::array::from_fn(|column| self.width(column));
        for row in &self.rows {
            let texts = row.iter().zip(widths);
            let line: String = texts
                .map(|(text, width)| format!("{text:width$}{GAP}"))
                .collect();
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut columns = Columns::new(["A", "NAME"]);
        columns.row(["änd".into(), String::new()]);
        columns.row(["1".into(), "two".into()]);
        assert_eq!(columns.to_string(), "A    NAME\nänd\n1    two\n");
    }
}
