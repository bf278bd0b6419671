#!/usr/bin/env bash
# Copies what the server holds into a folder: docker/backup.sh FOLDER. Sweeps may go on meanwhile.
# Databases first, files after them: every file that a copied record names is then there to be copied.
set -euo pipefail
umask 077
target=${1:?usage: docker/backup.sh FOLDER}
read -ra compose <<< "${COMPOSE:-docker compose}"
[ ! -e "$target" ] || { echo "$target: exists already; name another folder." >&2; exit 2; }
scratch=$target.unfinished
rm -rf "$scratch"
mkdir -p "$scratch"
for database in mlflow mlflow_auth orchestrate; do
  "${compose[@]}" exec -T database pg_dump --username=postgres --format=custom "$database" > "$scratch/$database.dump"
done
# tar: 1 when something of what it copied was changed or removed meanwhile, which a running sweep does
"${compose[@]}" exec -T mlflow sh -c 'case "$MLFLOW_ARTIFACTS_DESTINATION" in
  s3:*) exec python files.py read ;;
  *) tar --directory=/artifacts --create . || [ $? = 1 ] ;;
esac' > "$scratch/artifacts.tar"
mv "$scratch" "$target"
echo "$target: $(du -sh "$target" | cut -f1). It holds what the server knows and its users' password hashes, so keep it as safe; .env is not in it."
