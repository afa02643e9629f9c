if (set -o pipefail) 2>/dev/null; then set -o pipefail; fi
set -o errexit
set +o noclobber
export CI_JOB_STATUS='success'
cd '/usr'
printf '%s\n' '[32;1mRunning after script...[0;m'
echo pre
printf '\n'
printf '%s\n' '[32;1m$ echo $CI_JOB_STATUS in $PWD[0;m'
echo $CI_JOB_STATUS in $PWD
echo post
