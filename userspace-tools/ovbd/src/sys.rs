// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The few system calls that no safe crate wraps, and with them all of the tool's `unsafe`.
//!
//! Device-mapper, loop, SysV semaphores, keys, namespaces and signals. Requests travel as byte arrays
//! that safe code fills and reads with explicit offsets; nothing here reinterprets memory. What makes an ioctl sound is
//! that the descriptor belongs to the driver that defines it, so each driver has its own
//! descriptor type, and only opening the right character or block device makes one.
#![allow(unsafe_code)]

use std::ffi::{c_int, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::ioctl::{opcode, Opcode};
use rustix::process::Signal;

/// Major number of the misc devices, among them device-mapper's and loop's control nodes.
pub const MISC_MAJOR: u32 = 10;
/// Minor number of `/dev/mapper/control`.
pub const DM_CONTROL_MINOR: u32 = 236;
/// Minor number of `/dev/loop-control`.
pub const LOOP_CONTROL_MINOR: u32 = 237;
/// Major number of the loop devices.
pub const LOOP_MAJOR: u32 = 7;

/// Bytes of `struct dm_ioctl`, which is what the kernel's definition counts in its opcodes.
pub const DM_HEADER_LEN: usize = 312;
/// Where `struct dm_ioctl` holds the length of the whole buffer.
pub const DM_DATA_SIZE_AT: usize = 12;
/// Bytes of `struct loop_info64`.
pub const LOOP_INFO_LEN: usize = 232;
/// Bytes of `struct loop_config`.
pub const LOOP_CONFIG_LEN: usize = 304;

/// Stands for the keyring of the calling process (`KEY_SPEC_PROCESS_KEYRING`).
const PROCESS_KEYRING: c_int = -2;

const LOOP_GET_STATUS64: Opcode = 0x4c05;
const LOOP_CONFIGURE: Opcode = 0x4c0a;
const LOOP_CTL_GET_FREE: Opcode = 0x4c82;

fn wrong_node() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "not the device node it should be",
    )
}

fn open_misc(path: &Path, minor: u32) -> io::Result<File> {
    let file = File::options().read(true).write(true).open(path)?;
    let meta = file.metadata()?;
    if meta.file_type().is_char_device() && meta.rdev() == rustix::fs::makedev(MISC_MAJOR, minor) {
        Ok(file)
    } else {
        Err(wrong_node())
    }
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// An open `/dev/mapper/control`.
///
/// Invariant: the descriptor is device-mapper's control device.
#[derive(Debug)]
pub struct DmControl(File);

impl DmControl {
    /// Opens the control node at `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        open_misc(path, DM_CONTROL_MINOR).map(Self)
    }

    /// Runs device-mapper command `command` on a buffer that begins with a `struct dm_ioctl`, in
    /// which the answer arrives. The field with the buffer's length is set here.
    pub fn ioctl(&self, command: u8, buffer: &mut [u8]) -> io::Result<()> {
        let length = u32::try_from(buffer.len()).map_err(io::Error::other)?;
        if buffer.len() < DM_HEADER_LEN {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        buffer[DM_DATA_SIZE_AT..DM_DATA_SIZE_AT + 4].copy_from_slice(&length.to_ne_bytes());
        let opcode = opcode::read_write::<[u8; DM_HEADER_LEN]>(0xfd, command);
        // SAFETY: By the type's invariant device-mapper interprets the call. All of its commands
        // read and write at most as many bytes as the length in the buffer says, which is the
        // buffer's own, set just above and at least a header.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), opcode as _, buffer.as_mut_ptr()) };
        check(result).map(drop)
    }
}

/// An open `/dev/loop-control`.
///
/// Invariant: the descriptor is the loop driver's control device.
#[derive(Debug)]
pub struct LoopControl(File);

impl LoopControl {
    /// Opens the control node at `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        open_misc(path, LOOP_CONTROL_MINOR).map(Self)
    }

    /// The number of a loop device that was unused a moment ago; made if there was none.
    pub fn get_free(&self) -> io::Result<u32> {
        // SAFETY: By the type's invariant the loop driver interprets the call; it takes no
        // argument.
        let number = check(unsafe { libc::ioctl(self.0.as_raw_fd(), LOOP_CTL_GET_FREE as _) })?;
        u32::try_from(number).map_err(io::Error::other)
    }
}

/// An open loop device.
///
/// Invariant: the descriptor is a block device of the loop driver.
#[derive(Debug)]
pub struct LoopNode(File);

