#!/bin/sh
# Makes the databases at the first start, gives both roles the passwords of the Secret at each, then serves.
set -eu

options="-c unix_socket_directories=/tmp -c dynamic_shared_memory_type=posix -c log_destination=stderr -c logging_collector=off"

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  # Made beside and renamed, so that a start that was cut leaves nothing half made.
  rm -rf "$PGDATA.new"
  initdb --pgdata="$PGDATA.new" --username=postgres --auth-local=peer --auth-host=scram-sha-256 \
    --encoding=UTF8 --locale=C.UTF-8 --data-checksums
  echo "host all hub,service all scram-sha-256" >> "$PGDATA.new/pg_hba.conf"
  mv "$PGDATA.new" "$PGDATA"
fi

# For the moment it is open to this container only.
pg_ctl --wait --silent --options="$options -c listen_addresses=''" start
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --host=/tmp --username=postgres --dbname=postgres --file=/opt/postgresql/roles.sql
pg_ctl --wait --silent --mode=fast stop

# shellcheck disable=SC2086 # the options are several words
exec postgres $options -c "listen_addresses=*"
