# Shared by the sandbox scripts; sourced, never run.
# shellcheck shell=bash

# A function called as $(...) stops at its first failure, too.
shopt -s inherit_errexit

say() { printf '\033[1m==> %s\033[0m\n' "$*"; }

die() {
    printf 'ERROR: %s\n' "$*" >&2
    exit 1
}

# Runs a command as root: directly, or through sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "'$*' needs root: run as root or install sudo"
    fi
}

# Installs those of the named Debian packages that are missing; two callers take turns.
apt_install() (
    flock 9
    missing=()
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    [ "${#missing[@]}" -eq 0 ] && return
    command -v apt-get >/dev/null || die "this machine is not Debian-based; install by hand: ${missing[*]}"
    say "Installing Debian packages: ${missing[*]}"
    apt=(as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
    "${apt[@]}" update
    "${apt[@]}" install -y --no-install-recommends "${missing[@]}" >/dev/null
) 9<"${BASH_SOURCE[0]}"
