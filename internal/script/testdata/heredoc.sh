if (set -o pipefail) 2>/dev/null; then set -o pipefail; fi
set -o errexit
set +o noclobber
printf '%s\n' '[32;1m$ cat <<EOF # collapsed multi-line command[0;m'
cat <<EOF
$((1+1)) it's
EOF
