from typing import get_args

from ai_edge_litert import schema_py_generated as schema

from devices import operators

BUILTINS = {name for name in vars(schema.BuiltinOperator) if not name.startswith("_")}


def test_every_operator_is_one_of_tflites():
    """A name that TFLite does not have would never match anything."""
    assert set(operators.EDGE_TPU_OPERATORS) <= BUILTINS
    assert set(operators.EDGE_TPU_COMPILER_VERSIONS) <= BUILTINS
    assert operators.GPU_OPERATORS <= BUILTINS


def test_every_operator_of_the_edge_tpu_has_its_version():
    """What an Edge TPU takes, its compiler reads up to a version that is known."""
    assert set(operators.EDGE_TPU_OPERATORS) <= set(operators.EDGE_TPU_COMPILER_VERSIONS)
    assert all(version >= 1 for version in operators.EDGE_TPU_COMPILER_VERSIONS.values())


def test_limits_are_the_known_ones():
    """A limit that no rule is for would not be held."""
    known = set(get_args(operators.Limit))
    assert {limit for one in operators.EDGE_TPU_OPERATORS.values() for limit in one.limits} == known


def test_what_coral_rules_out_is_not_in_the_table():
    """DEQUANTIZE and FLOOR_MOD stay on the CPU."""
    assert not {"DEQUANTIZE", "FLOOR_MOD", "CUSTOM"} & set(operators.EDGE_TPU_OPERATORS)
