//! The tables of rules and tests in READMEs name tests that are there.

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

/// All that may hold a rule.
const SOURCES: [&str; 6] =
    ["cni-bridge/src", "cni-bridge/tests", "control", "dataplane/crates", "dataplane/tests", "perf"];

#[test]
fn each_rule_names_tests_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut text = String::new();
    for folder in SOURCES {
        sources(&root.join(folder), &mut text);
    }
    for (readme, least) in [("cni-bridge/README.md", 15), ("perf/README.md", 15)] {
        let mut rules = 0;
        let table = std::fs::read_to_string(root.join(readme)).unwrap();
        for row in table.lines().filter(|line| line.starts_with("| ") && line.contains(": `")) {
            rules += 1;
            // Rules quote keys of specifications; tests come in the last column.
            let tests = row.trim_end_matches('|').rsplit('|').next().unwrap();
            for name in tests.split('`').skip(1).step_by(2) {
                assert!(text.contains(&format!("fn {name}(")), "{readme}: no test {name}: {row}");
            }
        }
        assert!(rules > least, "{readme}: {rules}");
    }
}
