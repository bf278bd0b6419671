#!/usr/bin/env bash
# Restores a backup of docker/backup.sh into the server and starts it: docker/restore.sh FOLDER. Refuses if the server has runs;
# FORCE=yes replaces them.
set -euo pipefail
source=${1:?usage: docker/restore.sh FOLDER}
read -ra compose <<< "${COMPOSE:-docker compose}"
for database in mlflow mlflow_auth orchestrate; do
  [ -s "$source/$database.dump" ] || { echo "$source: has no $database.dump. Name a folder written by \`make backup\`." >&2; exit 2; }
done
sql() { "${compose[@]}" exec -T database psql --username=postgres --no-psqlrc --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1 "$@"; }

"${compose[@]}" run --rm -T prepare      # databases, roles and tables, with the passwords of today's .env
if "${compose[@]}" run --rm -T --no-deps mlflow sh -c 'case "$MLFLOW_ARTIFACTS_DESTINATION $MLFLOW_S3_ENDPOINT_URL" in s3:*//s3:*) ;; *) exit 1 ;; esac'; then
  "${compose[@]}" run --rm -T bucket     # of the SeaweedFS started here; a bucket elsewhere is created by its owner
fi
runs=$(sql --dbname=mlflow --command="SELECT count(*) FROM runs")
if [ "$runs" != 0 ] && [ "${FORCE:-}" != yes ]; then
  echo "This server has $runs runs, which would be lost. Set FORCE=yes to replace them." >&2
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
"${compose[@]}" up -d                  # prepare again: users get the passwords of today's .env, tables are migrated