impl LoopNode {
    /// Opens the loop device node at `path` for reading.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let meta = file.metadata()?;
        let is_loop =
            meta.file_type().is_block_device() && rustix::fs::major(meta.rdev()) == LOOP_MAJOR;
        is_loop.then_some(Self(file)).ok_or_else(wrong_node)
    }

    /// Binds a file; `config` is a `struct loop_config`.
    pub fn configure(&self, config: &[u8; LOOP_CONFIG_LEN]) -> io::Result<()> {
        // SAFETY: By the type's invariant the loop driver interprets the call, which reads one
        // `struct loop_config`; the array is as long.
        let result =
            unsafe { libc::ioctl(self.0.as_raw_fd(), LOOP_CONFIGURE as _, config.as_ptr()) };
        check(result).map(drop)
    }

    /// The `struct loop_info64` of a bound device; ENXIO if it is not bound.
    pub fn status(&self) -> io::Result<[u8; LOOP_INFO_LEN]> {
        let mut info = [0u8; LOOP_INFO_LEN];
        // SAFETY: By the type's invariant the loop driver interprets the call, which writes one
        // `struct loop_info64`; the array is as long.
        let result = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                LOOP_GET_STATUS64 as _,
                info.as_mut_ptr(),
            )
        };
        check(result).map(|_| info)
    }
}

impl AsFd for LoopNode {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A set of SysV semaphores. It outlives the process unless it is removed.
#[derive(Debug)]
pub struct Semaphores(c_int);

/// One operation on one semaphore of a set.
#[derive(Clone, Copy, Debug)]
pub struct SemOp {
    /// Which semaphore of the set.
    pub number: u16,
    /// What to add to its value; 0 waits until the value is 0.
    pub delta: i16,
    /// Whether the kernel takes it back when this process ends.
    pub undo: bool,
}

impl Semaphores {
    /// Makes a set of `count` semaphores of value 0; `None` if the key is taken.
    pub fn create(key: u32, count: u8) -> io::Result<Option<Self>> {
        let flags = libc::IPC_CREAT | libc::IPC_EXCL | 0o600;
        match get(key, count, flags) {
            Ok(set) => Ok(Some(set)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Opens the set with this key and at least `count` semaphores.
    pub fn open(key: u32, count: u8) -> io::Result<Self> {
        get(key, count, 0)
    }

    /// Does `op`. Without a time limit it may wait for ever; with one, it fails with `TimedOut`.
    pub fn operate(&self, op: SemOp, limit: Option<Duration>) -> io::Result<()> {
        let mut operation = libc::sembuf {
            sem_num: op.number,
            sem_op: op.delta,
            sem_flg: if op.undo { libc::SEM_UNDO as i16 } else { 0 },
        };
        let time = limit.map(|limit| libc::timespec {
            tv_sec: limit.as_secs() as libc::time_t,
            tv_nsec: limit.subsec_nanos() as libc::c_long,
        });
        let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: The kernel reads one `sembuf`, which lives until the call returns, and a
        // `timespec` that does too, or nothing where the pointer is null.
        let result = unsafe {
            libc::syscall(
                libc::SYS_semtimedop,
                self.0,
                &raw mut operation,
                1usize,
                time,
            )
        };
        match result {
            0 => Ok(()),
            _ => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::TimedOut.into()),
                e => Err(e),
            },
        }
    }

    /// The value of a semaphore.
    pub fn value(&self, number: u16) -> io::Result<u32> {
        // SAFETY: GETVAL takes no further argument and touches no memory of ours.
        let value = check(unsafe { libc::semctl(self.0, c_int::from(number), libc::GETVAL) })?;
        u32::try_from(value).map_err(io::Error::other)
    }

    /// Removes the set; whoever waits for it stops waiting.
    pub fn remove(self) -> io::Result<()> {
        // SAFETY: IPC_RMID takes no further argument and touches no memory of ours.
        check(unsafe { libc::semctl(self.0, 0, libc::IPC_RMID) }).map(drop)
    }
}

fn get(key: u32, count: u8, flags: c_int) -> io::Result<Semaphores> {
    let key = c_int::from_ne_bytes(key.to_ne_bytes());
    // SAFETY: semget takes three integers and touches no memory of ours.
    check(unsafe { libc::semget(key, c_int::from(count), flags) }).map(Semaphores)
}

/// Adds a key of the type "user" to the keyring of this process, where only its own requests find it;
/// the kernel forgets it when the process ends.
pub fn add_key(description: &str, payload: &[u8]) -> io::Result<()> {
    let description = CString::new(description).map_err(io::Error::other)?;
    // SAFETY: The kernel reads two strings that end with a NUL and the bytes of `payload`, and keeps
    // none of the pointers.
    let key = unsafe {
        libc::syscall(
            libc::SYS_add_key,
            c"user".as_ptr(),
            description.as_ptr(),
            payload.as_ptr(),
            payload.len(),
            PROCESS_KEYRING,
        )
    };
    if key < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// What a process may have of its own.
#[derive(Clone, Copy, Debug)]
pub enum Namespace {
    /// What is mounted.
    Mounts,
    /// The processes that are started from now on, of which the next is the first there.
    Processes,
    /// The host's name.
    HostName,
    /// SysV semaphores and the like.
    Ipc,
}

/// Gets this process new namespaces.
pub fn unshare(namespaces: &[Namespace]) -> io::Result<()> {
    let flags = namespaces.iter().map(|namespace| match namespace {
        Namespace::Mounts => libc::CLONE_NEWNS,
        Namespace::Processes => libc::CLONE_NEWPID,
        Namespace::HostName => libc::CLONE_NEWUTS,
        Namespace::Ipc => libc::CLONE_NEWIPC,
    });
    // SAFETY: These flags change what system calls find, no memory and no descriptors: it is
    // CLONE_FILES that would.
    check(unsafe { libc::unshare(flags.fold(0, |all, flag| all | flag)) }).map(drop)
}

/// Signals that wait until they are asked for.
#[derive(Debug)]
pub struct Signals(libc::sigset_t);

/// A signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// A process that we started has ended.
    ChildEnded,
    /// It is for a process that we wait for.
    ToPassOn(Signal),
    /// The terminal sends it to all processes in the foreground.
    Other,
}

const PASSED_ON: [Signal; 4] = [Signal::TERM, Signal::HUP, Signal::USR1, Signal::USR2];
const OTHERS: [Signal; 3] = [Signal::CHILD, Signal::INT, Signal::QUIT];

impl Signals {
    /// Blocks them for this thread, and the threads and programs that it starts.
    pub fn block() -> io::Result<Self> {
        let mut set = std::mem::MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises the set that it is given, and cannot fail for a valid
        // pointer.
        let mut set: libc::sigset_t = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            set.assume_init()
        };
        for signal in PASSED_ON.iter().chain(&OTHERS) {
            // SAFETY: The set is initialised, and lives until the call returns.
            check(unsafe { libc::sigaddset(&raw mut set, signal.as_raw()) })?;
        }
        // SAFETY: The set is initialised; the null pointer means that the old one is not wanted.
        let result =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        match result {
            0 => Ok(Self(set)),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Has a program that is started with `command` get them as usual.
    pub fn let_through(&self, command: &mut Command) {
        let set = self.0;
        let unblock = move || {
            // SAFETY: The set is initialised; the null pointer means that the old one is not wanted.
            let result = unsafe {
                libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut())
            };
            match result {
                0 => Ok(()),
                error => Err(io::Error::from_raw_os_error(error)),
            }
        };
        // SAFETY: In the new process only that function is called, which may be called there: it
        // takes no lock and allocates nothing.
        unsafe { command.pre_exec(unblock) };
    }

