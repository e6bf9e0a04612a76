#!/bin/sh
# Runs on the host, as root. Argument "mirror": the sources the host came with are set aside.
if [ "$1" = mirror ]; then
    for list in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; do
        [ ! -s "$list" ] || mv "$list" "$list.disabled"
    done
fi
apt-get --quiet -o DPkg::Lock::Timeout=300 update
