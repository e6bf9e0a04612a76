#!/bin/bash
# Builds the image $1 of the release in the current folder. Runs on one node, as root. The file $2 says how packages are reached.
set -euo pipefail
. /etc/os-release
certificates=/usr/local/share/ca-certificates
set -a
# shellcheck source=/dev/null
. "$2"
set +a
# apt knows the names in small letters only.
for name in HTTP_PROXY HTTPS_PROXY NO_PROXY; do
    [ -z "${!name-}" ] || export "${name,,}=${!name}"
done

if [ -e base_image ]; then
    base=$(cat base_image)
else
    # A base a week: the packages are not older than that, and the layers above are used again until then.
    base=clawdbot-base:$VERSION_CODENAME-$(date +%G-%V)
    if ! docker image inspect "$base" >/dev/null 2>&1; then
        mapfile -t sources < <(find /etc/apt/sources.list /etc/apt/sources.list.d -type f \( -name '*.list' -o -name '*.sources' \) -size +0)
        # Reached as this host reaches them, by settings and passwords that do not stay in the base.
        hooks=()
        for file in /etc/apt/auth.conf.d/clawdbot.conf /etc/apt/apt.conf.d/51clawdbot-proxy; do
            [ ! -e "$file" ] || hooks+=("--setup-hook=install -D -m 0600 $file \"\$1$file\"" "--customize-hook=rm \"\$1$file\"")
        done
        # All that the Dockerfile would have to fetch from there.
        mmdebstrap --quiet --variant=minbase --include=ca-certificates,nodejs,python3,python3-venv "${hooks[@]}" \
            "$VERSION_CODENAME" - "${sources[@]}" | docker import - "$base" >/dev/null
        docker image ls --format '{{.Repository}}:{{.Tag}}' clawdbot-base | { grep -vxF "$base" || true; } | xargs --no-run-if-empty docker image rm >/dev/null
    fi
fi

# The index that the host itself uses, unless there is one for the bot; passed by the environment, for it may hold a password.
export PIP_INDEX_URL=${PIP_INDEX_URL:-$(sed -n 's/^index-url *= *//p' /etc/pip.conf 2>/dev/null || true)}
[ -n "$PIP_INDEX_URL" ] || unset PIP_INDEX_URL

mapfile -t own < <(find "$certificates" -name '*.crt' -printf '%P\n')
tar -c --exclude='./.[a-z]*' --exclude=./venv --exclude=__pycache__ . -C "$certificates" "${own[@]}" |
    docker build --quiet --network host --tag "$1" --build-arg "BASE_IMAGE=$base" \
        --build-arg PIP_INDEX_URL --build-arg http_proxy --build-arg https_proxy --build-arg no_proxy - >/dev/null
docker image prune --force --filter label=clawdbot.stage --filter until=336h >/dev/null
