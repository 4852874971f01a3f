# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The stock kernel (vmlinuz and modules, as Debian ships them) and a source tree
# prepared so that a module built against it loads into that kernel.
#
# Debian drops a version from its archive when a newer one arrives, so nothing is
# pinned: the newest kernel is taken that has all its packages and that the build
# root's own toolchain built.

KERNEL_MIN=7.3   # older ones lack what the module uses of the kernel crate
DEBS=$OVBD_CACHE/debs

# Changes whenever a tree that was prepared the old way must not be used any more.
kernel_key() { key kernel-2 "$(root_key)" "${OVBD_KVER:-newest}" "$KERNEL_MIN"; }
tree_key() { key tree-1 "$(kernel_key)" "$(cat "$OVBD_CACHE/kernel-packages" 2>/dev/null)"; }

stage_kernel() {
  local kver
  mkdir -p "$DEBS"
  in_root --net apt-get update
  kver=$(choose_kernel)
  say "kernel: $kver"
  image_packages "$kver" >"$OVBD_CACHE/image-packages"
  # shellcheck disable=SC2046 # package names hold no spaces
  fetch_deb $(cat "$OVBD_CACHE/image-packages") "$(source_package "$kver")"
  unpack_stock "$kver"
  # What the tree is made from; also what makes it stale.
  (cd "$DEBS" && ls linux-headers-"$kver"_*.deb "$(source_package "$kver")"_*.deb) >"$OVBD_CACHE/kernel-packages"
}

# linux-source-7.3 for 7.3.4+deb13-amd64
source_package() { basename "$(kernel_tree_of "$1")"; }

# What the kernel of a release consists of: linux-image and the packages of its own
# that it depends on (kernel, modules and lists lie in different ones since 7.2).
image_packages() {
  say "linux-image-$1"
  in_root apt-cache show --no-all-versions "linux-image-$1" | sed -n 's/^Depends: //p' |
    tr ',' '\n' | sed 's/^ *//; s/ .*//' | grep -- "^linux-[a-z]*-$1\$" || true
}

# Prints the release to use; explains each newer one that cannot be used.
choose_kernel() {
  local release reason
  for release in $(kernel_candidates); do
    if [ -n "${OVBD_KVER:-}" ] && [ "$release" != "$OVBD_KVER" ]; then continue; fi
    if reason=$(why_not_kernel "$release"); then
      say "$release"
      return
    fi
    warn "kernel $release is passed over: $reason"
  done
  fail "$SUITE-backports has no kernel ${OVBD_KVER:-of $KERNEL_MIN or newer} that can be used" \
    "look at the warnings above; OVBD_KVER=RELEASE names one"
}

# Releases that the archive has headers of, newest first.
kernel_candidates() {
  local release
  in_root apt-cache pkgnames linux-headers- |
    sed -n 's/^linux-headers-\([0-9][0-9.]*[+-].*-amd64\)$/\1/p' |
    grep -vE -- '-(cloud|rt)-amd64$' | sort -V -r |
    while read -r release; do
      ! version_at_least "$release" "$KERNEL_MIN" || say "$release"
    done
}

# Says why a release cannot be used, and fails; succeeds in silence if it can.
why_not_kernel() {
  local release=$1 version config
  version=$(deb_versions "linux-headers-$release" | head -n 1)
  deb_versions "$(source_package "$release")" | grep -qxF "$version" || {
    say "the archive has no $(source_package "$release") of version $version"
    return 1
  }
  fetch_deb "linux-headers-$release" >&2 || {
    say "its headers cannot be downloaded"
    return 1
  }
  config=$(headers_file "$release" .config)
  grep -qx 'CONFIG_RUST=y' <<<"$config" || {
    say "it was built without CONFIG_RUST"
    return 1
  }
  same_tool "$config" CONFIG_RUSTC_VERSION_TEXT "$(in_root rustc --version)" &&
    same_tool "$config" CONFIG_CC_VERSION_TEXT "$(in_root x86_64-linux-gnu-gcc-14 --version | head -n 1)"
}

# Rust symbols carry a hash of the compiler: only the very same one will do. What
# stands in brackets at the end tells of the compiler's packaging.
same_tool() {
  local want
  want=$(sed -n "s/^$2=\"\(.*\)\"\$/\1/p" <<<"$1")
  [ "${want% (built*}" = "${3% (built*}" ] || {
    say "it was built with '$want', the build root has '$3'"
    return 1
  }
}

