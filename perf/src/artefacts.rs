//! The binaries that topologies run: built by Cargo, and found by what Cargo says, wherever its target directory is.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;

/// Names the folder of binaries that are built already; `cargo lab` sets it for the tests it starts.
pub const BINARIES: &str = "PODROUTER_LAB_BINARIES";

/// Packages that `cargo lab` builds, always together, so that Cargo unifies their features in one way only.
const PACKAGES: [&str; 4] = ["podrouter-dataplane", "podrouter-control", "podrouter-cni", "pktgen"];

/// Where the binaries are.
#[derive(Debug, Clone)]
pub struct Artefacts {
    dir: PathBuf,
}

impl Artefacts {
    /// Those that [`BINARIES`] names, or a fresh build.
    ///
    /// # Errors
    /// When the build fails.
    pub fn find() -> Result<Self> {
        match std::env::var_os(BINARIES) {
            Some(dir) => Ok(Self { dir: dir.into() }),
            None => Self::build(),
        }
    }

    /// Those in this folder, which another build made.
    ///
    /// # Errors
    /// When there is no data plane in it.
    pub fn at(dir: &Path) -> Result<Self> {
        let this = Self { dir: dir.to_path_buf() };
        if !this.path("podrouter-dataplane").is_file() {
            bail!("{} holds no podrouter-dataplane: name a folder as target/release is", dir.display());
        }
        Ok(this)
    }

    /// Builds all of them in the release profile.
    ///
    /// # Errors
    /// When Cargo fails, or made none of what is needed.
    pub fn build() -> Result<Self> {
        let mut command = cargo();
        command.args(["build", "--release", "--message-format=json-render-diagnostics"]);
        for package in PACKAGES {
            command.args(["--package", package]);
        }
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
        let output = output.context("cargo cannot be started")?;
        if !output.status.success() {
            bail!("the build failed ({})", output.status);
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let executables = text.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok());
        let dataplane = executables
            .filter_map(|message| message.executable)
            .find(|path| path.file_name().is_some_and(|name| name == "podrouter-dataplane"));
        let dataplane = dataplane.ok_or_else(|| anyhow!("cargo built no podrouter-dataplane"))?;
        let dir = dataplane.parent().map(Path::to_path_buf);
        dir.map(|dir| Self { dir }).ok_or_else(|| anyhow!("{} has no folder", dataplane.display()))
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// One binary.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// Of Cargo's JSON messages only what is looked at.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
}

/// Cargo itself, in the root of the workspace.
#[must_use]
pub fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.current_dir(workspace());
    command
}

/// The root of the workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Where Cargo builds, as it says itself.
///
/// # Errors
/// When Cargo fails.
pub fn target_directory() -> Result<PathBuf> {
    #[derive(Deserialize)]
    struct Metadata {
        target_directory: PathBuf,
    }
    let output = cargo().args(["metadata", "--format-version=1", "--no-deps"]).output();
    let output = output.context("cargo cannot be started")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).context("cargo metadata printed something else")?;
    Ok(metadata.target_directory)
}
