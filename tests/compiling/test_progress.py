from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deployfold.compiling.tensorrt.progress import PhaseTracker, make_monitor


class Heard(list):
    def __call__(self, phase: str, fraction: float) -> None:
        self.append((phase, fraction))


def test_nested_phases_make_one_fraction() -> None:
    heard = Heard()
    tracker = PhaseTracker(heard)
    tracker.start("build", None, 2)
    tracker.start("clone", "build", 4)
    tracker.step("clone", 0)
    assert heard[-1] == ("clone", 1 / 2 * 1 / 2 * 1 / 4)
    tracker.finish("clone")
    tracker.start("time", "build", 1)
    assert heard[-1] == ("time", 1 / 2 * 1 / 2)
    tracker.step("time", 0)
    assert heard[-1] == ("time", 1 / 2 * 3 / 4)
    tracker.finish("time")
    tracker.step("build", 0)
    assert heard[-1] == ("build", 1 / 2)
    tracker.step("build", 1)
    tracker.finish("build")
    assert heard[-1] == ("build", 1.0)


def test_a_phase_may_finish_before_its_last_step() -> None:
    heard = Heard()
    tracker = PhaseTracker(heard)
    tracker.start("build", None, 10)
    tracker.step("build", 0)
    tracker.finish("build")
    assert heard[-1] == ("build", 1.0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["start", "step", "finish"]),
            st.sampled_from("abcd"),
            st.sampled_from([None, "a", "b", "c", "nobody"]),
            st.integers(-1, 7),
        ),
        max_size=40,
    )
)
def test_whatever_the_library_calls_the_fraction_never_goes_back_or_out(
    calls: list[tuple[str, str, str | None, int]],
) -> None:
    heard = Heard()
    tracker = PhaseTracker(heard)
    for kind, name, parent, number in calls:
        if kind == "start":
            tracker.start(name, parent if parent != name else None, number)
        elif kind == "step":
            tracker.step(name, number)
        else:
            tracker.finish(name)
    fractions = [fraction for _, fraction in heard]
    assert fractions == sorted(fractions)
    assert all(0.0 <= fraction <= 1.0 for fraction in fractions)


def test_no_exception_reaches_the_library() -> None:
    import tensorrt_rtx

    def broken(phase: str, fraction: float) -> None:
        raise BrokenPipeError

    monitor = make_monitor(tensorrt_rtx, broken)
    monitor.phase_start("build", None, 1)
    assert monitor.step_complete("build", 0) is True
    monitor.phase_finish("build")
