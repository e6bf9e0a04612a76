#!/usr/bin/env bash
# What the Makefile needs on a fresh Debian machine with git, make and python3 only.
#   bootstrap.sh packages NAME...      installs Debian packages that are missing
#   bootstrap.sh unpack FOLDER NAME... unpacks Debian packages, with those they need, so that their programs can be run but no service is
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

unpack() {
    local folder=$1
    local packages
    command -v apt-get >/dev/null || die "this machine is not Debian-based; the programs of ${*:2} are needed"
    say "Unpacking Debian packages into $folder: ${*:2}"
    as_root apt-get -qq -o DPkg::Lock::Timeout=300 update
    mkdir -p "$folder"
    folder=$(cd "$folder" && pwd)
    packages=$(mktemp -d)
    # Programs of packages that are installed are found where they are.
    apt-get -s install --no-install-recommends "${@:2}" | sed -n 's/^Inst \([^ ]*\) .*/\1/p' >"$packages/names"
    (cd "$packages" && xargs -r apt-get -qq -o APT::Sandbox::User=root download <names)
    find "$packages" -name '*.deb' -exec dpkg-deb --fsys-tarfile {} \; | tar -xi --exclude=./usr/share -C "$folder"
    rm -r "$packages"
}

case ${1:-} in
    packages) apt_install "${@:2}" ;;
    unpack) unpack "${@:2}" ;;
    venv) make_venv "$2" "$3" ;;
    *) die "usage: $0 packages NAME... | unpack FOLDER NAME... | venv FOLDER LOCK" ;;
esac