    /// Waits for the next one.
    pub fn wait(&self) -> io::Result<Received> {
        let mut number = 0;
        // SAFETY: The set is initialised, and the number lives until the call returns.
        let result = unsafe { libc::sigwait(&raw const self.0, &raw mut number) };
        if result != 0 {
            return Err(io::Error::from_raw_os_error(result));
        }
        let passed_on = PASSED_ON.iter().find(|signal| signal.as_raw() == number);
        Ok(match passed_on {
            Some(signal) => Received::ToPassOn(*signal),
            None if number == Signal::CHILD.as_raw() => Received::ChildEnded,
            None => Received::Other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_nodes_are_refused() {
        assert!(DmControl::open(Path::new("/dev/null")).is_err());
        assert!(LoopControl::open(Path::new("/dev/null")).is_err());
        assert!(LoopNode::open(Path::new("/dev/null")).is_err());
    }

    #[test]
    fn semaphores_count() {
        // A key outside device-mapper's range, and of this process.
        let key = 0x6f76_0000 | (std::process::id() & 0xffff);
        let set = Semaphores::create(key, 2).unwrap().unwrap();
        assert!(Semaphores::create(key, 2).unwrap().is_none());
        let add = |number, delta| SemOp {
            number,
            delta,
            undo: false,
        };
        set.operate(add(0, 2), None).unwrap();
        assert_eq!(Semaphores::open(key, 1).unwrap().value(0).unwrap(), 2);
        let soon = Some(Duration::from_millis(1));
        let late = set.operate(add(0, 0), soon).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        set.operate(add(0, -2), None).unwrap();
        set.operate(add(0, 0), soon).unwrap();
        assert_eq!(set.value(1).unwrap(), 0);
        set.remove().unwrap();
        assert!(Semaphores::open(key, 1).is_err());
    }
}
