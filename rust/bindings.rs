// SPDX-License-Identifier: GPL-2.0-only

//! C declarations: the kernel crate's bindings, and what bindgen made of
//! `include/dm_overlaybd.h` for the headers that the kernel crate leaves out.

pub(crate) use generated::*;
pub(crate) use kernel::bindings::*;

#[allow(
    clippy::all,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    unused_imports
)]
mod generated {
    use kernel::bindings::*;
    use kernel::ffi;
    use pin_init::{MaybeZeroable, Zeroable};

    type __kernel_size_t = usize;
    type __kernel_ssize_t = isize;
    type __kernel_ptrdiff_t = isize;

    include!(concat!(env!("DM_OVERLAYBD_OBJ"), "/bindings_generated.rs"));
}
