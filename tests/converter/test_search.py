import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.errors import TaskCrashed
from converter.findings import LayerError
from converter.search import SearchState, Trial, next_candidate, search

UNBOUNDED_S = 1e9


def layers(count):
    return [
        LayerError(name=f"layer{index}", operator="CONV_2D", sqnr_db=float(index), rmse_per_scale=0.3)
        for index in range(count)
    ]


class World:
    """Layers with sizes and losses: a set's loss is that of the layers outside of it."""

    def __init__(self, losses, budget, *, crashes=()):
        self.errors = layers(len(losses))
        self.loss_of = {error.name: loss for error, loss in zip(self.errors, losses, strict=True)}
        self.budget = budget
        self.crashes = set(crashes)
        self.tried, self.steps, self.now_s = [], [], 0.0

    def loss(self, chosen):
        return sum(loss for name, loss in self.loss_of.items() if name not in chosen)

    def make(self, chosen):
        self.tried.append(chosen)
        self.now_s += 1.0
        if len(chosen) in self.crashes:
            raise TaskCrashed(exit_code=-11)
        return Trial(float_layers=chosen, size_bytes=100 + len(chosen), loss_points=self.loss(chosen))

    def fits(self, trial):
        return trial.loss_points <= self.budget

    def run(self, time_limit_s=UNBOUNDED_S):
        return search(self.errors, self.make, self.fits, time_limit_s, lambda: self.now_s, self.steps.append)


LOSSES = st.lists(st.integers(0, 20), min_size=1, max_size=24)


@given(losses=LOSSES, budget=st.integers(0, 60))
def test_a_set_that_fits_is_found_whenever_the_whole_fits(losses, budget):
    """With all layers in float nothing is lost here, so something always fits, and the answer does."""
    outcome = World(losses, budget).run()
    assert outcome.ending == "smallest"
    assert outcome.best.loss_points <= budget


@given(losses=LOSSES, budget=st.integers(0, 60))
def test_the_set_is_no_larger_than_the_shortest_run_of_the_worst_layers(losses, budget):
    """Losses that shrink with every layer make the halving exact; giving back can only improve on it."""
    losses = sorted(losses, reverse=True)
    world = World(losses, budget)
    names = [error.name for error in world.errors]
    shortest = next(count for count in range(1, len(names) + 1) if world.loss(set(names[:count])) <= budget)
    assert len(world.run().best.float_layers) == shortest


@given(losses=LOSSES, budget=st.integers(0, 60))
def test_no_single_layer_can_be_given_back_in_the_end(losses, budget):
    """The set that is found is minimal: each of its layers is needed."""
    world = World(losses, budget)
    best = world.run().best.float_layers
    if len(best) > 1:
        assert all(world.loss(best - {name}) > budget for name in best)


@given(losses=LOSSES, budget=st.integers(-1, 60), crashes=st.sets(st.integers(1, 24)))
def test_trials_are_bounded_and_never_repeated(losses, budget, crashes):
    """Growing and halving take two logarithms, giving back at most two trials a layer; crashes change nothing."""
    world = World(losses, budget, crashes=crashes)
    world.run()
    assert len(world.tried) == len(set(world.tried))
    assert len(world.tried) <= 2 * len(losses).bit_length() + 2 + 2 * len(losses)


@given(data=st.data(), count=st.integers(1, 12))
@settings(max_examples=200)
def test_what_did_not_fit_is_never_returned_when_something_fits(data, count):
    """Whatever the world answers, monotone or not, the best is one that fits, and the smallest of those tried."""
    answers, sizes = {}, {}

    def make(chosen):
        if data.draw(st.booleans(), label="crash"):
            raise TaskCrashed(exit_code=-6)
        answers[chosen] = data.draw(st.booleans(), label="fits")
        sizes[chosen] = data.draw(st.integers(1, 9), label="size")
        return Trial(float_layers=chosen, size_bytes=sizes[chosen], loss_points=0.0 if answers[chosen] else 9.0)

    outcome = search(layers(count), make, lambda trial: answers[trial.float_layers], UNBOUNDED_S, float, lambda _: None)
    fitting = [chosen for chosen, fits in answers.items() if fits]
    if fitting:
        assert outcome.best.size_bytes == min(sizes[chosen] for chosen in fitting)
        assert answers[outcome.best.float_layers]
    else:
        assert outcome.best is None
        assert outcome.ending == "nothing_fits"


