if (set -o pipefail) 2>/dev/null; then set -o pipefail; fi
set -o errexit
set +o noclobber
printf '%s\n' '[32;1m$ echo one[0;m'
echo one
printf '%s\n' '[32;1m$ echo '\''unclosed[0;m'
echo 'unclosed
