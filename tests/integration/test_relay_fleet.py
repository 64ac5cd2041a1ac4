"""What the relay makes of signs of life and of silence: who is started (again), given up, and what users hear."""

from __future__ import annotations

import time
from contextlib import closing

from mep.wire.envelope import Result
from support.fake_endpoint import Command, FakeEndpoint, FakeUep, Http
from support.fleet import (
    START_TIMEOUT_S,
    MakeEndpoint,
    People,
    alice,
    people,
    quick_relay,
    site,
    stream,
    task_ids,
)
from support.relay import Relay
from support.wait import until

__all__ = ["alice", "people", "quick_relay", "site"]


def result_of(person: Http, submitted: dict[str, object], *, wait_s: float = 15.0) -> Result:
    with closing(stream(person, submitted)) as reader:
        result = reader.result(wait_s=wait_s)
    assert result is not None, "no result came"
    return result


def listen_on(uep: FakeUep) -> None:
    """Be a consumer for longer than a missing one is doubted: what its first report asked for is answered."""
    assert uep.next_message(f"{uep.id}.tasks", wait_s=2.5, exclusive=True) is None


def begun(endpoint: FakeEndpoint, person: Http) -> tuple[dict[str, object], Command]:
    """Let somebody submit; return that and the start command it led to."""
    submitted = person.submit(endpoint.id, person.function())
    command = endpoint.command()
    assert command is not None
    return submitted, command


def serve(endpoint: FakeEndpoint, person: Http, submitted: dict[str, object]) -> None:
    """Take a start command and the task, and answer it."""
    with endpoint.start_uep() as uep:
        uep.answer(uep.take().task_id)
    assert result_of(person, submitted).error_details is None


def one_that_served(endpoint: FakeEndpoint, person: Http) -> FakeUep:
    """Return a user endpoint that is up, and has answered a task."""
    submitted = person.submit(endpoint.id, person.function())
    uep = endpoint.start_uep()
    uep.answer(uep.take().task_id)
    result_of(person, submitted)
    return uep


def code_of(result: Result) -> str:
    assert result.error_details is not None, result.data
    return result.error_details.code


def test_a_failed_start_fails_the_waiting_tasks_with_the_endpoint_s_words(site: MakeEndpoint, alice: Http) -> None:
    endpoint = site()
    submitted = alice.submit(endpoint.id, alice.function(), "1\na1\nb", "1\nc1\nd")
    command = endpoint.command()
    assert command is not None
    text = "IDENTITY_NOT_MAPPED: Your identity has no account here. Ask the administrator."
    endpoint.notice(command.uep_id, error=text, error_code="IDENTITY_NOT_MAPPED", heartbeat_period=30)
    with closing(stream(alice, submitted)) as reader:
        results = [reader.result(), reader.result()]
    assert {r.task_id for r in results if r is not None} == set(task_ids(submitted))
    for result in results:
        assert result is not None
        assert (code_of(result), result.data) == ("IDENTITY_NOT_MAPPED", text)
    with FakeUep(command.creds) as uep:
        assert uep.next_message(f"{uep.id}.tasks", wait_s=0.2, exclusive=True) is None, "the queue was emptied"
    alice.submit(endpoint.id, alice.function())
    assert endpoint.command() is not None, "the next submit tries again"


def test_a_stock_notice_of_the_user_endpoint_itself_counts_too(site: MakeEndpoint, alice: Http) -> None:
    endpoint = site()
    submitted, command = begun(endpoint, alice)
    with FakeUep(command.creds) as uep:
        uep.report(active=None, error="Identity failed to map to a local user name.")
    result = result_of(alice, submitted)
    assert "failed to map" in result.data
    assert code_of(result) == "SPAWN_FAILED"


