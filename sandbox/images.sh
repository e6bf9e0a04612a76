#!/usr/bin/env bash
# Builds the images of the sandbox hosts, clawdbot-sandbox:debian12 and :debian13. An image is built once for each
# state of its folder. The base is pulled where a registry answers and bootstrapped from Debian's packages where none does.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=sandbox/lib.sh
. ./lib.sh

declare -A codename=([debian12]=bookworm [debian13]=trixie)
recipe=$(cat image/* | sha256sum | cut -c1-12)

# Prints the name of a local base image for the release $1.
base_image() {
    local release=$1 official=debian:${1#debian} own=clawdbot-base:$1 archive
    if docker image inspect "$own" >/dev/null 2>&1; then
        echo "$own"
    elif docker image inspect "$official" >/dev/null 2>&1 || timeout 120 docker pull -q "$official" >/dev/null 2>&1; then
        echo "$official"
    else
        say "No registry answers: bootstrapping Debian ${codename[$release]}" >&2
        apt_install mmdebstrap >&2
        archive=$(mktemp --suffix=.tar)
        as_root mmdebstrap --quiet --variant=minbase --include=ca-certificates "${codename[$release]}" "$archive" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >&2
        as_root cat "$archive" | docker import --change 'LABEL clawdbot.sandbox=image' - "$own" >/dev/null
        as_root rm -f "$archive"
        echo "$own"
    fi
}

build() {
    local release=$1 image=clawdbot-sandbox:$1 base
    [ "$(docker image inspect -f '{{ index .Config.Labels "clawdbot.recipe" }}' "$image" 2>/dev/null)" = "$recipe" ] && return
    base=$(base_image "$release")
    say "Building $image from $base"
    docker build --quiet --tag "$image" --label clawdbot.sandbox=image --label "clawdbot.recipe=$recipe" \
        --build-arg "BASE_IMAGE=$base" --build-arg http_proxy --build-arg https_proxy image >/dev/null
}

# Both at once: most of the time goes into unpacking, which one core does not fill.
build debian12 &
first=$!
build debian13 &
second=$!
wait "$first"
wait "$second"
