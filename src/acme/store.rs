//! Account and certificates on disk: each one file, written whole or not at all, for our user's eyes only.

use crate::tls::Certificate;
use crate::tls::live;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::path::PathBuf;
use tempfile::NamedTempFile;

/// The file of a name's chain and key. Names are of letters, digits, `-`, `_` and `.`.
#[must_use]
pub fn path(store: &Path, name: &str) -> PathBuf {
    store.join(format!("{name}.pem"))
}

/// The file of the account with the authority at `directory`.
#[must_use]
pub fn account_path(store: &Path, directory: &str) -> PathBuf {
    let place = directory.split_once("://").map_or(directory, |(_, place)| place);
    let safe = |byte: char| if byte.is_ascii_alphanumeric() || byte == '.' { byte } else { '-' };
    let place: String = place.chars().map(safe).take(200).collect();
    store.join(format!("account-{place}.json"))
}

/// Makes the store, and sees that files can be made there: before an authority has done anything for us.
///
/// # Errors
/// What the system says.
pub fn prepare(store: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(store)?;
    NamedTempFile::new_in(store).map(drop)
}

/// Writes a file, with mode 0600, in place of the old one.
///
/// # Errors
/// What the system says.
pub fn save(path: &Path, contents: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    prepare(directory)?;
    // It has mode 0600 from its beginning.
    let mut file = NamedTempFile::new_in(directory)?;
    file.write_all(contents)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    fs::File::open(directory)?.sync_all()
}

/// The certificates of `names` that are in the store, each with its name. What cannot be used is left out: a new one is
/// ordered in its place.
#[must_use]
pub fn load(store: &Path, names: &BTreeSet<String>) -> Vec<(String, Certificate)> {
    let load = |name: &String| {
        let path = path(store, name);
        let pem = fs::read(&path).ok()?;
        let certificate = live::from_pem(&pem, name, &path).ok()?;
        certificate.facts.names.contains(name).then(|| (name.clone(), certificate))
    };
    names.iter().filter_map(load).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_kept_is_ours_alone_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("deep/acme");
        let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        let pem = format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem());
        for name in ["a.example", "b.example"] {
            save(&path(&store, name), pem.as_bytes()).unwrap();
        }
        fs::write(path(&store, "c.example"), "nonsense").unwrap();
        let permissions = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((permissions(&store), permissions(&path(&store, "a.example"))), (0o700, 0o600));
        let names = ["a.example", "b.example", "c.example", "d.example"].map(str::to_owned).into();
        let found: Vec<String> = load(&store, &names).into_iter().map(|(name, _)| name).collect();
        assert_eq!(found, ["a.example"], "only what is of its name and whole");
        let account = account_path(&store, "https://acme.example:14000/dir?x");
        assert_eq!(account.file_name().unwrap(), "account-acme.example-14000-dir-x.json");
    }
}
