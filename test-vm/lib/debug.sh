# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The debug kernel: the stock kernel's source with everything that finds mistakes, and with little
# else (debug.config). Built with clang, because Rust under KASAN needs it.
# shellcheck disable=SC2034 # who sources it uses the variables

DEBUG=$OVBD_CACHE/debug
DEBUG_TREE=$DEBUG/tree       # built, with the program in vmlinux; modules build against it
DEBUG_KERNEL=$DEBUG/kernel   # lib/modules
DEBUG_GUEST=$DEBUG/guest     # as $GUEST, for this kernel
DEBUG_CONFIG=$VM_DIR/debug.config
DEBUG_MAKE_ARGS=(CC=clang HOSTCC=gcc-14)

debug_key() { key debug-1 "$(tree_key)" "${DEBUG_MAKE_ARGS[@]}" "$(key_of_files "$DEBUG_CONFIG")"; }
debug_guest_key() { key debug-guest-2 "$(debug_key)" "$(guest_key)"; }

debug_release() { cat "$DEBUG_TREE/include/config/kernel.release"; }

# in_debug_tree COMMAND...: in the build root, in the tree.
in_debug_tree() {
  in_root --bind "$DEBUG_TREE:/mnt/debug" --bind "$DEBUG_CONFIG:/mnt/debug.config" \
    --bind "$DEBUG_KERNEL:/mnt/kernel" --chdir /mnt/debug "$@"
}

# From a clean tree, since that for modules of the stock kernel is prepared with another compiler.
stage_debug() {
  rm -rf "$DEBUG_TREE" "$DEBUG_KERNEL"
  mkdir -p "$DEBUG_TREE" "$DEBUG_KERNEL"
  unpack_source "$(kernel_release)" "$DEBUG_TREE"
  in_debug_tree sh -ec '
    make() { command make "$@" -j"$(nproc)"; }
    make "$@" KCONFIG_ALLCONFIG=/mnt/debug.config allnoconfig
    # Kconfig drops what it finds impossible without a word.
    if grep "^CONFIG_" /mnt/debug.config | grep -vxFf .config >missing; then
      echo "the kernel cannot have: $(cat missing)" >&2
      exit 1
    fi
    make "$@" vmlinux modules
    make "$@" INSTALL_MOD_PATH=/mnt/kernel modules_install
    # Neither modules nor the guest need them again.
    find . -path ./scripts -prune -o -path ./tools -prune -o -path ./rust -prune -o \
      -name "*.[oa]" -exec rm {} +
  ' sh "${DEBUG_MAKE_ARGS[@]}"
}

stage_debug_guest() (
  GUEST_MODULES+=(dm-dust)
  build_guest "$DEBUG_KERNEL" "$(debug_release)" "$DEBUG_GUEST"
)

# vm_debug: the runs that are described from here on are of the debug kernel.
vm_debug() {
  [ -e "$DEBUG_TREE/vmlinux" ] || fail "there is no debug kernel" "run test-vm/setup --debug"
  VM_KVER=$(debug_release)
  VM_VMLINUZ=$DEBUG_TREE/vmlinux
  VM_GUEST=$DEBUG_GUEST
  # Without ACPI, of each socket one CPU is seen.
  VM_SMP=$VM_CPUS,sockets=$VM_CPUS
  # KUnit's tests in modules run when a test asks for them.
  VM_APPEND='kunit.enable=1 kunit.autorun=1 kunit.filter_glob=none'
  OVBD_MODULE=$OVBD_CACHE/module/debug/dm-overlaybd.ko
}
