// SPDX-License-Identifier: GPL-2.0-only

//! Target types: the [`Target`] trait and its registration with device-mapper.
//!
//! C header: `include/linux/device-mapper.h`

use super::{
    bio::{EndedBio, Mapped, MappedBio, Status},
    construct::{Arguments, Constructor, Refusal},
    device::Device,
    limits::Limits,
    status::{StatusKind, StatusWriter},
};
use crate::bindings;
use core::{marker::PhantomData, mem::size_of, pin::Pin};
use kernel::{
    error::{from_result, to_result, VTABLE_DEFAULT_ERROR},
    ffi::{c_char, c_int, c_uint, c_void},
    prelude::*,
    sync::Arc,
    types::{ForeignOwnable, Opaque},
};

/// A device-mapper target.
///
/// A value of the implementing type is one line of one table: device-mapper
/// makes it by [`Target::construct`] when the table is loaded and drops it when
/// the table is gone. Between the two, every callback may run on several CPUs
/// at once; all of them but [`Target::ended`] run in task context.
#[vtable]
pub(crate) trait Target: Sized + Send + Sync + 'static {
    /// The name in a table line. The module alias `dm-NAME` loads it on demand.
    const NAME: &'static CStr;
    /// Version of table, status and message grammar, which changes with them: the middle number if
    /// what was there before is still understood.
    const VERSION: [u32; 3];
    /// `DM_TARGET_*` flags.
    const FEATURES: u64;

    /// What device-mapper allocates along with each bio; not initialised.
    type PerBio;

    /// What all targets of the type have in common.
    type Shared: Send + Sync;

    /// Makes a target from the words of a table line.
    ///
    /// May sleep and allocate with `GFP_KERNEL`; nothing is in flight yet.
    fn construct(
        ti: &mut Constructor<'_>,
        arguments: Arguments<'_>,
        shared: &Arc<Self::Shared>,
    ) -> Result<Pin<KBox<Self>>, Refusal>;

    /// Takes a bio. Runs in the submitter's task, which may be freeing memory: may only use
    /// memory that is preallocated or can be done without, and wait for nothing but its return,
    /// if the bio may wait at all.
    fn map<'a>(&'a self, bio: MappedBio<'a, Self>) -> Mapped<'a>;

    /// Sees a bio that [`Target::map`] took, when it has ended. Must not sleep: runs wherever
    /// drivers end bios, in interrupts too.
    fn ended(&self, _bio: EndedBio<'_>) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Writes the words that follow the target's name in status and table.
    fn status(&self, kind: StatusKind, out: &mut StatusWriter<'_>) -> core::fmt::Result;

    /// Handles a message from `dmsetup message`.
    fn message(&self, arguments: Arguments<'_>) -> Result;

    /// Calls `visit` with each extent of each device below, until it returns
    /// something other than zero, and returns that.
    fn iterate_devices(&self, visit: &mut DeviceVisitor<'_>) -> c_int;

    /// Adjusts the limits that were stacked from the devices below.
    fn io_hints(&self, limits: &mut Limits<'_>);
}

/// The feature of a target that never waits for a bio marked `REQ_NOWAIT`.
pub(crate) const NOWAIT: u64 = bindings::DM_OVBD_TARGET_NOWAIT;

/// The callback of [`Target::iterate_devices`].
pub(crate) struct DeviceVisitor<'a> {
    ti: *mut bindings::dm_target,
    callout: bindings::iterate_devices_callout_fn,
    data: *mut c_void,
    _call: PhantomData<&'a mut ()>,
}

impl DeviceVisitor<'_> {
    /// Reports that `sectors` sectors of `device` from sector `start` on are used.
    pub(crate) fn visit(&mut self, device: &Device, start: u64, sectors: u64) -> c_int {
        let Some(callout) = self.callout else {
            return 0;
        };
        // SAFETY: `ti`, `callout` and `data` were passed to `iterate_devices` together,
        // whose call has not returned; `device` holds a valid `dm_dev`.
        unsafe { callout(self.ti, device.as_raw(), start, sectors, self.data) }
    }
}

/// The target behind `ti`.
///
/// # Safety
///
/// - The constructor of a [`Registration<T>`] has returned 0 for `ti`.
/// - `'a` ends before its destructor is called.
pub(super) unsafe fn target_of<'a, T: Target>(ti: *const bindings::dm_target) -> &'a T {
    // SAFETY: The constructor put there what `into_foreign` made of a `Pin<KBox<T>>`, which only
    // the destructor takes back.
    unsafe { Pin::<KBox<T>>::borrow((*ti).private) }.get_ref()
}

/// A registered target type; dropping it unregisters.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct Registration<T: Target> {
    /// The first field, so that a pointer to it is one to the registration.
    #[pin]
    inner: Opaque<bindings::target_type>,
    shared: Arc<T::Shared>,
    _target: PhantomData<fn() -> T>,
}

// SAFETY: After `new`, the `target_type` is only touched by dm core, under its own lock.
unsafe impl<T: Target> Sync for Registration<T> {}
// SAFETY: A target type may be unregistered from any task.
unsafe impl<T: Target> Send for Registration<T> {}

impl<T: Target> Registration<T> {
    /// Registers `T`; from then on tables may use it.
    pub(crate) fn new(
        module: &'static ThisModule,
        shared: Arc<T::Shared>,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            shared,
            inner <- Opaque::try_ffi_init(|slot: *mut bindings::target_type| {
                // SAFETY: `slot` is valid for writes, and pinned until `drop`.
                unsafe { slot.write(Self::target_type(module)) };
                // SAFETY: `slot` is initialised, stays where it is, and is unregistered in `drop`.
                to_result(unsafe { bindings::dm_register_target(slot) })
            }),
            _target: PhantomData,
        })
    }

    fn target_type(module: &'static ThisModule) -> bindings::target_type {
        bindings::target_type {
            features: T::FEATURES,
            name: T::NAME.as_char_ptr(),
            module: module.as_ptr(),
            version: T::VERSION,
            ctr: Some(Self::ctr),
            dtr: Some(Self::dtr),
            map: Some(Self::map),
            end_io: if T::HAS_ENDED {
                Some(Self::end_io)
            } else {
                None
            },
            status: Some(Self::status),
            message: Some(Self::message),
            iterate_devices: Some(Self::iterate_devices),
            io_hints: Some(Self::io_hints),
            ..Default::default()
        }
    }

    /// # Safety
    ///
    /// Only called by dm core: `ti` is a new target, `argv` has `argc` strings that
    /// are valid during the call.
    unsafe extern "C" fn ctr(
        ti: *mut bindings::dm_target,
        argc: c_uint,
        argv: *mut *mut c_char,
    ) -> c_int {
        // SAFETY: `ti` has the type that `new` registered, which is the first field of a
        // `Registration<T>`. It stays as long as the module, to which `ti` refers.
        let registration = unsafe { &*(*ti).type_.cast::<Self>() };
        // SAFETY: By the requirements of this function.
        let (mut constructor, arguments) =
            unsafe { (Constructor::from_raw(ti), Arguments::from_raw(argc, argv)) };
        match T::construct(&mut constructor, arguments, &registration.shared) {
            Ok(target) => {
                // SAFETY: `ti` is ours to fill during the call.
                let ti = unsafe { &mut *ti };
                ti.private = target.into_foreign();
                ti.per_io_data_size = const { size_of::<T::PerBio>() as c_uint };
                ti.set_accounts_remapped_io(true);
                0
            }
            Err(refusal) => {
                // SAFETY: As above; dm core only prints the string.
                unsafe { (*ti).error = refusal.reason.as_char_ptr().cast_mut() };
                refusal.errno.to_errno()
            }
        }
    }

    /// # Safety
    ///
    /// Only called by dm core, once, after `ctr` returned 0 for `ti`, when no bio
    /// of the target is in flight and no other callback runs.
    unsafe extern "C" fn dtr(ti: *mut bindings::dm_target) {
        // SAFETY: `ctr` made it by `into_foreign`, and nothing borrows it any more.
        drop(unsafe { Pin::<KBox<T>>::from_foreign((*ti).private) });
    }

    /// # Safety
    ///
    /// Only called by dm core: `ti` is live, and `bio` is a clone that belongs to it.
    unsafe extern "C" fn map(ti: *mut bindings::dm_target, bio: *mut bindings::bio) -> c_int {
        // SAFETY: dm core keeps `ti` until every bio that it mapped has ended.
        let (target, bio) = unsafe { (target_of::<T>(ti), MappedBio::from_raw(ti, bio)) };
        target.map(bio).into_raw()
    }

    /// # Safety
    ///
    /// Only called by dm core: `ti` is live, `bio` is a clone that belonged to it, `error` says
    /// how that ended.
    unsafe extern "C" fn end_io(
        ti: *mut bindings::dm_target,
        bio: *mut bindings::bio,
        error: *mut bindings::blk_status_t,
    ) -> c_int {
        // SAFETY: By the requirements of this function; dm core frees the clone after this call.
        let (target, bio, error) = unsafe { (target_of::<T>(ti), &*bio, *error) };
        target.ended(EndedBio::new(bio, Status::from_raw(error)));
        bindings::DM_ENDIO_DONE as c_int
    }

    /// # Safety
    ///
    /// Only called by dm core: `ti` is live, `result` has `maxlen` bytes.
    unsafe extern "C" fn status(
        ti: *mut bindings::dm_target,
        kind: bindings::status_type_t,
        _flags: c_uint,
        result: *mut c_char,
        maxlen: c_uint,
    ) {
        // SAFETY: By the requirements of this function.
        let (target, mut out) =
            unsafe { (target_of::<T>(ti), StatusWriter::from_raw(result, maxlen)) };
        let kind = StatusKind::from_raw(kind);
        if kind == StatusKind::Ima {
            out.target_name_version(T::NAME, T::VERSION);
        }
        // A result that does not fit is cut, and seen as such by dm core, which
        // calls again with a larger buffer.
        let _ = target.status(kind, &mut out);
    }

    /// # Safety
    ///
    /// Only called by dm core: `ti` is live, `argv` has `argc` strings.
    unsafe extern "C" fn message(
        ti: *mut bindings::dm_target,
        argc: c_uint,
        argv: *mut *mut c_char,
        _result: *mut c_char,
        _maxlen: c_uint,
    ) -> c_int {
        // SAFETY: By the requirements of this function.
        let (target, arguments) = unsafe { (target_of::<T>(ti), Arguments::from_raw(argc, argv)) };
        from_result(|| target.message(arguments).map(|()| 0))
    }

    /// # Safety
    ///
    /// Only called by dm core: `ti` is live, `callout` may be called with `data`.
    unsafe extern "C" fn iterate_devices(
        ti: *mut bindings::dm_target,
        callout: bindings::iterate_devices_callout_fn,
        data: *mut c_void,
    ) -> c_int {
        // SAFETY: By the requirements of this function.
        let target = unsafe { target_of::<T>(ti) };
        target.iterate_devices(&mut DeviceVisitor {
            ti,
            callout,
            data,
            _call: PhantomData,
        })
    }

    /// # Safety
    ///
    /// Only called by dm core: `ti` is live, `limits` is valid during the call.
    unsafe extern "C" fn io_hints(
        ti: *mut bindings::dm_target,
        limits: *mut bindings::queue_limits,
    ) {
        // SAFETY: By the requirements of this function.
        let (target, mut limits) = unsafe { (target_of::<T>(ti), Limits::from_raw(limits)) };
        target.io_hints(&mut limits);
    }
}