deb_versions() { in_root apt-cache show "$1" 2>/dev/null | sed -n 's/^Version: //p'; }

# fetch_deb PACKAGE...: into $DEBS, unless the archive's file is there already.
fetch_deb() {
  local package version
  for package; do
    version=$(deb_versions "$package" | head -n 1)
    [ -n "$version" ] || fail "the archive has no package $package"
    # apt gives a file its name when it is whole and its hash right.
    if [ -e "$DEBS/${package}_${version//:/%3a}_amd64.deb" ] || [ -e "$DEBS/${package}_${version//:/%3a}_all.deb" ]; then
      continue
    fi
    rm -f "$DEBS/$package"_*.deb
    in_root --net --bind "$DEBS:/mnt" --chdir /mnt apt-get -o APT::Sandbox::User=root download "$package=$version"
  done
}

# headers_file RELEASE NAME: a file of the headers package, on standard output.
headers_file() {
  dpkg-deb --fsys-tarfile "$DEBS"/linux-headers-"$1"_*.deb |
    tar -xO "./usr/src/linux-headers-$1/$2"
}

unpack_stock() {
  local kver=$1 package deb modules
  rm -rf "$STOCK.tmp"
  mkdir -p "$STOCK.tmp"
  while read -r package; do
    for deb in "$DEBS/$package"_*.deb; do
      dpkg-deb -x "$deb" "$STOCK.tmp"
    done
  done <"$OVBD_CACHE/image-packages"
  modules=$STOCK.tmp/usr/lib/modules/$kver
  [ -e "$modules/vmlinuz" ] || mv "$STOCK.tmp/boot/vmlinuz-$kver" "$modules/vmlinuz" ||
    fail "the packages of linux-image-$kver hold no vmlinuz" "they have changed: report this"
  # depmod wants lib/modules below its base.
  ln -sfn usr/lib "$STOCK.tmp/lib"
  in_root --bind "$STOCK.tmp:/mnt" depmod -b /mnt "$kver"
  rm -rf "$STOCK"
  mv "$STOCK.tmp" "$STOCK"
}

# unpack_source RELEASE DIR: its source, as it was packaged, into the folder.
unpack_source() {
  local source
  source=$(source_package "$1")
  dpkg-deb --fsys-tarfile "$DEBS/${source}"_*.deb | tar -xO "./usr/src/$source.tar.xz" >"$2/source.tar.xz"
  in_root --bind "$2:/mnt/tree" --chdir /mnt/tree tar -xf source.tar.xz --strip-components 1
  rm "$2/source.tar.xz"
}

stage_tree() {
  local kver tree make_args
  kver=$(kernel_release)
  tree=$(kernel_tree_of "$kver")
  rm -rf "$ROOT"/usr/src/linux-source-*
  say "unpacking $(source_package "$kver")"
  dpkg-deb --fsys-tarfile "$DEBS/$(source_package "$kver")"_*.deb |
    tar -C "$ROOT" -x "./usr/src/$(source_package "$kver").tar.xz"
  tar -C "$ROOT/usr/src" -xf "$ROOT$tree.tar.xz"
  rm "$ROOT$tree.tar.xz"
  headers_file "$kver" .config >"$ROOT$tree/.config"
  headers_file "$kver" Module.symvers >"$ROOT$tree/Module.symvers"
  read -ra make_args <<<"$(kernel_make_args "$kver")"
  in_root make -C "$tree" -j"$(nproc)" "${make_args[@]}" prepare modules_prepare
  check_tree "$kver" "$tree"
}

# The arguments that Debian's own build gives to make; the module's build needs the same.
kernel_make_args() {
  local local_version=${1#"${1%%[+-]*}"}
  say "CC=x86_64-linux-gnu-gcc-14 HOSTCC=gcc-14 LOCALVERSION=$local_version"
}

# The tree must describe the very kernel that boots, or the module will not load.
check_tree() {
  local kver=$1 tree=$2 release
  release=$(cat "$ROOT$tree/include/config/kernel.release")
  [ "$release" = "$kver" ] || fail "the tree prepared itself as $release, the kernel is $kver"
  headers_file "$kver" .config | cmp -s - "$ROOT$tree/.config" ||
    warn "preparing the tree changed its configuration (see $ROOT$tree/.config)"
  compgen -G "$ROOT$tree/rust/*.rmeta" >/dev/null || fail "the prepared tree has no Rust metadata"
}
