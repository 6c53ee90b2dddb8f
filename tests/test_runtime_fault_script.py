"""The fault language: what it takes, what it refuses, and a place that outlives processes."""

from __future__ import annotations

import multiprocessing

import pytest

from pspnet.errors import PspnetError
from runtime import fault_script
from runtime.fault_script import Script, Step, new_memory, parse, random_script

S = 10**9


def test_every_step_of_the_language_is_understood() -> None:
    text = """ok 2s; stall 500ms; freeze; still 1m; slow 200ms 5s; storm 10x 3s; drop 30% 2s; dark 1s; black; white;
        cover; corrupt 3; resize 240x320; stamps backward; stamps none 2s; cut; refuse 5; refuse 2s auth; refuse; end;
        crash; hang; deaf; leak 100kB 2s;"""
    steps = parse(text.replace("\n", " "))
    assert steps[:3] == (Step("ok", 2.0), Step("stall", 0.5), Step("freeze", 1.0))
    assert Step("slow", 5.0, amount=0.2) in steps and Step("storm", 3.0, amount=10.0) in steps
    assert Step("refuse", count=5, word="refused") in steps and Step("refuse", 2.0, word="auth") in steps
    assert Step("resize", count=1, size=(240, 320)) in steps and Step("corrupt", count=3) in steps
    assert Step("stamps", 2.0, word="none") in steps and Step("leak", 2.0, amount=100.0) in steps
    assert len(steps) == 24 and parse("") == () == parse(" ; ;")


def test_the_modules_own_list_names_every_action() -> None:
    listed = fault_script.__doc__ or ""
    others = ("slow", "storm", "drop", "corrupt", "resize", "stamps", "refuse", "leak")
    for action in (*fault_script.TIMED, *fault_script.INSTANT, *others):
        assert action in listed, action


@pytest.mark.parametrize(
    "text",
    [
        "explode", "ok 2", "ok 2 s", "ok s", "ok 1s 1s", "ok -1s", "ok 2s, stall 1s", "corrupt 0", "corrupt x",
        "corrupt 1 2", "corrupt 99999", "resize 240", "resize", "resize 0x1", "stamps", "stamps sideways", "slow",
        "slow 1s 2s 3s", "storm 10 3s", "drop 130% 1s", "refuse often", "refuse 2 2s", "refuse 2 auth auth",
        "crash 2s", "leak 5 1s",
    ],
)  # fmt: skip
def test_what_is_no_step_is_refused_with_the_step(text: str) -> None:
    with pytest.raises(PspnetError, match="is not understood") as caught:
        parse(f"ok 1s; {text}")
    assert repr(text) in str(caught.value)


def actions(script: Script, times_s: list[float]) -> list[str]:
    return [script.current(int(time * S) + 1).action for time in times_s]


def test_steps_follow_each_other_when_their_time_is_over() -> None:
    script = Script(parse("ok 2s; stall 1s; dark 1s"), new_memory())
    assert actions(script, [0, 1.9, 2.1, 3.0, 3.2, 4.1, 4.5, 100]) == [
        "ok", "ok", "stall", "stall", "dark", "dark", "ok", "ok",
    ]  # fmt: skip


def test_step_begins_when_it_is_reached_so_that_no_one_is_missed() -> None:
    script = Script(parse("ok 1s; dark 1s; black 1s"), new_memory())
    assert actions(script, [0, 50, 50.9, 99, 99.5]) == ["ok", "dark", "dark", "black", "black"]


def test_counted_steps_end_with_their_count_and_not_with_time() -> None:
    script = Script(parse("corrupt 2; ok 1s"), new_memory())
    assert script.current(1).action == script.current(999 * S).action == "corrupt"
    script.happened()
    assert script.current(999 * S).action == "corrupt"
    script.happened()
    assert script.current(999 * S).action == "ok"


def test_script_begins_again_where_it_loops() -> None:
    script = Script(parse("dark 1s; corrupt"), new_memory(), loop=True)
    assert actions(script, [0, 0.5, 1.5]) == ["dark", "dark", "corrupt"]
    script.happened()
    assert actions(script, [2, 2.5, 3.1]) == ["dark", "dark", "corrupt"]


def test_size_is_that_of_the_last_resize_reached() -> None:
    script = Script(parse("ok 1s; resize 20x30; ok 1s; resize 40x50"), new_memory(), loop=True)
    sizes = []
    for time_s in (0, 1.1, 1.2, 2.3, 2.4, 2.5, 3.6):
        if script.current(int(time_s * S) + 1).action == "resize":
            script.happened()
            script.current(int(time_s * S) + 2)
        sizes.append(script.size)
    assert sizes == [None, (20, 30), (20, 30), (40, 50), (40, 50), (40, 50), (20, 30)]


def crash_soon(memory: object) -> None:
    script = Script(parse("ok 1s; corrupt 3; dark 1s"), memory)
    script.current(1)
    script.current(2 * S)
    script.happened()
    script.count_pictures(40)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_place_outlives_a_process(method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    context, memory = multiprocessing.get_context(method), new_memory()
    process = context.Process(target=crash_soon, args=(memory,))
    process.start()
    process.join(60)
    script = Script(parse("ok 1s; corrupt 3; dark 1s"), memory)
    assert process.exitcode == 0 and script.sequence == 40
    happened = 0
    while script.current(3 * S).action == "corrupt":
        script.happened()
        happened += 1
    assert happened == 2


def test_random_scripts_are_repeatable_sound_and_as_long_as_asked() -> None:
    texts = [random_script(seed, 60) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]
    assert sum(step.seconds or 1 for step in parse(texts[0])) >= 60
    assert not {"crash", "hang"} & {step.action for step in parse(random_script(2, 600, deadly=False))}
    assert {"crash", "hang"} <= {step.action for step in parse(random_script(2, 600))}
