# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The image that `make demo` shows: three layers of real files, made by the project's own
# tool, each stored in another way.

DEMO=$OVBD_CACHE/demo

demo_key() {
  key demo-2 "$(root_key)" "$(key_of_files "$VM_DIR/lib/demo.sh" "$VM_DIR/demo-image" "$STATIC_BIN/ovbd")"
}

# Made in the build root, whose files it shows and whose mke2fs it uses.
stage_demo() {
  rm -rf "$DEMO.tmp"
  mkdir -p "$DEMO.tmp"
  in_root --bind "$DEMO.tmp:/mnt/out" --bind "$VM_DIR/demo-image:/mnt/demo-image" \
    --bind "$STATIC_BIN/ovbd:/mnt/ovbd" --chdir /mnt/out bash /mnt/demo-image /mnt/ovbd "$DEMO"
  rm -rf "$DEMO"
  mv "$DEMO.tmp" "$DEMO"
}
