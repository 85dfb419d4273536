//! One control call: its path, its handler, and what the OpenAPI document says about it beyond the
//! handler's types.

use axum::{
    handler::Handler,
    routing::{self, MethodRouter},
};

use super::operation::{Documented, OperationDoc};
use crate::worlds::Worlds;

/// One control call.
pub(super) struct Route {
    /// In lower case, as OpenAPI has it.
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) handler: MethodRouter<Worlds>,
    pub(super) scope: RouteScope,
    pub(super) operation_id: &'static str,
    pub(super) tag: &'static str,
    pub(super) summary: &'static str,
    /// Describes the answer of a call that succeeds.
    pub(super) answer: &'static str,
    /// Refusals that the handler's types do not show.
    pub(super) errors: Vec<(u16, &'static str)>,
    pub(super) describe: fn(&mut OperationDoc<'_>),
}

/// What a call acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RouteScope {
    /// The process, or all worlds.
    Process,
    /// One world: the demo world by this path, any other one by `/v1/worlds/{world}` in place of
    /// `/v1`.
    World,
}

macro_rules! methods {
    ($($method:ident),*) => {
        $(
            pub(super) fn $method<H, T, Args>(path: &'static str, operation_id: &'static str, handler: H) -> Route
            where
                H: Handler<T, Worlds> + Documented<Args>,
                T: 'static,
            {
                Route {
                    method: stringify!($method),
                    path,
                    handler: routing::$method(handler),
                    scope: RouteScope::World,
                    operation_id,
                    tag: "",
                    summary: "",
                    answer: "",
                    errors: Vec::new(),
                    describe: H::describe,
                }
            }
        )*
    };
}

methods!(get, post, put, patch, delete);

impl Route {
    pub(super) fn summary(self, summary: &'static str) -> Self {
        Self { summary, ..self }
    }

    pub(super) fn answer(self, answer: &'static str) -> Self {
        Self { answer, ..self }
    }

    pub(super) fn error(mut self, status: u16, description: &'static str) -> Self {
        self.errors.push((status, description));
        self
    }

    /// It acts on the process or on all worlds.
    pub(super) fn of_the_process(self) -> Self {
        Self { scope: RouteScope::Process, ..self }
    }
}
