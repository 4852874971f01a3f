# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
#
# What the bench reads, and where it finds it.
# shellcheck disable=SC2034 # who sources it uses the variables

BENCH=$OVBD_CACHE/bench
BASELINES=$TOP/userspace-tools/bench/baseline
GATE_MIB=32

# The gate's files come with the kernel, so that they change only with it: the beginning of its
# image, which is machine code, and as much of its sources. The cut is what keeps the ratio near
# that of a Debian system (.55 for LZ4 in 4 KiB blocks): symbols and debug data compress better.
GATE_CODE_MIB=16
GATE_SOURCES=(mm kernel)

gate_key() {
  key gate-2 "$(kernel_release)" "$GATE_MIB" "$GATE_CODE_MIB" "${GATE_SOURCES[@]}" \
    "$(find "$TOP"/userspace-tools/bench/src/{content,pack.rs,rng.rs} -type f -print0 | sort -z | xargs -0 cat | sha256sum)"
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

# The files of a Debian system with a toolchain, as people have them in images: programs,
# libraries, scripts, text.
CORE_TREE=(usr/share/perl usr/share/doc usr/lib/python3.13 usr/lib/gcc usr/sbin)

core_key() {
  key core-1 "$(root_key)" "${CORE_TREE[@]}" "$(key_of_files "$VM_DIR/lib/bench.sh" "$VM_DIR/bench-images")" \
    "$(find "$TOP"/userspace-tools/bench/src/{content,pack.rs} -type f -print0 | sort -z | xargs -0 cat | sha256sum)"
}

# File systems are made in the build root, of its own files, with its tools.
stage_core() {
  local out=$BENCH/core
  rm -rf "$out"
  mkdir -p "$out"
  in_root --bind "$out:/mnt/out" --bind "$VM_DIR/bench-images:/mnt/bench-images" --chdir / \
    bash /mnt/bench-images "${CORE_TREE[@]}"
  "$STATIC_BIN/ovbd-bench" content-core "$out" "$BENCH/core.img.tmp"
  mv "$BENCH/core.img.tmp" "$BENCH/core.img"
  rm -rf "$out"
}

# bench_boot NAME IMAGE COMMAND: boots the machine that counts instructions; what the bench's
# command prints is in $VM_RESULTS then.
bench_boot() {
  local status=0
  export OVBD_ACCEL=icount
  VM_CPUS=1
  VM_MODULES=("$OVBD_CACHE/module/$(kernel_release)/ovbd-limits.ko")
  vm_new "$1"
  vm_products ovbd-bench
  vm_disk bench "$2" ro
  vm_script "stty -F /dev/ttyS1 raw
/opt/ovbd-bench $3 /dev/disk/bench >/dev/ttyS1 && echo 'the bench is done'"
  say "$3 on Linux $(kernel_release); console: $VM_CONSOLE"
  vm_boot "${OVBD_VM_TIMEOUT:-900}" >/dev/null || status=$?
  if [ "$status" -ne 0 ] || ! grep -q 'the bench is done' "$VM_CONSOLE"; then
    tail -n 20 "$VM_CONSOLE"
    fail "$3 did not come to its end (QEMU: $status)" "look at $VM_CONSOLE"
  fi
  if vm_splats; then fail 'the kernel complained'; fi
}
