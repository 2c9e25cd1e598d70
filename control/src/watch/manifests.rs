//! The source that reads a directory of manifests and follows it.
//!
//! A file that cannot be read keeps the last content that could; until it has had one, the whole is not complete. The
//! directory is read again when the kernel reports a change and then falls quiet, and every few seconds besides, since
//! network file systems report nothing. What may be half done counts only once it has stayed as it is for a while: a
//! file that was written in place, and one that is no longer there (some editors move the old one away first). A file
//! that was renamed into its place is whole, and counts at once.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use desired::{ClusterView, ViewChange};
use notify::{RecursiveMode, Watcher};

use super::objects::{self, Object};
use super::{Source, Update};

/// Quiet time after which a burst of changes counts as over.
const QUIET: Duration = Duration::from_millis(50);

/// Longest that a burst may keep us from reading.
const BURST: Duration = Duration::from_secs(1);

/// Time for which what may be half done must stay as it is.
const SETTLE: Duration = Duration::from_secs(1);

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
    objects: Option<Vec<Object>>,
    /// Why `text` could not.
    error: Option<String>,
    /// Device and inode of the file that had `text`.
    file: (u64, u64),
    /// What was written in place since, and when that was first seen.
    unsettled: Option<(Vec<u8>, Instant)>,
    /// When the file was first seen to be no longer there.
    missing: Option<Instant>,
}

impl Manifests {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory, files: BTreeMap::new(), complete: false }
    }

    /// Reads what changed and gives all there is.
    fn read(&mut self, now: Instant) -> Update {
        let mut warnings = Vec::new();
        match list(&self.directory) {
            Ok(paths) => {
                self.files.retain(|path, content| {
                    let since = match paths.contains(path) {
                        true => None,
                        false => Some(content.missing.unwrap_or(now)),
                    };
                    content.missing = since;
                    since.is_none_or(|since| now - since < SETTLE)
                });
                for path in paths {
                    self.files.entry(path.clone()).or_default().read(&path, now);
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
        let changes = self.complete.then_some(ViewChange::All(view)).into_iter().collect();
        Update { changes, complete: self.complete, warnings, policies_wait: BTreeSet::new() }
    }

    /// Something may be half done.
    fn is_unsettled(&self) -> bool {
        self.files.values().any(|content| content.unsettled.is_some() || content.missing.is_some())
    }

    /// The files' objects together; of two that are the same object, the one of the later file name counts.
    fn view(&self, warnings: &mut Vec<String>) -> ClusterView {
        let mut twice = |what: &str, first: &Path, second: &Path| {
            // A file that was given another name is there twice for a moment.
            if self.files.get(first).is_some_and(|content| content.missing.is_none()) {
                warnings.push(format!(
                    "{what}: is both in {} and in {}; the latter counts: remove one of them",
                    first.display(),
                    second.display()
                ));
            }
        };
        let (missing, there): (Vec<_>, Vec<_>) =
            self.files.iter().partition(|(_, content)| content.missing.is_some());
        let mut objects: BTreeMap<&str, (&Path, &ViewChange)> = BTreeMap::new();
        for (path, content) in missing.into_iter().chain(there) {
            for Object { title, change } in content.objects.iter().flatten() {
                if let Some((first, _)) = objects.insert(title, (path, change)) {
                    twice(title, first, path);
                }
            }
        }
        let mut view = ClusterView::default();
        for (_, change) in objects.into_values() {
            view.apply(change.clone());
        }
        view
    }
}

impl Content {
    fn read(&mut self, path: &Path, now: Instant) {
        let (text, file) = match read(path) {
            Ok(read) => read,
            Err(error) => {
                self.text.clear();
                self.error = Some(error.to_string());
                return;
            }
        };
        if text == self.text && self.objects.is_some() {
            (self.file, self.unsettled) = (file, None);
            return;
        }
        if file == self.file && self.objects.is_some() {
            let since = match self.unsettled.take() {
                Some((seen, since)) if seen == text => since,
                _ => now,
            };
            if now - since < SETTLE {
                self.unsettled = Some((text, since));
                return;
            }
        }
        (self.file, self.unsettled) = (file, None);
        match parse(path, &text) {
            Ok(objects) => (self.objects, self.error) = (Some(objects), None),
            Err(error) => self.error = Some(error),
        }
        self.text = text;
    }
}

/// A file's text, with its device and inode.
fn read(path: &Path) -> std::io::Result<(Vec<u8>, (u64, u64))> {
    let mut file = std::fs::File::open(path)?;
    let found = file.metadata()?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok((text, (found.dev(), found.ino())))
}

fn parse(path: &Path, text: &[u8]) -> Result<Vec<Object>, String> {
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
            let update = self.read(Instant::now());
            if last.as_ref() != Some(&update) {
                if give(update.clone()).is_break() {
                    return;
                }
                last = Some(update);
            }
            wait(&reports, if self.is_unsettled() { SETTLE } else { RESCAN });
        }
    }
}

