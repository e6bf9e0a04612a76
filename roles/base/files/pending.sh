#!/bin/sh
# Runs on the host and changes nothing: "package: NAME" for each that an upgrade would install, replace or remove, and "reboot: REASON".
apt-get --simulate --quiet=2 dist-upgrade | sed -nE 's/^(Inst|Remv) (\S+).*/package: \2/p' | sort -u
if [ -e /run/reboot-required ]; then
    echo "reboot: $(sort -u /run/reboot-required.pkgs 2>/dev/null | tr '\n' ' ')"
fi
# Kernels of the flavour that runs: a server may hold others that it does not start. A container has none.
running=$(uname -r)
newest=$(find /boot -maxdepth 1 -name "vmlinuz-*-${running##*[0-9]-}" -printf '%f\n' 2>/dev/null | sed 's/^vmlinuz-//' | sort -V | tail -n 1)
if [ -n "$newest" ] && [ "$newest" != "$running" ]; then
    echo "reboot: kernel $newest"
fi
