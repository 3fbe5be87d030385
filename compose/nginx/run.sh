#!/bin/sh
# Runs nginx, and keeps its list of ingress nodes true: every EVERY_S seconds the names in UPSTREAMS are looked up and each
# address is asked for its health; when the answer has changed, nginx is reloaded, which ends no session.
#
#   UPSTREAMS   GROUP=HOST:PORT, with blanks between; a group without a node is served by the nodes of `default`
#   EVERY_S     seconds between two looks (2)
#   FOLDER      where nginx.conf is (/etc/nginx)
#   STATE       where /tmp is (/tmp)
set -eu
UPSTREAMS=${UPSTREAMS:-default=streaming-api:8080}
EVERY_S=${EVERY_S:-2}
FOLDER=${FOLDER:-/etc/nginx}
STATE=${STATE:-/tmp}
LIST=$STATE/upstreams.conf

for pair in $UPSTREAMS; do
    case $pair in
        default=?*:?* | english=?*:?* | multilang=?*:?* | u3pro=?*:?*) ;;
        *)
            echo "UPSTREAMS: $pair is not GROUP=HOST:PORT with a group of default, english, multilang, u3pro" >&2
            exit 2
            ;;
    esac
done

# HOST:PORT -> ADDRESS:PORT of each node there, one a line, in an order of their own.
nodes() {
    getent ahostsv4 "${1%:*}" | awk -v port="${1##*:}" '{ print $1 ":" port }' | sort -u
}

# Those that say that they are well. A node that drains, or whose licence failed, does not.
well() {
    while read -r node; do
        if curl -fs -m 2 -o "$STATE/answer" "http://$node/v3/ws/health"; then echo "$node"; fi
    done
}

upstream() {  # GROUP, nodes on standard input
    echo "upstream $1 {"
    echo "    least_conn;"
    echo "    zone $1 128k;"
    # This script judges who is well, not failed requests: with all nodes full, nginx would call them all dead.
    sed 's/.*/    server & max_fails=0;/'
    echo "}"
}

# Of these names: the nodes that are well; if none is, all that there are, so that one of them can say why; if there are
# none, an address where nobody listens, which makes nginx answer 502.
found() {
    all=$(for place in $1; do nodes "$place"; done)
    good=$(echo "$all" | sed '/^$/d' | well)
    if [ -n "$good" ]; then echo "$good"; else echo "${all:-127.0.0.1:9}"; fi
}

places() {  # GROUP -> its HOST:PORTs
    for pair in $UPSTREAMS; do
        if [ "${pair%%=*}" = "$1" ]; then echo "${pair#*=}"; fi
    done
}

list() {
    default=$(found "$(places default)")
    for group in default english multilang u3pro; do
        own=$(places $group)
        if [ $group = default ] || [ -z "$own" ]; then
            echo "$default" | upstream $group
        else
            nodes=$(found "$own")
            if [ "$nodes" = 127.0.0.1:9 ]; then nodes=$default; fi
            echo "$nodes" | upstream $group
        fi
    done
}

list > "$LIST"
nginx -e /dev/stderr -c "$FOLDER/nginx.conf" -g 'daemon off;' &
NGINX=$!
# On a signal: nginx ends in good order, with its sessions, and the shell after it.
leaving=
trap 'leaving=yes; kill -QUIT $NGINX 2> /dev/null' QUIT TERM INT
while kill -0 $NGINX 2> /dev/null; do
    sleep "$EVERY_S" &
    wait $! || true
    if [ -n "$leaving" ]; then continue; fi
    list > "$LIST.new"
    if ! cmp -s "$LIST" "$LIST.new"; then
        mv "$LIST.new" "$LIST"
        kill -HUP $NGINX 2> /dev/null || true
    fi
done
wait $NGINX
