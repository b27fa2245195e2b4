#!/bin/sh
# An extension of the infra container: it writes a journal of what happens to its pod.
#
#   magikrun pod run --extension examples/extensions/journal.sh pod.yaml
#
# It is told one JSON object a line on standard input: first "start", with the pod and a directory of its own, then an
# "event" each, last "stop". It answers on standard output, and says "ready" before anything else of the pod starts. With the
# annotation "journal-port" it asks for that UDP port of the host, which needs --network pasta.
set -eu

# The value of a string in a line of JSON, by its name.
field() {
    printf '%s\n' "$1" | sed -n "s/.*\"$2\":\"\([^\"]*\)\".*/\1/p"
}

journal=
while read -r line; do
    case $line in
    '{"type":"start"'*)
        journal=$(field "$line" stateDirectory)/journal
        echo start >"$journal"
        port=$(field "$line" journal-port)
        if [ -n "$port" ]; then
            echo "{\"type\":\"requestPort\",\"protocol\":\"udp\",\"hostPort\":$port,\"containerPort\":$port}"
            read -r answer
            echo "$answer" >>"$journal"
        fi
        echo '{"type":"ready"}'
        echo '{"type":"log","message":"the journal is open"}'
        ;;
    '{"type":"stop"'*)
        echo stop >>"$journal"
        exit 0
        ;;
    *) printf '%s\n' "$line" >>"$journal" ;;
    esac
done
