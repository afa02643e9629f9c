if (set -o pipefail) 2>/dev/null; then set -o pipefail; fi
set -o errexit
set +o noclobber
printf '%s\n' '[32;1m$ x=1; cd /[0;m'
x=1; cd /
printf '%s\n' '[32;1m$ echo $x $PWD[0;m'
echo $x $PWD
