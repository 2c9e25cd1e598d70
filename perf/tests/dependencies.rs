//! Who may depend on what, over `cargo metadata` and, where that cannot say, the sources.
//!
//! Each rule names packages; a name that is in no rule's tree fails the first test, so that none passes for want of
//! its subject.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DepKindInfo, DependencyKind, Metadata, MetadataCommand, PackageId};

/// Neither clock nor environment, files, sockets or logs: what they compute follows from their arguments alone.
const PURE: [&str; 5] = ["flow", "meter", "pipeline", "tables", "wire"];

/// `#![forbid(unsafe_code)]`.
const SAFE: [&str; 12] = [
    "apiserver",
    "desired",
    "flow",
    "lab",
    "meter",
    "peers",
    "pipeline",
    "podrouter-cni",
    "proto",
    "publish",
    "tables",
    "wire",
];

/// They build, test and fuzz with no DPDK installed.
const WITHOUT_DPDK: [&str; 15] = [
    "apiserver",
    "benches",
    "desired",
    "flow",
    "hint",
    "lab",
    "meter",
    "pipeline",
    "podrouter-cni",
    "podrouter-control",
    "proto",
    "publish",
    "shm",
    "tables",
    "wire",
];

/// They link DPDK.
const WITH_DPDK: [&str; 3] = ["peers", "pktgen", "podrouter-dataplane"];

struct Workspace {
    metadata: Metadata,
    names: BTreeMap<PackageId, String>,
}

impl Workspace {
    fn read() -> Self {
        let metadata = MetadataCommand::new()
            .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
            .exec()
            .unwrap();
        let names =
            metadata.packages.iter().map(|package| (package.id.clone(), package.name.to_string())).collect();
        Self { metadata, names }
    }

    fn members(&self) -> BTreeSet<&str> {
        self.metadata.workspace_packages().iter().map(|package| package.name.as_str()).collect()
    }

    /// Those of `names` that there are.
    fn present<'a>(&self, names: &[&'a str]) -> Vec<&'a str> {
        let members = self.members();
        names.iter().copied().filter(|name| members.contains(name)).collect()
    }

    fn id(&self, name: &str) -> &PackageId {
        let found =
            self.metadata.workspace_packages().into_iter().find(|package| package.name.as_str() == name);
        &found.unwrap().id
    }

    fn edges(&self, from: &PackageId, with_dev: bool) -> Vec<&PackageId> {
        let resolve = self.metadata.resolve.as_ref().unwrap();
        let node = resolve.nodes.iter().find(|node| node.id == *from).unwrap();
        // Loom is for models alone, though no build of a model is told apart by the kind of its dependencies.
        let models =
            |info: &DepKindInfo| info.target.as_ref().is_some_and(|on| on.to_string() == "cfg(loom)");
        let counts =
            |info: &DepKindInfo| with_dev || info.kind != DependencyKind::Development && !models(info);
        let deps = node.deps.iter().filter(|dep| dep.dep_kinds.iter().any(counts));
        deps.map(|dep| &dep.pkg).collect()
    }

    /// All that a package needs to build and, with `tested`, what its tests need.
    fn reach(&self, name: &str, tested: bool) -> BTreeSet<&str> {
        let start = self.id(name);
        let mut open = self.edges(start, tested);
        let mut seen = BTreeSet::new();
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                open.extend(self.edges(id, false));
            }
        }
        seen.into_iter().map(|id| self.names[id].as_str()).collect()
    }

    /// Members that name `dependency` in their own manifest.
    fn direct_users(&self, dependency: &str) -> BTreeSet<&str> {
        let packages = self.metadata.workspace_packages();
        let users = packages
            .into_iter()
            .filter(|package| package.dependencies.iter().any(|wanted| wanted.name == dependency));
        users.map(|package| package.name.as_str()).collect()
    }

    fn root_of(&self, name: &str) -> PathBuf {
        let package = &self.metadata[self.id(name)];
        package.manifest_path.parent().unwrap().as_std_path().to_path_buf()
    }

    /// The crate roots of a package: its library and binaries.
    fn crate_roots(&self, name: &str) -> Vec<PathBuf> {
        let package = &self.metadata[self.id(name)];
        let targets = package.targets.iter().filter(|target| target.is_lib() || target.is_bin());
        targets.map(|target| target.src_path.as_std_path().to_path_buf()).collect()
    }
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn every_name_in_these_rules_is_a_package() {
    let workspace = Workspace::read();
    let members = workspace.members();
    let named = PURE.iter().chain(&SAFE).chain(&WITHOUT_DPDK).chain(&WITH_DPDK);
    let unknown: Vec<_> = named.filter(|name| !members.contains(*name)).collect();
    assert!(unknown.is_empty(), "no such packages: {unknown:?}");
}

