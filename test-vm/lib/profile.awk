# SPDX-License-Identifier: GPL-2.0-only
#
# Reads symbols ("ADDRESS - NAME") and the addresses of instructions with how often each was executed
# ("ADDRESS COUNT"), in order of addresses; prints the functions that have 95 % of all instructions.
# blocks: so many blocks of 4 KiB were read.

$2 == "-" {
  $1 = $2 = ""
  name = substr($0, 3)
  first = 1
  next
}
{
  owner = $1 ~ /^ffff/ ? name : "(programs)"
  sum[owner] += $2
  all += $2
  # The first instruction of a function is executed once a call.
  if (first) calls[owner] += $2
  first = 0
}
END {
  if (!all) {
    print "no instruction was seen"
    exit 1
  }
  printf "%10s %7s %7s %9s  %s\n", "a 4 KiB", "%", "sum, %", "calls", "function"
  for (;;) {
    most = ""
    for (owner in sum) if (most == "" || sum[owner] > sum[most]) most = owner
    if (most == "" || shown >= 0.95 * all) break
    shown += sum[most]
    printf "%10.1f %7.2f %7.2f %9.3f  %s\n", sum[most] / blocks, 100 * sum[most] / all,
      100 * shown / all, calls[most] / blocks, most
    delete sum[most]
  }
  printf "%10.1f %7.2f %7.2f %9s  %s\n", (all - shown) / blocks, 100 - 100 * shown / all, 100, "", "others"
  printf "%10.1f %7.2f\n", all / blocks, 100
}
