if (set -o pipefail) 2>/dev/null; then set -o pipefail; fi
set -o errexit
set +o noclobber
printf '%s\n' '[32;1m$ if true; then # collapsed multi-line command[0;m'
if true; then
  echo 'a b'
fi
