"""What the images that k8s/ names set, and what they run where the manifest has no command; for support/container.py."""

from __future__ import annotations

import shlex
import signal

from support.container import Image
from support.host_cluster import POSTGRES
from support.paths import ROOT

SYSTEM = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What the official image's entrypoint does: an empty folder gets a database cluster, with a password and a database.
POSTGRES_ENTRYPOINT = r"""
set -e
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    mkdir -p "$PGDATA" && chmod 700 "$PGDATA"
    initdb --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") --auth-host=scram-sha-256
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    pg_ctl -w start -o "-c listen_addresses=''"
    psql --username "$POSTGRES_USER" --dbname postgres -c "create database \"$POSTGRES_DB\""
    pg_ctl -m fast -w stop
fi
exec postgres -c listen_addresses='*'
"""


def own_image() -> Image:
    """What cluster/Dockerfile says, of which the packages are this environment's."""
    text = (ROOT / "cluster" / "Dockerfile").read_text().rpartition("\nFROM ")[2].replace("\\\n", " ")
    lines = [line.partition(" ")[::2] for line in text.splitlines()]
    env = {"PATH": SYSTEM}
    for pair in (pair for word, rest in lines if word == "ENV" for pair in shlex.split(rest)):
        key, _, value = pair.partition("=")
        env[key] = value.replace("$PATH", env["PATH"])
    [workdir] = [rest for word, rest in lines if word == "WORKDIR"]
    return Image(env | {"PYTHONPATH": str(ROOT)}, workdir, {1000: "ubuntu"})


IMAGES = {
    "vgg-dist": own_image(),
    # Both on Debian; neither has a user 1000.
    "ghcr.io/mlflow/mlflow": Image({"PATH": f"/opt/venv/bin:{SYSTEM}"}),
    "postgres": Image(
        {"PATH": f"{POSTGRES}:{SYSTEM}"}, "/", {999: "postgres"}, ("bash", "-c", POSTGRES_ENTRYPOINT), signal.SIGINT
    ),
}
