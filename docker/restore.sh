#!/usr/bin/env bash
# Puts what docker/backup.sh has copied into the server and starts it: docker/restore.sh FOLDER. A server that has runs is left alone,
# unless FORCE=yes: they are then replaced.
set -euo pipefail
source=${1:?usage: docker/restore.sh FOLDER}
read -ra compose <<< "${COMPOSE:-docker compose}"
for database in mlflow mlflow_auth orchestrate; do
  [ -s "$source/$database.dump" ] || { echo "$source: has no $database.dump. Name a folder that \`make backup\` has written." >&2; exit 2; }
done
sql() { "${compose[@]}" exec -T database psql --username=postgres --no-psqlrc --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1 "$@"; }

"${compose[@]}" run --rm -T prepare      # databases, roles and tables, with the passwords of today's .env
if "${compose[@]}" run --rm -T --no-deps mlflow sh -c 'case "$MLFLOW_ARTIFACTS_DESTINATION $MLFLOW_S3_ENDPOINT_URL" in s3:*//s3:*) ;; *) exit 1 ;; esac'; then
  "${compose[@]}" run --rm -T bucket     # of the SeaweedFS that is started with it; a bucket elsewhere is made by whoever keeps it
fi
runs=$(sql --dbname=mlflow --command="SELECT count(*) FROM runs")
if [ "$runs" != 0 ] && [ "${FORCE:-}" != yes ]; then
  echo "This server has $runs runs, which would be lost. FORCE=yes makes it so." >&2
  exit 2
fi
"${compose[@]}" stop mlflow
for database in mlflow mlflow_auth orchestrate; do
  owner=${database%_auth}
  sql --command="DROP DATABASE $database WITH (FORCE)" --command="CREATE DATABASE $database OWNER $owner" \
    --command="REVOKE ALL ON DATABASE $database FROM PUBLIC"
  "${compose[@]}" exec -T database pg_restore --username=postgres --no-owner --role="$owner" --exit-on-error --dbname="$database" \
    < "$source/$database.dump"
done
if [ -e "$source/artifacts.tar" ]; then
  "${compose[@]}" run --rm -T --no-deps mlflow sh -c 'case "$MLFLOW_ARTIFACTS_DESTINATION" in
    s3:*) exec python files.py write ;;
    *) find /artifacts -mindepth 1 -delete && tar --directory=/artifacts --extract ;;
  esac' < "$source/artifacts.tar"
fi
"${compose[@]}" up -d                  # prepare again: users get the passwords of today's .env, tables today's form
