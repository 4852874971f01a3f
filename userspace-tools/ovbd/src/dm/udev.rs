// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Living beside udev.
//!
//! Every device that appears is an event for udev. Two things have to be arranged:
//!
//! * **What its rules do.** All devices of this tool carry flags that keep udev from looking into
//!   them: no blkid, no `by-uuid` links (images built from one base share a file-system UUID and
//!   would fight over one link), no LVM, MD or btrfs activation of what a hostile image pretends to
//!   be. The rules that make `/dev/mapper/NAME` do run.
//! * **When they are done.** Removing a device whose event is still being handled fails with EBUSY
//!   or leaves a stale link. device-mapper's answer are cookies: a SysV semaphore that the tool
//!   raises for each event and that the last of udev's rules lowers by means of `dmsetup
//!   udevcomplete`; the tool waits until it is 0.
//!
//! A cookie outlives the process that made it. Ours have a second semaphore, raised with SEM_UNDO,
//! so that the kernel lowers it when the process dies: a set whose second semaphore is 0 belongs to
//! nobody, and [`sweep`] removes it.
//!
//! Waiting makes sense only if there is somebody to wait for: udev has to run (somebody has its
//! control socket) and have the rules. Otherwise no cookie is made, and nodes are made by
//! [`super::node`]; so they are if udev dies meanwhile. Under systemd the socket is systemd's, which
//! starts another udev; then only the limit ends the wait for what the first one took along.
//! The flags are sent in any case, because udev may run outside of the container that we are in.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::io::Errno;

use crate::sys::{SemOp, Semaphores};

/// Where the flags are in an event number.
const FLAGS_SHIFT: u32 = 16;
/// No rules of subsystems (LVM), no `/dev/disk` links and blkid, no other rules.
const DISABLE_SUBSYSTEM_RULES: u32 = 0x02;
const DISABLE_DISK_RULES: u32 = 0x04;
const DISABLE_OTHER_RULES: u32 = 0x08;
/// The event comes from the program that manages the device, so its flags count.
const PRIMARY_SOURCE: u32 = 0x40;

const FLAGS: u32 =
    DISABLE_SUBSYSTEM_RULES | DISABLE_DISK_RULES | DISABLE_OTHER_RULES | PRIMARY_SOURCE;

/// The upper half of every cookie's key.
const COOKIE_MAGIC: u32 = 0x0d4d;

/// Semaphores in a cookie of ours: libdm's have one.
const SEMAPHORES: u8 = 2;
/// Counts the events under way, as libdm has it, plus one for whoever will wait.
const PENDING: u16 = 0;
/// 1 as long as the process that made the cookie lives.
const ALIVE: u16 = 1;

/// How long udev may take for the events of one command. It is a limit against a udev that is
/// stuck, not an expectation.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often to look whether it still runs.
const LOOK: Duration = Duration::from_millis(100);

/// Seconds that a process may take from making a cookie to its first operation on it.
const BEING_MADE: u64 = 60;

const CONTROL: &str = "/run/udev/control";
/// Where rules are, those that count first.
const RULES: [&str; 5] = [
    "/etc/udev/rules.d",
    "/run/udev/rules.d",
    "/usr/local/lib/udev/rules.d",
    "/usr/lib/udev/rules.d",
    "/lib/udev/rules.d",
];
/// The rule that lowers cookies.
const NOTIFY_RULE: &str = "95-dm-notify.rules";

/// The events of one command.
#[derive(Debug)]
pub struct Udev {
    cookie: Option<Cookie>,
}

impl Udev {
    /// Begins: makes a cookie if udev runs and will lower it.
    pub fn begin() -> Self {
        let answers = runs(Path::new(CONTROL)) && notifies(&RULES);
        // No semaphores in this kernel, or none left: then there is no way to wait.
        Self {
            cookie: answers.then(Cookie::new).and_then(Result::ok),
        }
    }

    /// Does `action` with the event number for its request. `action` returns whether the kernel
    /// sent an event.
    pub(super) fn tell<T, E>(
        &self,
        action: impl FnOnce(u32) -> Result<(T, bool), E>,
    ) -> Result<T, E> {
        let Some(cookie) = &self.cookie else {
            return action(FLAGS << FLAGS_SHIFT).map(|(value, _)| value);
        };
        cookie.add(1);
        let result = action((FLAGS << FLAGS_SHIFT) | u32::from(cookie.id));
        if !matches!(result, Ok((_, true))) {
            cookie.add(-1);
        }
        result.map(|(value, _)| value)
    }

    /// Waits until udev has handled all events.
    pub fn settle(self) -> Settled {
        let runs = || runs(Path::new(CONTROL));
        self.cookie
            .map_or(Settled::Done, |cookie| cookie.wait(PATIENCE, runs))
    }
}

/// How waiting for udev ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It has handled all events, or there is nobody to wait for.
    Done,
    /// It took too long.
    Late,
    /// It died.
    Gone,
}

