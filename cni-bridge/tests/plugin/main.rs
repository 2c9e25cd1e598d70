//! The binary as a runtime runs it, against a control of the test's own over a real socket.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by panicking, its helpers too")]

mod add;
mod check;
mod commands;
mod errors;
mod fake;
