//! Aligned columns for people. Cells come from the runtime, thus from whoever wrote the pod: nothing in them
//! reaches the terminal as a control sequence.

/// Blanks between two columns.
const GAP: usize = 3;

/// Rows of equal length under a heading.
#[derive(Debug)]
pub(crate) struct Table<const COLUMNS: usize> {
    rows: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    pub(crate) fn new(heading: [&str; COLUMNS]) -> Self {
        Self { rows: vec![heading.map(str::to_owned)] }
    }

    pub(crate) fn row(&mut self, cells: [String; COLUMNS]) {
        self.rows.push(cells.map(|cell| if cell.is_empty() { "-".to_owned() } else { printable(&cell) }));
    }

    /// The text, one line per row, without blanks at the end of lines.
    pub(crate) fn render(&self) -> String {
        let mut widths = [0; COLUMNS];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(widths) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + GAP));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// The text with every control character replaced.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The part of an id that people use; the algorithm in front of a digest is left out.
pub(crate) fn short_id(id: &str) -> String {
    let hex = id.split_once(':').map_or(id, |(_algorithm, hex)| hex);
    hex.chars().take(13).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_characters() {
        let mut table = Table::new(["NAME", "AGE"]);
        table.row(["é".into(), "1".into()]);
        table.row(["longer".into(), String::new()]);
        assert_eq!(table.render(), "NAME     AGE\né        1\nlonger   -\n");
    }

    #[test]
    fn cells_cannot_move_the_cursor() {
        let mut table = Table::new(["NAME"]);
        table.row(["a\x1b[2Jb\nc\u{9b}d".into()]);
        let text = table.render();
        assert_eq!(
            text.chars().filter(|c| c.is_control()).count(),
            2,
            "only the ends of the lines: {text:?}"
        );
    }

    #[test]
    fn short_ids_have_no_algorithm() {
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789abc");
        assert_eq!(short_id("abc"), "abc");
    }
}
