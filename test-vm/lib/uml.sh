# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
#
# User Mode Linux: the same kernel as an ordinary program, at the processor's own speed. For
# measuring CPU time on machines without KVM; what is emulated only counts instructions.

UML_TREE=$OVBD_CACHE/uml   # with the program in linux
UML_ROOT=$OVBD_CACHE/uml-root

# PREEMPT counts preemption, as the stock kernel does: only then a reader may see that it may
# decompress in the task that submitted.
UML_OPTIONS=(
  PREEMPT RUST MODULES MODULE_UNLOAD MD BLK_DEV_DM BLK_DEV_RAM BLK_DEV_NULL_BLK BLK_DEV_LOOP
  EROFS_FS EROFS_FS_ZIP EROFS_FS_ZIP_ZSTD SQUASHFS SQUASHFS_LZ4 SQUASHFS_ZSTD EXT4_FS OVERLAY_FS
  DM_VERITY HOSTFS IO_URING CC_OPTIMIZE_FOR_PERFORMANCE DEBUG_INFO_NONE
)
# What the options above are chosen instead of, and what takes long to build for nothing.
UML_WITHOUT=(
  PREEMPT_VOLUNTARY CC_OPTIMIZE_FOR_SIZE DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT
  NET SOUND INPUT EROFS_FS_ZIP_LZMA AUTOFS_FS ISO9660_FS BINFMT_MISC IOSCHED_BFQ QUOTA
)

uml_key() { key uml-4-1 "$(tree_key)" "${UML_OPTIONS[@]}" "${UML_WITHOUT[@]}"; }

# From a clean tree, since that for modules of the stock kernel is prepared for another
# architecture. One CPU: a kernel for several makes a system call of the host's each time that it
# locks interrupts out.
stage_uml() {
  rm -rf "$UML_TREE"
  mkdir -p "$UML_TREE"
  unpack_source "$(kernel_release)" "$UML_TREE"
  in_root --bind "$UML_TREE:/mnt/uml" --chdir /mnt/uml sh -ec '
    make() { command make ARCH=um CC=gcc-14 HOSTCC=gcc-14 -j"$(nproc)" "$@"; }
    make defconfig
    for option in $1; do scripts/config -e "$option"; done
    for option in $2; do scripts/config -d "$option"; done
    make olddefconfig
    # Kconfig drops what it finds impossible without a word.
    for option in $1; do
      grep -q "^CONFIG_$option=[ym]$" .config || {
        echo "the kernel cannot have $option" >&2
        exit 1
      }
    done
    make
  ' sh "${UML_OPTIONS[*]}" "${UML_WITHOUT[*]}"
}

# The project's modules for it, into the folder dm-overlaybd of its tree.
uml_modules() {
  mkdir -p "$UML_TREE/dm-overlaybd"
  in_root --bind "$TOP:/mnt/src" --bind "$UML_TREE:/mnt/uml" \
    make -C /mnt/uml ARCH=um CC=gcc-14 HOSTCC=gcc-14 -j"$(nproc)" --no-print-directory \
    M=/mnt/src MO=/mnt/uml/dm-overlaybd CONFIG_OVBD_LIMITS=m modules
}

# uml_root PROGRAM...: the files that it runs with: the guest's base, the modules, and these
# static programs.
uml_root() {
  local program
  rm -rf "$UML_ROOT"
  cp -a "$GUEST/tree" "$UML_ROOT"
  mkdir -p "$UML_ROOT/opt"
  cp "$UML_TREE"/dm-overlaybd/{dm-overlaybd,ovbd-limits}.ko "$UML_ROOT/opt/"
  for program; do cp "$STATIC_BIN/$program" "$UML_ROOT/opt/"; done
  cat >"$UML_ROOT/init" <<'END'
#!/bin/sh
. /etc/profile
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
insmod /opt/dm-overlaybd.ko && insmod /opt/ovbd-limits.ko && sh /etc/run
poweroff -f
END
  chmod +x "$UML_ROOT/init"
}

# The last of the CPUs that this process may use.
last_cpu() { sed -n 's/^Cpus_allowed_list:.*[^0-9]//p' /proc/self/status; }

# uml_bench NAME MEMORY IMAGE COMMAND...: runs that command of the bench on a disk with IMAGE; what it
# takes goes to $BENCH/NAME.samples. All on one CPU: kernel and programs are processes that wait for
# each other, and to wake up another CPU each time takes longer than what they do, and CPU time as well.
uml_bench() {
  local name=$1 memory=$2 image=$3 kib log=$LOGS/bench-$1.log
  uml_root ovbd-bench
  shift 3
  say "/opt/ovbd-bench $1 /dev/ubda ${*:2}" >"$UML_ROOT/etc/run"
  kib=$(($(stat -c %s "$image") / 1024 + 1024))
  # A hung kernel ignores SIGTERM.
  timeout -k 5 "$LIMIT" "$STATIC_BIN/ovbd-bench" cpu "$BENCH/$name.samples" \
    taskset -c "$(last_cpu)" \
    "$VM_DIR/in-root" --bind "$UML_TREE:/mnt/uml" --bind "$UML_ROOT:/mnt/files" \
    --bind "$(dirname "$image"):/mnt/bench" \
    /mnt/uml/linux "mem=$memory" seccomp=on "ubd0r=/mnt/bench/${image##*/}" \
    root=/dev/root rootfstype=hostfs rootflags=/mnt/files rw init=/init con=null con0=fd:0,fd:1 \
    quiet brd.rd_nr=64 "brd.rd_size=$kib" >"$log" 2>&1 || {
    tail -n 20 "$log"
    fail "User Mode Linux did not come to the end of $name" "see $log"
  }
}