#[pinned_drop]
impl<T: Target> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: `new` registered it. A table that uses it holds a reference to the
        // module, so that there is none left when the module is unloaded.
        unsafe { bindings::dm_unregister_target(self.inner.get()) };
    }
}

#[kernel::macros::kunit_tests(dm_overlaybd_target)]
mod tests {
    use super::*;
    use crate::dm::{
        fake::{Fake, Seen},
        read::InFlight,
    };
    use core::ptr::null_mut;
    use kernel::sync::atomic::ordering;

    // SAFETY: No module is one, too: that of what is built in.
    static BUILT_IN: ThisModule = unsafe { ThisModule::from_ptr(null_mut()) };

    /// A target type that device-mapper knows, and a target of it.
    struct Table {
        registration: Pin<KBox<Registration<Fake>>>,
        seen: Arc<Seen>,
        ti: bindings::dm_target,
    }

    impl Table {
        fn new() -> Result<Self> {
            let seen = Seen::new()?;
            let registration = Registration::new(&BUILT_IN, seen.clone());
            let registration = KBox::try_pin_init(registration, GFP_KERNEL)?;
            let ti = bindings::dm_target {
                type_: registration.inner.get(),
                ..Default::default()
            };
            Ok(Self {
                registration,
                seen,
                ti,
            })
        }

