//! DELs that came while control was away: one JSON file each, in a directory of control's.
//!
//! A file is there whole or not at all (temporary name, fsync, rename), and control removes it once the attachment is gone.
//! Its content is the [`Request::Detach`](crate::control::Request) that nobody was there to take.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::control::Request;

/// Files of other names are not ours to read.
const SUFFIX: &str = "json";

/// Leaves a request, on the disk itself, and gives the file's path. The same one twice is one file.
///
/// # Errors
/// The directory is not there and cannot be made, or the disk is full or broken.
pub fn leave(directory: &Path, request: &Request) -> io::Result<PathBuf> {
    std::fs::create_dir_all(directory)?;
    let text = serde_json::to_vec(request)?;
    let hash = crate::fnv1a(text.iter().copied());
    let path = directory.join(format!("{hash:016x}.{SUFFIX}"));
    let temporary = directory.join(format!("{hash:016x}.{}.new", std::process::id()));
    let mut file = File::create(&temporary)?;
    file.write_all(&text)?;
    file.sync_all()?;
    std::fs::rename(&temporary, &path)?;
    File::open(directory)?.sync_all()?;
    Ok(path)
}

/// The files that were left, and what each says or why it cannot be read. A directory that is not there has none.
///
/// # Errors
/// The directory cannot be read.
pub fn left(directory: &Path) -> io::Result<Vec<(PathBuf, Result<Request, String>)>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == SUFFIX) {
            let text = std::fs::read(&path).map_err(|error| error.to_string());
            let read = text.and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()));
            found.push((path, read));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let spool = dir.path().join("deep/detached");
        assert_eq!(left(&spool).unwrap(), []);
        let request = |container: &str| Request::Detach {
            network: "n".into(),
            container: container.into(),
            interface: "eth0".into(),
        };
        let first = leave(&spool, &request("a")).unwrap();
        assert_eq!(leave(&spool, &request("a")).unwrap(), first);
        assert_ne!(leave(&spool, &request("b")).unwrap(), first);
        std::fs::write(spool.join("half.1.new"), "{").unwrap();
        std::fs::write(spool.join("bad.json"), "{").unwrap();
        let mut found = left(&spool).unwrap();
        found.sort_by_key(|(path, _)| path.clone());
        assert_eq!(found.len(), 3);
        assert!(found.contains(&(first, Ok(request("a")))));
        assert!(found.iter().any(|(path, read)| path.ends_with("bad.json") && read.is_err()));
    }
}
