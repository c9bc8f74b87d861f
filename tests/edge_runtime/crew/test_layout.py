import pytest

from edge_runtime.crew.layout import Layout, layout


@pytest.mark.parametrize(
    ("engines", "threads", "cores", "expected"),
    [
        (None, None, 1, Layout(threads=(1,), grows_to=1, solo=True)),
        (None, None, 4, Layout(threads=(1, 4), grows_to=4, solo=True)),
        (None, None, 64, Layout(threads=(1, 4), grows_to=8, solo=True)),
        (None, 2, 4, Layout(threads=(2,), grows_to=2, grown_threads=2)),
        (None, 8, 4, Layout(threads=(8,), grows_to=1, grown_threads=8)),
        (1, None, 4, Layout(threads=(4,), engines=1, grows_to=1, grown_threads=4)),
        (2, None, 4, Layout(threads=(2,), engines=2, grows_to=2, grown_threads=2)),
        (3, 2, 4, Layout(threads=(2,), engines=3, grows_to=3, grown_threads=2)),
    ],
)
def test_what_is_given_holds_and_the_rest_follows_the_cores(engines, threads, cores, expected):
    """Numbers that the user gave are made at once and kept; what is left open follows the cores, within bounds."""
    assert layout(engines, threads, cores) == expected
