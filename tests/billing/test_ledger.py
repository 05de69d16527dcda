"""The ledger: written once whatever is repeated, and projected from the set of events alone."""

import threading
from dataclasses import replace
from itertools import pairwise

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from tests.billing.conftest import rolled_back
from tests.billing.streams import CARDS, SPAN, T, event, life, streams

from tessera_billing import BillingError
from tessera_billing.events import Action, Evidence
from tessera_billing.intervals import Quality, project
from tessera_billing.ledger import intervals, rebuild, record
from tessera_billing.tables import metadata, meter_event

pytestmark = pytest.mark.billing

CPU = {"cpu": 1000}


def shape(found):
    return [(i.dimension, i.t0 - T, None if i.t1 is None else i.t1 - T, i.qty) for i in found]


def stored(connection):
    return intervals(connection, 0, T + 10 * SPAN)


# --- what a stream means ---


def test_a_life_is_one_interval_per_dimension():
    found = project(life(T, T + 10, {"cpu": 500, CARDS: 25, "memory": 0}))
    assert shape(found) == [(CARDS, 0, 10, 25), ("cpu", 0, 10, 500)]
    assert {i.quality for i in found} == {Quality.MEASURED}


def test_nothing_is_billed_before_the_start():
    assert project([event("SPEC", T, spec=CPU), event("HEARTBEAT", T + 5), event("STOP", T + 9)]) == []


def test_cards_can_start_before_the_process_does():
    events = [event("START", T, spec={CARDS: 100}), event("SPEC", T + 7, spec={CARDS: 100, "cpu": 1000}), event("STOP", T + 10)]
    assert shape(project(events)) == [(CARDS, 0, 10, 100), ("cpu", 7, 10, 1000)]


def test_a_pause_keeps_only_what_it_names():
    events = [
        event("START", T, spec={"cpu": 1000, "memory": 64}),
        event("PAUSE", T + 2, spec={"memory": 64}),
        event("RESUME", T + 5),
        event("STOP", T + 9),
    ]
    assert shape(project(events)) == [("cpu", 0, 2, 1000), ("cpu", 5, 9, 1000), ("memory", 0, 9, 64)]


def test_a_pause_and_a_resume_within_one_second_change_nothing():
    both = [event("PAUSE", T + 3), event("RESUME", T + 3)]
    assert shape(project([*life(T, T + 9, CPU), *both])) == [("cpu", 0, 9, 1000)]


def test_a_stop_before_the_start_counts_as_no_time_and_is_flagged():
    found = project(life(T, T - 5, CPU))
    assert shape(found) == [("cpu", 0, 0, 1000)]
    assert found[0].quality is Quality.NEGATIVE


def test_better_evidence_replaces_an_estimated_stop_even_a_later_one():
    guess = event("STOP", T + 4, evidence=Evidence.ESTIMATED)
    found = project([*life(T, None, CPU), guess])
    assert (found[0].t1, found[0].quality) == (T + 4, Quality.ESTIMATED)
    found = project([*life(T, T + 6, CPU), guess])
    assert (found[0].t1, found[0].quality) == (T + 6, Quality.MEASURED)


def test_a_repeated_start_or_spec_does_not_split():
    events = [*life(T, T + 9, CPU), event("SPEC", T + 3, spec=CPU), event("START", T + 5, spec=CPU)]
    assert shape(project(events)) == [("cpu", 0, 9, 1000)]


@pytest.mark.parametrize("action", ["START", "STOP"])
def test_a_guess_that_proves_true_is_no_guess_any_more(connection, action):
    events = life(T, T + 6, CPU)
    true = next(e for e in events if e.action == action)
    record(connection, [replace(e, evidence=Evidence.ESTIMATED) if e is true else e for e in events])
    assert [i.quality for i in stored(connection)] == [Quality.ESTIMATED]
    record(connection, [true])
    assert [i.quality for i in stored(connection)] == [Quality.MEASURED]


