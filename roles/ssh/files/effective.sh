#!/bin/sh
# Runs on the host, as root, and changes nothing: prints what others say that counts instead of our drop-in, as FILE:LINE: SETTING.
# After "lost": it does for every login, and the role wins it back. After "kept": it does for some logins (Match), lets in more people
# (AllowGroups), or stands on sshd's command line.
# Arguments: the folder of sshd's configuration; the file that holds its command line.
folder=$1 command_line=$2
drop_in=$folder/sshd_config.d/00-clawdbot.conf
[ -e "$drop_in" ] || exit 0
install -d -m 0755 /run/sshd # absent while sshd waits for its socket, and then it tells nothing

# What our file says, and what all of them say together, in sshd's own words. Keys add up, and are chosen by HostKeyAlgorithms.
names=$(sed -nE 's/^([A-Za-z]+) .*/\1/p' "$drop_in" | tr '[:upper:]' '[:lower:]' | grep -vx hostkey | sort -u | tr '\n' '|')
wanted=$(sshd -T -f "$drop_in" | grep -E "^(${names%|}) " | sort)
real=$(sshd -T -f "$folder/sshd_config" | sort)
ports=$(echo "$wanted" | sed -n 's/^port //p' | tr '\n' '|')
lost=$({
    echo "$wanted" | cut -d' ' -f1 | sort -u | grep -vx allowgroups | while read -r name; do
        [ "$(echo "$wanted" | grep "^$name ")" = "$(echo "$real" | grep "^$name ")" ] || echo "$name"
    done
    # One with a port of its own needs no "Port".
    if echo "$real" | grep '^listenaddress ' | grep -qvE ":(${ports%|})( |$)"; then echo listenaddress; fi
} | tr '\n' ' ')

wanted=$wanted awk -v own="$drop_in" -v names="|$names" -v lost=" $lost" '
    FILENAME == own { next }
    FNR == 1 { group = "" }
    {
        said = $0
        gsub(/^[ \t]+|[ \t]+$/, "", said)
        key = tolower(said)
        sub(/[ \t=].*/, "", key)
        value = substr(said, length(key) + 1)
        gsub(/^[ \t]*=?[ \t]*/, "", value)
        place = FILENAME ":" FNR ": " said
    }
    key == "match" { group = tolower(value) == "all" ? "" : said; next }
    group != "" {
        if (index(names, "|" key "|") && !index("\n" ENVIRON["wanted"] "\n", "\n" key " " value "\n"))
            print "kept " place " (" group ")"
        next
    }
    key == "listenaddress" && value !~ /^([^:]+|\[[^]]*\]):[0-9]+([ \t]|$)/ { next }
    index(lost, " " key " ") { print "lost " place; found[key] = 1 }
    key == "allowgroups" && index(names, "|allowgroups|") { print "kept " place }
    END {
        count = split(lost, each, " ")
        for (number = 1; number <= count; number++)
            if (!found[each[number]]) print "lost " each[number] ": see sshd -T"
    }' "$folder/sshd_config" "$folder"/sshd_config.d/*.conf
grep -HnE '^[[:space:]]*SSHD_OPTS=.*-[fop]' "$command_line" | sed -E 's/^([^:]*:[0-9]*:)/kept \1 /' || true
