# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The build root: a small Debian with the compilers that Debian built the kernel
# with, QEMU, and what goes into the guest. Same tools on every machine.

ROOT_PACKAGES=(
  # The kernel's build, as Documentation/process/changes.rst wants it.
  make gcc gcc-14 rustc rust-src rustfmt rust-clippy cargo bindgen clang libclang-dev
  flex bison bc libelf-dev libssl-dev pahole python3 cpio kmod xz-utils perl rsync file
  # For a cargo that runs in here, and what its tests reach.
  ca-certificates libc6-dev g++ llvm
  # The virtual machine and the guest's programs.
  qemu-system-x86 busybox-static dmsetup mount
  # Disk images.
  e2fsprogs erofs-utils zstd
  # Checks.
  shellcheck "${TEST_PACKAGES[@]}"
)

root_key() { key root-1 "$SUITE" "${ROOT_PACKAGES[@]}"; }

stage_root() {
  local mirror packages
  mirror=$(debian_mirror)
  check_mirror "$mirror"
  # A root of an earlier description goes first: it holds the old kernel tree, too.
  rm -rf "$ROOT.tmp"
  packages=$(IFS=, && say "${ROOT_PACKAGES[*]}")
  mmdebstrap --mode=root --variant=apt --architectures=amd64 \
    --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Retries "3"' \
    --include="$packages" "$SUITE" "$ROOT.tmp" "$mirror"
  say "deb $mirror $SUITE-backports main" >"$ROOT.tmp/etc/apt/sources.list.d/backports.list"
  rm -rf "$ROOT"
  mv "$ROOT.tmp" "$ROOT"
}
