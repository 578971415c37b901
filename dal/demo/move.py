"""The demo's last act: the database moves to another, is compared with it row by row, and comes back."""

from __future__ import annotations

from pathlib import Path

import dal
from dal import Settings
from dal.demo.day import Day
from dal.transfer import moving


class Move:
    """Moves what the day has written."""

    def __init__(self, day: Day, settings: Settings, to: str | None, folder: Path) -> None:
        """to: an empty database; without it a file in the folder, which is another one in any case on the way back."""
        self.day = day
        self.here = settings
        self.there = Settings.from_url(to or f"sqlite:///{folder / 'there.db'}")
        self.back = Settings.from_url(f"sqlite:///{folder / 'back.db'}")

    def there_and_back(self) -> None:
        """Fence, load, compare; the other way, too."""
        account, same = self.day.account, self.day.account.same
        account.chapter("Moving house")
        gone = moving.move(self.here, self.there)
        same("the move", (gone.state, gone.quarantined), ("done", dict.fromkeys(gone.source, 0)))
        same("what was loaded", gone.loaded, gone.source)
        error = account.refused(
            "a workflow in the house that was left",
            dal.ReadOnly,
            lambda: self.day.db.workflows.create("Too late", actor="ada"),
        )
        same("the two databases", moving.verify(self.here, self.there).is_equal, True)
        came = moving.move(self.there, self.back)
        same("the move back", came.loaded, gone.loaded)
        same("all of it, there and back", moving.verify(self.here, self.back).is_equal, True)
        with dal.connect(self.back) as db:
            flow = db.workflows.create("First in the new house", actor="ada")
            same("the first version in the new house", db.versions.create(flow.id, {}, actor="ada").number, 1)
            mine = next(flow for flow in self.day.flows.values() if not flow.is_archived)
            latest = self.day.db.versions.latest(mine.id).number
            same("the next version", db.versions.create(mine.id, {"moved": True}, actor="ada").number, latest + 1)
        same("the fence", moving.set_fence(self.here, None).is_fenced, False)
        account.say(
            f"The rows of {len(gone.loaded)} tables move to another database, are compared one by one, and come back "
            "equal. Meanwhile the first database takes no writes:"
        )
        account.show("Write to it", error)
