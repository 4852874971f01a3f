# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
#
# What the bench reads, and where it finds it.

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
