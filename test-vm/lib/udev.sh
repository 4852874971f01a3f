# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Debian's udev, for the guest of the tests only: a second archive beside the guest's base.
# Its packages are unpacked and not installed, because the build root needs none of it.

UDEV=$OVBD_CACHE/udev
UDEV_PACKAGES=(udev libsystemd-shared)

udev_key() { key udev-1 "$(root_key)" "${UDEV_PACKAGES[@]}" "$(key_of_files "$VM_DIR/lib/udev.sh")"; }

stage_udev() {
  local package deb
  mkdir -p "$DEBS"
  rm -rf "$UDEV.tmp"
  mkdir -p "$UDEV.tmp"/{packages,tree}
  for package in "${UDEV_PACKAGES[@]}"; do
    # The root's lists may be older than what the archive has now.
    (fetch_deb "$package") || { in_root --net apt-get update && fetch_deb "$package"; }
    for deb in "$DEBS/$package"_*.deb; do
      dpkg-deb -x "$deb" "$UDEV.tmp/packages"
    done
  done
  install_udev "$UDEV.tmp/packages" "$UDEV.tmp/tree"
  rm -rf "$UDEV.tmp/packages" "$UDEV"
  mv "$UDEV.tmp" "$UDEV"
}

# install_udev PACKAGES TREE: daemon, udevadm and all rules; of the programs that the rules call
# the guest's base has dmsetup, and the others are for hardware that it has not.
install_udev() {
  local packages=$1 tree=$2 shared=usr/lib/x86_64-linux-gnu/systemd lib
  # The daemon is udevadm by another name. /usr/bin is a link in the guest, as /bin is here.
  install -D -m 755 "$packages/usr/bin/udevadm" "$tree/bin/udevadm"
  mkdir -p "$tree/usr/lib/systemd" "$tree/usr/lib/udev/rules.d" "$tree/$shared"
  ln -s ../../../bin/udevadm "$tree/usr/lib/systemd/systemd-udevd"
  cp "$packages/usr/lib/udev/rules.d"/*.rules "$tree/usr/lib/udev/rules.d/"
  # These are the package dmsetup's.
  cp "$ROOT/usr/lib/udev/rules.d"/{55-dm,60-persistent-storage-dm,95-dm-notify}.rules "$tree/usr/lib/udev/rules.d/"
  cp "$packages/$shared"/libsystemd-shared-*.so "$tree/$shared/"
  in_root --bind "$packages:/mnt" env LD_LIBRARY_PATH="/mnt/$shared" ldd /mnt/usr/bin/udevadm |
    grep -o ' /lib[^ ]*\.so[^ ]*' | sort -u | while read -r lib; do
    mkdir -p "$tree$(dirname "$lib")"
    cp -L "$ROOT$lib" "$tree$lib"
  done
}

# vm_udev: this run's guest has udev; nobody starts it.
vm_udev() { cp -a "$UDEV/tree/." "$VM_TREE/"; }
