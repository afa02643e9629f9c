if (set -o pipefail) 2>/dev/null; then set -o pipefail; fi
set -o errexit
set +o noclobber
printf '%s\n' '[32;1m$ set +o errexit[0;m'
set +o errexit
printf '%s\n' '[32;1m$ sh -c '\''exit 7'\''[0;m'
sh -c 'exit 7'
printf '%s\n' '[32;1m$ echo goes on[0;m'
echo goes on