#[test]
fn only_dpdk_depends_on_dpdk_sys() {
    let workspace = Workspace::read();
    assert_eq!(workspace.direct_users("dpdk-sys"), BTreeSet::from(["dpdk"]));
}

#[test]
fn only_the_data_plane_pktgen_and_peers_depend_on_dpdk() {
    let workspace = Workspace::read();
    let users = workspace.direct_users("dpdk");
    assert_eq!(users, workspace.present(&WITH_DPDK).into_iter().collect());
}

#[test]
fn the_others_have_no_path_to_dpdk_even_for_their_tests() {
    let workspace = Workspace::read();
    for name in workspace.present(&WITHOUT_DPDK) {
        assert!(!workspace.reach(name, true).contains("dpdk-sys"), "{name} reaches dpdk-sys");
    }
}

#[test]
fn only_control_reaches_tokio_and_kube() {
    let workspace = Workspace::read();
    assert!(workspace.reach("podrouter-control", false).contains("tokio"), "else this test says nothing");
    for name in workspace.members().into_iter().filter(|&name| name != "podrouter-control") {
        let reach = workspace.reach(name, false);
        for forbidden in ["tokio", "kube"] {
            assert!(!reach.contains(forbidden), "{name} reaches {forbidden}");
        }
    }
}

#[test]
fn pure_crates_can_derive_no_contract() {
    let workspace = Workspace::read();
    assert!(workspace.reach("proto", false).contains("serde"), "else this test says nothing");
    for name in workspace.present(&PURE).into_iter().chain(["publish", "hint"]) {
        let reach = workspace.reach(name, false);
        for forbidden in ["serde", "serde_core", "serde_json"] {
            assert!(!reach.contains(forbidden), "{name} reaches {forbidden}");
        }
    }
}

#[test]
fn pure_crates_know_no_clock_environment_io_or_log() {
    let forbidden = [
        "std::env",
        "std::fs",
        "std::io",
        "std::os",
        "std::process",
        "std::thread",
        "std::time",
        "Instant::now",
        "SystemTime",
        "UdpSocket",
        "TcpStream",
        "UnixStream",
        "println!",
        "eprintln!",
        "dbg!",
        "tracing::",
        "log::",
    ];
    let workspace = Workspace::read();
    for name in workspace.present(&PURE) {
        let reach = workspace.reach(name, false);
        assert!(!reach.contains("tracing") && !reach.contains("rustix"), "{name} can log or call the system");
        for file in sources(&workspace.root_of(name).join("src")) {
            let text = fs::read_to_string(&file).unwrap();
            // Tests stand at the bottom of a file and may use what they like; so may words in comments.
            let code = text.split("#[cfg(test)]").next().unwrap();
            let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            for (line, word) in lines.flat_map(|line| forbidden.iter().map(move |word| (line, word))) {
                assert!(!line.contains(word), "{}: `{word}` in `{}`", file.display(), line.trim());
            }
        }
    }
}

#[test]
fn unsafe_code_is_forbidden_where_the_tree_says_so() {
    let workspace = Workspace::read();
    for name in workspace.present(&SAFE) {
        let roots = workspace.crate_roots(name);
        assert!(!roots.is_empty(), "{name} has neither library nor binary");
        for root in roots {
            let text = fs::read_to_string(&root).unwrap();
            let forbids = text.lines().any(|line| line.trim() == "#![forbid(unsafe_code)]");
            assert!(forbids, "{} lacks #![forbid(unsafe_code)]", root.display());
        }
    }
}

#[test]
fn every_package_takes_the_common_lints() {
    let workspace = Workspace::read();
    for name in workspace.members() {
        // Generated bindings cannot be held to them; its manifest keeps the one that can.
        if name == "dpdk-sys" {
            continue;
        }
        let manifest = fs::read_to_string(workspace.root_of(name).join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{name} sets lints of its own");
    }
}