def test_an_endpoint_speaks_only_for_its_own_user_endpoints(site: MakeEndpoint, alice: Http) -> None:
    mine, other = site(), site()
    submitted = alice.submit(mine.id, alice.function())
    command = mine.command()
    assert command is not None
    other.notice(command.uep_id, error="not your business", heartbeat_period=30)
    mine.notice(command.uep_id, error="the true reason", heartbeat_period=30)
    assert "the true reason" in result_of(alice, submitted).data


def test_no_sign_of_life_is_tried_again_and_then_given_up(site: MakeEndpoint, alice: Http) -> None:
    endpoint = site()
    submitted = alice.submit(endpoint.id, alice.function())
    commands = [endpoint.command(wait_s=START_TIMEOUT_S + 3) for _ in range(3)]
    assert all(commands)
    signatures = {c.properties.headers["mep-signature"] for c in commands if c is not None}
    assert len(signatures) == 3, "each with a signature of its own"
    result = result_of(alice, submitted)
    assert code_of(result) == "START_TIMEOUT"
    assert endpoint.command(wait_s=0.3) is None


def test_tasks_queued_while_it_left_start_a_new_one(site: MakeEndpoint, alice: Http) -> None:
    endpoint = site()
    uep = one_that_served(endpoint, alice)
    late = alice.submit(endpoint.id, alice.function())
    uep.stop()
    with endpoint.start_uep() as fresh:
        assert fresh.id == uep.id, "same options, same id"
        fresh.answer(fresh.take().task_id)
    assert result_of(alice, late).error_details is None


def test_a_user_endpoint_that_ended_with_nothing_to_do_stays_ended(site: MakeEndpoint, alice: Http) -> None:
    endpoint = site()
    uep = one_that_served(endpoint, alice)
    uep.stop()
    assert endpoint.command(wait_s=1.0) is None


def test_one_that_dies_again_and_again_is_given_up(site: MakeEndpoint, alice: Http) -> None:
    endpoint = site()
    submitted = alice.submit(endpoint.id, alice.function())
    for _ in range(3):
        uep = endpoint.start_uep()
        uep.close()
        endpoint.notice(uep.id, active=False, ended={"code": "UEP_DIED", "text": "killed"}, heartbeat_period=30)
    result = result_of(alice, submitted)
    assert code_of(result) == "UEP_DIED"
    assert "3 times" in result.data


def test_one_that_is_killed_while_it_starts_is_started_again_and_given_up_at_last(
    site: MakeEndpoint, alice: Http
) -> None:
    endpoint = site()
    submitted, command = begun(endpoint, alice)
    text = "UEP_DIED: Your user endpoint ended while it started: killed by signal 9 (SIGKILL)."
    endpoint.notice(command.uep_id, error=text, error_code="UEP_DIED", heartbeat_period=30)
    uep = endpoint.start_uep()
    uep.answer(uep.take().task_id)
    assert result_of(alice, submitted).error_details is None
    uep.stop()
    submitted = alice.submit(endpoint.id, alice.function())
    for _ in range(3):
        assert endpoint.command() is not None
        endpoint.notice(command.uep_id, error=text, error_code="UEP_DIED", heartbeat_period=30)
    assert (result := result_of(alice, submitted)).data == text
    assert code_of(result) == "UEP_DIED"


def test_a_submit_to_one_that_died_silently_brings_a_new_one(site: MakeEndpoint, alice: Http) -> None:
    """It was up a moment ago by its last report; the broker knows better."""
    endpoint = site()
    uep = one_that_served(endpoint, alice)
    uep.close()  # as kill -9: no goodbye
    second = alice.submit(endpoint.id, alice.function())
    with endpoint.start_uep() as fresh:
        fresh.answer(fresh.take().task_id)
    assert result_of(alice, second).error_details is None


