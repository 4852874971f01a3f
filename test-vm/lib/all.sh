# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Everything in lib/, for scripts that boot the guest.

# shellcheck source=lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=lib/host.sh
. "$VM_DIR/lib/host.sh"
# shellcheck source=lib/root.sh
. "$VM_DIR/lib/root.sh"
# shellcheck source=lib/kernel.sh
. "$VM_DIR/lib/kernel.sh"
# shellcheck source=lib/guest.sh
. "$VM_DIR/lib/guest.sh"
# shellcheck source=lib/debug.sh
. "$VM_DIR/lib/debug.sh"
# shellcheck source=lib/udev.sh
. "$VM_DIR/lib/udev.sh"
# shellcheck source=lib/keys.sh
. "$VM_DIR/lib/keys.sh"
# shellcheck source=lib/vm.sh
. "$VM_DIR/lib/vm.sh"
# shellcheck source=lib/disks.sh
. "$VM_DIR/lib/disks.sh"
# shellcheck source=lib/demo.sh
. "$VM_DIR/lib/demo.sh"
# shellcheck source=lib/bench.sh
. "$VM_DIR/lib/bench.sh"
