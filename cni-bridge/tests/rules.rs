//! The table of rules and tests in README.md names tests that are there.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by panicking, its helpers too")]

use std::path::Path;

/// The sources of a folder, and of those in it.
fn sources(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn each_rule_names_tests_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut text = String::new();
    for folder in ["cni-bridge/src", "cni-bridge/tests", "control/src", "control/tests", "perf/tests/system"]
    {
        sources(&root.join(folder), &mut text);
    }
    let mut rules = 0;
    for row in
        include_str!("../README.md").lines().filter(|line| line.starts_with("| ") && line.contains(": `"))
    {
        rules += 1;
        // Rules quote keys of the specification; tests come in the last column.
        let tests = row.trim_end_matches('|').rsplit('|').next().unwrap();
        for name in tests.split('`').skip(1).step_by(2) {
            assert!(text.contains(&format!("fn {name}(")), "no test {name}: {row}");
        }
    }
    assert!(rules > 15, "{rules}");
}
