#!/usr/bin/env bash
# Prints the path of an English text for the demo: WikiText-2 (test, raw) where the data folder has it
# ($PARE_DATA, else ../shared/data), else public-domain prose from Debian's package jargon-text, kept in the
# cache folder.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
wiki="${PARE_DATA:-$here/../shared/data}/wikitext-2-raw/wiki.test.raw"
if [ -f "$wiki" ]; then
  echo "$wiki"
  exit 0
fi
cache="${PARE_CACHE:-$HOME/.cache/pare}"
text="$cache/jargon.txt"
if [ ! -s "$text" ]; then
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/fetch-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  echo "text: fetching jargon-text" >&2
  (cd "$work" && apt-get download -q jargon-text >&2 2>/dev/null && dpkg-deb -x jargon-text_*.deb x)
  gzip -dc "$work/x/usr/share/doc/jargon-text/jargon.txt.gz" >"$work/jargon.txt"
  mv "$work/jargon.txt" "$text"
fi
echo "$text"
