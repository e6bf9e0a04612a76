#!/bin/sh
# Debian 12 as Aliyun has it: no IPv6, sudo asks for a password, cloud-init ended with an error, time servers and a mirror of the cloud, an
# agent.
set -eu
mount -o remount,bind,rw /proc/sys
sysctl --quiet --write net.ipv6.conf.all.disable_ipv6=1
mount -o remount,bind,ro /proc/sys

echo "debian:$PASSWORD" | chpasswd
echo 'debian ALL=(ALL) ALL' >/etc/sudoers.d/90-cloud-init-users
printf 'PasswordAuthentication yes\nUseDNS no\n' >/etc/ssh/sshd_config.d/50-cloud-init.conf
systemctl reload ssh

cat >/usr/bin/cloud-init <<'INIT'
#!/bin/sh
case "$2" in
    --wait) exit 1 ;;
    --long) printf 'status: error\nerrors:\n\t- module apt-configure failed\n' ;;
esac
INIT
chmod 755 /usr/bin/cloud-init

cp --archive /usr/local/share/package-lists/. /var/lib/apt/lists/
DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends chrony >/dev/null
sed -i 's/^pool .*/server ntp.cloud.aliyuncs.com minpoll 4 maxpoll 10 iburst/' /etc/chrony/chrony.conf

echo 'deb [trusted=yes] http://10.213.47.2/agents ./' >>/etc/apt/sources.list

printf '[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n' >/etc/systemd/system/aegis.service
systemctl enable --quiet --now aegis.service