impl Settled {
    /// What the user should know: that udev did not do `what`.
    pub fn note(self, what: &str) -> Option<String> {
        match self {
            Self::Done => None,
            Self::Late => Some(format!("udev did not {what} within half a minute")),
            Self::Gone => Some(format!("udev has ended, and did not {what}")),
        }
    }
}

/// Whether somebody has the socket `control`: udev, or systemd, which starts it when there is an
/// event. The file alone outlives a udev that crashed.
fn runs(control: &Path) -> bool {
    match UnixStream::connect(control) {
        Ok(_) => true,
        // The socket is one of packets, to which a stream does not get through: nobody is
        // disturbed. Without an owner it is refused before that.
        Err(error) => Errno::from_io_error(&error) == Some(Errno::PROTOTYPE),
    }
}

/// Whether the rule that lowers cookies is in force. Of several rules of a name the one in the
/// first folder counts, and an empty file or a link to `/dev/null` is how an administrator turns
/// it off.
fn notifies<F: AsRef<Path>>(folders: &[F]) -> bool {
    let mut rules = folders
        .iter()
        .filter_map(|folder| fs::metadata(folder.as_ref().join(NOTIFY_RULE)).ok());
    rules
        .next()
        .is_some_and(|rule| rule.is_file() && rule.len() > 0)
}

#[derive(Debug)]
struct Cookie {
    /// The lower half of the key.
    id: u16,
    /// `None` once it was removed.
    set: Option<Semaphores>,
}

impl Cookie {
    fn new() -> io::Result<Self> {
        let start = std::process::id();
        for attempt in 0..u32::from(u16::MAX) {
            let id = (start.wrapping_add(attempt) & 0xffff) as u16;
            if id == 0 {
                continue;
            }
            if let Some(set) = Semaphores::create(key(id), SEMAPHORES)? {
                let cookie = Self { id, set: Some(set) };
                cookie.operate(
                    SemOp {
                        number: ALIVE,
                        delta: 1,
                        undo: true,
                    },
                    None,
                )?;
                cookie.operate(
                    SemOp {
                        number: PENDING,
                        delta: 1,
                        undo: false,
                    },
                    None,
                )?;
                return Ok(cookie);
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    fn operate(&self, op: SemOp, limit: Option<Duration>) -> io::Result<()> {
        self.set
            .as_ref()
            .map_or(Ok(()), |set| set.operate(op, limit))
    }

    /// Lowering is never more than was raised, so it does not wait.
    fn add(&self, delta: i16) {
        // It fails if an administrator removed the cookie (`dmsetup udevcomplete_all`): then there
        // is nothing to wait for either.
        let op = SemOp {
            number: PENDING,
            delta,
            undo: false,
        };
        let _ = self.operate(op, Some(Duration::ZERO));
    }

    fn wait(self, limit: Duration, runs: impl Fn() -> bool) -> Settled {
        self.add(-1);
        let zero = SemOp {
            number: PENDING,
            delta: 0,
            undo: false,
        };
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.operate(zero, Some(left.min(LOOK))) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                    if !runs() {
                        return Settled::Gone;
                    }
                    if left.is_zero() {
                        return Settled::Late;
                    }
                }
                // An administrator has removed the cookie, or nothing is pending.
                Err(_) | Ok(()) => return Settled::Done,
            }
        }
    }
}

impl Drop for Cookie {
    fn drop(&mut self) {
        if let Some(set) = self.set.take() {
            let _ = set.remove();
        }
    }
}

fn key(id: u16) -> u32 {
    (COOKIE_MAGIC << 16) | u32::from(id)
}

/// Removes cookies of processes that died.
pub fn sweep() {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let list = fs::read_to_string("/proc/sysvipc/sem").unwrap_or_default();
    for key in list.lines().filter_map(|line| own_key(line, now.as_secs())) {
        let Ok(set) = Semaphores::open(key, SEMAPHORES) else {
            continue;
        };
        if set.value(ALIVE).is_ok_and(|alive| alive == 0) {
            let _ = set.remove();
        }
    }
}

