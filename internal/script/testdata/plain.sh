if (set -o pipefail) 2>/dev/null; then set -o pipefail; fi
set -o errexit
set +o noclobber
printf '%s\n' '[32;1m$ echo hi[0;m'
echo hi
printf '%s\n' '[32;1m$ true[0;m'
true
