# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Disk images for the guest's tests, made once and kept in the cache.

DISKS=$OVBD_CACHE/disks
STATIC_BIN=$CARGO_TARGET_DIR/x86_64-unknown-linux-gnu/release

# Files that the reference tools wrote, to compare with. They are no part of the project:
# without them the tests that need them fail.
golden_dir() {
  local dir=${OVBD_GOLDEN:-$TOP/../shared/golden}
  [ ! -e "$dir/manifest.json" ] || readlink -f "$dir"
}

# made NAME KEY COMMAND...: runs COMMAND FILE unless the disk image NAME was made from KEY.
# In a subshell, which holds the lock for as long as that takes.
made() (
  name=$1 want=$2
  shift 2
  lock disks
  if [ -e "$DISKS/$name" ] && stamp_is "disk-$name" "$want"; then exit; fi
  mkdir -p "$DISKS" "$STAMPS"
  rm -f "$DISKS/$name.tmp"
  "$@" "$DISKS/$name.tmp"
  mv "$DISKS/$name.tmp" "$DISKS/$name"
  say "$want" >"$STAMPS/disk-$name"
)

pack_golden() { "$STATIC_BIN/guest-tests" pack-golden "$1" "$2"; }

# An empty ext4 to write to: what is written is dropped when the guest ends.
make_scratch() {
  truncate -s 4G "$1"
  in_root --bind "$DISKS:/mnt/disks" mke2fs -q -t ext4 -O ^has_journal -E lazy_itable_init=1 \
    "/mnt/disks/$(basename "$1")"
}

# One without a file system, for tests to put on it what they like.
make_raw() { truncate -s 256M "$1"; }

# files_disk FOLDER FILE: an ext4 with the files of a folder, as they are.
files_disk() {
  local size
  size=$(du -sm --apparent-size "$1" | cut -f1)
  truncate -s "$((size + size / 8 + 16))M" "$2"
  in_root --bind "$1:/mnt/files" --bind "$DISKS:/mnt/disks" mke2fs -q -t ext4 -O ^has_journal -m 0 \
    -d /mnt/files "/mnt/disks/$(basename "$2")"
}

# The disks that every test run has.
add_test_disks() {
  local golden layer
  made scratch.img scratch-1 make_scratch
  vm_disk scratch "$DISKS/scratch.img" scratch
  made raw.img raw-1 make_raw
  vm_disk raw "$DISKS/raw.img" scratch
  golden=$(golden_dir)
  [ -n "$golden" ] || { warn "no golden files: their tests will fail (OVBD_GOLDEN names the folder)" && return; }
  # The index on the disk is the program's own: another program, another disk.
  made golden.img "$(key_of_files "$golden/manifest.json" "$STATIC_BIN/guest-tests")" pack_golden "$golden"
  made golden-files.img "$(key_of_files "$golden/manifest.json")" files_disk "$golden"
  vm_disk golden "$DISKS/golden.img" ro
  vm_disk golden-files "$DISKS/golden-files.img" ro
  # Layers as disks of their own, as a virtual machine boots from them: in a tar, and of odd
  # length, which QEMU fills up with zeros to a sector.
  for layer in 0 1 2; do
    vm_disk "tar$layer" "$golden/ext4/layer$layer.zstd-32k.zfile.tar" ro
    vm_disk "zfile$layer" "$golden/ext4/layer$layer.lz4.zfile" ro
  done
}
