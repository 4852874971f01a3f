# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
#
# What the machine has to offer before anything is built: rights, space, a few
# packages, and a Debian mirror. Each check ends with a sentence, not a trace.

# Only what cannot come from the build root: everything else (compilers, QEMU,
# file system tools) is installed in there, and is the same on every machine.
HOST_PACKAGES=(mmdebstrap xz-utils git)
HOST_COMMANDS=(mmdebstrap unshare flock xz git)

# Where cargo runs, the unit tests need a registry, a client of it, and certificates.
TEST_PACKAGES=(docker-registry skopeo openssl)
if host_cargo_fits; then
  HOST_PACKAGES+=("${TEST_PACKAGES[@]}")
  HOST_COMMANDS+=("${TEST_PACKAGES[@]}")
fi

NEED_MIB=9000   # build root 2.6 GB, kernel tree 2.1 GB, packages, images, cargo's output

apt_opts=(-o Acquire::Check-Valid-Until=false -o Dpkg::Use-Pty=0 -o Acquire::Retries=3)

check_host() {
  [ "$(uname -s)" = Linux ] || fail "this needs a Linux machine" "run it in a virtual machine with Debian 12 or newer"
  [ "$(uname -m)" = x86_64 ] || fail "the build root and its kernel are for x86_64, this machine is $(uname -m)"
  [ "$(id -u)" = 0 ] || fail "setting up needs root (chroot and mount)" "run the command with sudo"
  unshare --mount --propagation private true 2>/dev/null ||
    fail "mounting is not allowed here (unshare --mount failed)" \
      "in a container, start it with --privileged or CAP_SYS_ADMIN"
  check_space
}

check_space() {
  local dir=$OVBD_CACHE free used
  mkdir -p "$dir" 2>/dev/null || fail "cannot make $dir" "set OVBD_CACHE to a folder that can be written"
  free=$(df --output=avail -m "$dir" | tail -n 1)
  # What an earlier run has built already need not fit a second time. Files that come and
  # go while du counts them make it fail with its sum printed.
  used=$(du -smx "$dir" 2>/dev/null | cut -f1) || true
  free=$((free + ${used:-0}))
  [ "$free" -ge "$NEED_MIB" ] ||
    fail "$dir has room for $free MiB, the set-up needs $NEED_MIB" "free some, or set OVBD_CACHE to a folder elsewhere"
  case $(findmnt -no OPTIONS --target "$dir" 2>/dev/null),$OVBD_CACHE in
  *nodev* | *noexec*) fail "$dir lies on a file system mounted nodev or noexec" "set OVBD_CACHE to a folder elsewhere" ;;
  esac
}

host_packages_missing() {
  local c
  for c in "${HOST_COMMANDS[@]}"; do
    have "$c" || return 0
  done
  return 1
}

stage_host() {
  local registry_is_new=
  host_packages_missing || return 0
  have docker-registry || registry_is_new=1
  have apt-get || fail "these commands are needed: ${HOST_COMMANDS[*]}" "install them with this system's package manager"
  export DEBIAN_FRONTEND=noninteractive
  # The lists may be missing or too old to name what the mirror has today.
  apt-get "${apt_opts[@]}" install -y --no-install-recommends "${HOST_PACKAGES[@]}" || {
    apt-get "${apt_opts[@]}" update
    apt-get "${apt_opts[@]}" install -y --no-install-recommends "${HOST_PACKAGES[@]}"
  }
  # Its package starts a service; tests start their own, and nobody asked for another.
  if [ -n "$registry_is_new" ] && have systemctl; then
    systemctl disable --now docker-registry.service >/dev/null 2>&1 || true
  fi
  ! host_packages_missing || fail "installed ${HOST_PACKAGES[*]}, yet one of these is not there: ${HOST_COMMANDS[*]}"
}

# The mirror that this machine's own apt uses for Debian, as apt itself tells it:
# reading its sources files would have to know their two formats and their comments.
debian_mirror() {
  local uri
  if [ -n "${OVBD_MIRROR:-}" ]; then
    say "${OVBD_MIRROR%/}"
    return
  fi
  uri=$(apt_mirror)
  if [ -z "$uri" ] && have apt-get; then
    apt-get "${apt_opts[@]}" update >&2 || true
    uri=$(apt_mirror)
  fi
  [ -n "$uri" ] || fail "cannot tell a Debian mirror from this machine's apt configuration" \
    "name one: make ... OVBD_MIRROR=http://YOUR.MIRROR/debian"
  say "${uri%/}"
}

apt_mirror() {
  have apt-get || return 0
  local codename
  codename=$(. /etc/os-release && say "${VERSION_CODENAME:-}")
  {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' "Codename: $codename"
    # Testing and derivatives: any suite of Debian's own archive will do.
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian'
  } 2>/dev/null | grep -E '^(https?|file|copy)' | head -n 1 || true
}

# check_mirror MIRROR: is it there, and does it have the release? Uses apt's own
# downloader, so that a proxy in apt's configuration counts.
check_mirror() {
  local got
  [ -x /usr/lib/apt/apt-helper ] || return 0
  got=$(mktemp)
  /usr/lib/apt/apt-helper "${apt_opts[@]}" download-file "$1/dists/$SUITE/InRelease" "$got" >/dev/null 2>&1 || {
    rm -f "$got"
    fail "the Debian mirror $1 does not answer, or does not have $SUITE" \
      "check the network and apt's proxy setting, or name another mirror with OVBD_MIRROR="
  }
  rm -f "$got"
}
