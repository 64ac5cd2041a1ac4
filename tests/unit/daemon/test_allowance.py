"""Lines about refused commands: so many for each identity, then one that counts the rest."""

from __future__ import annotations

from collections.abc import Callable

from mep.daemon.allowance import LINES, MOST_IDENTITIES, OTHERS, WINDOW_S, Allowance


def test_what_is_withheld_is_counted_once_when_the_window_ends_and_then_there_is_room_again() -> None:
    windows: list[tuple[float, Callable[[], None]]] = []
    counted: list[tuple[str, str, dict[str, int]]] = []
    allowance = Allowance(later=lambda s, end: windows.append((s, end)), count=lambda *told: counted.append(told))
    assert [allowance.take("refused", "eve", "A") for _ in range(LINES + 2)] == [True] * LINES + [False] * 2
    assert not allowance.take("refused", "eve", "B")
    assert allowance.take("refused", "alice", "A")
    assert allowance.take("refreshed", "eve")
    [(seconds, end)] = windows
    assert seconds == WINDOW_S
    end()
    assert counted == [("refused", "eve", {"A": 2, "B": 1})]
    assert allowance.take("refused", "eve", "A")
    windows[1][1]()
    assert len(counted) == 1


def test_a_crowd_of_identities_causes_a_bounded_number_of_lines() -> None:
    counted: list[tuple[str, str, dict[str, int]]] = []
    allowance = Allowance(later=lambda *_: None, count=lambda *told: counted.append(told))
    taken = sum(allowance.take("refused", f"i{number % 1000}") for number in range(30 * 1000))
    assert taken == (MOST_IDENTITIES + 1) * LINES
    allowance.end_window()
    assert sum(sum(codes.values()) for _, _, codes in counted) == 30 * 1000 - taken
    assert ("refused", OTHERS) in {(event, identity) for event, identity, _ in counted}
