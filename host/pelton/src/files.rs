//! Files that are written whole or not at all, and folders that git leaves alone.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::config::folder_of;

/// Readable by everybody, as far as the umask lets it be: what is written here holds no secrets.
const MODE: u32 = 0o666;

/// Writes `file` so that whoever sees it sees all of it. Its folder exists.
pub(crate) fn write_whole(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    // Opened here, because tempfile would add its own path to errors, which means nothing to anybody.
    let open = |path: &Path| OpenOptions::new().write(true).create_new(true).mode(MODE).open(path);
    let mut whole = tempfile::Builder::new().make_in(folder_of(file), open)?;
    whole.as_file_mut().write_all(bytes)?;
    whole.persist(file).map_err(|error| error.error)?;
    Ok(())
}

/// Keeps git out of `folder`, which was made and not written. A folder that has a .gitignore keeps it.
pub(crate) fn ignore_in_git(folder: &Path) {
    // Without it nothing goes wrong but a commit that is too large, which git shows.
    if let Ok(mut file) = std::fs::File::create_new(folder.join(".gitignore")) {
        let _ = file.write_all(b"*\n");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn whole_files_can_be_read_by_whom_the_umask_allows() {
        let folder = tempfile::tempdir().expect("a folder");
        let (plain, whole) = (folder.path().join("plain"), folder.path().join("whole"));
        std::fs::write(&plain, b"x").expect("writes");
        write_whole(&whole, b"x").expect("writes");
        let mode = |path: &Path| std::fs::metadata(path).expect("is there").permissions().mode();
        assert_eq!(mode(&whole), mode(&plain));
    }

    #[test]
    fn errors_name_no_temporary_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = write_whole(&folder.path().join("nowhere/ready"), b"x").expect_err("no folder");
        assert_eq!(error.to_string(), "No such file or directory (os error 2)");
    }

    #[test]
    fn a_folder_keeps_its_own_rules() {
        let folder = tempfile::tempdir().expect("a folder");
        ignore_in_git(folder.path());
        let rules = folder.path().join(".gitignore");
        assert_eq!(std::fs::read_to_string(&rules).expect("reads"), "*\n");
        std::fs::write(&rules, "x\n").expect("writes");
        ignore_in_git(folder.path());
        assert_eq!(std::fs::read_to_string(&rules).expect("reads"), "x\n");
    }
}
