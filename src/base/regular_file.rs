//! Reads files that others write: regular ones only, and never more than a limit. A named pipe would hold the reader
//! up for ever, and a device has no end. Links are followed: Kubernetes mounts files as links to regular files.

use std::fs::{File, FileType, Metadata};
use std::io::{Error, ErrorKind, Read, Result};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Reads the file at `path`, at most `limit` bytes.
///
/// # Errors
/// It cannot be opened or read, is not a regular file, or is larger than `limit`; the text says which, without the path
/// and without any of the content.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    // Looked at before it is opened, since opening a pipe waits for its writer; and after it, since the name may stand
    // for another file by then.
    regular(&std::fs::metadata(path)?)?;
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    regular(&metadata)?;
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len().min(limit)).unwrap_or(0));
    // Files of the kernel say that they are empty: only reading tells.
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let text = format!("it is larger than {limit} bytes");
        return Err(Error::new(ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

fn regular(metadata: &Metadata) -> Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    let text = format!("it is {}, not a regular file", kind(metadata.file_type()));
    Err(Error::new(ErrorKind::InvalidInput, text))
}

fn kind(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::process::Command;

    #[test]
    fn only_regular_files_within_the_limit_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("file"), "12345").unwrap();
        symlink(path("file"), path("link")).unwrap();
        symlink(path("link"), path("link-to-link")).unwrap();
        symlink(path("gone"), path("dangling")).unwrap();
        symlink("loop", path("loop")).unwrap();
        symlink("/dev/zero", path("zero")).unwrap();
        let made = Command::new("mkfifo").arg(path("pipe")).status().unwrap();
        assert!(made.success());
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        let rows = [
            ("file", 5, Ok("12345")),
            ("link-to-link", 5, Ok("12345")),
            ("file", 4, Err("larger than 4 bytes")),
            ("dangling", 5, Err("No such file")),
            ("loop", 5, Err("symbolic links")),
            ("zero", 5, Err("a device, not a regular file")),
            ("pipe", 5, Err("a named pipe, not a regular file")),
            ("socket", 5, Err("a socket, not a regular file")),
            (".", 5, Err("a folder, not a regular file")),
        ];
        for (name, limit, expected) in rows {
            match (read(&path(name), limit), expected) {
                (Ok(bytes), Ok(text)) => assert_eq!(bytes, text.as_bytes(), "{name}"),
                (Err(error), Err(text)) => assert!(error.to_string().contains(text), "{name}: {error}"),
                (got, _) => panic!("{name}: {got:?}"),
            }
        }
    }

    #[test]
    fn files_that_say_they_are_empty_are_bounded_too() {
        let error = read(Path::new("/proc/self/maps"), 10).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
    }
}
