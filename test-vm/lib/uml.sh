# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
#
# User Mode Linux: the same kernel as an ordinary program, at the processor's own speed. For
# measuring CPU time on machines without KVM; what is emulated only counts instructions.

UML=$OVBD_CACHE/uml   # src/: the tree, with the program in src/linux

UML_OPTIONS=(
  RUST MODULES MODULE_UNLOAD SMP MD BLK_DEV_DM BLK_DEV_RAM BLK_DEV_NULL_BLK BLK_DEV_LOOP
  EROFS_FS EROFS_FS_ZIP EROFS_FS_ZIP_ZSTD SQUASHFS SQUASHFS_LZ4 SQUASHFS_ZSTD EXT4_FS OVERLAY_FS
  DM_VERITY HOSTFS IO_URING CC_OPTIMIZE_FOR_PERFORMANCE
)

uml_key() { key uml-1 "$(tree_key)" "${UML_OPTIONS[@]}"; }

# From a clean tree: that for modules of the stock kernel is prepared for another architecture.
stage_uml() {
  local source
  source=$(source_package "$(kernel_release)")
  rm -rf "$UML"
  mkdir -p "$UML/src"
  dpkg-deb --fsys-tarfile "$DEBS/${source}"_*.deb | tar -xO "./usr/src/$source.tar.xz" >"$UML/source.tar.xz"
  in_root --bind "$UML:/mnt/uml" --chdir /mnt/uml tar -xf source.tar.xz -C src --strip-components 1
  rm "$UML/source.tar.xz"
  in_root --bind "$UML:/mnt/uml" --chdir /mnt/uml/src sh -ec '
    make ARCH=um CC=gcc-14 HOSTCC=gcc-14 defconfig
    for option; do scripts/config -e "$option"; done
    make ARCH=um CC=gcc-14 HOSTCC=gcc-14 olddefconfig
    make ARCH=um CC=gcc-14 HOSTCC=gcc-14 -j"$(nproc)"
  ' sh "${UML_OPTIONS[@]}"
}

# uml_module: the project's modules for it, into $UML/module.
uml_module() {
  mkdir -p "$UML/module"
  in_root --bind "$TOP:/mnt/src" --bind "$UML:/mnt/uml" \
    make -C /mnt/uml/src ARCH=um CC=gcc-14 HOSTCC=gcc-14 -j"$(nproc)" --no-print-directory \
    M=/mnt/src MO=/mnt/uml/module CONFIG_OVBD_LIMITS=m modules
}

# uml_root PROGRAM...: the files that it runs with, below $UML/root: the guest's base, the modules,
# and these static programs.
uml_root() {
  local program
  rm -rf "$UML/root"
  cp -a "$GUEST/tree" "$UML/root"
  mkdir -p "$UML/root/opt"
  cp "$UML"/module/{dm-overlaybd,ovbd-limits}.ko "$UML/root/opt/"
  for program; do cp "$STATIC_BIN/$program" "$UML/root/opt/"; done
  cat >"$UML/root/init" <<'END'
#!/bin/sh
. /etc/profile
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
insmod /opt/dm-overlaybd.ko && insmod /opt/ovbd-limits.ko && sh /etc/run
poweroff -f
END
  chmod +x "$UML/root/init"
}
