//! The program itself, on few entries: that all tables answer alike. Times are not looked at.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by panicking, in its helpers too")]

use std::process::{Command, Output};

use serde_json::Value;

fn peers(line: &str) -> Output {
    let common = "--huge no --rounds 2 --turn 0";
    let words = common.split_whitespace().chain(line.split_whitespace());
    Command::new(env!("CARGO_BIN_EXE_peers")).args(words).output().unwrap()
}

#[test]
fn all_tables_answer_alike() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("peers.json");
    let output = peers(&format!("--sizes 1,1000,30000 --json --save {}", file.display()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document, serde_json::from_slice::<Value>(&std::fs::read(file).unwrap()).unwrap());
    let cases = document["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 4 * 3);
    for case in cases {
        let contestants = case["contestants"].as_array().unwrap();
        assert_eq!(contestants[0]["name"], "podrouter");
        assert!(contestants.len() >= 3, "{case:#}");
        for contestant in contestants {
            assert_eq!(contestant["cycles"]["rounds"].as_array().unwrap().len(), 2);
            assert!(contestant["bytes"].as_u64().unwrap() > 0, "{contestant:#}");
        }
    }
}

#[test]
fn exit_codes_tell_what_was_wrong() {
    for (line, status, part) in [
        ("--sizes 0", 2, "--sizes"),
        ("--only bridges", 2, "bridges"),
        ("--only routes-v4 --sizes 1 --memory 80", 4, "rte_"),
        ("--only flows-v4 --sizes 1 --save /nonexistent/file", 1, "/nonexistent/file"),
    ] {
        let output = peers(line);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{line}: {text}");
        assert!(text.contains(part), "{line}: `{part}` is missing: {text}");
    }
    let help = peers("--help");
    assert!(help.status.success());
    assert!(String::from_utf8_lossy(&help.stdout).contains("Exit codes: 0 done"));
}
