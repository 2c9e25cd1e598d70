//! Aligned columns, and numbers as people or programs read them.
//!
//! Knows nothing of what it prints. Widths are those of the plain text, so colour moves nothing.

use std::io::{self, Write};

/// For whom it is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style {
    /// Somebody looks at it: numbers are shortened.
    pub(crate) people: bool,
    pub(crate) colour: bool,
}

impl Style {
    /// `text` in the colour of what needs attention.
    pub(crate) fn alert(self, text: &str) -> String {
        if self.colour { format!("\x1b[31m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A number of things.
    pub(crate) fn count(self, n: u64) -> String {
        if self.people { shortened(n, 10_000) } else { n.to_string() }
    }

    /// A number of bytes; programs get the bare number.
    pub(crate) fn bytes(self, n: u64) -> String {
        if self.people { shortened(n, 1_000) + "B" } else { n.to_string() }
    }

    /// A rate of so many bytes a second, in bits as limits are asked for; programs get the bare number of bits.
    pub(crate) fn rate(self, bytes: u64) -> String {
        let bits = bytes.saturating_mul(8);
        if self.people { shortened(bits, 1_000) + "bit/s" } else { bits.to_string() }
    }

    /// A time in milliseconds; programs get the bare number.
    pub(crate) fn milliseconds(self, ms: u64) -> String {
        match ms {
            _ if !self.people => ms.to_string(),
            0..1_000 => format!("{ms}ms"),
            1_000..60_000 => format!("{}.{}s", ms / 1_000, ms / 100 % 10),
            _ => duration(ms / 1_000),
        }
    }
}

/// Seconds, in the two largest units that they fill.
pub(crate) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    if days > 0 {
        format!("{days}d{}h", hours % 24)
    } else if hours > 0 {
        format!("{hours}h{}m", minutes % 60)
    } else if minutes > 0 {
        format!("{minutes}m{}s", seconds % 60)
    } else {
        format!("{seconds}s")
    }
}

/// Three digits and a decimal prefix, from `from` on. Cut, not rounded, so that it never tells more than there is.
fn shortened(n: u64, from: u64) -> String {
    if n < from {
        return n.to_string();
    }
    let mut unit = 1;
    let mut prefix = "";
    for next in ["k", "M", "G", "T", "P", "E"] {
        if n / unit < 1_000 {
            break;
        }
        unit *= 1_000;
        prefix = next;
    }
    let (whole, rest) = (n / unit, n % unit);
    match whole {
        _ if unit == 1 => n.to_string(),
        0..10 => format!("{whole}.{:02}{prefix}", rest / (unit / 100)),
        10..100 => format!("{whole}.{}{prefix}", rest / (unit / 10)),
        _ => format!("{whole}{prefix}"),
    }
}

/// A field of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    alert: bool,
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        let text: String = text.into();
        // An empty field would shift the columns for whoever splits at white space; a control character the terminal.
        let text = if text.is_empty() { "-".to_owned() } else { text.replace(char::is_control, "\u{fffd}") };
        Self { text, alert: false }
    }
}

impl Cell {
    /// The same, needing attention if `alert`.
    pub(crate) fn alert_if(self, alert: bool) -> Self {
        Self { alert, ..self }
    }
}

/// Rows under a header.
#[derive(Debug)]
pub(crate) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// Columns by title; one that starts with `>` is aligned to the right, as numbers are.
    pub(crate) fn new(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl Into<Vec<Cell>>) {
        self.rows.push(cells.into());
    }

    pub(crate) fn print(&self, style: Style, out: &mut impl Write) -> io::Result<()> {
        let titles: Vec<Cell> =
            self.header.iter().map(|title| title.trim_start_matches('>').into()).collect();
        let right: Vec<bool> = self.header.iter().map(|title| title.starts_with('>')).collect();
        let mut widths: Vec<usize> = titles.iter().map(|cell| cell.text.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.chars().count());
            }
        }
        for row in std::iter::once(&titles).chain(&self.rows) {
            let last = row.len().saturating_sub(1);
            for (i, cell) in row.iter().enumerate() {
                let width = widths.get(i).copied().unwrap_or(0);
                let gap = " ".repeat(width.saturating_sub(cell.text.chars().count()));
                let text = if cell.alert { style.alert(&cell.text) } else { cell.text.clone() };
                match (right.get(i) == Some(&true), i == last) {
                    (true, _) => write!(out, "{gap}{text}")?,
                    (false, false) => write!(out, "{text}{gap}")?,
                    (false, true) => write!(out, "{text}")?,
                }
                out.write_all(if i == last { b"\n" } else { b"  " })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEOPLE: Style = Style { people: true, colour: false };

    #[test]
    fn numbers() {
        for (n, text) in [
            (0, "0"),
            (9_999, "9999"),
            (10_000, "10.0k"),
            (99_999, "99.9k"),
            (999_999, "999k"),
            (1_000_000, "1.00M"),
            (12_345_678, "12.3M"),
            (u64::MAX, "18.4E"),
        ] {
            assert_eq!(PEOPLE.count(n), text);
        }
        assert_eq!((PEOPLE.bytes(999), PEOPLE.bytes(1_500)), ("999B".into(), "1.50kB".into()));
        let programs = Style { people: false, colour: false };
        assert_eq!((programs.count(12_345_678), programs.bytes(1_500)), ("12345678".into(), "1500".into()));
        assert_eq!(programs.milliseconds(61_500), "61500");
        for (ms, text) in [(7, "7ms"), (3_450, "3.4s"), (61_500, "1m1s")] {
            assert_eq!(PEOPLE.milliseconds(ms), text);
        }
        for (s, text) in [(59, "59s"), (60, "1m0s"), (7_500, "2h5m"), (100_000, "1d3h")] {
            assert_eq!(duration(s), text);
        }
    }

    #[test]
    fn columns() {
        let mut table = Table::new(&["NAME", ">COUNT", "WHY"]);
        table.row(["a".into(), "7".into(), "x".into()]);
        table.row([Cell::from("long-name").alert_if(true), "12345678".into(), "".into()]);
        table.row(["esc\x1b[1m".into(), "ü".into(), "y".into()]);
        let print = |colour| {
            let mut out = Vec::new();
            table.print(Style { people: true, colour }, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        let plain = "\
NAME          COUNT  WHY
a                 7  x
long-name  12345678  -
esc\u{fffd}[1m           ü  y
";
        assert_eq!(print(false), plain);
        assert_eq!(print(true), plain.replace("long-name", "\x1b[31mlong-name\x1b[0m"));
    }
}
