"""Do the tests notice a wrong formula? Break the code in one place at a time, and run them.

A mutant is the package with one place changed: a sign or an operator, a factor, a square root that
is dropped, α for σ, the other end of a step, ``<`` for ``<=``, the newest for the oldest, one
noise for another (``mutation.py``). It is killed if a test fails.

Every test runs once first, and it is noted which functions of the package it enters
(``mutants_reach.py``). A mutant then meets the tests that enter its function, those of its own room
first, up to 20 s of them. The tests are imported once, and each mutant is a fork of that process
(``mutants_fork.py``). The mutants of a room are a random sample with a fixed seed. Left out are the
tests marked slow, the doctests, the examples of hypothesis beyond 10, and the tests that need more
than 1 s of the processor.

    python benchmarks/mutants.py                     # 36 mutants a room, prints the survivors
    python benchmarks/mutants.py --rooms sde noise --count 80
    python benchmarks/mutants.py --save              # and writes benchmarks/results/mutants-cpu.*

What was found stays in ``out/mutants``, and a second run goes on from there. ``--again`` tests the
survivors once more, as after new tests, and looks at the tests of ``--rooms`` anew. ``--slow``
gives each survivor the whole files of its own room's tests that enter its file, the tests marked
slow included, on which a part of the formulas depend. It takes a minute or two a survivor.

A survivor that no test can find, because it computes the same, is named in the saved result by a
reason that begins with "equivalent". It does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time

from mutants_fork import KILLED, STALE, SURVIVES, Server, anew, in_processes, serve
from mutants_reach import ROOT, Reach, last_name
from mutants_report import Room, save, saved_reasons, table
from mutation import Mutant, mutants

OUT = ROOT / "out" / "mutants"
ROOMS = ["noise", "grids", "sde", "score", "tableau", "predictors", "langevin", "correctors"]
ROOMS += ["guidance", "inverse", "samplers", "losses", "training", "analysis"]
MORE_TESTS = ["published", "checkpoint"]
ALL = 20.0  # seconds of the tests that a mutant meets
FATES = {SURVIVES: "survives", KILLED: "killed", None: "endless"}
Tests = dict[str, dict[str, list[tuple[float, str]]]]


def known_tests(rooms: list[str]) -> Tests:
    """Of rooms, the tests that enter a function."""
    return {room: Reach.load(OUT / f"{room}.reach").by_function() for room in rooms}


def to_meet(mutant: Mutant, room: str, known: Tests) -> list[str]:
    """The tests that enter the function of a mutant: those of its room first, then the fastest."""
    function = f"{mutant.path} {mutant.function}"
    found = {
        (where != room, seconds, test)
        for where, tests in known.items()
        for name in (function, f"*.{last_name(function)}")
        for seconds, test in tests.get(name, [])
    }
    if not mutant.function:  # a constant
        found = {(False, *test) for tests in known[room].values() for test in tests}
    tests, total = [], 0.0
    for _, seconds, test in sorted(found):
        total += seconds
        if total < ALL:
            tests.append(test)
    return tests


def whole_files(mutant: Mutant, room: str, known: Tests) -> list[str]:
    """The files of a room's tests that enter the file of a mutant, or all of the room."""
    entered = [found for name, found in known[room].items() if name.split()[0] == mutant.path]
    return sorted({test.split("::")[0] for found in entered for _, test in found}) or [
        f"tests/{room}"
    ]


def every(room: str) -> list[Mutant]:
    """The mutants of a room, in an order drawn at random."""
    found = {
        mutant.name: mutant
        for file in sorted((ROOT / "sdescore" / room).rglob("*.py"))
        for mutant in mutants(file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8"))
    }  # by a number of each mutant's own, so that a change of a file moves no other mutant
    return sorted(found.values(), key=lambda mutant: random.Random(mutant.name).random())


def earlier() -> dict[str, str]:
    """The fates that are known, by the names of the mutants."""
    file = OUT / "fates.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return dict(map(json.loads, lines))


def main() -> None:
    """Run the mutants of the rooms."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rooms", nargs="*", default=ROOMS, choices=ROOMS)
    tests = [*ROOMS, *MORE_TESTS]
    parser.add_argument("--tests", nargs="*", default=tests, choices=tests, help="of these rooms")
    parser.add_argument("--count", type=int, default=36, help="mutants of a room")
    parser.add_argument("--again", action="store_true", help="test the survivors once more")
    parser.add_argument("--slow", action="store_true", help="whole files for the survivors")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after this time")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    OUT.mkdir(parents=True, exist_ok=True)
    if options.again:
        for room in options.rooms:
            (OUT / f"{room}.reach").unlink(missing_ok=True)
    wanted = {room: every(room) for room in options.rooms}
    state = "survives" if options.again else None

    def left() -> list[tuple[str, Mutant]]:
        before = earlier()
        drawn = [(room, m) for room in options.rooms for m in wanted[room][: options.count]]
        return [(room, m) for room, m in drawn if before.get(m.name) == state]

    todo = left()

    def settle(mutant: Mutant, status: int | None) -> None:
        line = json.dumps([mutant.name, FATES.get(status, "killed")], ensure_ascii=False)
        with (OUT / "fates.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def swapped(server: Server) -> None:
        for room in options.tests:
            if not (OUT / f"{room}.reach").exists():
                server.reach(room, OUT / f"{room}.reach")
        known = known_tests(options.tests)

        def work(job: int) -> None:
            for room, mutant in todo[job :: options.jobs]:
                if time.monotonic() < end:
                    status = server.status(mutant, to_meet(mutant, room, known))
                    if status != STALE:
                        settle(mutant, status)

        in_processes(work, options.jobs)

    serve([f"tests/{room}" for room in options.tests], swapped)
    known, stale = known_tests(options.tests), left()

    def loaded(job: int) -> None:
        for room, mutant in stale[job :: options.jobs]:
            if time.monotonic() < end:
                settle(mutant, anew(mutant, to_meet(mutant, room, known)))

    in_processes(loaded, options.jobs)
    before, reasons = earlier(), saved_reasons()
    alive = [
        (room, mutant)
        for room in options.rooms
        for mutant in wanted[room]
        if before.get(mutant.name) == FATES[SURVIVES]
        and not reasons.get(mutant.name, "").startswith("equivalent")
    ]

    def wholly(job: int) -> None:
        for room, mutant in alive[job :: options.jobs]:
            if time.monotonic() < end:
                files = whole_files(mutant, room, known)
                settle(mutant, anew(mutant, files, whole=True))

    if options.slow:
        in_processes(wholly, options.jobs)
    fates = earlier()
    rooms = [
        Room(room, len(of_room), [(m, fates[m.name]) for m in of_room if m.name in fates])
        for room, of_room in wanted.items()
    ]
    print(table(rooms))
    if options.save:
        save(rooms)


if __name__ == "__main__":
    main()
