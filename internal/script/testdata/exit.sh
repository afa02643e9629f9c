if (set -o pipefail) 2>/dev/null; then set -o pipefail; fi
set -o errexit
set +o noclobber
printf '%s\n' '[32;1m$ exit 3[0;m'
exit 3
printf '%s\n' '[32;1m$ echo never[0;m'
echo never
