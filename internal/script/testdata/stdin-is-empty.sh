if (set -o pipefail) 2>/dev/null; then set -o pipefail; fi
set -o errexit
set +o noclobber
printf '%s\n' '[32;1m$ cat[0;m'
cat
printf '%s\n' '[32;1m$ echo end[0;m'
echo end
