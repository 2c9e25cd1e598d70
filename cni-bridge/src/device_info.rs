//! The file by which Multus and others learn what a pod's device is (Device Information Specification 1.1.0).
//!
//! A kernel pod's interface needs none. A file that is there already is somebody else's, such as a device plug-in's, and stays; who asked
//! for it removes it.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use serde_json::json;

use crate::env::shown;
use crate::error::{Failure, code};

/// Says where the vhost-user socket is: the data plane makes it, so that the pod's application is the client (section 3.1.5).
pub(crate) fn write(path: &Path, socket: &Path) -> Result<(), Failure> {
    let info = json!({
        "type": "vhost-user", "version": "1.1.0",
        "vhost-user": {"mode": "client", "path": socket.to_string_lossy()},
    });
    put(path, format!("{info}\n").as_bytes()).map_err(|error| {
        Failure::new(code::IO, format!("writing the device information file {}: {error}", shown(path)))
            .details("`runtimeConfig.CNIDeviceInfoFile` names it")
    })
}

/// Under another name first, so that nobody reads half of it.
fn put(path: &Path, text: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or(ErrorKind::InvalidInput)?;
    fs::create_dir_all(folder)?;
    let name = path.file_name().ok_or(ErrorKind::InvalidInput)?.to_string_lossy();
    let temporary = folder.join(format!(".{name}.{}", std::process::id()));
    let mut file = File::create(&temporary)?;
    let written = file.write_all(text).and_then(|()| match fs::hard_link(&temporary, path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    let _ = fs::remove_file(&temporary);
    written
}
