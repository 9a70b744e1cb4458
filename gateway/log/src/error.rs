//! What can go wrong with what is kept on disk.

use std::io;

/// Why the log or a store beside it refuses.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Another process has it open.
    #[error("{name} is locked: another process uses this data folder; stop it first")]
    Locked {
        /// The lock file.
        name: String,
    },
    /// A file written by another gateway, or by another incarnation of this one.
    #[error(
        "{name} belongs to another gateway or incarnation (it says {found}, this one is {ours}); a copied or restored folder must not be used, return under a new id instead"
    )]
    Foreign {
        /// The file.
        name: String,
        /// The identity in the file, hexadecimal.
        found: String,
        /// The identity it was opened with, hexadecimal.
        ours: String,
    },
    /// Written by another release, whole: it is no damage.
    #[error(
        "{name}: format version {found} is unknown, this release reads {known}; nothing was changed: run the release that wrote it, or a newer one"
    )]
    Version {
        /// The file.
        name: String,
        /// The version found.
        found: u32,
        /// The version that is known.
        known: u32,
    },
    /// Whole by its checksum and of a known version, and yet not to be understood: it is no damage.
    #[error(
        "{name}: its checksum is right, but this release can't read it: {why}; nothing was changed: run the release that wrote it, or a newer one"
    )]
    Unreadable {
        /// The file.
        name: String,
        /// What is not understood.
        why: String,
    },
    /// More at once than fits. Nothing was written.
    #[error("{what} of {bytes} bytes is over the limit of {limit} bytes")]
    TooLarge {
        /// What was too large.
        what: &'static str,
        /// Its size in bytes.
        bytes: u64,
        /// The most that is taken, in bytes.
        limit: u64,
    },
    /// The disk is full, or no more files may be opened. Nothing of this call counts as written, everything before it stands.
    #[error(
        "no room for {what}: the disk is full, or no file can be opened beside those that are; free some space, or raise the limit of open files (LimitNOFILE=)"
    )]
    Full {
        /// What there was no room for.
        what: String,
    },
    /// An earlier write or fsync failed; what the disk holds since then is unknown.
    #[error(
        "the log stopped for good after a failed write or fsync ({why}); restart the gateway so that it reads what the disk really holds"
    )]
    Poisoned {
        /// What failed.
        why: String,
    },
    /// A stored file that is not what was written.
    #[error("{name} is damaged: {why}; its content must come from a peer")]
    Damaged {
        /// The file.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// Something immutable was to be written again with other content.
    #[error("{name} exists with other content and is never rewritten")]
    Conflict {
        /// The file.
        name: String,
    },
    /// A setting outside of what can work.
    #[error("setting {setting} = {value} is outside of {least} to {most}")]
    Setting {
        /// The setting.
        setting: &'static str,
        /// What it was.
        value: u64,
        /// The least that works.
        least: u64,
        /// The most that works.
        most: u64,
    },
    /// The disk said no.
    #[error("{doing} {name}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        name: String,
        /// What the operating system says.
        source: io::Error,
    },
}

impl LogError {
    pub(crate) fn io(doing: &'static str, name: &str, source: io::Error) -> Self {
        if is_full(&source) {
            Self::Full { what: format!("{doing} {name}") }
        } else {
            Self::Io { doing, name: name.to_string(), source }
        }
    }

    /// Whether it is of another release rather than damaged: what it says must be neither believed nor replaced.
    pub fn is_unreadable(&self) -> bool {
        matches!(self, Self::Version { .. } | Self::Unreadable { .. } | Self::Foreign { .. })
    }

    /// Whether it only says that there is no room now.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }

    /// Whether it is more than can be written at once, as the log stands.
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::TooLarge { .. })
    }
}

/// Whether this is the operating system's way to say "no room": on the disk, or for one more open file, here or in the whole system.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let files = [Errno::MFILE, Errno::NFILE].map(|errno| Some(errno.raw_os_error()));
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        || files.contains(&error.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_open_files_is_no_room() {
        for errno in [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE, rustix::io::Errno::NOSPC] {
            let error = LogError::io("making", "segment", errno.into());
            assert!(error.is_full(), "{error}");
        }
        assert!(!LogError::io("making", "segment", rustix::io::Errno::IO.into()).is_full());
    }
}
