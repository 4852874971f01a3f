# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The guest's base system: an initramfs with busybox, a few real programs and the
# kernel modules that tests use. A run adds a second, small archive (lib/vm.sh).

GUEST=$OVBD_CACHE/guest   # tree/: what is in it; base.cpio: the archive

GUEST_PROGRAMS=(
  /usr/sbin/dmsetup /usr/sbin/losetup /usr/sbin/mke2fs /usr/sbin/e2fsck /usr/sbin/dumpe2fs
)

# Named as modprobe takes them; what they depend on comes along.
GUEST_MODULES=(
  dm-mod dm-zero dm-delay dm-flakey dm-verity dm-snapshot dm-crypt dm-log-writes dm-bufio
  loop brd null_blk ublk_drv virtio_blk virtio_scsi sd_mod scsi_debug virtio_net
  ext4 erofs squashfs overlay
)

guest_key() {
  key guest-2 "$(tree_key)" "${GUEST_PROGRAMS[@]}" "${GUEST_MODULES[@]}" \
    "$(key_of_files "$VM_DIR/lib/guest.sh" "$VM_DIR"/guest/*)"
}

stage_guest() { build_guest "$STOCK" "$(kernel_release)" "$GUEST"; }

# build_guest KERNEL RELEASE OUT: KERNEL/lib/modules/RELEASE are the modules to take from.
build_guest() {
  local kernel=$1 kver=$2 out=$3 tree=$3.tmp/tree
  rm -rf "$out.tmp"
  mkdir -p "$tree"/{bin,etc,dev,proc,sys,run,tmp,mnt,root,lib/modules/"$kver"}
  ln -s bin "$tree/sbin"
  mkdir -p "$tree/usr"
  ln -s ../bin "$tree/usr/bin"
  ln -s ../bin "$tree/usr/sbin"
  install_busybox "$tree"
  install_programs "$tree"
  install_modules "$kernel" "$kver" "$tree"
  install -m 755 "$VM_DIR/guest/init" "$tree/init"
  install -m 644 "$VM_DIR/guest/profile" "$tree/etc/profile"
  say 'root:x:0:0:root:/root:/bin/sh' >"$tree/etc/passwd"
  say 'root:x:0:' >"$tree/etc/group"
  pack_cpio "$tree" "$out.tmp/base.cpio"
  rm -rf "$out"
  mv "$out.tmp" "$out"
}

install_busybox() {
  local tree=$1 applet
  cp "$ROOT/usr/bin/busybox" "$tree/bin/busybox"
  for applet in $(in_root /usr/bin/busybox --list); do
    [ -e "$tree/bin/$applet" ] || ln -s busybox "$tree/bin/$applet"
  done
}

# Programs with the libraries that they name, at the places where they look for them.
install_programs() {
  local tree=$1 program lib
  for program in "${GUEST_PROGRAMS[@]}"; do
    [ -x "$ROOT$program" ] || fail "the build root has no $program"
    rm -f "$tree/bin/$(basename "$program")"
    cp -L "$ROOT$program" "$tree/bin/"
  done
  in_root ldd "${GUEST_PROGRAMS[@]}" | grep -o '/[^ ]*\.so[^ ]*' | sort -u | while read -r lib; do
    mkdir -p "$tree$(dirname "$lib")"
    cp -L "$ROOT$lib" "$tree$lib"
  done
}

# Modules are stored unpacked: undoing xz in an emulated machine takes longer than
# reading the larger file.
install_modules() {
  local kernel=$1 kver=$2 tree=$3 base=/mnt/lib/modules/$2/ path file
  in_root --bind "$kernel:/mnt" sh -ec '
    v=$1; shift
    for m; do modprobe -d /mnt -S "$v" --show-depends "$m" || echo "no module $m" >&2; done
  ' sh "$kver" "${GUEST_MODULES[@]}" | awk '$1 == "insmod" { print $2 }' | sort -u |
    while read -r path; do
      path=${path#"$base"}
      file=$tree/lib/modules/$kver/${path%.xz}
      mkdir -p "$(dirname "$file")"
      case $path in
      *.xz) xz -dc "$kernel/lib/modules/$kver/$path" >"$file" ;;
      *) cp "$kernel/lib/modules/$kver/$path" "$file" ;;
      esac
    done
  cp "$kernel/lib/modules/$kver"/modules.{builtin,builtin.modinfo,order} "$tree/lib/modules/$kver/"
  in_root --bind "$tree:/mnt" depmod -b /mnt "$kver"
}

# pack_cpio TREE FILE: a newc archive that belongs to root, padded so that another may
# follow it (without the padding the kernel drops what follows).
pack_cpio() {
  in_root --bind "$1:/mnt" --chdir /mnt \
    sh -c 'find . -mindepth 1 -print0 | LC_ALL=C sort -z | cpio --null -o -H newc --owner 0:0 --quiet' >"$2"
  truncate -s %4 "$2"
}
