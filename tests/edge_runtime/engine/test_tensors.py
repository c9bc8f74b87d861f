import pytest
from ai_edge_litert.interpreter import Interpreter
from support.interpreter_models import net_model, net_signature, pair_model, pair_signature

from edge_runtime import PackageRefused
from edge_runtime.engine.base import SessionSpec
from edge_runtime.engine.tensors import GRAPH, check_tensors, details_of


def spec(*signatures):
    return SessionSpec(subject="v/1", signatures=signatures)


def test_shapes_of_the_inputs_are_told():
    """What comes back says which sizes are open, by signature and name in the manifest's order."""
    interpreter = Interpreter(model_content=net_model())
    assert check_tensors(interpreter, spec(net_signature())) == {"serving_default": {"image": (-1, 16, 16, 3)}}


def test_file_without_signatures_is_known_by_its_tensors():
    """The graph's own tensors are its only signature."""
    interpreter = Interpreter(model_content=pair_model(signed=False))
    assert check_tensors(interpreter, spec()) == {GRAPH: {"x": (1, 4), "y": (1, 4)}}
    inputs, outputs = details_of(interpreter, GRAPH)
    assert (list(inputs), list(outputs)) == (["x", "y"], ["z"])


@pytest.mark.parametrize(("tensors", "said"), [(("x", "x", "z"), "inputs of one name"), (("z", "y", "z"), "")])
def test_tensors_of_one_name_are_refused(tensors, said):
    """A name that stands for two inputs would feed one of them twice; an input may be called as an output is."""
    interpreter = Interpreter(model_content=pair_model(signed=False, tensors=tensors))
    if said:
        with pytest.raises(PackageRefused, match=said):
            check_tensors(interpreter, spec())
    else:
        assert check_tensors(interpreter, spec()) == {GRAPH: {"z": (1, 4), "y": (1, 4)}}


def test_missing_signature_is_refused():
    """A signature that the file lacks is named beside those that it has."""
    interpreter = Interpreter(model_content=pair_model(kinds=("ADD", "MUL")))
    with pytest.raises(PackageRefused, match=r"no signature 'sub'; there are \['add', 'mul'\]"):
        check_tensors(interpreter, spec(pair_signature("sub")))