@given(streams())
def test_intervals_of_a_dimension_never_overlap_and_neighbours_differ(events):
    found = project({e.event_id(): e for e in events}.values())
    for one, two in pairwise(found):
        if one.dimension == two.dimension:
            assert one.t1 is not None
            assert one.t0 < one.t1 <= two.t0
            assert one.t1 < two.t0 or one.qty != two.qty or one.quality != two.quality


def held_at(events, second):
    """What is held in one second, told anew from the words of the rules and not from the projection's code."""
    starts = [e for e in events if e.action is Action.START]
    if not starts:
        return {}
    begin = min(e.effective_at for e in starts)
    sure = [e.effective_at for e in events if e.action is Action.STOP and e.evidence is not Evidence.ESTIMATED]
    guessed = [e.effective_at for e in events if e.action is Action.STOP and e.evidence is Evidence.ESTIMATED]
    end = min(sure or guessed or [T + 10 * SPAN])
    if not begin <= second < end:
        return {}
    running, paused, left = {}, False, {}
    for at in range(begin, second + 1):
        now = [e for e in events if e.effective_at == at]
        now.sort(key=lambda e: (e.evidence is not Evidence.ESTIMATED, e.event_id().bytes))
        for action in (Action.START, Action.SPEC):
            for e in now:
                running = e.spec if e.action is action else running
        pauses = [e for e in now if e.action is Action.PAUSE]
        resumes = [e for e in now if e.action is Action.RESUME]
        if pauses and not resumes:
            paused, left = True, pauses[-1].spec
        if resumes and not pauses:
            paused, running = False, resumes[-1].spec or running
    return left if paused else running


@given(streams())
def test_the_projection_says_what_is_held_in_each_second(events):
    events = list({e.event_id(): e for e in events}.values())
    found = project(events)
    for second in range(T, T + SPAN + 5):
        held = {i.dimension: i.qty for i in found if i.t0 <= second and (i.t1 is None or second < i.t1)}
        assert held == held_at(events, second)


@given(streams())
def test_dropping_heartbeats_changes_nothing(events):
    assert project(events) == project(e for e in events if e.action is not Action.HEARTBEAT)


# --- writing ---


def test_a_second_recording_adds_nothing(connection):
    events = life(T, T + 10, CPU)
    first = record(connection, events)
    before = stored(connection)
    again = record(connection, [*events, *events])
    assert (first.accepted, first.duplicate) == (2, 0)
    assert (again.accepted, again.duplicate) == (0, 4)
    assert stored(connection) == before


def test_a_second_observer_makes_the_same_event(connection):
    record(connection, life(T, T + 10, CPU))
    other = life(T, T + 10, CPU, source="watch", observed_at=T + 99)
    assert record(connection, other).duplicate == 2
    assert len(stored(connection)) == 1


def test_the_same_event_for_another_tenant_is_reported_and_does_not_count(connection):
    record(connection, life(T, None, CPU))
    foreign = event("START", T, spec=CPU, tenant="chemistry")
    recorded = record(connection, [foreign])
    assert recorded.conflicting == (foreign.event_id(),)
    assert [i.tenant for i in stored(connection)] == ["physics"]


def test_subjects_without_a_start_are_named(connection):
    waiting = record(connection, [event("STOP", T, "a"), event("HEARTBEAT", T, "b"), *life(T, None, CPU, "c")]).waiting
    assert waiting == (("local", "a"), ("local", "b"))
    assert record(connection, [event("HEARTBEAT", T + 1, "c")]).waiting == ()


@pytest.mark.parametrize("batches", [1, 2, 7])
@given(data=st.data())
def test_order_repeats_and_cuts_leave_the_same_intervals(scratch, data, batches):
    events = [e for number in range(2) for e in data.draw(streams(f"uid-{number}"))]
    with scratch() as connection:
        record(connection, events)
        whole = stored(connection)
    repeated = data.draw(
        st.permutations([*events, *data.draw(st.lists(st.sampled_from(events), max_size=5) if events else st.just([]))])
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(repeated)), min_size=batches - 1, max_size=batches - 1)))
    with scratch() as connection:
        for begin, end in zip([0, *cuts], [*cuts, len(repeated)], strict=True):
            record(connection, repeated[begin:end])
        assert stored(connection) == whole
        rebuild(connection)
        assert stored(connection) == whole


