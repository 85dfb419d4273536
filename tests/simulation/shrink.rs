//! Makes a failing plan shorter, while it fails in the same way.

use crate::plan::Plan;
use crate::run::run;

const MAX_RUNS: usize = 3_000;

/// The first promise that a run of the plan breaks.
pub(crate) fn broken_promise(plan: &Plan) -> Option<String> {
    let report = run(plan);
    report.violations.first().map(|violation| violation.split(':').next().unwrap_or_default().to_owned())
}

/// A plan that breaks the same promise and from which no part can be removed.
pub(crate) fn shrink(plan: &Plan, promise: &str) -> Plan {
    let mut best = plan.clone();
    let mut runs = 0;
    loop {
        let before = best.clone();
        let mut keep = |candidate: Plan, best: &mut Plan| {
            runs += 1;
            if runs < MAX_RUNS && broken_promise(&candidate).as_deref() == Some(promise) {
                *best = candidate;
                return true;
            }
            false
        };
        without_parts(&mut best, |plan| &mut plan.steps, &mut keep);
        without_parts(&mut best, |plan| &mut plan.wire_faults, &mut keep);
        without_parts(&mut best, |plan| &mut plan.disk_faults, &mut keep);
        without_parts(&mut best, |plan| &mut plan.setups, &mut keep);
        for place in 0..best.steps.len() {
            for after_ms in [0, best.steps[place].after_ms / 10] {
                let mut candidate = best.clone();
                candidate.steps[place].after_ms = after_ms;
                if candidate != best && keep(candidate, &mut best) {
                    break;
                }
            }
        }
        if best == before || runs >= MAX_RUNS {
            return best;
        }
    }
}

/// Tries to remove halves, quarters, ... and single parts.
fn without_parts<T: Clone>(
    best: &mut Plan,
    parts: fn(&mut Plan) -> &mut Vec<T>,
    keep: &mut impl FnMut(Plan, &mut Plan) -> bool,
) {
    let mut size = parts(best).len().div_ceil(2);
    while size > 0 {
        let mut place = 0;
        while place < parts(best).len() {
            let mut candidate = best.clone();
            let kept = parts(&mut candidate);
            let end = (place + size).min(kept.len());
            kept.drain(place..end);
            if !keep(candidate, best) {
                place += size;
            }
        }
        size /= 2;
    }
}
