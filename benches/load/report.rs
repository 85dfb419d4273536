//! The results beside their yardsticks: a table for people, JSON for machines, a plot for both.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use serde_json::{Value, json};

use crate::plot;

/// One figure, its yardstick and its target.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) figure: Figure,
    pub(crate) yardstick: Yardstick,
    pub(crate) reach: Reach,
    /// A remark for the reader.
    pub(crate) note: String,
}

#[derive(Clone, Copy)]
pub(crate) struct Figure {
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
}

pub(crate) enum Yardstick {
    /// Another figure that was measured in the same turns, and the ratio to it.
    Measured { name: &'static str, value: f64, ratio: Spread },
    /// A fixed number.
    Set(f64),
}

/// The median and the quartiles.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) low: f64,
    pub(crate) middle: f64,
    pub(crate) high: f64,
}

#[derive(Clone, Copy)]
pub(crate) enum Reach {
    AtLeast(f64),
    AtMost(f64),
    /// No target: only for comparison.
    Nothing,
}

pub(crate) struct Report {
    is_quick: bool,
    rows: Vec<Row>,
    load_before: String,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
        Spread { low: at(0.25), middle: at(0.5), high: at(0.75) }
    }

    /// The ratios of figures that were measured in the same turns.
    pub(crate) fn of_ratios(ours: &[f64], theirs: &[f64]) -> Spread {
        Spread::of(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs))
    }

    /// A value that was measured once.
    pub(crate) fn single(value: f64) -> Spread {
        Spread { low: value, middle: value, high: value }
    }
}

pub(crate) fn median(values: &[f64]) -> f64 {
    Spread::of(values.iter().copied()).middle
}

/// The value below which this share of the values is.
pub(crate) fn percentile(values: &[f64], share: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share).round() as usize]
}

pub(crate) fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

impl Row {
    /// A figure beside another one, both measured in every turn.
    pub(crate) fn paired(
        what: impl Into<String>,
        unit: &'static str,
        ours: &[f64],
        name: &'static str,
        theirs: &[f64],
        reach: Reach,
    ) -> Row {
        let yardstick = Yardstick::Measured { name, value: median(theirs), ratio: Spread::of_ratios(ours, theirs) };
        let figure = Figure { value: median(ours), unit };
        Row { what: what.into(), figure, yardstick, reach, note: String::new() }
    }

    /// A figure beside a fixed limit.
    pub(crate) fn below(what: impl Into<String>, value: f64, unit: &'static str, limit: f64) -> Row {
        let figure = Figure { value, unit };
        let what = what.into();
        Row { what, figure, yardstick: Yardstick::Set(limit), reach: Reach::AtMost(1.0), note: String::new() }
    }

    /// A figure that could not be measured here.
    pub(crate) fn unmeasured(what: impl Into<String>, unit: &'static str, limit: f64, why: &str) -> Row {
        Row::below(what, f64::NAN, unit, limit).noting(why)
    }

    pub(crate) fn noting(self, note: impl Into<String>) -> Row {
        Row { note: note.into(), ..self }
    }

    pub(crate) fn ratio(&self) -> Spread {
        match self.yardstick {
            Yardstick::Measured { ratio, .. } => ratio,
            Yardstick::Set(limit) => Spread::single(self.figure.value / limit),
        }
    }

    /// The figure relative to its target, where 1 is the target and more is better.
    pub(crate) fn reached(&self) -> Option<f64> {
        if self.figure.value.is_nan() {
            return None;
        }
        match self.reach {
            Reach::AtLeast(least) => Some(self.ratio().middle / least),
            Reach::AtMost(most) => Some(most / self.ratio().middle),
            Reach::Nothing => None,
        }
    }

    fn is_met(&self) -> Option<bool> {
        self.reached().map(|reached| reached >= 1.0)
    }

    fn figure_text(&self) -> String {
        match self.figure.value {
            value if value.is_nan() => "not measured".to_owned(),
            value => format!("{} {}", number(value), self.figure.unit),
        }
    }