def test_a_submit_right_after_the_last_look_is_looked_after_too(site: MakeEndpoint, alice: Http) -> None:
    """Nobody looks twice a second, and the one that died in between owes an answer all the same."""
    endpoint = site()
    uep = one_that_served(endpoint, alice)
    second = alice.submit(endpoint.id, alice.function())
    uep.answer(uep.take().task_id)
    assert result_of(alice, second).error_details is None
    uep.close()
    third = alice.submit(endpoint.id, alice.function())
    with endpoint.start_uep() as fresh:
        fresh.answer(fresh.take().task_id)
    assert result_of(alice, third).error_details is None


def test_silence_without_a_consumer_is_death(site: MakeEndpoint, alice: Http) -> None:
    endpoint = site()
    submitted, command = begun(endpoint, alice)
    with FakeUep(command.creds) as uep:
        uep.report(heartbeat_period=0.3)
        uep.take()  # acknowledged, never answered
        listen_on(uep)
    with endpoint.start_uep() as fresh:
        fresh.answer(task_ids(submitted)[0])
    assert result_of(alice, submitted).error_details is None


def test_tasks_that_a_journal_less_user_endpoint_lost_are_said_to_be_lost(site: MakeEndpoint, alice: Http) -> None:
    """It reports that it has nothing to do, twice, and its queue is empty: nobody will answer."""
    endpoint = site()
    submitted, command = begun(endpoint, alice)
    with FakeUep(command.creds) as uep:
        uep.report()
        uep.take()
        deadline = time.monotonic() + 10
        with closing(stream(alice, submitted)) as reader:
            result = None
            while result is None and time.monotonic() < deadline:
                uep.next_message(f"{uep.id}.tasks", wait_s=0.1, exclusive=True)
                uep.report(heartbeat_period=0.5, outstanding_tasks=0, pending_tasks=0)
                result = reader.result(wait_s=0.3)
    assert result is not None
    assert code_of(result) == "TASK_LOST"


def test_a_busy_user_endpoint_loses_nothing(site: MakeEndpoint, alice: Http) -> None:
    endpoint = site()
    submitted, command = begun(endpoint, alice)
    with FakeUep(command.creds) as uep, closing(stream(alice, submitted)) as reader:
        uep.report()
        task = uep.take()
        for _ in range(6):
            uep.report(heartbeat_period=0.5, outstanding_tasks=1, pending_tasks=0)
            assert reader.result(wait_s=0.3) is None
        uep.answer(task.task_id)
        assert reader.result() is not None


def test_one_that_reports_and_takes_no_tasks_loses_its_account_and_is_replaced(
    site: MakeEndpoint, alice: Http
) -> None:
    endpoint = site()
    submitted, command = begun(endpoint, alice)
    deaf = FakeUep(command.creds)
    generations = {command.creds["task_queue_info"]["connection_url"]}
    deadline = time.monotonic() + 20
    fresh = None
    while fresh is None and time.monotonic() < deadline:
        try:
            deaf.report(heartbeat_period=5.0)
        except Exception:  # noqa: BLE001 - whatever pika makes of a closed connection
            fresh = endpoint.command()
        else:
            again = endpoint.command(wait_s=0.5)
            if again is not None:
                generations.add(again.creds["task_queue_info"]["connection_url"])
    deaf.close()
    assert fresh is not None, "it kept its account"
    with FakeUep(fresh.creds) as uep:
        uep.report()
        uep.answer(uep.take().task_id)
    assert result_of(alice, submitted).error_details is None
    assert fresh.creds["task_queue_info"]["connection_url"] not in generations


def test_tasks_for_an_endpoint_that_is_away_wait_for_it(site: MakeEndpoint, alice: Http) -> None:
    endpoint = site()
    endpoint.beat(0)
    path = f"/v2/endpoints/{endpoint.id}/status"
    until(lambda: alice.ok("GET", path)["status"] == "offline", "offline")
    submitted = alice.submit(endpoint.id, alice.function())
    assert endpoint.command(wait_s=START_TIMEOUT_S + 0.5) is None, "no command to nobody"
    assert alice.task(task_ids(submitted)[0])["status"] == "waiting-for-ep"
    endpoint.beat()
    serve(endpoint, alice, submitted)


