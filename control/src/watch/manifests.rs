//! The source that reads a directory of manifests and follows it.
//!
//! A file that cannot be read keeps the last content that could; until it has had one, the whole is not complete. The
//! directory is read again when the kernel reports a change and then falls quiet, and every few seconds besides, since
//! network file systems report nothing. Write files by renaming: one written in place may be read half written.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use desired::ClusterView;
use notify::{RecursiveMode, Watcher};

use super::objects::{self, Objects};
use super::{Source, Update};

/// Quiet time after which a burst of changes counts as over.
const QUIET: Duration = Duration::from_millis(50);

/// Time after which the directory is read without any report.
const RESCAN: Duration = Duration::from_secs(3);

/// A directory of manifests.
#[derive(Debug)]
pub(crate) struct Manifests {
    directory: PathBuf,
    files: BTreeMap<PathBuf, Content>,
    complete: bool,
}

#[derive(Debug, Default)]
struct Content {
    text: Vec<u8>,
    /// The last that could be read.
    objects: Option<Objects>,
    /// Why `text` could not.
    error: Option<String>,
}

impl Manifests {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory, files: BTreeMap::new(), complete: false }
    }

    /// Reads what changed and gives all there is.
    fn read(&mut self) -> Update {
        let mut warnings = Vec::new();
        match list(&self.directory) {
            Ok(paths) => {
                self.files.retain(|path, _| paths.contains(path));
                for path in paths {
                    self.files.entry(path.clone()).or_default().read(&path);
                }
                self.complete |= self.files.values().all(|content| content.objects.is_some());
                if !self.complete {
                    warnings.push(format!(
                        "{}: nothing is changed until each file has been read once; mend or remove those below",
                        self.describe()
                    ));
                }
            }
            Err(error) => {
                warnings.push(format!("{}: {error}; what was read before stays in force", self.describe()))
            }
        }
        for (path, content) in &self.files {
            if let Some(error) = &content.error {
                let kept = match content.objects {
                    Some(_) => "the file's last good content stays in force",
                    None => "nothing of it was ever read",
                };
                warnings.push(format!("{}: {error}; {kept}", path.display()));
            }
        }
        let view = self.view(&mut warnings);
        Update { view: self.complete.then_some(view), warnings }
    }

    /// The files' objects together; of two that are the same object, the one of the later file name counts.
    fn view(&self, warnings: &mut Vec<String>) -> ClusterView {
        let mut nodes = BTreeMap::new();
        let mut pods = BTreeMap::new();
        let mut twice = |what: String, first: &Path, second: &Path| {
            warnings.push(format!(
                "{what}: is both in {} and in {}; the latter counts",
                first.display(),
                second.display()
            ));
        };
        for (path, content) in &self.files {
            let Some(objects) = &content.objects else { continue };
            for node in &objects.nodes {
                if let Some((first, _)) = nodes.insert(&node.name, (path, node)) {
                    twice(format!("Node {}", node.name), first, path);
                }
            }
            for pod in &objects.pods {
                if let Some((first, _)) = pods.insert((&pod.namespace, &pod.name), (path, pod)) {
                    twice(format!("Pod {}/{}", pod.namespace, pod.name), first, path);
                }
            }
        }
        ClusterView {
            nodes: nodes.into_values().map(|(_, node)| node.clone()).collect(),
            pods: pods.into_values().map(|(_, pod)| pod.clone()).collect(),
        }
    }
}

impl Content {
    fn read(&mut self, path: &Path) {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) => {
                self.text.clear();
                self.error = Some(error.to_string());
                return;
            }
        };
        if text == self.text && self.objects.is_some() {
            return;
        }
        match parse(path, &text) {
            Ok(objects) => (self.objects, self.error) = (Some(objects), None),
            Err(error) => self.error = Some(error),
        }
        self.text = text;
    }
}

fn parse(path: &Path, text: &[u8]) -> Result<Objects, String> {
    let text = std::str::from_utf8(text).map_err(|error| format!("is not UTF-8: {error}"))?;
    if path.extension().is_some_and(|extension| extension == "json") {
        objects::from_json(text)
    } else {
        objects::from_yaml(text)
    }
}

/// The manifests of a directory. Names that begin with a dot are editors' and mounts' own.
fn list(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let known = path
            .extension()
            .and_then(|extension| extension.to_str())
            .is_some_and(|extension| matches!(extension, "yaml" | "yml" | "json"));
        if known && !hidden && !path.is_dir() {
            paths.push(path);
        }
    }
    Ok(paths)
}

impl Source for Manifests {
    fn describe(&self) -> String {
        format!("manifests {}", self.directory.display())
    }

