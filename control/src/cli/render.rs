//! What each answer looks like as text. Filters and order are `select`'s.

mod flows;
mod rows;
mod status;
mod workers;

pub(crate) use flows::{flows, trace};
pub(crate) use rows::{endpoints, neighbours, policies, ports, routes, rules, services};
pub(crate) use status::status;
pub(crate) use workers::{drops, workers};

/// What was printed.
#[cfg(test)]
pub(crate) fn text(print: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> String {
    let mut out = Vec::new();
    print(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}
