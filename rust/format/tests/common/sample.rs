// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Small valid files, to be broken by tests.
