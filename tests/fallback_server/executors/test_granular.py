"""Which signatures merge what reaches them at the same time."""

from types import SimpleNamespace

import pytest

from fallback_server.executors.granular import merging_signatures


def node(name, op, *inputs, calls=(), listed=()):
    attr = {
        str(index): SimpleNamespace(func=SimpleNamespace(name=call), list=SimpleNamespace(func=[]))
        for index, call in enumerate(calls)
    }
    branches = [SimpleNamespace(name=name) for name in listed]
    attr["branches"] = SimpleNamespace(func=SimpleNamespace(name=""), list=SimpleNamespace(func=branches))
    return SimpleNamespace(name=name, op=op, input=list(inputs), attr=attr)


def graph(nodes, **functions):
    library = [
        SimpleNamespace(signature=SimpleNamespace(name=name), node_def=nodes) for name, nodes in functions.items()
    ]
    return SimpleNamespace(node=nodes, library=SimpleNamespace(function=library))


CALLS = {"inner": [node("b", "BatchFunction")], "outer": [node("c", "PartitionedCall", calls=["inner"])]}


@pytest.mark.parametrize(
    "definition",
    [
        graph([node("x", "Placeholder"), node("y", "BatchFunction", "x"), node("z", "Identity", "y:1")]),
        graph([node("y", "StatefulPartitionedCall", calls=["outer"]), node("z", "Identity", "^y")], **CALLS),
        graph([node("z", "Case", listed=["plain", "inner"])], plain=[node("p", "Identity")], **CALLS),
        graph([node("z", "outer")], **CALLS),
    ],
)
def test_a_batch_function_is_found_wherever_a_signature_runs_it(definition):
    """In the graph, behind calls, in a branch, and as a function's own operator."""
    assert merging_signatures(definition, {"one": ["z:0"]}) == {"one"}


def test_other_signatures_of_the_same_graph_do_not_merge():
    """Only what must run for a signature counts; a cycle of a loop ends."""
    nodes = [
        node("x", "Placeholder"),
        node("y", "BatchFunction", "x"),
        node("m", "Merge", "x", "n"),
        node("n", "NextIteration", "m"),
    ]
    assert merging_signatures(graph(nodes), {"one": ["y:0"], "other": ["n:0"]}) == {"one"}
    assert merging_signatures(graph(nodes[2:]), {"other": ["n:0"]}) == frozenset()
    recursive = graph([node("z", "PartitionedCall", calls=["f"])], f=[node("g", "PartitionedCall", calls=["f"])])
    assert merging_signatures(recursive, {"one": ["z:0"]}) == frozenset()
