//! Panics that the engine survives: they are heard of all the same.

use std::cell::RefCell;

thread_local! {
    static HEARD: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// From now on panics are noted and not printed.
pub(crate) fn listen() {
    std::panic::set_hook(Box::new(|panic| HEARD.with_borrow_mut(|heard| heard.push(panic.to_string()))));
}

/// Those of this thread since the last time.
pub(crate) fn take() -> Vec<String> {
    HEARD.with_borrow_mut(std::mem::take)
}
