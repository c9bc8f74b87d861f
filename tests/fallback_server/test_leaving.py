import pytest

from fallback_server.core.errors import DeadlineExceeded, RequestCancelled
from fallback_server.leaving import code_received


@pytest.mark.parametrize(
    ("deadline_s", "left_s", "kind"),
    [
        (None, 1e6, RequestCancelled),
        (110.0, 105.0, RequestCancelled),
        (110.0, 109.7, RequestCancelled),
        (110.0, 109.9, DeadlineExceeded),
        (110.0, 110.5, DeadlineExceeded),
        (100.1, 100.05, RequestCancelled),
        (100.1, 100.095, DeadlineExceeded),
        (99.0, 100.0, DeadlineExceeded),
    ],
)
def test_a_caller_leaves_in_time_or_because_its_time_is_over(deadline_s, left_s, kind):
    """Its own clock may end the call a little before the deadline that came with it."""
    assert type(code_received(came_s=100.0, deadline_s=deadline_s, left_s=left_s)) is kind
