"""The mixed search as a stage of the conversion: when it pays, what a trial is, and what becomes of its best."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import msgspec

from converter.choose import Needs, choose, search_wanted
from converter.config import DEFAULT_TARGET, Budget
from converter.conversion import Conversion, Outcome, one_line
from converter.deciding import candidate
from converter.errors import ConverterError
from converter.evaluate import Reference
from converter.figures import points_text, size_text
from converter.findings import LayerError
from converter.packing import Loaded, Made
from converter.quantize import lower
from converter.recipes import MIXED
from converter.result import VariantResult
from converter.search import FloatLayers, SearchOutcome, SearchStep, Trial
from converter.search import search as search_layers
from converter.sensitivity import layer_errors

_ANY = Needs(target=DEFAULT_TARGET, full_int8=False)


def search(
    conversion: Conversion, loaded: Loaded, reference: Reference | None, outcomes: Sequence[Outcome]
) -> list[Outcome]:
    """The outcomes, and the mixed variant where one pays or was asked for.

    Full int8 variants have the layers' errors with them, where the search or the report needed them; those that only
    the report needed are not packed.
    """
    asked = MIXED.name in conversion.options.variants
    refused = _refusal(conversion, loaded, reference)
    wanted = not refused and (asked or _pays(conversion, outcomes))
    if asked and refused:
        outcomes = [*outcomes, VariantResult(name=MIXED.name, status="refused", error=refused)]
    int8 = any(isinstance(one, Made) and one.full_int8 for one in outcomes)
    if not wanted and not (conversion.options.report and int8):
        return list(outcomes)
    conversion.counter.expect(1)
    conversion.counter.begin("measuring what quantizing each layer costs")
    try:
        errors = conversion.apart(layer_errors, conversion.search_task(loaded, conversion.folder / "none"))
    except ConverterError as error:
        conversion.counter.end(f"layers can't be measured: {one_line(str(error))}")
        return [*outcomes, _failed(error)] if wanted else list(outcomes)
    conversion.counter.end()
    outcomes = [
        dataclasses.replace(one, layers=errors, layers_packed=wanted)
        if isinstance(one, Made) and one.full_int8
        else one
        for one in outcomes
    ]
    if not wanted or reference is None:
        return outcomes
    return [*outcomes, *_searched(conversion, loaded, reference, errors)]


def _refusal(conversion: Conversion, loaded: Loaded, reference: Reference | None) -> str:
    """Why there can't be a search; empty if there can."""
    if loaded.calibration is None:
        return "no calibration data: the search needs them to quantize"
    if loaded.evaluation is None or reference is None:
        return "no evaluation data: the search needs them to see what a variant loses"
    if conversion.options.search_time_s == 0:
        return "the search time is 0 s"
    return ""


def _pays(conversion: Conversion, outcomes: Sequence[Outcome]) -> bool:
    options = conversion.options
    if options.variants:
        return False  # Only what was listed is made.
    candidates = [candidate(one) for one in outcomes if isinstance(one, Made)]
    return any(
        search_wanted(candidates, needs, options.budget, options.optimize, measured=True)
        for needs in conversion.plan.needs
    )


def _failed(error: ConverterError) -> VariantResult:
    return VariantResult(name=MIXED.name, status="failed", error=one_line(f"search: {error}"))


def _searched(
    conversion: Conversion, loaded: Loaded, reference: Reference, errors: Sequence[LayerError]
) -> list[Outcome]:
    options, counter = conversion.options, conversion.counter
    budget = options.budget or Budget()
    counter.expect(1)
    counter.begin(f"mixed: searching for at most {options.search_time_s:g} s")
    number = 0

    def trial(layers: FloatLayers) -> Trial:
        nonlocal number
        number += 1
        file = conversion.folder / f"mixed-{number}.tflite"
        conversion.apart(lower, conversion.search_task(loaded, file, layers))
        made = conversion.measure(MIXED, file, loaded, reference)
        losses = [one.loss_points for one in made.outputs.values() if one.loss_points is not None]
        return Trial(
            float_layers=layers, size_bytes=made.size_bytes, loss_points=max(losses, default=float("inf")), made=made
        )

    def fits(one: Trial) -> bool:
        return choose([candidate(one.made)], _ANY, budget, options.optimize, measured=True).variant is not None

    def report(step: SearchStep) -> None:
        best = step.best
        so_far = "none within the budget yet"
        if best:
            kept = len(best.float_layers)
            so_far = f"best {size_text(best.size_bytes)}, {points_text(best.loss_points)} points lost, {kept} in float"
        left_s = max(0.0, options.search_time_s - step.elapsed_s)
        counter.begin(f"mixed: tried {step.trials}, {so_far}, {left_s:.0f} s left")

    outcome = search_layers(errors, trial, fits, options.search_time_s, time.monotonic, report)
    counter.end()
    return [*_outcome(outcome, errors)]


def _outcome(outcome: SearchOutcome, errors: Sequence[LayerError]) -> list[Outcome]:
    found = outcome.best or outcome.closest
    if found is None or found.made is None:
        why = outcome.trials[-1].error if outcome.trials else "there was no time for a single trial"
        return [VariantResult(name=MIXED.name, status="failed", error=one_line(f"search: {why}"))]
    layers = tuple(msgspec.structs.replace(one, kept_float=one.name in found.float_layers) for one in errors)
    return [dataclasses.replace(found.made, layers=layers)]