@given(losses=LOSSES, budget=st.integers(-1, 60), limit_s=st.integers(0, 20))
def test_no_trial_begins_after_the_time_is_up(losses, budget, limit_s):
    """Each trial takes a second here; the best so far is kept."""
    world = World(losses, budget)
    outcome = world.run(limit_s)
    assert len(world.tried) <= limit_s
    full = World(losses, budget)
    full.run()
    assert world.tried == full.tried[: len(world.tried)]
    assert (outcome.ending == "time") == (len(world.tried) < len(full.tried))


def test_the_set_grows_is_halved_and_gives_back():
    """The order of a whole search, as a table: of ten layers, 1 and 5 matter."""
    world = World([0, 9, 0, 0, 0, 9, 0, 0, 0, 0], 5)
    world.run()
    assert [sorted(int(name.removeprefix("layer")) for name in chosen) for chosen in world.tried] == [
        [0],
        [0, 1],
        [0, 1, 2, 3],
        [0, 1, 2, 3, 4, 5, 6, 7],
        [0, 1, 2, 3, 4, 5],
        [0, 1, 2, 3, 4],
        [0, 1, 2, 5],
        [0, 5],
        [1, 2, 5],
        [1, 5],
        [5],
    ]


def test_each_step_tells_the_best_so_far():
    """The best never grows, and the last one is the outcome's."""
    world = World([0, 0, 9, 0, 9, 0], 0)
    outcome = world.run()
    sizes = [step.best.size_bytes for step in world.steps if step.best]
    assert sizes == sorted(sizes, reverse=True)
    assert world.steps[-1].best == outcome.best
    assert [step.trials for step in world.steps] == list(range(1, len(outcome.trials) + 1))


def test_a_crash_is_a_trial_that_does_not_fit():
    """The search goes on, and the trial keeps the reason."""
    world = World([9, 9, 0], 0, crashes={1})
    outcome = world.run()
    assert outcome.best.float_layers == {"layer0", "layer1"}
    assert "SIGSEGV" in outcome.trials[0].error


def test_when_nothing_fits_what_came_closest_is_told():
    """The trial that lost least, of those that could be measured."""
    world = World([5, 4, 3], -1, crashes={3})
    outcome = world.run()
    assert outcome.best is None
    assert outcome.closest.float_layers == {"layer0", "layer1"}
    assert outcome.ending == "nothing_fits"


@pytest.mark.parametrize("errors", [[], layers(1)])
def test_few_layers_are_no_special_case(errors):
    """Without any there is nothing to try; a single one is tried once."""
    tried = []

    def make(chosen):
        tried.append(chosen)
        return Trial(float_layers=chosen, size_bytes=1, loss_points=0.0)

    outcome = search(errors, make, lambda _: True, UNBOUNDED_S, float, lambda _: None)
    assert len(tried) == len(outcome.trials) == len(errors)
    assert outcome.ending == ("smallest" if errors else "nothing_fits")


def test_the_next_candidate_depends_on_the_state_alone():
    """The same state gives the same candidate, in whatever order its history came."""
    names = tuple(f"n{index}" for index in range(6))
    tried = {frozenset(names[:1]): False, frozenset(names[:2]): False, frozenset(names[:4]): True}
    found = {
        next_candidate(SearchState(layers=names, tried=dict(items))) for items in itertools.permutations(tried.items())
    }
    assert found == {frozenset(names[:3])}
