//! Becoming somebody who may do little: the user that serves, with the one capability that ports below 1024 need.
//!
//! The kernel keeps identities by thread, so this happens before there is a second one, and is refused otherwise. It is done
//! before anything is opened: what the user may not read shows at the start and not at the first reload, months later. Once
//! done it cannot be undone. Accounts are those of `/etc/passwd` and `/etc/group`.

use rustix::io::Errno;
use rustix::process::Gid;
use rustix::process::Uid;
use rustix::process::geteuid;
use rustix::thread::CapabilitySet;
use rustix::thread::CapabilitySets;
use rustix::thread::capabilities;
use rustix::thread::capability_is_in_bounding_set;
use rustix::thread::clear_ambient_capability_set;
use rustix::thread::remove_capability_from_bounding_set;
use rustix::thread::set_capabilities;
use rustix::thread::set_keep_capabilities;
use rustix::thread::set_no_new_privs;
use rustix::thread::set_thread_groups;
use rustix::thread::set_thread_res_gid;
use rustix::thread::set_thread_res_uid;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What is kept: listening at ports below 1024, at the start and after each reload.
const KEPT: CapabilitySet = CapabilitySet::NET_BIND_SERVICE;

/// Who shall serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// His name.
    pub user: String,
    /// His number.
    pub uid: u32,
    /// The number of his first group.
    pub gid: u32,
    /// The numbers of all of his groups.
    pub groups: Vec<u32>,
}

/// The name of the user with this number, if `/etc/passwd` has one.
#[must_use]
pub fn name_of(uid: u32) -> Option<String> {
    named(&std::fs::read_to_string(PASSWD).ok()?, uid)
}

fn named(passwd: &str, uid: u32) -> Option<String> {
    let mut users = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let user = users.find(|fields| fields.get(2).is_some_and(|number| number.parse() == Ok(uid)))?;
    user.first().map(|name| (*name).to_owned())
}

