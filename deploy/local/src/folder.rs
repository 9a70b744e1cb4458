//! The site's folder: settings, secret, logs and data of every process.

use crate::options::Options;
use crate::ports::{self, Wanted};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};

/// What is kept of a site between two starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// How many gateways it was made with.
    pub gateways: u16,
    /// The ports for traffic between the gateways.
    pub peer_ports: Vec<u16>,
}

/// An open folder; a temporary one goes away with it.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// The site was here before.
    pub resumed: bool,
    pub kept: Kept,
    _lock: File,
    _temporary: Option<tempfile::TempDir>,
}

impl Folder {
    /// Opens the folder that the options name, or makes one.
    ///
    /// # Errors
    /// In words: what is wrong with the folder and what to do.
    pub fn open(options: &Options, wanted: &[Wanted]) -> Result<Self, String> {
        let temporary = match options.data_dir {
            Some(_) => None,
            None => {
                let made = tempfile::Builder::new().prefix("selvedge-").tempdir();
                Some(made.map_err(|e| format!("no temporary folder: {e}"))?)
            }
        };
        let path = match (&options.data_dir, &temporary) {
            (Some(path), _) => path.clone(),
            (None, Some(temporary)) => temporary.path().to_path_buf(),
            (None, None) => PathBuf::new(),
        };
        let failed = |what: &Path, e: std::io::Error| format!("{}: {e}", what.display());
        std::fs::create_dir_all(&path).map_err(|e| failed(&path, e))?;
        // Processes are started elsewhere, so every path they are given is absolute.
        let path = path.canonicalize().map_err(|e| failed(&path, e))?;
        let lock_path = path.join("lock");
        let lock = File::create(&lock_path).map_err(|e| failed(&lock_path, e))?;
        lock.try_lock().map_err(|_| {
            format!(
                "{}: another site runs in this folder; stop it or choose another --data-dir",
                path.display()
            )
        })?;
        let kept_path = path.join("site.json");
        let choose = || -> Result<Kept, String> {
            let peer_ports =
                ports::free(options.gateways, wanted).map_err(|e| format!("no free port: {e}"))?;
            let kept = Kept { gateways: options.gateways, peer_ports };
            let text = serde_json::to_string(&kept).unwrap_or_default();
            write_new(&kept_path, text.as_bytes()).map_err(|e| failed(&kept_path, e))?;
            Ok(kept)
        };
        let (mut kept, resumed) = match std::fs::read_to_string(&kept_path) {
            Ok(text) => {
                let kept: Kept = serde_json::from_str(&text).map_err(|e| {
                    format!("{}: damaged ({e}); choose another --data-dir", kept_path.display())
                })?;
                (kept, true)
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => (choose()?, false),
            Err(e) => return Err(failed(&kept_path, e)),
        };
        if kept.gateways != options.gateways || kept.peer_ports.len() != usize::from(kept.gateways) {
            return Err(format!(
                "{}: this site was made with {} gateways; use --gateways {} or another --data-dir",
                path.display(),
                kept.gateways,
                kept.gateways
            ));
        }
        // Nobody chose these ports, so nobody minds when they change because others have taken them.
        if !kept.peer_ports.iter().all(|port| ports::is_free(*port, wanted)) {
            kept = choose()?;
        }
        Ok(Self { path, resumed, kept, _lock: lock, _temporary: temporary })
    }

    /// Where the folder is, as an absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path within it.
    pub fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// Writes a file so that it is there as a whole or not at all.
fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, bytes)?;
    std::fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn options(dir: &Path, gateways: u16) -> Options {
        let (dir, gateways) = (dir.to_string_lossy().to_string(), gateways.to_string());
        Options::try_parse_from(["x", "--data-dir", &dir, "--gateways", &gateways]).unwrap()
    }

    #[test]
    fn a_folder_is_resumed_with_its_ports_and_not_with_another_number_of_gateways() {
        let dir = tempfile::tempdir().unwrap();
        let first = Folder::open(&options(dir.path(), 3), &[]).unwrap();
        assert!(!first.resumed);
        let said = Folder::open(&options(dir.path(), 3), &[]).unwrap_err();
        assert!(said.contains("another site runs"), "{said}");
        let kept = first.kept.clone();
        drop(first);
        let again = Folder::open(&options(dir.path(), 3), &[]).unwrap();
        assert!(again.resumed);
        assert_eq!(again.kept.gateways, kept.gateways);
        drop(again);
        let _holder = std::net::TcpListener::bind(ports::local(kept.peer_ports[0]));
        let moved = Folder::open(&options(dir.path(), 3), &[]).unwrap();
        assert_ne!(moved.kept.peer_ports[0], kept.peer_ports[0], "someone else has it now");
        drop(moved);
        let said = Folder::open(&options(dir.path(), 5), &[]).unwrap_err();
        assert!(said.contains("--gateways 3"), "{said}");
    }

    #[test]
    fn a_temporary_folder_is_gone_afterwards() {
        let folder = Folder::open(&Options::try_parse_from(["x"]).unwrap(), &[]).unwrap();
        let path = folder.path().to_path_buf();
        assert!(path.is_dir());
        drop(folder);
        assert!(!path.exists());
    }
}
