#!/bin/sh
# Makes the file $1 with a private key and a self-signed certificate for the name $2, unless it is there.
# With $3 "selfsigned" one that is for another name or ends within 30 days is replaced; else it belongs to somebody else.
set -eu
pem=$1 name=$2 mode=$3

if [ -s "$pem" ]; then
    [ "$mode" = selfsigned ] || exit 0
    if openssl x509 -in "$pem" -noout -checkend 2592000 >/dev/null &&
        openssl x509 -in "$pem" -noout -checkhost "$name" | grep -q 'does match'; then
        exit 0
    fi
fi
umask 077
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \
    -subj "/CN=clawdbot" -addext "subjectAltName=DNS:$name" -keyout "$pem.key" -out "$pem.new" 2>/dev/null
cat "$pem.key" >> "$pem.new"
rm "$pem.key"
mv "$pem.new" "$pem"
echo changed