def test_a_start_that_was_begun_waits_when_the_endpoint_goes(site: MakeEndpoint, alice: Http) -> None:
    endpoint = site()
    submitted = alice.submit(endpoint.id, alice.function())
    assert endpoint.command() is not None
    endpoint.beat(0)
    task_id = task_ids(submitted)[0]
    until(lambda: alice.task(task_id)["status"] == "waiting-for-ep", "it waits for the endpoint")
    assert endpoint.command(wait_s=START_TIMEOUT_S + 0.5) is None, "no command to nobody"
    endpoint.beat()
    serve(endpoint, alice, submitted)


def test_a_report_of_one_we_thought_stopped_is_believed(site: MakeEndpoint, alice: Http) -> None:
    """The endpoint may have restarted it by itself, within its grace time."""
    endpoint = site()
    uep = one_that_served(endpoint, alice)
    uep.report(active=False)
    uep.report(active=True)
    console = f"/v3/endpoints/{endpoint.id}/console"
    until(
        lambda: [r["state"] for r in endpoint.owner.ok("GET", console)["user_endpoints"]] == ["up"],
        "it is up again",
    )
    alice.submit(endpoint.id, alice.function())
    assert endpoint.command(wait_s=0.5) is None
    uep.close()


def test_a_stale_command_is_sent_afresh_instead_of_failing_the_tasks(site: MakeEndpoint, alice: Http) -> None:
    endpoint = site()
    submitted, command = begun(endpoint, alice)
    endpoint.notice(command.uep_id, error="too old", error_code="COMMAND_STALE", heartbeat_period=30)
    serve(endpoint, alice, submitted)


def test_a_new_registration_looks_after_user_endpoints_that_died_with_the_old_agent(
    site: MakeEndpoint, alice: Http
) -> None:
    endpoint = site()
    submitted = alice.submit(endpoint.id, alice.function())
    uep = endpoint.start_uep()
    uep.take()
    listen_on(uep)
    uep.close()
    assert endpoint.peer is not None
    endpoint.peer.close()
    restarted = FakeEndpoint(endpoint.owner, endpoint.id).register().connect()
    with restarted.start_uep() as fresh:
        fresh.answer(task_ids(submitted)[0])
    assert result_of(alice, submitted).error_details is None
    restarted.close()


def test_commands_that_nobody_takes_vanish_before_they_are_too_old(
    site: MakeEndpoint, alice: Http, quick_relay: Relay, people: People
) -> None:
    endpoint = site()
    alice.submit(endpoint.id, alice.function())
    command = endpoint.command()
    assert command is not None
    assert int(command.properties.expiration) < 180_000


def test_a_late_notice_about_an_earlier_start_fails_nothing(site: MakeEndpoint, alice: Http) -> None:
    endpoint, f = site(), alice.function()
    first = alice.submit(endpoint.id, f)
    command = endpoint.command()
    assert command is not None
    endpoint.notice(command.uep_id, error="no", error_code="SPAWN_FAILED", request_id=first["request_id"])
    assert code_of(result_of(alice, first)) == "SPAWN_FAILED"
    second = alice.submit(endpoint.id, f)
    endpoint.notice(command.uep_id, error="no", error_code="SPAWN_FAILED", request_id=first["request_id"])
    with endpoint.start_uep() as uep:
        uep.answer(uep.take().task_id)
    assert result_of(alice, second).error_details is None


def test_a_flood_of_reports_is_cut_off(site: MakeEndpoint, alice: Http, quick_relay: Relay) -> None:
    endpoint = site()
    alice.submit(endpoint.id, alice.function())
    with endpoint.start_uep() as uep:
        uep.take()
        for turn in range(400):
            uep.report(active=bool(turn % 2))
    assert quick_relay.program is not None
    assert quick_relay.program.text().count(f"user endpoint {uep.id}:") < 150
