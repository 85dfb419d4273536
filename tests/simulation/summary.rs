//! The figures of many runs, as text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::sim::Figures;

pub(crate) fn of(figures: &Figures, seeds: u64, broken: &[(u64, Vec<String>)], took: Duration) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<28}{value}");
    };
    line("seeds", format!("{seeds} in {:.1} s", took.as_secs_f64()));
    line("operations", format!("{}: {}", figures.operations.values().sum::<u64>(), each(&figures.operations)));
    line("faults by class", format!("{}: {}", figures.faults.values().sum::<u64>(), each(&figures.faults)));
    line("crashes, starts, commits", format!("{}, {}, {}", figures.crashes, figures.starts, figures.commits));
    line("refunds, attempts, effects", format!("{}, {}, {}", figures.refunds, figures.attempts, figures.effects));
    line(
        "configurations",
        format!(
            "{} changed; {} refunds waited for their account, {} reassigned; {} paid after a rejection",
            figures.changes, figures.waits, figures.moves, figures.corrections
        ),
    );
    line(
        "people",
        format!(
            "{} refunds waited for an approval, {} approvals, {} requests refused by a limit",
            figures.awaited, figures.approvals, figures.refused_by_limit
        ),
    );
    line("ends", each(&figures.ends));
    let share = 100.0 * figures.doubts as f64 / figures.refunds.max(1) as f64;
    line(
        "doubt",
        format!("{} refunds ({share:.1} %), {} reviews, {}", figures.doubts, figures.reviews, lasted(&figures.doubt_s)),
    );
    line("seeds with violations", broken.len().to_string());
    let mut lines: BTreeMap<&str, u64> = BTreeMap::new();
    for name in broken.iter().filter_map(|(_, violations)| violations.first()?.split(':').next()) {
        *lines.entry(name).or_default() += 1;
    }
    for (name, count) in lines {
        let first = broken.iter().find(|(_, violations)| violations[0].starts_with(name)).map_or(0, |(seed, _)| *seed);
        line("", format!("{name}: {count} (the first is seed {first})"));
    }
    text
}

fn each(counts: &BTreeMap<&'static str, u64>) -> String {
    counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

fn lasted(seconds: &[u64]) -> String {
    let mut sorted = seconds.to_vec();
    sorted.sort_unstable();
    let at = |percent: usize| sorted.get(sorted.len() * percent / 100).or(sorted.last()).copied().unwrap_or(0);
    format!("half of them ended within {} s, 90 % within {} s, 99 % within {} s", at(50), at(90), at(99))
}
