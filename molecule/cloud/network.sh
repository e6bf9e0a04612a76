#!/bin/sh
# Runs on the controller: real packet paths to the scenario's servers, which have private addresses only, as in a cloud. The router
# translates public addresses one to one, both ways and between the servers as well, and forwards one port. The controller and the rest of
# the world come from public addresses, too; under their own ones Docker would translate them a second time.
set -eu
router=clawdbot-cloud-router
private=10.213.47

docker network connect --ip "$private.2" clawdbot-private "$router"
address='{{ (index .NetworkSettings.Networks "clawdbot-molecule").IPAddress }}'
outer=$(docker inspect --format "$address" "$router")
outside=$(docker inspect --format "$address" clawdbot-cloud-outside)
controller=$(docker network inspect --format '{{ (index .IPAM.Config 0).Gateway }}' clawdbot-molecule)
docker exec --interactive "$router" sh -euc '
    mount -o remount,bind,rw /proc/sys
    sysctl --quiet --write net.ipv4.ip_forward=1
    cp --archive /usr/local/share/package-lists/. /var/lib/apt/lists/
    apt-get install --quiet=2 --yes --no-install-recommends nftables >/dev/null
    nft --file -
    # Too few logins at a time for a run, as behind any bastion.
    printf "MaxStartups 1:100:1\nLogLevel VERBOSE\n" >/etc/ssh/sshd_config.d/50-few.conf
    systemctl reload ssh
    # The mirror inside the cloud, reachable only there, with packages of the provider.
    install -d /srv/mirror/agents
    touch /srv/mirror/agents/Packages
    systemd-run --quiet --unit=mirror python3 -m http.server --directory /srv/mirror 80
' <<RULES
table ip cloud {
    chain in {
        type nat hook prerouting priority dstnat
        ip daddr 198.51.100.30 tcp dport 10022 dnat to $private.30:22
        dnat to ip daddr map { 198.51.100.10 : $private.10, 198.51.100.20 : $private.20 }
    }
    chain out {
        type nat hook postrouting priority srcnat
        ip daddr $private.0/24 snat to ip saddr map {
            $controller : 198.51.100.1, $outside : 198.51.100.2, $private.10 : 198.51.100.10, $private.20 : 198.51.100.20
        }
        ip saddr $private.0/24 oifname eth0 masquerade
    }
}
RULES
for server in bot1 lb1 app1 app2 redis1; do
    docker exec "clawdbot-cloud-$server" ip route replace default via "$private.2"
done
for public in 198.51.100.10 198.51.100.20 198.51.100.30; do
    docker exec clawdbot-cloud-outside ip route replace "$public" via "$outer"
    ip route replace "$public" via "$outer"
done
