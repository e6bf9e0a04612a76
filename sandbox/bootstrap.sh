#!/usr/bin/env bash
# What the Makefile needs on a fresh Debian machine with git, make and python3 only.
#   bootstrap.sh packages NAME...      installs Debian packages that are missing
#   bootstrap.sh venv FOLDER LOCK      makes a virtual environment with exactly what the hashed lock file says
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=sandbox/lib.sh
. "$here/lib.sh"

make_venv() {
    local folder=$1 lock=$2
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "Python 3.11 or newer is needed; this is $(python3 --version)"
    python3 -c 'import ensurepip' 2>/dev/null || apt_install python3-venv
    say "Installing the locked Python packages of $lock into $folder"
    python3 -m venv --clear "$folder"
    "$folder/bin/pip" install --quiet --disable-pip-version-check --require-hashes --requirement "$lock"
}

case ${1:-} in
    packages) apt_install "${@:2}" ;;
    venv) make_venv "$2" "$3" ;;
    *) die "usage: $0 packages NAME... | venv FOLDER LOCK" ;;
esac