def test_a_projection_that_was_damaged_is_rebuilt_from_the_ledger(connection):
    record(connection, [*life(T, T + 10, CPU), *life(T, None, CPU, "uid-2")])
    before = stored(connection)
    connection.execute(sa.text("DELETE FROM usage_interval WHERE subject = 'uid-2'"))
    connection.execute(sa.text("UPDATE usage_interval SET qty = 1"))
    assert rebuild(connection) == 2
    assert stored(connection) == before


def test_nothing_stays_of_a_transaction_that_failed(engine):
    with rolled_back(engine) as connection:
        record(connection, life(T, T + 10, CPU))
    with rolled_back(engine) as connection:
        assert stored(connection) == []
        assert connection.execute(sa.select(meter_event)).all() == []


def test_two_writers_of_one_subject_never_project_from_half_of_it(postgres_database):
    engine = sa.create_engine(postgres_database)
    metadata.create_all(engine)
    failures = []

    def write(events):
        try:
            for one in events:
                with engine.begin() as connection:
                    record(connection, [one])
        except sa.exc.DBAPIError as error:
            failures.append(error)

    subjects = [f"uid-{number}" for number in range(20)]
    starts = [event("START", T, s, spec=CPU) for s in subjects]
    specs = [event("SPEC", T + 5, s, spec={"cpu": 2000}) for s in subjects]
    stops = [event("STOP", T + 10, s) for s in subjects]
    threads = [threading.Thread(target=write, args=(part,)) for part in (starts, specs, stops, starts, stops)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with engine.connect() as connection:
        found = {s: [] for s in subjects}
        for i in stored(connection):
            found[i.subject].append((i.t0 - T, i.t1 - T, i.qty))
    engine.dispose()
    assert set(map(tuple, found.values())) == {((0, 5, 1000), (5, 10, 2000))}


# --- what is refused ---


@pytest.mark.parametrize(
    ("values", "code", "words"),
    [
        ({"spec": {}}, "event.spec", "must say what is held"),
        ({"spec": {"cpu": 1.5}}, "event.spec", "cpu must be a whole number"),
        ({"spec": {"cpu": True}}, "event.spec", "cpu must be a whole number"),
        ({"spec": {"cpu": -1}}, "event.spec", "cpu must be a whole number"),
        ({"spec": {"disk": 1}}, "dimension.unknown", "'disk' is not something that is metered"),
        ({"spec": {"cards": 1}}, "dimension.unknown", "'cards'"),
        ({"spec": {"cpu/fast": 1}}, "dimension.unknown", "'cpu/fast'"),
        ({"spec": CPU, "tenant": ""}, "event.field", "tenant as text"),
        ({"spec": CPU, "task_id": 7}, "event.field", "task_id as text, not 7"),
        ({"spec": CPU, "evidence": "hearsay"}, "event.field", "'hearsay' is not the evidence"),
        ({"spec": CPU, "observed_at": -1}, "event.time", "observed_at must be whole seconds"),
        ({"spec": CPU, "observed_at": T - 2 * 86_400}, "event.time", "reports START for a time 172800 s after it was seen"),
    ],
)
def test_a_bad_event_is_refused_in_words(values, code, words):
    with pytest.raises(BillingError, match=words) as refused:
        event("START", T, **values)
    assert refused.value.code == code


def test_a_time_in_milliseconds_is_refused():
    with pytest.raises(BillingError, match="effective_at must be whole seconds"):
        event("STOP", T * 1000)


def test_a_stop_holds_nothing():
    with pytest.raises(BillingError, match="STOP cannot hold anything"):
        event("STOP", T, spec=CPU)
