# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Booting the guest. A script describes a run and starts it:
#
#   vm_new test                     a folder for the run below $OVBD_CACHE/runs
#   vm_module dm-overlaybd.ko       goes into the guest's module folder
#   vm_add ovbd /opt/ovbd           a file of this machine into the guest
#   vm_disk golden g.img ro         a virtio-blk disk, /dev/disk/golden in there
#   vm_script 'guest-tests'         what PID 1 runs; then the guest powers off
#   vm_boot 600                     start, with a time limit in seconds

RUNS=$OVBD_CACHE/runs
KEEP_RUNS=8   # logs of so many runs of a name are kept

VM_MEM=${OVBD_VM_MEM:-1G}
VM_CPUS=${OVBD_VM_CPUS:-2}
VM_MODULES=()

vm_new() {
  VM_NAME=$1
  VM_RUN=$RUNS/$VM_NAME-$(date +%Y%m%d-%H%M%S)-$$
  VM_TREE=$VM_RUN/tree
  VM_CONSOLE=$VM_RUN/console.log
  VM_RESULTS=$VM_RUN/results.ktap
  VM_ARGS=()
  VM_BINDS=(--bind "$OVBD_CACHE:/mnt/cache")
  VM_INTERACTIVE=
  mkdir -p "$VM_TREE/etc"
  ln -sfn "$(basename "$VM_RUN")" "$RUNS/$VM_NAME-latest"
  prune_runs
  cp "$VM_DIR/splats" "$VM_TREE/etc/splats"
}

prune_runs() {
  local old
  find "$RUNS" -maxdepth 1 -type d -name "$VM_NAME-[0-9]*" -printf '%T@ %p\n' | sort -rn |
    tail -n +$((KEEP_RUNS + 1)) | cut -d' ' -f2- | while read -r old; do rm -rf "$old"; done
}

# vm_add FILE PATH: FILE appears in the guest as PATH, with its mode.
vm_add() {
  [ -e "$1" ] || fail "there is no $1 to put into the guest"
  mkdir -p "$VM_TREE$(dirname "$2")"
  cp -L "$1" "$VM_TREE$2"
}

vm_script() { printf '%s\n' "$1" >"$VM_TREE/etc/run"; }

# vm_module FILE...: modprobe finds them in the guest, by name and by alias.
vm_module() {
  local kver=${VM_KVER:-$(kernel_release)} merged=$VM_RUN/modules
  vm_merge_modules "$merged" "$@"
  mkdir -p "$VM_TREE/lib/modules/$kver"
  cp -r "$merged/lib/modules/$kver"/{updates,modules.*} "$VM_TREE/lib/modules/$kver/"
  rm -rf "$merged"
}

# vm_merge_modules DIR FILE...: the guest's modules with the files among them, as modprobe -d
# takes them.
vm_merge_modules() {
  local kver=${VM_KVER:-$(kernel_release)} guest=${VM_GUEST:-$GUEST} merged=$1 file
  shift
  mkdir -p "$merged/lib/modules"
  cp -al "$guest/tree/lib/modules/$kver" "$merged/lib/modules/$kver"
  mkdir -p "$merged/lib/modules/$kver/updates"
  for file; do
    in_root --bind "$(dirname "$(readlink -f "$file")"):/mnt/in" --bind "$merged/lib/modules/$kver/updates:/mnt/out" \
      strip --strip-debug -o "/mnt/out/$(basename "$file")" "/mnt/in/$(basename "$file")"
  done
  in_root --bind "$merged:/mnt/out" depmod -b /mnt/out "$kver"
}

