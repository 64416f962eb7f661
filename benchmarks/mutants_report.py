"""How many mutants were found, and which were not."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

from mutation import Mutant

RESULT = Path(__file__).parent / "results" / "mutants-cpu.json"


class Room(NamedTuple):
    """A room, the number of its mutants, and those that were tested, with their fates."""

    name: str
    total: int
    tested: list[tuple[Mutant, str]]
    equivalent: int = 0  # survivors that compute the same

    @property
    def count(self) -> int:
        """How many of those tested a test can find."""
        return len(self.tested) - self.equivalent

    def share(self) -> float:
        """Of those that a test can find, the share that one found."""
        return sum(end != "survives" for _, end in self.tested) / self.count


def score(rooms: list[Room]) -> tuple[float, float]:
    """The share of the mutants that the tests find, and the half-width of its interval of 95 %.

    Equivalent ones do not count. The samples of the rooms estimate it by the rooms' sizes. The
    rooms' variances add up, each with the correction for a finite number of mutants, and with one
    survivor more, so that none is 0.
    """
    total = sum(room.total for room in rooms)
    mean = sum(room.total * room.share() for room in rooms) / total
    variance = 0.0
    for room in rooms:
        n = room.count
        p = (room.share() * n + 1) / (n + 2)
        variance += room.total**2 * (1 - n / room.total) * p * (1 - p) / n
    return mean, 1.96 * math.sqrt(variance) / total


def table(rooms: list[Room]) -> str:
    """The rooms, and the survivors with the reasons that the saved result has for them."""
    rooms = judged(rooms)
    reasons = saved_reasons()
    mean, half = score(rooms)
    lines = [
        "| room | mutants | tested | found | endless | equivalent |",
        "|---|---|---|---|---|---|",
    ]
    for name, total, tested, equivalent in rooms:
        ends = [end for _, end in tested]
        endless, found = ends.count("endless"), len(ends) - ends.count("survives")
        lines += [f"| {name} | {total} | {len(ends)} | {found} | {endless} | {equivalent} |"]
    share = (
        f"Found, of all mutants that are not equivalent: {100 * mean:.1f} % ± {100 * half:.1f} %."
    )
    lines += ["", share, ""]
    lines += ["| survivor | line | why |", "|---|---|---|"]
    for mutant in survivors(rooms):
        name = mutant.name.replace("|", "\\|").replace("\n", " ")
        lines += [f"| `{name}` | {mutant.line} | {reasons.get(mutant.name, '')} |"]
    return "\n".join(lines)


def judged(rooms: list[Room]) -> list[Room]:
    """The rooms with tested mutants, and how many of these a person has found equivalent."""
    reasons = saved_reasons()
    return [
        room._replace(
            equivalent=sum(
                reasons.get(m.name, "").startswith("equivalent") for m in survivors([room])
            )
        )
        for room in rooms
        if room.tested
    ]


def survivors(rooms: list[Room]) -> list[Mutant]:
    """The mutants that no test found."""
    return [mutant for room in rooms for mutant, end in room.tested if end == "survives"]


def saved_reasons() -> dict[str, str]:
    """What the saved result says of survivors, other runs' too: people write it there."""
    if not RESULT.exists():
        return {}
    saved: dict[str, dict[str, str]] = json.loads(RESULT.read_text("utf-8"))
    return saved["survivors"] | saved.get("others", {})


def save(rooms: list[Room]) -> None:
    """Write the counts and the survivors; a reason that is there stays."""
    from machine import conditions  # loads the package, which the mutants must do themselves

    rooms = judged(rooms)
    reasons = saved_reasons()
    mean, half = score(rooms)
    counts = {
        room.name: {
            "mutants": room.total,
            "tested": len(room.tested),
            "survive": len(survivors([room])),
            "endless": sum(end == "endless" for _, end in room.tested),
            "equivalent": room.equivalent,
        }
        for room in rooms
    }
    content = {
        **conditions(),
        "score": round(mean, 4),
        "half_width_95": round(half, 4),
        "rooms": counts,
        "survivors": {m.name: reasons.get(m.name, "") for m in survivors(rooms)},
    }
    content["others"] = {n: r for n, r in reasons.items() if r and n not in content["survivors"]}
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    RESULT.write_text(text, encoding="utf-8")
    RESULT.with_suffix(".md").write_text(table(rooms) + "\n", encoding="utf-8")
