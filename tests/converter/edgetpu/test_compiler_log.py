from hypothesis import given
from hypothesis import strategies as st

from converter.edgetpu.compiler_log import MAPPED, Row, fault, sections, statuses, version

LOG = """Edge TPU Compiler version 15.0.340273435

Model compiled successfully in 1379 ms.

Input model: model.tflite
Input size: 4.41MiB
Output model: model_edgetpu.tflite
Output size: 5.49MiB
On-chip memory used for caching model parameters: 1.92MiB
On-chip memory remaining for caching model parameters: 1.75KiB
Off-chip memory used for streaming uncached model parameters: 0.00B
Number of Edge TPU subgraphs: 1
Total number of operations: 14
Operation log: model_edgetpu.log

Model successfully compiled but not all operations are supported by the Edge TPU. A percentage of the model will \
instead run on the CPU, which is slower.
Number of operations that will run on Edge TPU: 12
Number of operations that will run on CPU: 2

Operator                       Count      Status

ADD                            10         Mapped to Edge TPU
LOGISTIC                       1          More than one subgraph is not supported
LOGISTIC                       2          Mapped to Edge TPU
QUANTIZE                       1          Operation is otherwise supported, but not mapped due to some unspecified \
limitation
"""


def test_sizes_and_rows_are_read():
    """Sizes in bytes by their units; a row for each line of the table, none for other lines."""
    (found,) = sections(LOG)
    assert found.on_chip_bytes == round(1.92 * 2**20)
    assert found.remaining_bytes == 1792
    assert found.streamed_bytes == 0
    assert [(row.operator, row.count) for row in found.rows] == [
        ("ADD", 10),
        ("LOGISTIC", 1),
        ("LOGISTIC", 2),
        ("QUANTIZE", 1),
    ]
    assert found.rows[-1].status.startswith("Operation is otherwise supported")
    assert version(LOG) == "15.0.340273435"


def test_each_segment_has_its_section():
    """What follows a file's name is about that file."""
    both = LOG + LOG.replace("1.92MiB", "6.02MiB")
    assert [found.on_chip_bytes for found in sections(both)] == [round(1.92 * 2**20), round(6.02 * 2**20)]
    assert sections("Edge TPU Compiler version 16.0\n") == ()


def test_the_line_that_names_the_fault_is_found():
    """Not the last line, which says no more than that it failed."""
    refused = "Edge TPU Compiler version 16.0\nERROR: Didn't find op 'EXP' version '2'\n\nERROR: Registration failed.\n"
    assert fault(refused + "\nInvalid model: m.tflite\nModel could not be parsed\n").endswith("'EXP' version '2'")
    general = "ERROR: Restored original execution plan after delegate application failure.\n"
    assert "large activation" in fault(general + "Compilation failed: large activation tensors.\nCompilation failed!\n")
    assert fault("first\nlast\n\n") == "last"
    assert fault("") == "it wrote nothing"
    assert version("nothing") == ""


def test_counts_are_given_to_the_operators_that_the_rules_take():
    """Of one kind, those that could be mapped come first, and of these the earlier ones."""
    names = ["QUANTIZE", "ADD", "QUANTIZE", "ADD"]
    rows = [
        Row(operator="QUANTIZE", count=1, status="otherwise supported"),
        Row(operator="QUANTIZE", count=1, status=MAPPED),
        Row(operator="ADD", count=1, status=MAPPED),
        Row(operator="ADD", count=1, status="More than one subgraph"),
    ]
    assert statuses(names, [False, True, True, True], rows) == [
        "otherwise supported",
        "",
        "",
        "More than one subgraph",
    ]
    assert statuses(["CUSTOM"], [False], rows) == ["the compiler's log does not name it"]


@given(
    names=st.lists(st.sampled_from(["ADD", "MUL", "CONV_2D"]), max_size=12),
    rows=st.lists(
        st.builds(
            Row,
            operator=st.sampled_from(["ADD", "MUL"]),
            count=st.integers(0, 5),
            status=st.sampled_from([MAPPED, "why not"]),
        ),
        max_size=6,
    ),
)
def test_as_many_are_mapped_as_the_table_says(names, rows):
    """Never more of a kind than the table counts or the graph has."""
    found = statuses(names, [True] * len(names), rows)
    assert len(found) == len(names)
    for kind in set(names):
        mapped = sum(not reason for name, reason in zip(names, found, strict=True) if name == kind)
        counted = sum(row.count for row in rows if row.operator == kind and row.status == MAPPED)
        assert mapped == min(counted, names.count(kind))
