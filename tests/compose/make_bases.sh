#!/usr/bin/env bash
# Makes the base images that tests/compose names, out of Debian's packages: nothing is pulled from a registry.
# Needs root, debootstrap and a Docker engine. The first base that exists already is left as it is.
set -euo pipefail
cd "$(dirname "$0")"
python=orchestrate-test/python
suite=${DEBIAN_SUITE:-bookworm} mirror=${DEBIAN_MIRROR:-}  # without one, debootstrap knows its own

if ! docker image inspect "$python" > /dev/null 2>&1; then
  root=$(mktemp -d)
  trap 'rm -rf "$root"' EXIT
  debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$suite" "$root" ${mirror:+"$mirror"} > "$root.log" 2>&1 ||
    { tail "$root.log" >&2; exit 1; }
  cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"  # a site's own authorities too
  tar --directory "$root" --exclude=./var/cache/apt/archives/*.deb --create . |
    docker import --change 'ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt' --change 'CMD ["python3"]' - "$python" > /dev/null
fi
for name in postgres seaweedfs; do
  docker build --quiet --network host --build-arg BASE_IMAGE="$python" --tag "orchestrate-test/$name" "$name" > /dev/null
done
echo "PYTHON_IMAGE=$python POSTGRES_IMAGE=orchestrate-test/postgres S3_IMAGE=orchestrate-test/seaweedfs"