# vm_path FILE: what the file is called where QEMU runs.
vm_path() {
  local file n
  file=$(readlink -f "$1")
  case $file in
  "$OVBD_CACHE"/*) VM_PATH=/mnt/cache/${file#"$OVBD_CACHE"/} ;;
  *)
    n=$((${#VM_BINDS[@]} / 2))
    VM_BINDS+=(--bind "$file:/mnt/file$n")
    VM_PATH=/mnt/file$n
    ;;
  esac
}

# vm_disk NAME FILE MODE [DEVICE-OPTIONS]: MODE is ro, or scratch (writes are dropped when
# the guest ends). DEVICE-OPTIONS as QEMU's virtio-blk-pci takes them.
vm_disk() {
  local name=$1 mode=$3 extra=${4:-} drive
  vm_path "$2"
  drive="if=none,id=$name,file=$VM_PATH,format=raw"
  case $mode in
  ro) drive+=,readonly=on ;;
  scratch) drive+=,snapshot=on,cache=unsafe ;;
  *) fail "vm_disk: mode '$mode'" ;;
  esac
  VM_ARGS+=(-drive "$drive" -device "virtio-blk-pci,drive=$name,serial=$name${extra:+,$extra}")
}

# How to run the processor. A /dev/kvm that is there may yet hang a guest, so that only
# a kernel that came up with it is proof.
vm_accel() {
  local want
  case ${OVBD_ACCEL:-} in
  tcg | kvm | icount) say "$OVBD_ACCEL" && return ;;
  esac
  if [ ! -w /dev/kvm ]; then
    say tcg
    return
  fi
  lock accel >&2   # this is a subshell's
  want=$(key accel-1 "$(uname -r)" "$(cat /proc/sys/kernel/random/boot_id)")
  if ! stamp_is accel "$want"; then
    if probe_kvm; then say kvm >"$OVBD_CACHE/accel"; else say tcg >"$OVBD_CACHE/accel"; fi
    say "$want" >"$STAMPS/accel"
  fi
  cat "$OVBD_CACHE/accel"
}

probe_kvm() {
  timeout -k 2 15 "$VM_DIR/in-root" --bind "$OVBD_CACHE:/mnt/cache" \
    qemu-system-x86_64 -accel kvm -cpu host -m 512M -nodefaults -no-user-config -display none \
    -no-reboot -serial stdio -kernel "/mnt/cache/${STOCK#"$OVBD_CACHE"/}/usr/lib/modules/$(kernel_release)/vmlinuz" \
    -append "console=ttyS0 panic=-1 root=none" </dev/null 2>/dev/null | grep -q 'VFS: Unable to mount root'
}

# vm_boot SECONDS: returns QEMU's exit status, 124 when the time was up. The console goes
# to $VM_CONSOLE; what programs write to /dev/ttyS1, to standard output and $VM_RESULTS. What they
# read there comes from $VM_INPUT, if there is one.
vm_boot() {
  local kver=${VM_KVER:-$(kernel_release)} guest=${VM_GUEST:-$GUEST} vmlinuz accel cmdline
  vmlinuz=${VM_VMLINUZ:-$STOCK/usr/lib/modules/$kver/vmlinuz}
  accel=$(vm_accel)
  # A run may bring an initramfs of its own.
  if [ ! -e "$VM_RUN/initrd" ]; then
    pack_cpio "$VM_TREE" "$VM_RUN/run.cpio"
    cat "$guest/base.cpio" "$VM_RUN/run.cpio" >"$VM_RUN/initrd"
  fi
  rm -rf "$VM_TREE" "$VM_RUN/run.cpio"
  # A panic ends QEMU; the limits allow for an emulated processor on a busy machine.
  cmdline="console=ttyS0 loglevel=5 panic=-1 watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=300 workqueue.watchdog_thresh=300 sysctl.kernel.hung_task_timeout_secs=600 ${VM_APPEND:-} ${OVBD_VM_APPEND:-}"
  VM_ARGS+=(-smp "${VM_SMP:-$VM_CPUS}" -m "$VM_MEM" -nodefaults -no-user-config -display none -nic none -no-reboot)
  # Emulated, string instructions move a byte at a time (and count so), where processors move a cache
  # line: a kernel that is told that they are slow copies by words.
  local cpu=max,-erms,-fsrm
  case $accel in
  kvm) VM_ARGS+=(-accel kvm -cpu host) ;;
  # The guest's clock counts its instructions, on one CPU: a nanosecond each, and none while idle.
  icount) VM_ARGS+=(-accel "tcg,thread=single" -icount "shift=0,sleep=off" -cpu "$cpu") ;;
  *) VM_ARGS+=(-accel "tcg,thread=multi" -cpu "$cpu") ;;
  esac
  if [ -n "$VM_INTERACTIVE" ]; then
    VM_ARGS+=(-chardev "stdio,id=console,mux=on,signal=off,logfile=/mnt/cache/${VM_CONSOLE#"$OVBD_CACHE"/}"
      -serial chardev:console -mon chardev=console)
  else
    VM_ARGS+=(-serial "file:/mnt/cache/${VM_CONSOLE#"$OVBD_CACHE"/}" -serial stdio)
  fi
  vm_path "$vmlinuz"
  VM_ARGS+=(-kernel "$VM_PATH" -append "$cmdline")
  vm_path "$VM_RUN/initrd"
  VM_ARGS+=(-initrd "$VM_PATH")
  if [ -n "$VM_INTERACTIVE" ]; then
    vm_qemu
  else
    vm_qemu "$1" <"${VM_INPUT:-/dev/null}" | tee "$VM_RESULTS" || return
    if vm_died_early; then
      warn 'the kernel panicked before anything of ours ran in it: booting once more'
      vm_qemu "$1" </dev/null | tee "$VM_RESULTS"
    fi
  fi
}

# With a thread for each CPU, QEMU now and then runs code that the kernel is patching
# while it boots. Nothing of ours is loaded by then. VM_PANICS: a panic is what the run is about.
vm_died_early() { [ -z "${VM_PANICS:-}" ] && [ ! -s "$VM_RESULTS" ] && grep -qs 'Kernel panic' "$VM_CONSOLE"; }

vm_qemu() {
  local limit=() rc=0
  # In the foreground: QEMU ends with the group of processes that it was started in.
  [ $# -eq 0 ] || limit=(timeout --foreground -k 10 "$1")
  "${limit[@]}" "$VM_DIR/in-root" "${VM_BINDS[@]}" qemu-system-x86_64 "${VM_ARGS[@]}" || rc=$?
  # A second boot may need it.
  vm_died_early || rm -f "$VM_RUN/initrd"
  return "$rc"
}

# Lines of the kernel's that must not be there.
vm_splats() { grep -a -F -f "$VM_DIR/splats" "$VM_CONSOLE"; }

# vm_products PROGRAM...: what the project builds, into the guest: the module, the tool, and
# these static programs. VM_MODULES are further modules.
vm_products() {
  local program
  vm_module "${OVBD_MODULE:-$OVBD_CACHE/module/$(kernel_release)/dm-overlaybd.ko}" "${VM_MODULES[@]}"
  for program in ovbd "$@"; do
    vm_add "$STATIC_BIN/$program" "/opt/$program"
    in_root --bind "$VM_TREE/opt:/mnt" strip "/mnt/$program"
  done
}
