#!/usr/bin/env bash
# Installs what is missing of the Debian packages that README.md's table lists for the purposes named:
#     tools/install_packages.sh build test
set -euo pipefail
cd "$(dirname "$0")/.."

wanted=$(awk -F ' *[|] *' -v purposes=" $* " '/^[|] `/ && index(purposes, " " $3 " ") { gsub("`", "", $2); print $2 }' README.md)
[ -n "$wanted" ] || { echo "README.md lists no packages for: $*" >&2; exit 1; }

if ! command -v dpkg-query >/dev/null; then
  echo "This is not Debian, so nothing is installed for you. What Debian calls these must be there:" $wanted >&2
  exit 0
fi

installed=$(dpkg-query --show --showformat '${Package} ${db:Status-Status}\n' $wanted 2>/dev/null | awk '$2 == "installed" { print $1 }' || true)
missing=$(comm -23 <(sort -u <<<"$wanted") <(sort -u <<<"$installed"))
[ -n "$missing" ] || exit 0

echo "Installing from Debian:" $missing
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "Become root for it, or install sudo: apt-get install" $missing >&2; exit 1; }
  as_root=(sudo)
fi
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
"${apt[@]}" update </dev/null
"${apt[@]}" install --yes --no-install-recommends $missing </dev/null >/dev/null
