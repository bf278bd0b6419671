#!/usr/bin/env bash
# Copies the server's databases and files into a folder: docker/backup.sh FOLDER. Sweeps may run meanwhile.
# Databases first, then files: so every file that a copied record names is copied, too.
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
# tar exits with 1 if a file changed or vanished meanwhile, as it does during a sweep
"${compose[@]}" exec -T mlflow sh -c 'case "$MLFLOW_ARTIFACTS_DESTINATION" in
  s3:*) exec python files.py read ;;
  *) tar --directory=/artifacts --create . || [ $? = 1 ] ;;
esac' > "$scratch/artifacts.tar"
mv "$scratch" "$target"
echo "$target: $(du -sh "$target" | cut -f1). It holds the server's records and its users' password hashes: keep it safe. .env is not in it."