/// Why we cannot become him.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// The accounts cannot be read.
    #[error("read {path}")]
    Accounts {
        /// The file.
        path: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is no such user or group.
    #[error("`server.{key}`: there is no {key} `{name}`; name one that {path} has")]
    Unknown {
        /// `user` or `group`.
        key: &'static str,
        /// The name.
        name: String,
        /// The file.
        path: &'static str,
    },
    /// We are somebody else, and not root.
    #[error("`server.user` is `{0}`, but only root can become somebody else; start tidegate as root or as `{0}`")]
    NotRoot(String),
    /// There are threads already.
    #[error("cannot become `{0}` while {1} threads run")]
    Threads(String, usize),
    /// A directory that he needs could not be made.
    #[error("make the directory {path}")]
    Directory {
        /// Which.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a step.
    #[error("{step}")]
    Step {
        /// Which.
        step: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

impl Account {
    /// Looks for `user`, and for `group` if his own is not wanted.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(user: &str, group: Option<&str>) -> Result<Self, PrivilegeError> {
        let read = |path| std::fs::read_to_string(path).map_err(|source| PrivilegeError::Accounts { path, source });
        Self::among(&read(PASSWD)?, &read(GROUP)?, user, group)
    }

    fn among(passwd: &str, group: &str, user: &str, wanted: Option<&str>) -> Result<Self, PrivilegeError> {
        // passwd(5): name, password, number, number of the group, and more.
        let mut users = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let found = users.find_map(|fields| match fields[..] {
            [name, _, uid, gid, ..] if name == user => Some((uid.parse().ok()?, gid.parse().ok()?)),
            _ => None,
        });
        let unknown = |key, name: &str, path| PrivilegeError::Unknown { key, name: name.to_owned(), path };
        let (uid, mut gid): (u32, u32) = found.ok_or_else(|| unknown("user", user, PASSWD))?;
        // group(5): name, password, number, members.
        let groups: Vec<(&str, u32, bool)> = group
            .lines()
            .filter_map(|line| match line.split(':').collect::<Vec<_>>()[..] {
                [name, _, gid, members] => Some((name, gid.parse().ok()?, members.split(',').any(|one| one == user))),
                _ => None,
            })
            .collect();
        if let Some(wanted) = wanted {
            let found = groups.iter().find(|(name, ..)| *name == wanted);
            gid = found.map(|(_, gid, _)| *gid).ok_or_else(|| unknown("group", wanted, GROUP))?;
        }
        let mut all = vec![gid];
        all.extend(groups.iter().filter(|(_, other, member)| *member && *other != gid).map(|(_, gid, _)| *gid));
        Ok(Self { user: user.to_owned(), uid, gid, groups: all })
    }

    /// Makes a directory of this mode for him, if it is missing; one that is there stays as it is.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn provide(&self, directory: &Path, mode: u32) -> Result<(), PrivilegeError> {
        if directory.exists() || !geteuid().is_root() {
            return Ok(());
        }
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .and_then(|()| std::fs::set_permissions(directory, std::fs::Permissions::from_mode(mode)))
            .and_then(|()| std::os::unix::fs::chown(directory, Some(self.uid), Some(self.gid)))
            .map_err(|source| PrivilegeError::Directory { path: directory.display().to_string(), source })
    }

    /// Becomes him, for good.
    ///
    /// # Errors
    /// When we may not, or the kernel refuses a step.
    pub fn assume(&self) -> Result<(), PrivilegeError> {
        if !geteuid().is_root() {
            return if geteuid().as_raw() == self.uid {
                give_up()
            } else {
                Err(PrivilegeError::NotRoot(self.user.clone()))
            };
        }
        let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
        if threads != 1 {
            return Err(PrivilegeError::Threads(self.user.clone(), threads));
        }
        for bit in 0..64 {
            let one = CapabilitySet::from_bits_retain(1 << bit);
            if !KEPT.contains(one) && capability_is_in_bounding_set(one).unwrap_or(false) {
                step("take a capability out of reach", remove_capability_from_bounding_set(one))?;
            }
        }
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        let groups: Vec<Gid> = self.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        step("keep capabilities", set_keep_capabilities(true))?;
        step("leave root's groups", set_thread_groups(&groups))?;
        step("become the group", set_thread_res_gid(gid, gid, gid))?;
        step("become the user", set_thread_res_uid(uid, uid, uid))?;
        give_up()
    }
}

/// Gives up every capability but the one kept, and the way to new ones.
fn give_up() -> Result<(), PrivilegeError> {
    let had = step("read capabilities", capabilities(None))?;
    let kept = had.permitted & KEPT;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    step("give up capabilities", set_capabilities(None, sets))?;
    match clear_ambient_capability_set() {
        // A kernel without them has none to clear.
        Ok(()) | Err(Errno::INVAL) => {}
        Err(source) => return Err(PrivilegeError::Step { step: "clear ambient capabilities", source: source.into() }),
    }
    step("renounce new privileges", set_no_new_privs(true))
}

/// Whether we are root, who should serve nobody.
#[must_use]
pub fn is_root() -> bool {
    geteuid().is_root()
}

fn step<T>(step: &'static str, done: Result<T, Errno>) -> Result<T, PrivilegeError> {
    done.map_err(|source| PrivilegeError::Step { step, source: source.into() })
}

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "root:x:0:0::/root:/bin/sh\nwww-data:x:33:34:www:/var/www:/usr/sbin/nologin\nbroken\n";
    #[test]
    fn a_number_has_the_name_that_the_accounts_give_it() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nwww-data:x:33:34::/var/www:\n";
        assert_eq!(named(passwd, 0).as_deref(), Some("root"));
        assert_eq!(named(passwd, 33).as_deref(), Some("www-data"));
        assert_eq!(named(passwd, 34), None);
    }

    const GROUPS: &str = "www-data:x:34:\nssl-cert:x:110:mail,www-data\nwww:x:111:www-data2\nadm:x:4:\n";

    #[test]
    fn an_account_has_its_groups_and_may_have_another_first_one() {
        let account = Account::among(USERS, GROUPS, "www-data", None).unwrap();
        assert_eq!((account.uid, account.gid, account.groups), (33, 34, vec![34, 110]));
        let account = Account::among(USERS, GROUPS, "www-data", Some("adm")).unwrap();
        assert_eq!((account.gid, account.groups), (4, vec![4, 110]));
        let unknown = |user, group| Account::among(USERS, GROUPS, user, group).unwrap_err().to_string();
        assert!(unknown("nobody", None).contains("there is no user `nobody`"));
        assert!(unknown("www-data", Some("wheel")).contains("there is no group `wheel`"));
    }

    #[test]
    fn a_process_with_threads_does_not_change_its_user_by_half() {
        // The tests' runner has threads, and may or may not be root.
        let account = Account { user: "nobody".to_owned(), uid: 65_534, gid: 65_534, groups: Vec::new() };
        let waiting = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || waiting.1.recv());
        let refused = account.assume().unwrap_err();
        assert!(matches!(refused, PrivilegeError::Threads(..) | PrivilegeError::NotRoot(_)), "{refused}");
        drop(waiting.0);
        let _ = thread.join();
    }
}
