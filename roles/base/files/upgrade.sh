#!/bin/sh
# Runs on the host, as root: takes Debian from the release $1 to $2, by their code names. Goes on from wherever an earlier call was cut off.
set -eu
export DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1 NEEDRESTART_SUSPEND=1 # what runs is started anew by the reboot
exec 9>/run/clawdbot-upgrade.lock
flock 9

apt() {
    apt-get --yes --quiet=2 -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=900 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@" 9>&-
}

# Tried on a copy first: a mirror need not have the new release. Those that are set aside may come back.
sources=$(mktemp -d)
trap 'rm -rf "$sources"' EXIT
mkdir "$sources/sources.list.d"
cp -a /etc/apt/sources.list* "$sources/"
find "$sources" -type f -exec sed -i "/^[^#]/s/\\b$1\\b/$2/g" {} +
if ! said=$(apt-get --quiet --error-on=any -o DPkg::Lock::Timeout=900 -o Dir::Etc::SourceList="$sources/sources.list" \
    -o Dir::Etc::SourceParts="$sources/sources.list.d" update 2>&1); then
    echo "The package sources do not work with $2 in place of $1; nothing was changed. $said" >&2
    exit 1
fi

dpkg --configure -a --force-confdef --force-confold
printf '%s\n' "$1" >/var/lib/clawdbot/upgrading
cp -a "$sources"/sources.list* /etc/apt/
if apt-get --simulate --quiet=2 full-upgrade | grep -q ^Inst; then
    echo "Debian $2" >>/run/reboot-required.pkgs
    touch /run/reboot-required
fi
# First what needs nothing new, as Debian's release notes have it.
apt upgrade --without-new-pkgs
apt --fix-broken full-upgrade
