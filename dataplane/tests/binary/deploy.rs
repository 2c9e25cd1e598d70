//! The manifest that starts the program on a cluster: what it says is what the program understands.

use std::process::Command;

#[test]
fn the_daemon_sets_arguments_are_flags() {
    let manifest = include_str!("../../../control/deploy/daemonset.yaml");
    let mut lines = manifest.lines().map(str::trim);
    lines.find(|line| *line == "command: [podrouter-dataplane]").unwrap();
    let arguments = lines.next().unwrap().strip_prefix("args: [").unwrap().strip_suffix(']').unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_podrouter-dataplane")).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let flags: Vec<&str> =
        arguments.split(", ").map(|argument| argument.split('=').next().unwrap()).collect();
    assert!(flags.contains(&"--flow-file"), "{flags:?}");
    for flag in flags {
        assert!(help.contains(&format!("{flag} <")), "{flag}");
    }
}
