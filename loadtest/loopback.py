"""Load is sent to this machine only, never over a network."""

from __future__ import annotations

import ipaddress
import os

import psycopg
from psycopg import conninfo


def refuse_elsewhere(dsn: str) -> None:
    """Raise SystemExit unless every host of the DSN is this machine: load is never sent over a network."""
    try:
        parts = conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:  # which quotes the DSN
        raise SystemExit("The DSN cannot be read as a URL or as key=value pairs.") from None
    if parts.get("service") or os.environ.get("PGSERVICE"):
        raise SystemExit("A service file can name any host; give the host itself: --url postgresql://user@127.0.0.1/db")
    variables = os.environ.get("PGHOSTADDR") or os.environ.get("PGHOST") or ""
    for host in str(parts.get("hostaddr") or parts.get("host") or variables).split(","):
        if not (host == "" or host.startswith(("/", "@")) or host == "localhost" or _is_loopback(host)):
            raise SystemExit(f"{host} is not this machine; the load test only goes to 127.0.0.1, ::1 or a socket.")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
