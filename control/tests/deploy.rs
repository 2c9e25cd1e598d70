//! The manifests of `deploy/`: what they say is what the programs understand.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by panicking, its helpers too")]

use std::process::Command;

use serde::Deserialize;
use serde_json::Value;

/// The documents of a file.
fn documents(text: &str) -> Vec<Value> {
    serde_norway::Deserializer::from_str(text).map(|document| Value::deserialize(document).unwrap()).collect()
}

fn help(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).arg("--help").output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_daemon_sets_arguments_are_flags_of_its_programs() {
    let set = &documents(include_str!("../deploy/daemonset.yaml"))[0];
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(set["spec"]["selector"]["matchLabels"], set["spec"]["template"]["metadata"]["labels"]);
    assert_eq!(pod["hostNetwork"], true);
    let volumes: Vec<&Value> =
        pod["volumes"].as_array().unwrap().iter().map(|volume| &volume["name"]).collect();
    let containers = pod["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 3);
    for container in containers {
        for mount in container["volumeMounts"].as_array().unwrap() {
            assert!(volumes.contains(&&mount["name"]), "{mount}");
        }
        let arguments: Vec<&str> =
            container["args"].as_array().unwrap().iter().map(|own| own.as_str().unwrap()).collect();
        let help = match container["command"][0].as_str().unwrap() {
            "podrouter-control" => help(env!("CARGO_BIN_EXE_podrouter-control"), &[]),
            "podrouter" => help(env!("CARGO_BIN_EXE_podrouter"), &arguments[..1]),
            // Its own tests look at it: they need DPDK.
            "podrouter-dataplane" => continue,
            other => panic!("{other}"),
        };
        for flag in arguments.iter().filter(|own| own.starts_with("--")) {
            let flag = flag.split('=').next().unwrap();
            assert!(help.contains(&format!("{flag} ")) || help.contains(&format!("{flag}\n")), "{flag}");
        }
    }
}

#[test]
fn the_role_is_bound_to_the_account_that_the_daemon_set_uses() {
    let set = &documents(include_str!("../deploy/daemonset.yaml"))[0];
    let account = &set["spec"]["template"]["spec"]["serviceAccountName"];
    let rbac = documents(include_str!("../deploy/rbac.yaml"));
    let of = |kind: &str| rbac.iter().find(|document| document["kind"] == kind).unwrap();
    assert_eq!(&of("ServiceAccount")["metadata"]["name"], account);
    let binding = of("ClusterRoleBinding");
    assert_eq!(&binding["subjects"][0]["name"], account);
    assert_eq!(binding["roleRef"]["name"], of("ClusterRole")["metadata"]["name"]);
    // Nothing is asked for by a wildcard.
    assert!(!of("ClusterRole")["rules"].to_string().contains('*'));
}
