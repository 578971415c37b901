"""When a cron expression fires in a time zone, also on the days when its clocks are changed.

cronsim knows the calendar; what it does with clocks is kept for fixed times only. Where the minute or the hour begins
with a star, an hour that clocks go through twice is fired in twice, and cronsim's own steps lose their way behind a
change that is no whole hour (Lord Howe) or at midnight (the Azores): so it is asked in pieces without a change.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib import resources
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from dal.core.rows import check_text
from dal.errors import Invalid
from dal.stores.checks import check_length

_SECOND = timedelta(seconds=1)
_STEP = timedelta(hours=3)  # clocks are not changed twice in so short a time
_AHEAD = timedelta(days=2)  # more than clocks anywhere were ever changed by
_ANY = datetime(2026, 1, 1)  # on the wall, where clocks have no zone


def _zone_names() -> list[str]:
    # Not what the platform lists: that holds its own "localtime", which means another zone on another host.
    return resources.files("tzdata").joinpath("zones").read_text("utf-8").split()


def check_expression(value: str) -> str:
    """Five fields of a crontab, joined by single spaces. Raises Invalid for what cannot be read or never fires."""
    expression = " ".join(check_length(value, "expression", 1, 256).split())
    if len(expression.split(" ")) != 5:
        raise Invalid("takes five fields: minute, hour, day of month, month, day of week", path="expression")
    try:
        never = next(CronSim(expression, _ANY), None) is None
    except CronSimError as error:
        raise Invalid(f"is no schedule: {str(error)[:80]}", path="expression") from None
    if never:
        raise Invalid("never fires", path="expression")
    return expression


def check_timezone(value: str) -> str:
    """The name of a time zone of the IANA, such as Europe/Berlin."""
    if check_text(value, "timezone") not in _zone_names():
        raise Invalid("takes the name of an IANA time zone, such as Europe/Berlin or UTC", path="timezone")
    return value


def fires(expression: str, timezone: str, after: datetime) -> Iterator[datetime]:
    """The instants at which a schedule fires later than one, in order, in UTC.

    A fixed time that clocks skip fires at the end of the gap, and one that they come to twice fires the first time.
    With a star in front of minute or hour, every minute fires whose time on the wall fits. Ends with the calendar.
    """
    zone = ZoneInfo(timezone)
    minute, hour = expression.split(" ")[:2]
    everywhere = minute.startswith("*") or hour.startswith("*")
    last = after.astimezone(UTC)
    try:
        for fire in _on_the_wall(expression, zone, last) if everywhere else CronSim(expression, last.astimezone(zone)):
            at = fire.astimezone(UTC)
            if at > last:  # several times in one gap have one end; a second pass begins behind its first
                yield at
                last = at
    except OverflowError:
        return


def first_fire(expression: str, timezone: str, begin: datetime, end: datetime | None) -> datetime | None:
    """The first fire at ``begin`` or later, and not after ``end``."""
    fire = next(fires(expression, timezone, _before(begin)), None)
    return None if fire is None or (end is not None and fire > end) else fire


def newest_fire(expression: str, timezone: str, begin: datetime, end: datetime) -> datetime | None:
    """The last fire from ``begin`` to ``end``, both included; looks back from the end, however long ago it began."""
    span = timedelta(hours=1)
    while True:
        since = max(begin, end - span)
        newest = None
        for fire in fires(expression, timezone, _before(since)):
            if fire > end:
                break
            newest = fire
        if newest or since == begin:
            return newest
        span *= 8


def _before(moment: datetime) -> datetime:
    """A second before the first whole second at or after a moment: fires are whole seconds."""
    whole = moment.replace(microsecond=0)
    return whole if whole < moment else whole - _SECOND


def _on_the_wall(expression: str, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """Every instant after one whose time on the wall fits."""
    begin = after + _SECOND
    while True:
        far = begin + _AHEAD
        while begin < far:
            end, offset = _piece(zone, begin)
            for wall in CronSim(expression, begin.replace(tzinfo=None) + offset - _SECOND):
                fire = (wall - offset).replace(tzinfo=UTC)
                if fire >= end:
                    break
                yield fire
            begin = end
        nearest = next(CronSim(expression, begin.replace(tzinfo=None) - _AHEAD), None)
        if nearest is None:
            return
        begin = max(begin, nearest.replace(tzinfo=UTC) - _AHEAD)


def _piece(zone: ZoneInfo, begin: datetime) -> tuple[datetime, timedelta]:
    """Until when clocks are as they are at an instant, at most a step; and by how much they are ahead of UTC."""

    def offset(at: datetime) -> timedelta:
        return at.astimezone(zone).utcoffset() or timedelta()

    here, end = offset(begin), begin + _STEP
    if offset(end) == here:
        return end, here
    same = begin
    while end - same > _SECOND:
        middle = same + (end - same) // 2 // _SECOND * _SECOND
        if offset(middle) == here:
            same = middle
        else:
            end = middle
    return end, here
