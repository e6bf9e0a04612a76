#!/bin/sh
# Debian 13, a bastion: root logs in with a key, few logins at a time, address translation of its own, a second interface.
set -eu
install -d -m 700 /root/.ssh
cp ~debian/.ssh/authorized_keys /root/.ssh/authorized_keys
printf 'PermitRootLogin prohibit-password\nMaxStartups 1:100:1\nLogLevel VERBOSE\n' >/etc/ssh/sshd_config.d/50-cloud-init.conf
systemctl reload ssh

cp --archive /usr/local/share/package-lists/. /var/lib/apt/lists/
apt-get install --quiet=2 --yes --no-install-recommends nftables >/dev/null
cat >/etc/nftables.conf <<'RULES'
#!/usr/sbin/nft -f
table ip office {
    chain input {
        type filter hook input priority filter; policy accept
        tcp dport 8443 drop
    }
    chain out {
        type nat hook postrouting priority srcnat
        ip saddr 192.168.99.0/24 oifname eth0 masquerade
    }
}
RULES
systemctl enable --quiet nftables.service
nft --file /etc/nftables.conf

# The office at the other end of the second interface, which gets out through this host.
ip netns add office
ip link add eth9 type veth peer name eth9-far netns office
ip address add 192.168.99.20/24 dev eth9
ip link set eth9 up
ip -n office address add 192.168.99.21/24 dev eth9-far
ip -n office link set eth9-far up
ip -n office route add default via 192.168.99.20
mount -o remount,bind,rw /proc/sys
sysctl --quiet --write net.ipv4.ip_forward=1
mount -o remount,bind,ro /proc/sys
