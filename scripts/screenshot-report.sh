#!/usr/bin/env bash
# Screenshots of a report as a desktop and as a phone show it, light and dark, and as it is printed:
#   scripts/screenshot-report.sh REPORT.html [FOLDER]
# Needs Chromium (chromium or google-chrome), which is not installed for anything else.
set -euo pipefail
page=$(realpath "${1:?found no report, expected scripts/screenshot-report.sh REPORT.html [FOLDER]}")
out=${2:-.}
for browser in chromium chromium-browser google-chrome ''; do command -v "$browser" >/dev/null && break; done
[ -n "$browser" ] || { echo "screenshot-report: found no Chromium (apt-get install chromium)" >&2; exit 1; }
mkdir -p "$out"
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
chrome() { "$browser" --headless=new --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$profile" "$@" 2>/dev/null; }
shot() { # NAME WIDTH HEIGHT OPTIONS...
  local name=$1 size=$2,$3
  shift 3
  chrome --screenshot="$out/$name.png" --window-size="$size" "$@" "file://$page"
}
height=${HEIGHT:-3200}
shot desktop 1200 "$height" --force-device-scale-factor=1
shot desktop-dark 1200 "$height" --force-device-scale-factor=1 --force-dark-mode --blink-settings=preferredColorScheme=0
# Chromium makes no window narrower than 500 pixels: the phone is a frame of 390 within one
frame="$profile/phone.html"
printf '<body style="margin:0"><iframe src="file://%s" style="border:0;width:390px;height:%spx"></iframe>' "$page" "$height" >"$frame"
chrome --screenshot="$out/phone.png" --window-size=500,"$height" --force-device-scale-factor=2 --allow-file-access-from-files "file://$frame"
chrome --print-to-pdf="$out/print.pdf" --no-pdf-header-footer "file://$page"
ls "$out"