        fn ops(&self) -> &bindings::target_type {
            // SAFETY: It was written by `new`; dm core only reads what is looked at here.
            unsafe { &*self.registration.inner.get() }
        }

        /// What the constructor says to `words`.
        fn construct(&mut self, words: &[&'static CStr]) -> Result<c_int> {
            let mut argv = KVec::new();
            for word in words {
                argv.push(word.as_char_ptr().cast_mut(), GFP_KERNEL)?;
            }
            let ctr = self.ops().ctr.ok_or(EINVAL)?;
            // SAFETY: The target is new, and there are as many words.
            Ok(unsafe { ctr(&raw mut self.ti, argv.len() as c_uint, argv.as_mut_ptr()) })
        }

        fn destroy(&mut self) -> Result {
            let dtr = self.ops().dtr.ok_or(EINVAL)?;
            // SAFETY: The target was constructed, and is not used after this.
            unsafe { dtr(&raw mut self.ti) };
            Ok(())
        }

        fn alive(&self) -> u32 {
            self.seen.alive.load(ordering::Relaxed)
        }
    }

    #[test]
    fn a_type_is_what_its_target_says() -> Result {
        let table = Table::new()?;
        let ops = table.ops();
        // SAFETY: It is the C string of the target.
        assert!(unsafe { CStr::from_char_ptr(ops.name) } == Fake::NAME);
        assert_eq!(ops.version, [1, 20, 3]);
        assert_eq!(ops.features, NOWAIT);
        assert!(ops.end_io.is_some() && ops.prepare_ioctl.is_none());
        // Who does not want to see how bios end is not called.
        let zfile = Registration::<crate::zfile::Zfile>::target_type(&BUILT_IN);
        assert!(zfile.end_io.is_none());
        Ok(())
    }

