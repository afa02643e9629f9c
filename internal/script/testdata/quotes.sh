if (set -o pipefail) 2>/dev/null; then set -o pipefail; fi
set -o errexit
set +o noclobber
printf '%s\n' '[32;1m$ echo "it'\''s" '\''a  b'\'' \$HOME[0;m'
echo "it's" 'a  b' \$HOME
