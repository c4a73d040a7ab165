"""Verdicts as JUnit XML, which CI systems show test by test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from plugin_hasac.bench.regression import Outcome, Verdict

PASSED = (Outcome.OK, Outcome.ABOVE)


def write_junit(verdicts: Sequence[Verdict], target: Path) -> None:
    """Write one test case for each verdict.

    A regression is a failure. Not enough data, scores that are not available and bars that were not reached are
    skipped, with the reason.

    Args:
        verdicts: of one call.
        target: the file.
    """
    outcomes = [verdict.outcome for verdict in verdicts]
    counts = {
        "tests": str(len(outcomes)),
        "failures": str(outcomes.count(Outcome.REGRESSION)),
        "errors": "0",
        "skipped": str(sum(outcome not in (*PASSED, Outcome.REGRESSION) for outcome in outcomes)),
        "time": "0",
    }
    top = ET.Element("testsuites", {"name": "hasac regress", **counts})
    suite = ET.SubElement(top, "testsuite", {"name": "hasac regress", **counts})
    for verdict in verdicts:
        entry = verdict.entry
        steps = "" if entry.env_steps is None else f" at {entry.env_steps} env steps"
        bar = f" against the bar {entry.algorithm}" if verdict.is_bar else ""
        name = f"{verdict.algorithm}: {entry.metric}{steps}{bar}"
        case = ET.SubElement(suite, "testcase", {"classname": entry.task, "name": name, "time": "0"})
        properties = ET.SubElement(case, "properties")
        for key, value in as_row(verdict).items():
            if value is not None:
                ET.SubElement(properties, "property", {"name": key, "value": _text(value)})
        if verdict.outcome == Outcome.REGRESSION:
            ET.SubElement(case, "failure", {"type": "regression", "message": explain(verdict)})
        elif verdict.outcome not in PASSED:
            ET.SubElement(case, "skipped", {"type": str(verdict.outcome), "message": explain(verdict)})
    ET.indent(top)
    ET.ElementTree(top).write(target, encoding="utf-8", xml_declaration=True)


def as_row(verdict: Verdict) -> dict[str, object]:
    """What a verdict says, for machines: plain values by name."""
    entry = verdict.entry
    return {
        "outcome": str(verdict.outcome),
        "role": entry.role,
        "algorithm": verdict.algorithm,
        "task": entry.task,
        "metric": entry.metric,
        "direction": entry.direction,
        "env_steps": verdict.env_steps,
        "mean": _finite(verdict.mean),
        "spread": _finite(verdict.spread),
        "seeds": len(verdict.scores),
        "scores": {str(seed): _finite(score) for seed, score in verdict.scores.items()},
        "reference_algorithm": entry.algorithm,
        "reference_env_steps": entry.env_steps,
        "reference_value": entry.value,
        "reference_spread": entry.spread,
        "reference_seeds": entry.seeds,
        "tolerance": entry.tolerance,
        "p_value": verdict.p_value,
        "finds_drop": verdict.finds,
        "reason": verdict.reason or None,
        "source": entry.source,
    }


def explain(verdict: Verdict) -> str:
    """One line on an outcome."""
    entry, parts = verdict.entry, []
    mean = _finite(verdict.mean)
    if mean is not None and verdict.p_value is not None and entry.value is not None:
        drop = entry.sign * (mean - entry.value)
        parts.append(
            f"{mean:.4g} over {len(verdict.scores)} seeds is {abs(drop):.4g} "
            f"{'worse' if drop < 0 else 'better'} than {entry.value:.4g} (p = {verdict.p_value:.2g})"
        )
    parts += [text for text in (verdict.reason, entry.note) if text]
    return "; ".join(parts)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_text(each)}" for key, each in value.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)