    fn yardstick_text(&self) -> String {
        match self.yardstick {
            Yardstick::Measured { name, value, .. } => format!("{} ({name})", number(value)),
            Yardstick::Set(limit) => format!("{} {}", number(limit), self.figure.unit),
        }
    }

    fn ratio_text(&self) -> String {
        let Spread { low, middle, high } = self.ratio();
        if middle.is_nan() {
            return "-".to_owned();
        }
        if low == high { format!("{middle:.2}") } else { format!("{middle:.2} ({low:.2} to {high:.2})") }
    }

    fn reach_text(&self) -> String {
        match self.reach {
            Reach::AtLeast(least) => format!("at least {least}"),
            Reach::AtMost(most) => format!("at most {most}"),
            Reach::Nothing => "-".to_owned(),
        }
    }

    fn met_text(&self) -> &'static str {
        match self.is_met() {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "-",
        }
    }

    fn cells(&self) -> [String; 6] {
        [
            self.what.clone(),
            self.figure_text(),
            self.yardstick_text(),
            self.ratio_text(),
            self.reach_text(),
            self.met_text().to_owned(),
        ]
    }

    fn json(&self) -> Value {
        let Spread { low, middle, high } = self.ratio();
        let (name, value) = match self.yardstick {
            Yardstick::Measured { name, value, .. } => (name, value),
            Yardstick::Set(limit) => ("set", limit),
        };
        json!({
            "what": self.what, "figure": self.figure.value, "unit": self.figure.unit,
            "yardstick": { "name": name, "value": value },
            "ratio": { "median": middle, "lower_quartile": low, "upper_quartile": high },
            "to_reach": self.reach_text(), "met": self.is_met(), "note": self.note,
        })
    }
}

/// With the significant digits only.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

impl Report {
    pub(crate) fn begin(is_quick: bool) -> Report {
        println!("{:<62}{:>16}{:>34}{:>24}{:>15}{:>6}", "what", "figure", "yardstick", "ratio", "to reach", "met?");
        Report { is_quick, rows: Vec::new(), load_before: load_average() }
    }

    /// Adds a row and prints it.
    pub(crate) fn add(&mut self, row: Row) {
        let [what, figure, yardstick, ratio, reach, met] = row.cells();
        println!("{what:<62}{figure:>16}{yardstick:>34}{ratio:>24}{reach:>15}{met:>6}");
        if !row.note.is_empty() {
            println!("    {}", row.note);
        }
        self.rows.push(row);
    }

    pub(crate) fn extend(&mut self, rows: impl IntoIterator<Item = Row>) {
        rows.into_iter().for_each(|row| self.add(row));
    }

    /// Writes the report to files.
    pub(crate) fn finish(self, folder: &Path) -> ExitCode {
        let machine = json!({
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "processor": processor(),
            "kernel": output_of("uname", &["-sr"]),
            "load_average": { "before": self.load_before, "after": load_average() },
        });
        let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
        let commit = output_of("git", &["rev-parse", "--short", "HEAD"]);
        let whole = json!({ "commit": commit, "quick": self.is_quick, "machine": machine, "rows": rows });
        let name = if self.is_quick { "quick" } else { "load" };
        let write = |kind: &str, text: String| std::fs::write(folder.join(format!("{name}.{kind}")), text).unwrap();
        write("json", format!("{whole:#}\n"));
        write("md", self.markdown());
        write("svg", plot::draw(&self.rows));
        println!("written: {}/{name}.json, .md, .svg", folder.display());
        let missed: Vec<&Row> = self.rows.iter().filter(|row| row.is_met() == Some(false)).collect();
        for row in &missed {
            println!("missed its target: {}", row.what);
        }
        if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn markdown(&self) -> String {
        let mut text =
            "| what | figure | yardstick | ratio | to reach | met? |\n|---|---|---|---|---|---|\n".to_owned();
        for row in &self.rows {
            text.push_str(&format!("| {} |\n", row.cells().join(" | ")));
        }
        text
    }
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    model.trim_start_matches([' ', '\t', ':']).to_owned()
}

fn load_average() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn output_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
