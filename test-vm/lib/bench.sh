# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
#
# What the bench reads, and where it finds it.
# shellcheck disable=SC2034 # who sources it uses the variables

BENCH=$OVBD_CACHE/bench
BASELINES=$TOP/userspace-tools/bench/baseline
GATE_MIB=32
UBLK_BIN=$OVBD_CACHE/target-root/x86_64-unknown-linux-gnu/release/ovbd-ublk

# The gate's files come with the kernel, so that they change only with it: the beginning of its
# image, which is machine code, and as much of its sources. The cut is what keeps the ratio near
# that of a Debian system (.55 for LZ4 in 4 KiB blocks): symbols and debug data compress better.
GATE_CODE_MIB=16
GATE_SOURCES=(mm kernel)

# The programs that make the images, as far as it depends on them what is in those.
makers_key() {
  (cd "$TOP/userspace-tools" && find bench/src/{content,pack.rs,rng.rs} ovbd/src/image Cargo.lock -type f -print0 |
    sort -z | xargs -0 cat | sha256sum)
}

gate_key() {
  key gate-3 "$(tree_key)" "$GATE_MIB" "$GATE_CODE_MIB" "${GATE_SOURCES[@]}" "$(makers_key)"
}

stage_gate() {
  local tree=$BENCH/gate.tree kver source
  kver=$(kernel_release)
  source=$(kernel_tree_of "$kver")
  rm -rf "$tree"
  mkdir -p "$tree"
  in_root --bind "$STOCK/usr/lib/modules/$kver:/mnt/kernel" --bind "$tree:/mnt/out" \
    sh -c '"$1/scripts/extract-vmlinux" /mnt/kernel/vmlinuz >/mnt/out/code' sh "$source"
  truncate -s "${GATE_CODE_MIB}M" "$tree/code"
  # Not what preparing the tree has made.
  (cd "$ROOT$source" && find "${GATE_SOURCES[@]}" -name '*.[ch]' -print0 | tar --null -T - -c) |
    tar -C "$tree" -x
  "$STATIC_BIN/ovbd-bench" content "$tree" "$GATE_MIB" "$BENCH/gate.img.tmp"
  mv "$BENCH/gate.img.tmp" "$BENCH/gate.img"
  rm -rf "$tree"
}

# The gate's files in other forms.
others_key() { key others-2 "$(gate_key)"; }

stage_others() {
  "$STATIC_BIN/ovbd-bench" content-others "$BENCH/gate.img" "$BENCH/others.img.tmp"
  mv "$BENCH/others.img.tmp" "$BENCH/others.img"
}

# The files of a Debian system with a toolchain, as people have them in images: programs,
# libraries, scripts, text. Eight folders, which are the layers that overlayfs puts together.
CORE_TREE=(
  usr/share/perl usr/share/doc usr/share/man usr/share/info usr/lib/python3.13 usr/lib/gcc usr/include usr/sbin
)
# More, and larger files, for the full run.
FULL_TREE=(
  usr/bin usr/sbin usr/share usr/libexec usr/include usr/lib/gcc usr/lib/python3.13 usr/lib/x86_64-linux-gnu/perl
)

tree_images_key() {
  key tree-2 "$(root_key)" "$@" "${SQUASHFS_PACKAGES[@]}" "$(makers_key)" \
    "$(key_of_files "$VM_DIR/lib/bench.sh" "$VM_DIR/bench-images")"
}
core_key() { tree_images_key "${CORE_TREE[@]}"; }
full_key() { tree_images_key "${FULL_TREE[@]}"; }
stage_core() { tree_images core "${CORE_TREE[@]}"; }
stage_full() { tree_images full "${FULL_TREE[@]}"; }

# Unpacked and not installed, because the build root needs none of it.
SQUASHFS_PACKAGES=(squashfs-tools liblzo2-2)

# squashfs_tools DIR: unpacks them there.
squashfs_tools() {
  local package deb
  mkdir -p "$DEBS" "$1"
  for package in "${SQUASHFS_PACKAGES[@]}"; do
    # The root's lists may be older than what the archive has now.
    (fetch_deb "$package") || { in_root --net apt-get update && fetch_deb "$package"; }
    for deb in "$DEBS/$package"_*.deb; do
      dpkg-deb -x "$deb" "$1"
    done
  done
}

# tree_images NAME FOLDER...: $BENCH/NAME.img. File systems are made in the build root, of its own
# files, with Debian's tools.
tree_images() {
  local name=$1 out=$BENCH/$1
  shift
  rm -rf "$out"
  mkdir -p "$out"
  squashfs_tools "$out.squashfs"
  in_root --bind "$out:/mnt/out" --bind "$VM_DIR/bench-images:/mnt/bench-images" \
    --bind "$out.squashfs:/mnt/squashfs" --chdir / bash /mnt/bench-images "$@"
  "$STATIC_BIN/ovbd-bench" content-core "$out" "$out.img.tmp"
  mv "$out.img.tmp" "$out.img"
  rm -rf "$out" "$out.squashfs"
}

# bench_boot NAME COMMAND DISK...: boots the machine that counts instructions; what the bench's
# command prints is in $VM_RESULTS then. A DISK is NAME=FILE; the command names it /dev/disk/NAME.
bench_boot() { OVBD_ACCEL=icount VM_CPUS=1 bench_run "$@"; }

# The same on a machine with two CPUs, each a thread of this one's.
bench_boot_two() { OVBD_ACCEL=tcg VM_CPUS=2 bench_run "$@"; }

bench_run() {
  local name=$1 command=$2 disk status=0
  shift 2
  VM_MODULES=("$OVBD_CACHE/module/$(kernel_release)/ovbd-limits.ko")
  vm_new "$name"
  vm_products ovbd-bench
  vm_add "$ROOT/usr/bin/chrt" /opt/chrt
  [ "$name" != blocks ] || vm_add "$UBLK_BIN" /opt/ovbd-ublk
  for disk; do vm_disk "${disk%%=*}" "${disk#*=}" ro; done
  vm_script "stty -F /dev/ttyS1 raw
/opt/ovbd-bench $command >/dev/ttyS1 && echo 'the bench is done'"
  say "$command on Linux $(kernel_release); console: $VM_CONSOLE"
  vm_boot "${OVBD_VM_TIMEOUT:-1800}" >/dev/null || status=$?
  if [ "$status" -ne 0 ] || ! grep -q 'the bench is done' "$VM_CONSOLE"; then
    tail -n 20 "$VM_CONSOLE"
    fail "$command did not come to its end (QEMU: $status)" "look at $VM_CONSOLE"
  fi
  if vm_splats; then fail 'the kernel complained'; fi
}
