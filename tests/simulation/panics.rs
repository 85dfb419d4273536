//! Records panics, also those that the engine survives.

use std::cell::RefCell;

thread_local! {
    static RECORDED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// From now on, panics are recorded and not printed.
pub(crate) fn record() {
    std::panic::set_hook(Box::new(|panic| RECORDED.with_borrow_mut(|recorded| recorded.push(panic.to_string()))));
}

/// The panics of this thread since the last call.
pub(crate) fn take() -> Vec<String> {
    RECORDED.with_borrow_mut(std::mem::take)
}