    fn follow(mut self: Box<Self>, give: &mut dyn FnMut(Update) -> ControlFlow<()>) {
        let (report, reports) = channel();
        // The watch begins before the first read, so that no change falls between the two.
        let watching = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading a file is reported too, and would have us read for ever.
            if !event.is_ok_and(|event| matches!(event.kind, notify::EventKind::Access(_))) {
                let _ = report.send(());
            }
        });
        let watching = watching.and_then(|mut watcher| {
            watcher.watch(&self.directory, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        if let Err(error) = &watching {
            tracing::warn!(
                "{}: no reports of changes ({error}); it is read every {RESCAN:?}",
                self.describe()
            );
        }
        let mut last = None;
        loop {
            let update = self.read();
            if last.as_ref() != Some(&update) {
                if give(update.clone()).is_break() {
                    return;
                }
                last = Some(update);
            }
            wait(&reports);
        }
    }
}

/// Until a burst of reports is over, or it is time to look without one.
fn wait(reports: &Receiver<()>) {
    match reports.recv_timeout(RESCAN) {
        Ok(()) => while reports.recv_timeout(QUIET).is_ok() {},
        Err(RecvTimeoutError::Timeout) => {}
        // Without a watcher there is only the clock.
        Err(RecvTimeoutError::Disconnected) => std::thread::sleep(RESCAN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn node(name: &str, cidr: &str) -> String {
        format!("kind: Node\nmetadata: {{name: {name}}}\nspec: {{podCIDRs: [{cidr}]}}\n")
    }

    fn names(update: &Update) -> Vec<&str> {
        update.view.iter().flat_map(|view| &view.nodes).map(|node| node.name.as_str()).collect()
    }

    #[test]
    fn a_malformed_file_keeps_its_last_good_content() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("a.yaml", &node("a", "10.1.0.0/24"));
        write("b.yml", "kind: Node\nmetadata: [");
        write(".hidden.yaml", "kind: [");
        write("notes.txt", "kind: [");
        let mut source = Manifests::new(dir.path().into());
        let first = source.read();
        assert_eq!(first.view, None);
        assert!(
            first.warnings[1].contains("b.yml") && first.warnings[1].contains("line"),
            "{:?}",
            first.warnings
        );

        write("b.yml", &node("b", "10.2.0.0/24"));
        let good = source.read();
        assert_eq!((names(&good), good.warnings.len()), (vec!["a", "b"], 0));

        write("b.yml", "kind: Node\nmetadata: {name: b}\nspec: {podCIDRs: 7}\n");
        let bad = source.read();
        assert_eq!(bad.view, good.view);
        let warning = &bad.warnings[0];
        for part in ["b.yml", "spec.podCIDRs", "`7`", "line 3", "last good content"] {
            assert!(warning.contains(part), "{part}: {warning}");
        }

        std::fs::remove_file(dir.path().join("b.yml")).unwrap();
        let less = source.read();
        assert_eq!((names(&less), less.warnings.len()), (vec!["a"], 0));

        let path = dir.path().to_owned();
        drop(dir);
        let gone = source.read();
        assert_eq!(gone.view, less.view);
        assert!(gone.warnings[0].contains(path.to_str().unwrap()), "{:?}", gone.warnings);
    }

    #[test]
    fn of_two_objects_of_one_name_the_later_file_counts() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("1.yaml"), node("a", "10.1.0.0/24")).unwrap();
        std::fs::write(dir.path().join("2.json"), r#"{"kind":"Node","metadata":{"name":"a"}}"#).unwrap();
        let update = Manifests::new(dir.path().into()).read();
        assert!(update.view.unwrap().nodes[0].pod_cidrs.is_empty());
        assert!(update.warnings[0].starts_with("Node a: is both in"), "{:?}", update.warnings);
    }

    #[test]
    fn changes_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (give, updates) = mpsc::channel();
        let source = Box::new(Manifests::new(dir.path().into()));
        let thread = std::thread::spawn(move || {
            source.follow(&mut |update| match give.send(update) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            });
        });
        let until = |expected: &[&str]| {
            let limit = std::time::Instant::now() + Duration::from_secs(30);
            while names(&updates.recv_timeout(limit - std::time::Instant::now()).unwrap()) != expected {}
        };
        until(&[]);
        // Not a manifest yet; then a rename makes it one.
        std::fs::write(dir.path().join("a.tmp"), node("a", "10.1.0.0/24")).unwrap();
        std::fs::rename(dir.path().join("a.tmp"), dir.path().join("a.yaml")).unwrap();
        until(&["a"]);
        std::fs::write(dir.path().join("b.yaml"), node("b", "10.2.0.0/24")).unwrap();
        until(&["a", "b"]);
        std::fs::remove_file(dir.path().join("a.yaml")).unwrap();
        until(&["b"]);
        drop(updates);
        std::fs::write(dir.path().join("c.yaml"), node("c", "10.3.0.0/24")).unwrap();
        thread.join().unwrap();
    }
}
