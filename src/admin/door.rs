//! The Unix socket's file: made so that only root may use it, taken over from a farside that was killed, never from
//! one that lives.

use crate::config::file::io_words;
use mio::net::{UnixListener, UnixStream};
use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An open socket; its file is removed when this is dropped.
pub(super) struct Door {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file: what was put in its place later is somebody else's.
    identity: (u64, u64),
}

impl Door {
    /// Opens the socket. Errors are sentences.
    pub fn open(path: &Path) -> Result<Door, String> {
        let shown = path.display();
        let directory = path.parent().filter(|parent| parent.is_absolute()).unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(|error| {
            format!("cannot make the directory {} for the admin socket: {}", directory.display(), io_words(&error))
        })?;
        // Two that start at the same moment would both find the old socket dead. The directory's lock leaves no file
        // behind, and goes when `_alone` does.
        let _alone = alone_in(directory)?;
        if is_alive(path)? {
            return Err(format!("another farside is running: its admin socket {shown} answers"));
        }
        let failed = |error: std::io::Error| format!("cannot open the admin socket {shown}: {}", io_words(&error));
        // Bound under another name first, so that nobody can reach it before its mode is set; renaming it takes the
        // place of a dead one in the same step.
        let mut name = path.as_os_str().to_owned();
        name.push("~");
        let unfinished = PathBuf::from(name);
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&unfinished).map_err(failed)?;
        let finished = fs::set_permissions(&unfinished, Permissions::from_mode(0o600))
            .and_then(|()| fs::rename(&unfinished, path))
            .and_then(|()| fs::symlink_metadata(path));
        match finished {
            Ok(file) => Ok(Door { listener, path: path.into(), identity: (file.dev(), file.ino()) }),
            Err(error) => {
                let _ = fs::remove_file(&unfinished);
                Err(failed(error))
            }
        }
    }

    pub fn listener(&mut self) -> &mut UnixListener {
        &mut self.listener
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Ok(file) = fs::symlink_metadata(&self.path)
            && (file.dev(), file.ino()) == self.identity
        {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Holds the directory's lock; whoever else starts a farside holds it for a moment only.
fn alone_in(directory: &Path) -> Result<File, String> {
    let failed = |error: &std::io::Error| {
        format!("cannot use the directory {} for the admin socket: {}", directory.display(), io_words(error))
    };
    let file = File::open(directory).map_err(|error| failed(&error))?;
    for _ in 0..200 {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
            Err(TryLockError::Error(error)) => return Err(failed(&error)),
        }
    }
    Err(format!("something holds the lock of the directory {}, where the admin socket goes", directory.display()))
}

/// Does somebody listen at `path`? An error if what is there is no socket, or cannot be looked at.
fn is_alive(path: &Path) -> Result<bool, String> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(format!("cannot open the admin socket {}: {}", path.display(), io_words(&error))),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(format!("{} is in the way of the admin socket: it is a file of another kind", path.display()));
        }
        Ok(_) => {}
    }
    // Never waits: a listener whose queue is full lives, and says so.
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused || error.kind() == ErrorKind::NotFound => Ok(false),
        _ => Ok(true),
    }
}
