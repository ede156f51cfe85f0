#!/bin/sh
# Drop root, then become the server with the options that were given.
set -eu
[ "$1" = redis-server ] || exec "$@"
shift
exec setpriv --reuid=redis --regid=redis --init-groups redis-server --bind 0.0.0.0 --protected-mode no --dir /data "$@"
