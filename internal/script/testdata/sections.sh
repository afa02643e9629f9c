if (set -o pipefail) 2>/dev/null; then set -o pipefail; fi
set -o errexit
set +o noclobber
printf 'section_start:%s:section_script_step_0\r\033[0K' "$(date +%s 2>/dev/null || echo 0)"
printf '%s\n' '[32;1m$ echo one[0;m'
echo one
printf 'section_end:%s:section_script_step_0\r\033[0K' "$(date +%s 2>/dev/null || echo 0)"
printf 'section_start:%s:section_script_step_1\r\033[0K' "$(date +%s 2>/dev/null || echo 0)"
printf '%s\n' '[32;1m$ if true; then
  echo two
fi[0;m'
if true; then
  echo two
fi
printf 'section_end:%s:section_script_step_1\r\033[0K' "$(date +%s 2>/dev/null || echo 0)"