    #[test]
    fn a_target_lives_as_long_as_its_table_line() -> Result {
        let mut table = Table::new()?;
        assert_eq!(table.construct(&[c"one"])?, 0);
        assert_eq!(table.alive(), 1);
        let size = table.ti.per_io_data_size as usize;
        assert_eq!(size, size_of::<InFlight<Fake>>());
        assert!(table.ti.accounts_remapped_io());
        table.destroy()?;
        assert_eq!(table.alive(), 0);
        Ok(())
    }

    #[test]
    fn a_refusal_gives_its_reason() -> Result {
        let mut table = Table::new()?;
        for words in [&[][..], &[c"one", c"two"][..]] {
            assert_eq!(table.construct(words)?, EINVAL.to_errno());
            // SAFETY: It is the C string of the refusal.
            assert!(unsafe { CStr::from_char_ptr(table.ti.error) } == c"Not one word");
            assert_eq!(table.alive(), 0);
        }
        Ok(())
    }

    #[test]
    fn a_call_reaches_the_target() -> Result {
        let mut table = Table::new()?;
        assert_eq!(table.construct(&[c"one"])?, 0);
        let ops = table.ops();
        let message = ops.message.ok_or(EINVAL)?;
        let (iterate, hints) = (ops.iterate_devices.zip(ops.io_hints)).ok_or(EINVAL)?;
        let ti = &raw mut table.ti;

        let mut argv = [c"reset_stats".as_char_ptr().cast_mut()];
        // SAFETY: The target is live; there is one word, or none.
        unsafe {
            assert_eq!(message(ti, 1, argv.as_mut_ptr(), null_mut(), 0), 0);
            let none = message(ti, 0, argv.as_mut_ptr(), null_mut(), 0);
            assert_eq!(none, EINVAL.to_errno());
        }

        let mut limits = bindings::queue_limits::default();
        // SAFETY: The target is live, and has no devices.
        unsafe {
            assert_eq!(iterate(ti, None, null_mut()), 7);
            hints(ti, &raw mut limits);
        }
        assert_eq!(limits.io_min, 8192);
        table.destroy()
    }

