if (set -o pipefail) 2>/dev/null; then set -o pipefail; fi
set -o errexit
set +o noclobber
printf '%s\n' '[32;1m$ set +o errexit[0;m'
set +o errexit
slipway_code=$?; if [ $slipway_code -ne 0 ]; then exit $slipway_code; fi
printf '%s\n' '[32;1m$ sh -c '\''exit 7'\''[0;m'
sh -c 'exit 7'
slipway_code=$?; if [ $slipway_code -ne 0 ]; then exit $slipway_code; fi
printf '%s\n' '[32;1m$ echo never[0;m'
echo never
slipway_code=$?; if [ $slipway_code -ne 0 ]; then exit $slipway_code; fi
