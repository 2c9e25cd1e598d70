//! What a bench has found: a table for people, JSON for programs, and raw data that stays.

use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use lab::artefacts::target_directory;
use lab::table::Table;
use serde_json::{Value, json};

use super::machine::Machine;
use super::rounds::{Measured, percentile};
use crate::say;

/// What a figure is held against.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Aim {
    AtLeast(f64),
    AtMost(f64),
}

/// One figure: its median, and how far it spreads over the rounds.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    what: String,
    unit: &'static str,
    values: Vec<f64>,
    aim: Option<Aim>,
}

impl Figure {
    pub(crate) fn new(
        what: impl Into<String>,
        unit: &'static str,
        values: Vec<f64>,
        aim: Option<Aim>,
    ) -> Self {
        Self { what: what.into(), unit, values, aim }
    }

    /// How the rates of two contestants compare, round by round.
    pub(crate) fn ratio(subject: &Measured, peer: &Measured, aim: Option<Aim>) -> Self {
        let values = subject.rates().iter().zip(peer.rates()).map(|(a, b)| a / b).collect();
        Self::new(format!("{} / {}", subject.name, peer.name), "×", values, aim)
    }

    /// TSC cycles that one spends on a packet beyond what another does.
    pub(crate) fn added_cycles(subject: &Measured, peer: &Measured, tsc_hz: f64, aim: Option<Aim>) -> Self {
        let pairs = subject.rates().into_iter().zip(peer.rates());
        let values = pairs.map(|(a, b)| tsc_hz / a - tsc_hz / b).collect();
        Self::new(format!("{} beyond {}", subject.name, peer.name), "cycles", values, aim)
    }

    fn median(&self) -> f64 {
        percentile(&self.values, 50)
    }

    fn verdict(&self, partial: bool) -> &'static str {
        match self.aim {
            None => "-",
            Some(_) if partial => "in part",
            Some(Aim::AtLeast(aim)) if self.median() >= aim => "reached",
            Some(Aim::AtMost(aim)) if self.median() <= aim => "reached",
            Some(_) => "missed",
        }
    }

    fn aim(&self) -> String {
        match self.aim {
            None => "-".to_owned(),
            Some(Aim::AtLeast(aim)) => format!("≥ {aim}"),
            Some(Aim::AtMost(aim)) => format!("≤ {aim}"),
        }
    }

    fn json(&self, partial: bool) -> Value {
        let Self { what, unit, values, .. } = self;
        json!({
            "what": what, "unit": unit, "median": self.median(), "values": values, "aim": self.aim(),
            "verdict": self.verdict(partial),
        })
    }
}

/// All of a bench.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) measured: Vec<Measured>,
    pub(crate) figures: Vec<Figure>,
    /// What must be known to read the figures.
    pub(crate) notes: Vec<String>,
    /// Not all of the path that the aims speak of was there.
    partial: bool,
    /// What is measured, where that is not 64-byte packets on one core.
    subject: Option<&'static str>,
}

impl Report {
    /// An empty one, of something else than 64-byte packets on one core.
    pub(crate) fn of(subject: &'static str) -> Self {
        Self { subject: Some(subject), ..Self::default() }
    }

    /// Once is enough.
    pub(crate) fn note(&mut self, note: &str) {
        if !self.notes.iter().any(|there| there == note) {
            self.notes.push(note.to_owned());
        }
    }

    /// The data plane does not have all that this bench is about.
    pub(crate) fn without(&mut self, missing: Vec<&str>) {
        if !missing.is_empty() {
            self.partial = true;
            self.note(&format!(
                "This data plane knows no {} yet: measured without, so no aim is reached or missed.",
                missing.join(", no ")
            ));
        }
    }