    #[test]
    fn ima_is_told_whose_words_they_are() -> Result {
        let mut table = Table::new()?;
        assert_eq!(table.construct(&[c"one"])?, 0);
        let status = table.ops().status.ok_or(EINVAL)?;
        for (kind, line) in [
            (bindings::status_type_t_STATUSTYPE_INFO, &b",well;\0"[..]),
            (bindings::status_type_t_STATUSTYPE_TABLE, b",well;\0"),
            (
                bindings::status_type_t_STATUSTYPE_IMA,
                b"target_name=overlaybd-kunit,target_version=1.20.3,well;\0",
            ),
        ] {
            let mut buffer = [b'?'; 80];
            let (result, len) = (buffer.as_mut_ptr().cast(), buffer.len() as c_uint);
            // SAFETY: The target is live, the buffer as long as is said.
            unsafe { status(&raw mut table.ti, kind, 0, result, len) };
            assert!(buffer.starts_with(line));
        }
        table.destroy()
    }

    /// # Safety
    ///
    /// Only called by the block layer, for a bio whose `bi_private` is a status that nobody else
    /// uses.
    unsafe extern "C" fn ended(bio: *mut bindings::bio) {
        // SAFETY: By the requirement of this function.
        unsafe { *(*bio).bi_private.cast::<bindings::blk_status_t>() = (*bio).bi_status };
    }

    #[test]
    fn bios_are_mapped_and_end() -> Result {
        let mut table = Table::new()?;
        assert_eq!(table.construct(&[c"one"])?, 0);
        let ops = table.ops();
        let (map, end_io) = (ops.map.zip(ops.end_io)).ok_or(EINVAL)?;
        let ti = &raw mut table.ti;
        let mut status = Status::OK.into_raw();
        let mut bio = bindings::bio {
            bi_opf: bindings::req_op_REQ_OP_WRITE,
            bi_private: (&raw mut status).cast(),
            bi_end_io: Some(ended),
            ..Default::default()
        };
        bio.__bi_remaining.counter = 1;
        let bio = &raw mut bio;
        // SAFETY: The target is live, the bio ours.
        unsafe {
            assert_eq!(map(ti, bio), bindings::DM_MAPIO_KILL as c_int);
            assert_eq!(status, Status::OK.into_raw());
            (*bio).bi_opf = bindings::req_op_REQ_OP_READ;
            assert_eq!(map(ti, bio), bindings::DM_MAPIO_SUBMITTED as c_int);
            assert_eq!(status, Status::AGAIN.into_raw());
            for (error, lost) in [(Status::OK, 0), (Status::IO_ERROR, 1), (Status::AGAIN, 1)] {
                let mut error = error.into_raw();
                let done = end_io(ti, bio, &raw mut error);
                assert_eq!(done, bindings::DM_ENDIO_DONE as c_int);
                assert_eq!(table.seen.lost.load(ordering::Relaxed), lost);
            }
        }
        table.destroy()
    }
}
