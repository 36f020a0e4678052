"""When schedules are due: triggers of every kind, zones, what to do about slots. Pure functions.

`declare` and `words` turn what users write into data; `slots` computes with it; `plan` decides.
"""

from taskmux.policy.schedule.declare import (
    any_of,
    at,
    bounded,
    cron,
    every,
    exclusions,
    misfire,
    schedule,
)
from taskmux.policy.schedule.plan import advance, plan, preview, slot_id
from taskmux.policy.schedule.slots import next_slot, slots
from taskmux.policy.schedule.stamp import restamp
from taskmux.policy.schedule.words import Understood, describe, understand

__all__ = [
    "Understood",
    "advance",
    "any_of",
    "at",
    "bounded",
    "cron",
    "describe",
    "every",
    "exclusions",
    "misfire",
    "next_slot",
    "plan",
    "preview",
    "restamp",
    "schedule",
    "slot_id",
    "slots",
    "understand",
]
