"""Which submit is a repeat of which: by key, or by an attempt whose caller was gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mep.relay.errors import HttpError
from mep.relay.repeats import Attempt, Repeats, Request
from mep.relay.settings import Settings
from mep.relay.store import Store, tasks
from mep.relay.store.engine import default_url
from mep.relay.store.tasks import StoredSubmit

ASKED = Request(identity_id="alice", where="endpoint", body=b"{}")
KEYED = Request(identity_id="alice", where="endpoint", body=b"{}", idempotency_key="k1")


async def present() -> bool:
    return False


async def absent() -> bool:
    return True


class Work:
    """Makes answers 1, 2, 3 ... and remembers what it published again."""

    def __init__(self, store: Store) -> None:
        self.store, self.made, self.again = store, 0, list[str]()
        self.gate = asyncio.Event()
        self.gate.set()

    async def make(self, attempt: Attempt) -> bytes:
        await self.gate.wait()
        self.made += 1
        stored = StoredSubmit(
            key=attempt.key, body_sha256=attempt.body_sha256, answer=str(self.made), created=4e9, published=False
        )
        await self.store.write(lambda c: tasks.add_submit(c, stored))
        attempt.stored = stored
        return str(self.made).encode()

    async def publish_again(self, stored: StoredSubmit) -> None:
        self.again.append(stored.answer)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    made = Store(default_url(tmp_path))
    yield made
    made.close()


@pytest.fixture
def work(store: Store) -> Work:
    return Work(store)


@pytest.fixture
def repeats(store: Store, tmp_path: Path) -> Repeats:
    return Repeats(store, Settings(data_dir=tmp_path))


async def ask(repeats: Repeats, work: Work, request: Request = ASKED, *, heard: bool = True) -> bytes:
    text, attempt = await repeats.answer(request, work.make, work.publish_again, present)
    (repeats.heard if heard else repeats.unheard)(attempt)
    return text


async def test_an_answered_submit_is_new_the_next_time(repeats: Repeats, work: Work) -> None:
    assert [await ask(repeats, work) for _ in range(2)] == [b"1", b"2"]


async def test_an_unheard_answer_is_given_to_the_repeat_once(repeats: Repeats, work: Work) -> None:
    assert await ask(repeats, work, heard=False) == b"1"
    assert await ask(repeats, work, heard=False) == b"1"
    assert await ask(repeats, work) == b"1"
    assert await ask(repeats, work) == b"2"


async def test_what_was_stored_and_not_published_is_published_by_the_repeat(repeats: Repeats, work: Work) -> None:
    await ask(repeats, work, heard=False)
    await ask(repeats, work, heard=False)
    await ask(repeats, work)
    assert work.again == ["1"], "once"


async def test_others_bodies_people_and_endpoints_are_not_repeats(repeats: Repeats, work: Work) -> None:
    await ask(repeats, work, heard=False)
    for other in (
        Request(identity_id="bob", where="endpoint", body=b"{}"),
        Request(identity_id="alice", where="other", body=b"{}"),
        Request(identity_id="alice", where="endpoint", body=b"{ }"),
    ):
        assert await ask(repeats, work, other) != b"1"


async def test_a_repeat_waits_for_the_attempt_that_is_under_way(repeats: Repeats, work: Work) -> None:
    work.gate.clear()
    first = asyncio.ensure_future(repeats.answer(ASKED, work.make, work.publish_again, present))
    second = asyncio.ensure_future(repeats.answer(ASKED, work.make, work.publish_again, present))
    await asyncio.sleep(0)
    work.gate.set()
    text, attempt = await first
    assert not second.done()
    repeats.unheard(attempt)
    again, joined = await second
    assert again == text
    repeats.heard(joined)


async def test_one_that_left_while_it_waited_is_not_served(repeats: Repeats, work: Work) -> None:
    work.gate.clear()
    first = asyncio.ensure_future(repeats.answer(ASKED, work.make, work.publish_again, present))
    second = asyncio.ensure_future(repeats.answer(ASKED, work.make, work.publish_again, absent))
    await asyncio.sleep(0)
    work.gate.set()
    repeats.heard((await first)[1])
    with pytest.raises(HttpError, match="left"):
        await second
    assert work.made == 1


async def test_a_failed_attempt_leaves_nothing_behind(repeats: Repeats, work: Work) -> None:
    async def fail(attempt: Attempt) -> bytes:
        raise HttpError(422, "X", "no")

    with pytest.raises(HttpError):
        await repeats.answer(ASKED, fail, work.publish_again, present)
    assert await ask(repeats, work) == b"1"


async def test_a_key_gives_the_same_answer_for_ever_and_for_one_body_only(repeats: Repeats, work: Work) -> None:
    assert [await ask(repeats, work, KEYED) for _ in range(3)] == [b"1"] * 3
    changed = Request(identity_id="alice", where="endpoint", body=b"other", idempotency_key="k1")
    with pytest.raises(HttpError, match="Idempotency-Key"):
        await ask(repeats, work, changed)
    theirs = Request(identity_id="bob", where="endpoint", body=b"{}", idempotency_key="k1")
    assert await ask(repeats, work, theirs) == b"2"


@pytest.mark.parametrize("request_", [ASKED, KEYED])
async def test_a_new_relay_process_takes_the_attempts_over(
    repeats: Repeats, work: Work, store: Store, tmp_path: Path, request_: Request
) -> None:
    await repeats.answer(request_, work.make, work.publish_again, present)  # killed before it could answer
    fresh = Repeats(store, Settings(data_dir=tmp_path))
    assert [s.answer for s in await fresh.load()] == ["1"]
    assert await ask(fresh, work, request_) == b"1"
    assert work.again == ["1"]
