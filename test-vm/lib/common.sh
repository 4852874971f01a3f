# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Paths, messages and the stage runner that every script in test-vm/ shares.
# Sourced, never run. Nothing here changes the machine.
# shellcheck disable=SC2034 # who sources it uses the variables

set -euo pipefail

VM_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TOP=$(dirname "$VM_DIR")

# Everything that is built or downloaded goes below this one folder.
OVBD_CACHE=${OVBD_CACHE:-/var/cache/dm-overlaybd}
case $OVBD_CACHE in
/*) ;;
*) OVBD_CACHE=$PWD/$OVBD_CACHE ;;
esac
export OVBD_CACHE

SUITE=${OVBD_SUITE:-trixie}           # the Debian release that the build root holds
ROOT=$OVBD_CACHE/root                 # the build root
STOCK=$OVBD_CACHE/stock               # unpacked kernel packages: vmlinuz, modules
STAMPS=$OVBD_CACHE/stamps             # a file a stage: the key that it was built from
LOGS=$OVBD_CACHE/logs
CACHE_MARK=$OVBD_CACHE/.dm-overlaybd-cache   # says that the folder is ours to delete
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$OVBD_CACHE/target}

say() { printf '%s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }

# fail MESSAGE [REMEDY]: end with one sentence on what is wrong and one on what to do.
fail() {
  printf 'error: %s\n' "$1" >&2
  [ $# -lt 2 ] || printf '  fix: %s\n' "$2" >&2
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# True while the two texts are versions and the first is at least the second.
version_at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

CARGO_MIN=1.85   # rust-version in userspace-tools/Cargo.toml

# Static programs need the C library's archive beside the compiler, fuzzing needs C++.
host_cargo_fits() {
  have cargo && have cc && have c++ || return 1
  local version
  version=$(cargo --version 2>/dev/null | cut -d' ' -f2)
  [ -n "$version" ] && version_at_least "$version" "$CARGO_MIN" || return 1
  [ -e "$(cc -print-file-name=libc.a)" ]
}

# in_root [OPTIONS] COMMAND...: run a command in the build root (see test-vm/in-root).
in_root() { "$VM_DIR/in-root" "$@"; }

# The stock kernel's release, for example 7.3.4+deb13-amd64; empty before it is there.
kernel_release() {
  local d
  for d in "$STOCK"/usr/lib/modules/*/; do
    [ -e "$d/vmlinuz" ] && basename "$d" && return
  done
  return 0
}

# The prepared tree of a release, as a path inside the build root.
kernel_tree_of() {
  local v=${1%%[+-]*}
  case $v in
  *.*.*) v=${v%.*} ;;
  esac
  say "/usr/src/linux-source-$v"
}

# key TEXT...: a short name for what something was built from.
key() { printf '%s\n' "$@" | sha256sum | cut -c1-16; }

# key_of_files FILE...: the same for the content of files.
key_of_files() { cat -- "$@" | sha256sum | cut -c1-16; }

stamp_is() { [ "$(cat "$STAMPS/$1" 2>/dev/null)" = "$2" ]; }

# lock NAME: one holder at a time; waits, and says so. Released when the script ends.
lock() {
  local fd
  mkdir -p "$OVBD_CACHE"
  exec {fd}>"$OVBD_CACHE/.lock-$1"
  if ! flock -n "$fd"; then
    say "waiting for another run that holds the $1 lock ..."
    flock "$fd"
  fi
}

STAGE_NO=0
STAGE_COUNT=0

# stage NAME TITLE KEY BUILD: run the function BUILD, unless NAME was built before from
# what the function KEY tells now. The stamp is written last, so a stage that was
# interrupted runs again; it holds what KEY tells by then, for a stage may find out
# what it is built from.
stage() {
  local name=$1 title=$2 key=$3 fn=$4 log ticker rc t0
  STAGE_NO=$((STAGE_NO + 1))
  if stamp_is "$name" "$("$key")"; then
    [ -n "${OVBD_QUIET:-}" ] || say "[$STAGE_NO/$STAGE_COUNT] $title: ready"
    return
  fi
  mkdir -p "$STAMPS" "$LOGS"
  rm -f "$STAMPS/$name"
  log=$LOGS/$name.log
  t0=$SECONDS
  stage_ticker "[$STAGE_NO/$STAGE_COUNT] $title" "$log" &
  ticker=$!
  # Not as the condition of an if: that would switch errexit off inside FUNCTION.
  set +e
  (
    set -e
    "$fn"
  ) </dev/null >"$log" 2>&1
  rc=$?
  set -e
  kill "$ticker" 2>/dev/null || true
  wait "$ticker" 2>/dev/null || true
  [ ! -t 1 ] || printf '\r\033[K'
  if [ "$rc" -ne 0 ]; then
    say "[$STAGE_NO/$STAGE_COUNT] $title: FAILED after $((SECONDS - t0)) s; the end of $log:"
    tail -n 20 "$log" | sed 's/^/    /'
    say "Put right what it names and run the command again: finished stages are kept."
    exit 1
  fi
  "$key" >"$STAMPS/$name.tmp"
  mv "$STAMPS/$name.tmp" "$STAMPS/$name"
  say "[$STAGE_NO/$STAGE_COUNT] $title: done in $((SECONDS - t0)) s"
}

# Shows that a stage is alive: a line that is drawn over on a terminal, else one now and then.
stage_ticker() {
  local title=$1 log=$2 t0=$SECONDS never
  # Nothing ever comes through this pipe: waiting for it is sleeping without a program that
  # would outlive the ticker, and keep what it has inherited.
  exec {never}<> <(:)
  if [ ! -t 1 ]; then
    say "$title ..."
    # It may have been killed: a ticker that goes on would hold its locks.
    until read -r -t 30 -u "$never" || ! kill -0 $$ 2>/dev/null; do say "$title: $((SECONDS - t0)) s ..."; done
    return
  fi
  while kill -0 $$ 2>/dev/null; do
    printf '\r\033[K%s: %d s  %.60s' "$title" $((SECONDS - t0)) "$(tail -n 1 "$log" 2>/dev/null | tr -cd '[:print:]')"
    read -r -t 1 -u "$never" || true
  done
}
