//! What came of it: a table for people, one JSON document for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// One way of looking up in one table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Contestant {
    pub(crate) name: &'static str,
    /// Cycles a look-up, by round.
    pub(crate) cycles: Vec<f64>,
    /// All that the table takes.
    pub(crate) bytes: usize,
    /// Nanoseconds an addition, by round.
    pub(crate) add_ns: Vec<f64>,
}

/// One kind of table with so many entries. The first contestant is ours.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) title: &'static str,
    pub(crate) entries: u32,
    pub(crate) keys: usize,
    pub(crate) contestants: Vec<Contestant>,
}

/// All cases, and what they ran on.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) dpdk: String,
    pub(crate) hugepages: bool,
    pub(crate) hz: f64,
    pub(crate) cases: Vec<Case>,
}

/// Least, median and most.
fn spread(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at =
        |share: usize| sorted.get(sorted.len().saturating_sub(1) * share / 2).copied().unwrap_or(f64::NAN);
    [at(0), at(1), at(2)]
}

fn ratios(ours: &[f64], theirs: &[f64]) -> Vec<f64> {
    ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect()
}

#[expect(clippy::cast_precision_loss, reason = "bytes of tables that fit a machine")]
fn share(bytes: usize, entries: u32) -> f64 {
    bytes as f64 / f64::from(entries.max(1))
}

fn spread_json(values: &[f64]) -> Value {
    let [least, median, most] = spread(values);
    json!({ "least": least, "median": median, "most": most, "rounds": values })
}

impl Case {
    fn json(&self, hz: f64) -> Value {
        let ours = self.contestants.first();
        let contestant = |one: &Contestant| {
            let ns: Vec<f64> = one.cycles.iter().map(|cycles| cycles / hz * 1e9).collect();
            let against =
                |of: fn(&Contestant) -> &Vec<f64>| ours.map(|ours| spread_json(&ratios(of(ours), of(one))));
            json!({
                "name": one.name,
                "cycles": spread_json(&one.cycles),
                "ns": spread_json(&ns),
                "ours_to_this": against(|one| &one.cycles),
                "bytes": one.bytes,
                "bytes_per_entry": share(one.bytes, self.entries),
                "add_ns": spread_json(&one.add_ns),
                "ours_to_this_adding": against(|one| &one.add_ns),
            })
        };
        json!({
            "table": self.title,
            "entries": self.entries,
            "keys": self.keys,
            "contestants": self.contestants.iter().map(contestant).collect::<Vec<_>>(),
        })
    }
}

impl Report {
    /// One document.
    pub(crate) fn json(&self) -> Value {
        json!({
            "dpdk": self.dpdk,
            "hugepages": self.hugepages,
            "tsc_hz": self.hz,
            "cases": self.cases.iter().map(|case| case.json(self.hz)).collect::<Vec<_>>(),
        })
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let pages = if self.hugepages { "hugepages" } else { "no hugepages" };
        let mut text = format!("{}, {pages}, TSC {:.3} GHz\n", self.dpdk, self.hz / 1e9);
        let _ = writeln!(
            text,
            "{:<10} {:>9}  {:<18} {:>7} {:>7}  {:>5} {:>13} {:>11} {:>9}  {:>5}",
            "table", "entries", "contestant", "cycles", "ns", "ours/", "(spread)", "bytes", "add ns", "ours/"
        );
        for case in &self.cases {
            let ours = case.contestants.first();
            for one in &case.contestants {
                let [_, cycles, _] = spread(&one.cycles);
                let [_, add, _] = spread(&one.add_ns);
                let against = |of: fn(&Contestant) -> &Vec<f64>| {
                    ours.filter(|ours| ours.name != one.name).map(|ours| spread(&ratios(of(ours), of(one))))
                };
                let (ratio, range) = against(|one| &one.cycles).map_or_else(
                    || ("-".to_owned(), "-".to_owned()),
                    |[least, median, most]| (format!("{median:.2}"), format!("{least:.2} to {most:.2}")),
                );
                let adding = against(|one| &one.add_ns)
                    .map_or_else(|| "-".to_owned(), |[_, median, _]| format!("{median:.2}"));
                let _ = writeln!(
                    text,
                    "{:<10} {:>9}  {:<18} {:>7.1} {:>7.1}  {ratio:>5} {range:>13} {:>11.0} {:>9.0}  {adding:>5}",
                    case.title,
                    case.entries,
                    one.name,
                    cycles,
                    cycles / self.hz * 1e9,
                    share(one.bytes, case.entries),
                    add,
                );
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_one_round() {
        let contestant = |name, cycles: [f64; 3]| Contestant {
            name,
            cycles: cycles.to_vec(),
            bytes: 200,
            add_ns: vec![30.0],
        };
        let contestants =
            vec![contestant("ours", [10.0, 20.0, 30.0]), contestant("theirs", [20.0, 40.0, 15.0])];
        let case = Case { title: "routes", entries: 100, keys: 32, contestants };
        let report = Report { dpdk: "DPDK".into(), hugepages: false, hz: 2e9, cases: vec![case] };
        let json = report.json();
        let theirs = &json["cases"][0]["contestants"][1];
        assert_eq!(theirs["ours_to_this"]["rounds"], json!([0.5, 0.5, 2.0]));
        assert_eq!((&theirs["cycles"]["median"], &theirs["ns"]["median"]), (&json!(20.0), &json!(10.0)));
        assert_eq!((&theirs["bytes_per_entry"], &theirs["add_ns"]["median"]), (&json!(2.0), &json!(30.0)));
        let table = report.table();
        assert!(table.contains("0.50 to 2.00"), "{table}");
    }
}