    /// Keeps the raw data, and prints.
    pub(crate) fn finish(
        &self,
        bench: &str,
        machine: &Machine,
        hugepages: bool,
        as_json: bool,
    ) -> Result<()> {
        let (document, file) = keep(
            bench,
            &machine.facts(hugepages),
            json!({
                "contestants": self.measured.iter().map(Measured::json).collect::<Vec<_>>(),
                "figures": self.figures.iter().map(|figure| figure.json(self.partial)).collect::<Vec<_>>(),
                "notes": self.notes,
            }),
        )?;
        if as_json {
            return say(format_args!("{document:#}"));
        }
        let pages = if hugepages { "hugepages" } else { "no hugepages" };
        let subject = self.subject.unwrap_or("64-byte packets, one core");
        say(format_args!("{bench}, {subject}, {pages}\n{machine}\n"))?;
        self.print(machine.tsc_hz)?;
        say(format_args!("Raw data: {}", file.display()))
    }

    fn print(&self, tsc_hz: f64) -> Result<()> {
        if !self.measured.is_empty() {
            let mut table = Table::new(["contestant", "Mpps", "least", "most", "cycles"]);
            for measured in &self.measured {
                let rates = measured.rates();
                let [least, median, most] = [0, 50, 100].map(|p| percentile(&rates, p));
                let mpps = |rate: f64| format!("{:.2}", rate / 1e6);
                let cycles = format!("{:.0}", tsc_hz / median);
                table.row([measured.name.clone(), mpps(median), mpps(least), mpps(most), cycles]);
            }
            say(table)?;
        }
        if !self.figures.is_empty() {
            let mut table = Table::new(["figure", "unit", "median", "least", "most", "aim", ""]);
            for figure in &self.figures {
                let [least, median, most] = [0, 50, 100].map(|p| percentile(&figure.values, p)).map(short);
                let [what, unit] = [figure.what.clone(), figure.unit.to_owned()];
                table.row([
                    what,
                    unit,
                    median,
                    least,
                    most,
                    figure.aim(),
                    figure.verdict(self.partial).to_owned(),
                ]);
            }
            say(table)?;
        }
        self.notes.iter().try_for_each(|note| say(format_args!("  {note}")))
    }
}

/// Keeps what a bench has found, with when and where: the whole document, and the file that it is in.
pub(crate) fn keep(bench: &str, machine: &Value, mut found: Value) -> Result<(Value, PathBuf)> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    found["bench"] = json!(bench);
    found["time"] = json!(seconds);
    found["machine"] = machine.clone();
    let folder = target_directory()?.join("bench-results");
    let file = folder.join(format!("{bench}-{seconds}.json"));
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(&file, format!("{found:#}\n")))
        .with_context(|| format!("{} cannot be written", file.display()))?;
    Ok((found, file))
}

/// Three digits that matter.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_judged_by_its_median() {
        let figure = |aim| Figure::new("x", "×", vec![0.5, 0.7, 0.9], aim);
        assert_eq!(figure(Some(Aim::AtLeast(0.7))).verdict(false), "reached");
        assert_eq!(figure(Some(Aim::AtLeast(0.8))).verdict(false), "missed");
        assert_eq!(figure(Some(Aim::AtMost(0.6))).verdict(false), "missed");
        assert_eq!(figure(None).verdict(false), "-");
        assert_eq!(figure(Some(Aim::AtMost(0.6))).verdict(true), "in part");
    }

    #[test]
    fn rounds_are_compared_with_each_other() {
        let measured = |name: &str, rates: [f64; 2]| Measured {
            name: name.to_owned(),
            command: String::new(),
            rounds: rates.iter().map(|&rate| vec![rate]).collect(),
        };
        let (fast, slow) = (measured("a", [4e6, 2e6]), measured("b", [2e6, 1e6]));
        assert_eq!(Figure::ratio(&slow, &fast, None).values, [0.5, 0.5]);
        assert_eq!(Figure::added_cycles(&slow, &fast, 2e9, None).values, [500.0, 1000.0]);
    }
}
