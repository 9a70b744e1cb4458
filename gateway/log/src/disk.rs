//! The few file system operations that the log and the stores need, and their implementation by the operating system.
//!
//! A disk is one folder. Callers keep two rules: a file's bytes are durable after [`DiskFile::sync`], its *name* after
//! [`Disk::sync_folder`]. [`super::MemoryDisk`] takes both literally, so a test shows a sync that was forgotten.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes read at a time when a snapshot or a batch is only checked or copied.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// Bytes written at a time where a file system can't preallocate.
const ZEROS_BYTES: usize = 64 * 1024;

/// A folder with files, and with folders that are disks in turn.
pub trait Disk: Send + Sync {
    /// Creates a file, or empties the existing one of that name.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Opens an existing file to read and write.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// The names of all files (not of folders), in no particular order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// The names of all folders within, in no particular order.
    fn folders(&self) -> io::Result<Vec<String>>;
    /// Renames a file. It replaces a file that has the new name, atomically for every reader.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file. Only [`Disk::sync_folder`] makes this durable.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals in this folder durable.
    fn sync_folder(&self) -> io::Result<()>;
    /// Opens a folder within this one. It is created, durably, if it does not exist.
    fn folder(&self, name: &str) -> io::Result<Arc<dyn Disk>>;
    /// Bytes that this process may still write.
    fn free_bytes(&self) -> io::Result<u64>;
    /// Locks a file (created if need be) against every other process and every other holder in this one, until the
    /// returned guard is dropped. An error of kind `WouldBlock` means that another holder has the lock.
    fn lock(&self, name: &str) -> io::Result<Box<dyn Send>>;
    /// How errors name a file of this folder.
    fn describe(&self, name: &str) -> String;
}

/// An open file. A power cut may drop or tear whatever was written since the last [`DiskFile::sync`].
pub trait DiskFile: Send {
    /// The file's length in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Reads up to `into.len()` bytes; fewer only at the file's end.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;
    /// Writes all of `bytes`. After an error any part of them may have been written.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes everything written durable (`fdatasync`).
    fn sync(&mut self) -> io::Result<()>;
    /// Claims room: extends the file with zeros to `length` bytes if it is shorter.
    fn preallocate(&mut self, length: u64) -> io::Result<()>;
    /// Cuts the file to `length` bytes.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
    /// Asks the system to drop the synced pages that it has cached, so that the next read comes from the disk. This is
    /// a hint: nothing relies on it.
    fn forget_cached(&self) {}
}

/// A folder of the operating system's file system.
#[derive(Debug, Clone)]
pub struct RealDisk {
    folder: PathBuf,
}

impl RealDisk {
    /// Opens the folder. It is created, durably, if it does not exist; its parent must exist.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn open(folder: impl Into<PathBuf>) -> io::Result<Self> {
        let folder = folder.into();
        if !folder.is_dir() {
            std::fs::create_dir(&folder)?;
            let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(parent)?.sync_all()?;
        }
        Ok(Self { folder })
    }

    fn names(&self, folders: bool) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() == folders
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        Ok(names)
    }
}

impl Disk for RealDisk {
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.folder.join(name))?;
        Ok(Box::new(RealFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(OpenOptions::new().read(true).write(true).open(self.folder.join(name))?)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.names(false)
    }

    fn folders(&self) -> io::Result<Vec<String>> {
        self.names(true)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.folder.join(from), self.folder.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.folder.join(name))
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    fn folder(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        Ok(Arc::new(Self::open(self.folder.join(name))?))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let found = rustix::fs::statvfs(&self.folder)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    fn lock(&self, name: &str) -> io::Result<Box<dyn Send>> {
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).open(self.folder.join(name))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(file))
    }

    fn describe(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

struct RealFile(File);

impl DiskFile for RealFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn preallocate(&mut self, length: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), 0, length) {
            Err(rustix::io::Errno::OPNOTSUPP) => {
                let mut offset = self.length()?;
                let zeros = vec![0; ZEROS_BYTES];
                while offset < length {
                    let now = zeros.len().min(usize::try_from(length - offset).unwrap_or(usize::MAX));
                    self.0.write_all_at(&zeros[..now], offset)?;
                    offset += now as u64;
                }
                Ok(())
            }
            other => Ok(other?),
        }
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn forget_cached(&self) {
        let _ = rustix::fs::fadvise(&self.0, 0, None, rustix::fs::Advice::DontNeed);
    }
}
