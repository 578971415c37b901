"""A process of its own for test_races.py: ``python -m tests.parity.creator URL FACE WORKFLOW_ID COUNT``.

Says when it is ready, waits for a line, creates that many versions at once, and prints their numbers as JSON.
"""

from __future__ import annotations

import json
import sys
from uuid import UUID

from dal import DalError, Settings
from dal.dal import utc_now
from tests.cells import Loop, open_db, together


def main(url: str, face: str, workflow: str, count: str) -> None:
    loop = Loop()
    db = open_db(Settings.from_url(url), "async" if face == "async" else "sync", utc_now, loop)
    print("ready", flush=True)
    sys.stdin.readline()
    jobs = [lambda: db.versions.create(UUID(workflow), {"by": "another process"}, actor="ann").number]
    answers = together(jobs * int(count))
    db.close()
    loop.close()
    print(json.dumps([repr(answer) if isinstance(answer, DalError) else answer for answer in answers]))


if __name__ == "__main__":
    main(*sys.argv[1:])
