#!/bin/sh
# Debian 13, a bastion: root logs in with a key, few logins at a time, address translation of its own, a second interface.
set -eu
install -d -m 700 /root/.ssh
cp ~debian/.ssh/authorized_keys /root/.ssh/authorized_keys
printf 'PermitRootLogin prohibit-password\nMaxStartups 1:100:1\n' >/etc/ssh/sshd_config.d/50-cloud-init.conf
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

ip link add eth9 type veth peer name eth9-far
ip address add 192.168.99.20/24 dev eth9
ip link set eth9 up