/// Until a burst of reports is over, or it is time to look without one.
fn wait(reports: &Receiver<()>, limit: Duration) {
    match reports.recv_timeout(limit) {
        Ok(()) => {
            let end = Instant::now() + BURST;
            while reports.recv_timeout(QUIET).is_ok() && Instant::now() < end {}
        }
        Err(RecvTimeoutError::Timeout) => {}
        // Without a watcher there is only the clock.
        Err(RecvTimeoutError::Disconnected) => std::thread::sleep(limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn node(name: &str, cidr: &str) -> String {
        format!("kind: Node\nmetadata: {{name: {name}}}\nspec: {{podCIDRs: [{cidr}]}}\n")
    }

    fn view(update: &Update) -> Option<&ClusterView> {
        match &update.changes[..] {
            [ViewChange::All(view)] if update.complete => Some(view),
            _ => None,
        }
    }

    fn names(update: &Update) -> Vec<&str> {
        view(update).iter().flat_map(|view| view.nodes.keys()).map(String::as_str).collect()
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
        let mut now = Instant::now();
        // Once to see what changed, and once more when it has stayed so.
        let mut read = |source: &mut Manifests| {
            source.read(now);
            now += SETTLE;
            source.read(now)
        };
        let first = read(&mut source);
        assert_eq!(view(&first), None);
        assert!(
            first.warnings[1].contains("b.yml") && first.warnings[1].contains("line"),
            "{:?}",
            first.warnings
        );

        write("b.yml", &node("b", "10.2.0.0/24"));
        let good = read(&mut source);
        assert_eq!((names(&good), good.warnings.len()), (vec!["a", "b"], 0));

        write("b.yml", "kind: Node\nmetadata: {name: b}\nspec: {podCIDRs: 7}\n");
        let bad = read(&mut source);
        assert_eq!(view(&bad), view(&good));
        let warning = &bad.warnings[0];
        for part in ["b.yml", "spec.podCIDRs", "`7`", "line 3", "last good content"] {
            assert!(warning.contains(part), "{part}: {warning}");
        }

        std::fs::remove_file(dir.path().join("b.yml")).unwrap();
        let less = read(&mut source);
        assert_eq!((names(&less), less.warnings.len()), (vec!["a"], 0));

        let path = dir.path().to_owned();
        drop(dir);
        let gone = read(&mut source);
        assert_eq!(view(&gone), view(&less));
        assert!(gone.warnings[0].contains(path.to_str().unwrap()), "{:?}", gone.warnings);
    }

    #[test]
    fn what_is_half_done_takes_nothing_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        let both = node("a", "10.1.0.0/24") + "---\n" + &node("b", "10.2.0.0/24");
        std::fs::write(&path, &both).unwrap();
        let mut source = Manifests::new(dir.path().into());
        let start = Instant::now();
        let whole = source.read(start);
        assert_eq!(names(&whole), ["a", "b"]);
        // Written in place: empty at first, then a part that is well formed, then another size.
        for (text, after) in
            [("", 0), (&node("a", "10.1.0.0/24"), 900), ("kind: Node\nmetadata: {name: a}\n", 1800)]
        {
            std::fs::write(&path, text).unwrap();
            assert_eq!(source.read(start + Duration::from_millis(after)), whole, "{text:?}");
            assert!(source.is_unsettled());
        }
        // It stays so: now it counts. Renamed into place, it counts at once.
        let less = source.read(start + Duration::from_millis(2900));
        assert_eq!(names(&less), ["a"]);
        std::fs::write(dir.path().join("new"), &both).unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        let now = start + Duration::from_secs(4);
        assert_eq!((source.read(now), source.is_unsettled()), (whole.clone(), false));

        // An editor moves the old file away before it writes the new one.
        std::fs::remove_file(&path).unwrap();
        assert_eq!(source.read(now), whole);
        std::fs::write(&path, &both).unwrap();
        assert_eq!(source.read(now + SETTLE * 2), whole);
        // Another name for it costs neither object nor warning.
        std::fs::rename(&path, dir.path().join("z.yaml")).unwrap();
        assert_eq!(source.read(now + SETTLE * 3), whole);
        assert_eq!(source.read(now + SETTLE * 4), whole);
        assert_eq!(source.files.len(), 1);

        // A file that stays empty says nothing; one that is gone does.
        std::fs::write(dir.path().join("z.yaml"), "\n---\n").unwrap();
        source.read(now + SETTLE * 5);
        let empty = source.read(now + SETTLE * 6);
        assert_eq!(view(&empty), view(&whole));
        assert!(empty.warnings[0].contains("z.yaml: is empty"), "{:?}", empty.warnings);
        std::fs::remove_file(dir.path().join("z.yaml")).unwrap();
        source.read(now + SETTLE * 7);
        assert_eq!(names(&source.read(now + SETTLE * 8)), Vec::<&str>::new());
    }

    #[test]
    fn of_two_objects_of_one_name_the_later_file_counts() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("1.yaml"), node("a", "10.1.0.0/24")).unwrap();
        std::fs::write(dir.path().join("2.json"), r#"{"kind":"Node","metadata":{"name":"a"}}"#).unwrap();
        let update = Manifests::new(dir.path().into()).read(Instant::now());
        assert!(view(&update).unwrap().nodes["a"].pod_cidrs.is_empty());
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
