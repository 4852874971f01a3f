# SPDX-License-Identifier: GPL-2.0-only
#
# Reads KTAP, shows it to people, and ends with a line "passed failed" in the file that
# the variable `summary` names. Tests that were planned and have no result have failed.

# Each line as it comes, also into a pipe.
{ sub(/\r$/, ""); fflush() }
/^1\.\.[0-9]+/ { planned = substr($0, 4) + 0; next }
/^KTAP version/ { next }
/^ok [0-9]+ / { count++; passed++; print "  ok    " name() time(); next }
/^not ok [0-9]+ / { count++; failed++; print "  FAIL  " name() time(); next }
/^# / { print "        " substr($0, 3); next }
{ print "        " $0 }

function name() { return $1 == "not" ? $4 : $3 }
function time() { return match($0, /# [0-9.]+ s/) ? "  (" substr($0, RSTART + 2, RLENGTH - 2) ")" : "" }

END {
  if (count < planned) {
    printf "  FAIL  %d of %d planned tests have no result\n", planned - count, planned
    failed += planned - count
  }
  print passed + 0, failed + 0 > summary
}
