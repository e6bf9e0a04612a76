#!/bin/sh
# Runs on the host, as root: with a mirror the sources the host came with are set aside, without one they are back.
for list in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; do
    if [ -e /etc/apt/sources.list.d/clawdbot.sources ]; then
        [ ! -s "$list" ] || mv "$list" "$list.disabled"
    elif [ ! -s "$list" ] && [ -e "$list.disabled" ]; then
        mv "$list.disabled" "$list"
    fi
done
apt-get --quiet -o DPkg::Lock::Timeout=900 update
