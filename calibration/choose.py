"""Which ranges to keep, and how far the choice of pictures moves the result: measured on held-out pictures."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import onnx

from calibration.collect import Histograms
from calibration.quantize import quantized
from calibration.ranges import CANDIDATES, amax_from_histogram, text_of
from calibration.score import Judge, Score
from calibration.table import CalibrationTable

AUTO = "auto"


def with_ranges(table: CalibrationTable, histograms: Histograms, method: str, percentile: float) -> CalibrationTable:
    """`table` with the ranges that a method takes from histograms."""
    amax = {name: amax_from_histogram(histogram, method, percentile) for name, histogram in histograms.items()}
    return dataclasses.replace(table, method=text_of(method, percentile), amax=amax)


def compared(
    judge: Judge, model: onnx.ModelProto, histograms: Histograms, table: CalibrationTable
) -> tuple[tuple[str, float], list[dict[str, Any]]]:
    """The best (method, percentile) on the judge's pictures, and every candidate's figures in the order tried."""
    rows, values = [], []
    for method, percentile in CANDIDATES:
        candidate = with_ranges(table, histograms, method, percentile)
        score = judge.score(quantized(model, candidate), title=candidate.method)
        values.append(score.value)
        rows.append({"method": candidate.method, "images": len(judge.pictures)} | figures(judge, score))
    return CANDIDATES[int(np.argmax(values))], rows


def resampling(count: int, resamples: int, seed: int = 0) -> list[list[int]]:
    """How often each of `count` pictures counts: once each in the first row, then a row for every resample.

    A resample draws as many pictures with replacement (bootstrap: Efron and Tibshirani, "An Introduction to the
    Bootstrap", 1993). Histograms add up exactly, so no picture is run a second time.
    """
    random = np.random.default_rng(seed)
    rows = [np.bincount(random.integers(0, count, count), minlength=count).tolist() for _ in range(resamples)]
    return [[1] * count, *rows]


def spread_of(
    judge: Judge, model: onnx.ModelProto, resamples: list[Histograms], table: CalibrationTable, method: str,
    percentile: float,
) -> dict[str, Any]:  # fmt: skip
    """The held-out figure of every resample, with mean, standard deviation (of a sample), least and largest."""
    values = [
        judge.score(quantized(model, with_ranges(table, found, method, percentile)), f"resample {number}").value
        for number, found in enumerate(resamples, 1)
    ]
    return {
        "figure": judge.figure, "values": values, "mean": float(np.mean(values)), "least": min(values),
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0, "largest": max(values),
    }  # fmt: skip


def figures(judge: Judge, score: Score) -> dict[str, Any]:
    """A score as metadata keeps it: the figure that decides, its loss against FP32, agreement and SQNR."""
    sqnr_db = score.sqnr_db if math.isfinite(score.sqnr_db) else None
    return {"value": score.value, "loss": judge.loss(score), "agreement": score.agreement, "sqnr_db": sqnr_db}
