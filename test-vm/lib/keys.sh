# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
#
# What the tests of signed root hashes need: a program for the kernel's keys, which the build root
# does not have, and two keys that sign. They protect nothing.

KEYS=$OVBD_CACHE/keys   # tree/: what goes into the guest; NAME.key, NAME.pem: keys, certificates
KEYS_PACKAGES=(keyutils libkeyutils1)

keys_key() { key keys-1 "$(root_key)" "${KEYS_PACKAGES[@]}" "$(key_of_files "$VM_DIR/lib/keys.sh")"; }

stage_keys() {
  local package deb name
  mkdir -p "$DEBS"
  rm -rf "$KEYS.tmp"
  mkdir -p "$KEYS.tmp"/{packages,tree/bin,tree/lib,tree/opt/keys}
  for package in "${KEYS_PACKAGES[@]}"; do
    # The root's lists may be older than what the archive has now.
    (fetch_deb "$package") || { in_root --net apt-get update && fetch_deb "$package"; }
    for deb in "$DEBS/$package"_*.deb; do
      dpkg-deb -x "$deb" "$KEYS.tmp/packages"
    done
  done
  find "$KEYS.tmp/packages" -path '*/bin/keyctl' -exec cp {} "$KEYS.tmp/tree/bin/" \;
  [ -x "$KEYS.tmp/tree/bin/keyctl" ] || fail "the package keyutils has no keyctl"
  find "$KEYS.tmp/packages" -name 'libkeyutils.so.1*' -exec cp -a {} "$KEYS.tmp/tree/lib/" \;
  for name in trusted other; do
    in_root --bind "$KEYS.tmp:/mnt" --chdir /mnt openssl req -quiet -x509 -newkey rsa:2048 -nodes \
      -days 36500 -subj "/CN=ovbd test $name" -keyout "$name.key" -out "$name.pem"
    in_root --bind "$KEYS.tmp:/mnt" --chdir /mnt openssl x509 -in "$name.pem" -outform der \
      -out "tree/opt/keys/$name.der"
  done
  rm -rf "$KEYS.tmp/packages" "$KEYS"
  mv "$KEYS.tmp" "$KEYS"
}

# vm_keys GOLDEN: this run's guest has keyctl, the certificates, and a signature of a golden layer's
# root hash by each key.
vm_keys() {
  local golden=$1 name dir=$VM_RUN/sign
  cp -a "$KEYS/tree/." "$VM_TREE/"
  [ -n "$golden" ] || return 0
  mkdir -p "$dir"
  cp "$golden/ext4/layer0.lz4.zfile" "$dir/layer"
  # Without the newline: what the kernel has the signature of are the 64 digits.
  "$STATIC_BIN/ovbd" seal "$dir/layer" | head -c 64 >"$dir/root"
  for name in trusted other; do
    in_root --bind "$dir:/mnt/in" --bind "$(readlink -f "$KEYS"):/mnt/keys" openssl smime -sign -nocerts -noattr \
      -binary -in /mnt/in/root -inkey "/mnt/keys/$name.key" -signer "/mnt/keys/$name.pem" \
      -outform der -out "/mnt/in/$name.p7s"
    mv "$dir/$name.p7s" "$VM_TREE/opt/keys/"
  done
  rm -rf "$dir"
}
