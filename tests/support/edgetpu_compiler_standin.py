# ruff: noqa: T201  a program: what it prints is what is tested
"""Stands in for edgetpu_compiler, which is not to be had here: nothing that it says of an Edge TPU is measured.

It takes the options that are used of the real one, puts a real custom operator `edgetpu-custom-op` (with no program in
it) in the place of the operators that it maps, leaves the signatures out as a compiler of 2021 does, names its files
as the real one does, and writes a log in the real one's form.
"""

import argparse
import os
import sys
import time
from collections import Counter
from pathlib import Path

HEAD = "Edge TPU Compiler version 16.0.384591198\nStarted a compilation timeout timer of 180 seconds.\n"


def main(mode, words):
    """`all` maps every operator, `half` the first half, `none` none; the others fail, as their names say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-s", action="store_true")
    parser.add_argument("-o", type=Path)
    parser.add_argument("-n", type=int, default=1)
    parser.add_argument("model", type=Path)
    given = parser.parse_args(words)
    print(HEAD)
    if mode == "hangs":
        (given.o / "pid").write_text(str(os.getpid()))
        sys.stdout.flush()
        time.sleep(600)
    if mode == "refuses":
        print("ERROR: Didn't find op for builtin opcode 'FULLY_CONNECTED' version '12'. An older version of this")
        print("ERROR: Registration failed.\n\nInvalid model: model.tflite\nModel could not be parsed")
        sys.exit(1)
    if mode == "says-nothing":
        sys.exit(0)
    if mode == "crashes":
        print("Internal compiler error. Aborting!", flush=True)
        os.abort()
    for segment in range(given.n):
        _compile(given.model, given.o, mode, segment, given.n)
    print("Compilation succeeded!")


def _compile(path, out, mode, segment, segments):
    from ai_edge_litert import schema_py_generated as schema

    from converter import graph_edit
    from converter.graph import read

    operators = read(path).operators
    cut = [len(operators) * place // segments for place in range(segments + 1)]
    first, end = cut[segment], cut[segment + 1]
    mapped = {"all": end, "half": (first + end) // 2, "none": first}[mode]
    model = graph_edit.load(path)
    if mapped > first:
        _replace(schema, model, operators, first, mapped, end)
    model.signatureDefs = None
    graph_edit.drop_unused_codes(model)
    stem = path.stem if segments == 1 else f"{path.stem}_segment_{segment}_of_{segments}"
    graph_edit.save(model, out / f"{stem}_edgetpu.tflite")
    _log(stem, Counter(one.name for one in operators[first:mapped]), Counter(one.name for one in operators[mapped:end]))


def _replace(schema, model, operators, first, mapped, end):
    """One custom operator for the operators from `first` to `mapped`; what is beyond `end` is another segment's."""
    subgraph = model.subgraphs[0]
    inside, after = operators[first:mapped], operators[mapped:end]
    made = {one.index for operator in inside for one in operator.outputs}
    made_after = {one.index for operator in after for one in operator.outputs}
    taken = {one.index for operator in inside for one in operator.given if not one.constant} - made
    used = {one.index for operator in operators[mapped:] for one in operator.given} | set(subgraph.outputs.tolist())
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM, schema.BuiltinOperator.CUSTOM
    code.customCode = b"edgetpu-custom-op"
    model.operatorCodes.append(code)
    custom = schema.OperatorT()
    custom.opcodeIndex = len(model.operatorCodes) - 1
    custom.inputs, custom.outputs = sorted(taken), sorted(made & used)
    subgraph.operators = [custom, *subgraph.operators[mapped:end]]
    if first:
        subgraph.inputs = sorted(taken)
    if end < len(operators):
        subgraph.outputs = sorted((made | made_after) & used)


def _log(stem, mapped, left):
    print(f"\nModel compiled successfully in 57 ms.\n\nInput model: {stem}.tflite\nInput size: 12.34KiB")
    print(f"Output model: {stem}_edgetpu.tflite\nOutput size: 20.00KiB")
    print("On-chip memory used for caching model parameters: 7.25KiB")
    print("On-chip memory remaining for caching model parameters: 7.99MiB")
    print("Off-chip memory used for streaming uncached model parameters: 0.75KiB")
    print(f"Number of Edge TPU subgraphs: 1\nTotal number of operations: {mapped.total() + left.total()}")
    print(f"Operation log: {stem}_edgetpu.log\n\nOperator                       Count      Status\n")
    for name, count in mapped.items():
        print(f"{name:<30} {count:<10} Mapped to Edge TPU")
    for name, count in left.items():
        print(f"{name:<30} {count:<10} More than one subgraph is not supported")
    print("Compilation child process completed within timeout period.")
