"""An account of requests by their numbers: what was asked, what came of it, and what is not as it must be.

A request's rows hold its number, and the model multiplies them by its version: an answer says by itself whose it is and
which version gave it. So an answer that is lost, comes twice, or is another's is found, and not only one that is wrong.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

BASE = 4096
"""Cells hold less, and versions are below it: their product is exact in float32."""

LARGEST = BASE**2 - 1


def row(number: int) -> np.ndarray:
    """What a request holds, float32 [1, 4]: its number in two cells, a mark of it, and 1, which becomes the version.

    Raises:
        ValueError: the number is not 0..LARGEST.
    """
    if not 0 <= number <= LARGEST:
        raise ValueError(f"a number is 0..{LARGEST}, got {number}")
    high, low = divmod(number, BASE)
    # The factors are odd: numbers that share one of the two cells have other marks, so that a row of two's is seen.
    return np.float32([[high, low, (high * 2741 + low * 1597) % BASE, 1]])


def read(answer: np.ndarray) -> tuple[int, int] | None:
    """Whose answer it is, and the version that gave it; None where the model has given no such answer."""
    values = np.asarray(answer, np.float64)
    if values.shape != (1, 4) or not np.isfinite(values).all() or values[0, 3] < 1 or values[0, 3] % 1:
        return None
    cells = values[0] / values[0, 3]
    number = int(cells[0]) * BASE + int(cells[1])
    if not 0 <= number <= LARGEST or not (row(number)[0] == cells).all():
        return None
    return number, int(values[0, 3])


@dataclass(frozen=True)
class Asked:
    """A request: when it was asked, when its answer is worthless, and the version that must give it, if any."""

    at_s: float
    deadline_s: float
    version: int | None = None


@dataclass(frozen=True)
class Answered:
    """An answer: what it holds, and the version that the reply names."""

    at_s: float
    holds: tuple[int, int] | None
    version: int


@dataclass(frozen=True)
class Refused:
    """An error that came in place of an answer, with its words; `known` where it is one of those that are promised."""

    at_s: float
    name: str
    known: bool
    said: str = ""


@dataclass(frozen=True)
class Account:
    """What became of all requests; each list holds numbers, and all are empty where the promise was kept.

    Attributes:
        answered: How many were answered as they must be.
        refused: How many were told an error by its name, by that.
        lost: Nothing came.
        doubled: More than one thing came.
        swapped: The answer is another request's.
        spoiled: The answer is nobody's.
        misnamed: The answer is of another version than the reply says, or than was asked for.
        unasked: What came was for no request.
        late: It came after the deadline, by more than was allowed.
        unnamed: The error is none that is promised.
        strange: Those errors, by name.
        slowest_s: How far behind its deadline the last of those was that have one; below 0 where all were in time.
    """

    answered: int
    refused: Counter[str]
    lost: list[int]
    doubled: list[int]
    swapped: list[int]
    spoiled: list[int]
    misnamed: list[int]
    unasked: list[int]
    late: list[int]
    unnamed: list[int]
    strange: Counter[str]
    slowest_s: float

    @property
    def faults(self) -> dict[str, list[int]]:
        """What is not as it must be, by its name; empty where all is well."""
        names = ("lost", "doubled", "swapped", "spoiled", "misnamed", "unasked", "late", "unnamed")
        return {name: found for name in names if (found := getattr(self, name))}

    def __str__(self) -> str:
        told = ", ".join(f"{count} {name}" for name, count in sorted(self.refused.items())) or "none"
        wrong = ", ".join(f"{len(found)} {name} {found[:5]}" for name, found in self.faults.items()) or "nothing"
        strange = f" ({', '.join(self.strange)})" if self.strange else ""
        return (
            f"{self.answered} answered, refused: {told}; wrong: {wrong}{strange}; at most {self.slowest_s:.2f} s late"
        )


@dataclass
class Ledger:
    """Takes down what is asked and what comes; from any thread."""

    _asked: dict[int, Asked] = field(default_factory=dict)
    _outcomes: dict[int, list[Answered | Refused]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, at_s: float, deadline_s: float, version: int | None = None) -> int:
        """The number of a request that is about to be asked."""
        with self._lock:
            number = len(self._asked)
            self._asked[number] = Asked(at_s, deadline_s, version)
            return number

    def come(self, number: int, outcome: Answered | Refused) -> None:
        """What came for a request."""
        with self._lock:
            self._outcomes.setdefault(number, []).append(outcome)

    @property
    def said(self) -> str:
        """The words of the latest error."""
        with self._lock:
            errors = [one for came in self._outcomes.values() for one in came if isinstance(one, Refused)]
        return max(errors, key=lambda one: one.at_s).said if errors else "nothing"

    def since(self, at_s: float) -> list[tuple[int, Answered | Refused]]:
        """What came from that instant on, by number, in no order."""
        with self._lock:
            return [(number, one) for number, came in self._outcomes.items() for one in came if one.at_s >= at_s]

    @property
    def told(self) -> int:
        """For how many something has come so far."""
        with self._lock:
            return len(self._outcomes)

    def open(self) -> list[int]:
        """For which nothing has come so far."""
        with self._lock:
            return [number for number in self._asked if number not in self._outcomes]

    def account(self, allowed_s: float = 0.0) -> Account:
        """The account, of requests that are over.

        Args:
            allowed_s: How much later than its deadline something may come: what the machine takes to wake a thread.
        """
        with self._lock:
            asked, outcomes = dict(self._asked), {number: list(came) for number, came in self._outcomes.items()}
        wrong: dict[str, list[int]] = {
            name: [] for name in ("swapped", "spoiled", "misnamed", "late", "unnamed", "unasked")
        }
        refused: Counter[str] = Counter()
        strange: Counter[str] = Counter()
        answered, slowest_s = 0, -float("inf")
        for number, came in sorted(outcomes.items()):
            if number not in asked:
                wrong["unasked"].append(number)
                continue
            for one in came:
                over_s = one.at_s - asked[number].deadline_s
                slowest_s = max(slowest_s, over_s)
                found = _found(number, asked[number], one) or ("late" if over_s > allowed_s else "")
                if found:
                    wrong[found].append(number)
                    strange[one.name if isinstance(one, Refused) else found] += found == "unnamed"
                elif isinstance(one, Refused):
                    refused[one.name] += 1
                else:
                    answered += 1
        return Account(
            answered=answered,
            refused=refused,
            lost=[number for number in asked if number not in outcomes],
            doubled=[number for number, came in sorted(outcomes.items()) if number in asked and len(came) > 1],
            strange=+strange,
            slowest_s=slowest_s,
            **wrong,
        )


def _found(number: int, asked: Asked, one: Answered | Refused) -> str:
    """What is wrong with what came, but for when; empty for nothing."""
    if isinstance(one, Refused):
        return "" if one.known else "unnamed"
    if one.holds is None:
        return "spoiled"
    if one.holds[0] != number:
        return "swapped"
    return "misnamed" if one.holds[1] != one.version or asked.version not in (None, one.version) else ""
