//! Private files and folders: reads a secret only from a file that is closed to others, and closes folders of data.
//!
//! Programs set their umask so that only their user can read what they create; [`own_folder`] does the same for folders that
//! existed before.

use std::io::Read;
use std::path::Path;

/// The longest file of a secret that is read.
pub const MAX_SECRET_FILE_BYTES: u64 = 4096;

/// The text in a file that only its owner may read (a file of root's may also be readable to its group, which is how
/// containers are handed secrets), without the white space around it.
///
/// # Errors
/// Says why not, with the path and never with anything of the content: it can't be read, is open to others (then with the
/// command that mends it), is too long or is empty.
pub fn read_secret(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let file = std::fs::File::open(path).map_err(|why| format!("{shown}: {why}"))?;
    check_private(&file, path)?;
    let mut bytes = Vec::new();
    let read = file.take(MAX_SECRET_FILE_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|why| format!("{shown}: {why}"))?;
    if bytes.len() as u64 > MAX_SECRET_FILE_BYTES {
        return Err(format!("{shown}: has more than {MAX_SECRET_FILE_BYTES} bytes"));
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("{shown}: is not UTF-8"))?;
    match text.trim() {
        "" => Err(format!("{shown}: is empty")),
        secret => Ok(secret.to_string()),
    }
}

/// Checks that others can't read an open file.
///
/// # Errors
/// Names the file, its mode and the command that mends it.
pub fn check_private(file: &std::fs::File, path: &Path) -> Result<(), String> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let shown = path.display();
        let meta = file.metadata().map_err(|why| format!("{shown}: {why}"))?;
        if meta.is_dir() {
            return Err(format!("{shown}: is a folder; name a file in it"));
        }
        if !is_private(meta.mode(), meta.uid()) {
            let mode = meta.mode() & 0o777;
            return Err(format!("{shown} (mode {mode:03o}) can be read by others; run `chmod 600 {shown}`"));
        }
    }
    Ok(())
}

/// Makes a folder of data that only its owner may enter, or closes one that is there to others.
///
/// # Errors
/// When it can't be made, is no folder, or can't be closed.
pub fn own_folder(path: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        const STICKY: u32 = 0o1000;
        let mode = std::fs::metadata(path)?.permissions().mode();
        // One that belongs to everybody, such as /tmp, stays so.
        if mode & 0o077 != 0 && mode & STICKY == 0 {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
        }
    }
    Ok(())
}

/// Whether a file of this mode and owner is closed to others.
#[cfg(unix)]
pub fn is_private(mode: u32, owner: u32) -> bool {
    let group_may_read = owner == 0;
    mode & if group_may_read { 0o037 } else { 0o077 } == 0
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secret_is_read_only_from_a_file_that_is_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        let put = |text: &str, mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            read_secret(&path)
        };
        assert_eq!(put(" hunter2\n", 0o600).unwrap(), "hunter2");
        let said = read_secret(folder.path()).unwrap_err();
        assert!(said.contains("is a folder") && !said.contains("chmod"), "{said}");
        for mode in [0o644, 0o604, 0o666] {
            let said = put("hunter2", mode).unwrap_err();
            assert!(said.contains("chmod 600") && said.contains("password"), "{said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
        assert!(put(" \n", 0o600).unwrap_err().contains("is empty"));
        assert!(put(&"x".repeat(5_000), 0o600).unwrap_err().contains("4096 bytes"));
        assert!(read_secret(&folder.path().join("none")).unwrap_err().contains("none"));
    }

    #[test]
    fn a_folder_of_data_is_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let (new, old) = (folder.path().join("a/new"), folder.path().join("old"));
        std::fs::create_dir(&old).unwrap();
        std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o755)).unwrap();
        for path in [&new, &old] {
            own_folder(path).unwrap();
            assert_eq!(mode(path), 0o700);
        }
    }

    #[test]
    fn only_files_of_root_may_be_open_to_their_group() {
        assert!(is_private(0o600, 1000) && is_private(0o440, 0) && is_private(0o640, 0));
        assert!(!is_private(0o640, 1000) && !is_private(0o644, 0) && !is_private(0o660, 0));
    }
}