/// The key in a line of the kernel's list (`key semid perms nsems uid gid cuid cgid otime ctime`),
/// if it is a cookie of ours that is not just being made.
fn own_key(line: &str, now: u64) -> Option<u32> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let [key, _, _, semaphores, .., used, made] = words[..] else {
        return None;
    };
    let key = u32::from_ne_bytes(key.parse::<i32>().ok()?.to_ne_bytes());
    let ours = key >> 16 == COOKIE_MAGIC && semaphores.parse() == Ok(SEMAPHORES);
    let fresh = used == "0" && made.parse::<u64>().ok()?.saturating_add(BEING_MADE) > now;
    (ours && !fresh).then_some(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    fn value(cookie: &Cookie, number: u16) -> u32 {
        cookie.set.as_ref().unwrap().value(number).unwrap()
    }

    #[test]
    fn a_cookie_counts_events() {
        let udev = Udev {
            cookie: Some(Cookie::new().unwrap()),
        };
        let cookie = udev.cookie.as_ref().unwrap();
        assert_eq!((value(cookie, PENDING), value(cookie, ALIVE)), (1, 1));

        let number = udev.tell(|number| Ok::<_, ()>((number, true))).unwrap();
        assert_eq!(number, 0x004e_0000 | u32::from(cookie.id));
        assert_eq!(value(cookie, PENDING), 2);
        // No event: nobody will lower it.
        udev.tell(|_| Ok::<_, ()>(((), false))).unwrap();
        udev.tell(|_| Err::<((), bool), _>(())).unwrap_err();
        assert_eq!(value(cookie, PENDING), 2);

        // What `dmsetup udevcomplete` does.
        let rules = Semaphores::open(key(cookie.id), 1).unwrap();
        rules
            .operate(
                SemOp {
                    number: 0,
                    delta: -1,
                    undo: false,
                },
                None,
            )
            .unwrap();
        let id = cookie.id;
        assert_eq!(udev.settle(), Settled::Done);
        assert!(Semaphores::open(key(id), 1).is_err());
    }

    #[test]
    fn waiting_ends() {
        let cookie = Cookie::new().unwrap();
        cookie.add(1);
        assert_eq!(cookie.wait(Duration::ZERO, || true), Settled::Late);
        // Removed by somebody else meanwhile.
        let cookie = Cookie::new().unwrap();
        cookie.add(1);
        Semaphores::open(key(cookie.id), 1)
            .unwrap()
            .remove()
            .unwrap();
        assert_eq!(cookie.wait(Duration::ZERO, || true), Settled::Done);
        // A udev that dies is not waited for, however long the limit.
        let cookie = Cookie::new().unwrap();
        cookie.add(1);
        let for_ever = Duration::from_secs(1 << 30);
        assert_eq!(cookie.wait(for_ever, || false), Settled::Gone);
    }

    #[test]
    fn a_socket_without_an_owner_is_no_udev() {
        let dir = tempfile::tempdir().unwrap();
        let control = dir.path().join("control");
        assert!(!runs(&control));
        let udev = UnixDatagram::bind(&control).unwrap();
        assert!(runs(&control));
        drop(udev);
        assert!(control.exists() && !runs(&control));
        fs::remove_file(&control).unwrap();
        let _listens = UnixListener::bind(&control).unwrap();
        assert!(runs(&control));
    }

    #[test]
    fn a_masked_rule_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let [etc, run, usr] = ["etc", "run", "usr"].map(|name| dir.path().join(name));
        let folders = [&etc, &run, &usr];
        assert!(!notifies(&folders));
        for folder in folders {
            fs::create_dir(folder).unwrap();
        }
        fs::write(usr.join(NOTIFY_RULE), "# a rule").unwrap();
        assert!(notifies(&folders));
        symlink("/dev/null", run.join(NOTIFY_RULE)).unwrap();
        assert!(!notifies(&folders));
        fs::write(etc.join(NOTIFY_RULE), "# another").unwrap();
        assert!(notifies(&folders));
        fs::write(etc.join(NOTIFY_RULE), "").unwrap();
        assert!(!notifies(&folders));
    }

    #[test]
    fn flags_are_sent_without_udev_too() {
        let udev = Udev { cookie: None };
        let number = udev.tell(|number| Ok::<_, ()>((number, true))).unwrap();
        assert_eq!(number, 0x004e_0000);
        assert_eq!(udev.settle(), Settled::Done);
    }

    #[test]
    fn only_our_cookies_are_swept() {
        // 0x0d4d0001 in decimal.
        let key_in = |line| own_key(line, 1000);
        assert_eq!(
            key_in("223150081  5  600  2  0 0 0 0 990 990"),
            Some(0x0d4d_0001)
        );
        assert_eq!(
            key_in("223150081  5  600  2  0 0 0 0 0 900"),
            Some(0x0d4d_0001)
        );
        // Being made; libdm's; something else's; the heading.
        assert_eq!(key_in("223150081  5  600  2  0 0 0 0 0 990"), None);
        assert_eq!(key_in("223150081  5  600  1  0 0 0 0 990 990"), None);
        assert_eq!(key_in("12345  5  600  2  0 0 0 0 990 990"), None);
        assert_eq!(
            key_in("       key      semid perms      nsems   uid   gid  cuid"),
            None
        );

        let alive = Cookie::new().unwrap();
        let mut dead = Cookie::new().unwrap();
        let down = SemOp {
            number: ALIVE,
            delta: -1,
            undo: true,
        };
        dead.operate(down, None).unwrap();
        sweep();
        assert!(Semaphores::open(key(alive.id), 2).is_ok());
        assert!(Semaphores::open(key(dead.id), 2).is_err());
        dead.set = None;
    }
}
