//! Bugs that the simulation has found, as the short plans that showed them. Each is run again with every change.

use crate::plan::Plan;

/// A bug that is no more.
struct Reproduction {
    what: &'static str,
    plan: fn() -> Plan,
}

const ALL: [Reproduction; 0] = [];

/// Whether none of them is back.
pub(crate) fn run_all() -> bool {
    let mut fine = true;
    for Reproduction { what, plan } in ALL {
        let violations = crate::run::run(&plan()).violations;
        for violation in &violations {
            println!("again: {what}: {violation}");
        }
        fine &= violations.is_empty();
    }
    println!("{:<28}{}", "found bugs run again", ALL.len());
    fine
}
