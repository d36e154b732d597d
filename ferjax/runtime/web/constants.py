"""Collects the constants of the live loop for the browser page, which repeats the loop in JavaScript."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ferjax.runtime import loop, smoothing
from ferjax.runtime.faces import boxes, detector, finders, tracking, video
from ferjax.runtime.show import drawing
from ferjax.runtime.web import yunet
from ferjax.spec import UNCERTAIN, ModelSpec


def collect(spec: ModelSpec, found: detector.Detector) -> Mapping[str, Any]:
    """Returns the constants as plain JSON values.

    Args:
      spec: the spec of the model.
      found: the detector of the page, "yunet" or "none".
    """
    iou = _defaults(tracking.non_max_suppression)
    motion = _defaults(video.VideoTracker)
    limits = dataclasses.asdict(smoothing.Limits())
    return {
        "detector": {
            **{name: getattr(found, name) for name in ("name", "min_size", "track_size")},
            **iou,
            "max_tilt": detector.MAX_TILT,
            **(_yunet(found) if found.name == "yunet" else {}),
        },
        "tracker": {
            "time_to_live": motion["time_to_live"],
            "min_hits": motion["min_hits"],
            "confirm_score": found.confirm_score,
            "tentative_seconds": tracking.TENTATIVE_SECONDS,
            "min_missed_frames": tracking.MIN_MISSED_FRAMES,
        },
        "video": {"search_seconds": motion["search_seconds"]},
        "smoother": {
            "window": _defaults(smoothing.Smoother)["window"],
            "frame": smoothing.FRAME,
            "threshold": smoothing.THRESHOLD,
            "clip": smoothing.CLIP,
            "independent": smoothing.INDEPENDENT,
        },
        "labeler": {"hysteresis": _defaults(smoothing.Labeler)["hysteresis"], "uncertain": UNCERTAIN},
        "limits": {**limits, "confidence": spec.abstention_threshold or limits["confidence"]},
        "loop": {"rate": loop.RATE, "max_unseen": loop.MAX_UNSEEN},
        "colors": {
            name: "#{2:02x}{1:02x}{0:02x}".format(*color)
            for name, color in {**drawing.colors(spec.class_names), UNCERTAIN: drawing.UNCERTAIN}.items()
        },
    }


def _yunet(found: detector.Detector) -> dict[str, Any]:
    return {
        "sizes": yunet.SIZES,
        "levels": yunet.LEVELS,
        "max_side": found.max_side,
        "max_scale": boxes.MAX_SCALE,
        "margin": detector.MARGIN,
        "size_change": detector.SIZE_CHANGE,
        "score": finders.YUNET_SCORE,
        "candidate_score": finders.YUNET_CANDIDATE_SCORE,
        "square_side": finders.YUNET_SQUARE,
        "square_top": finders.YUNET_TOP,
    }


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """Returns the default values of a function's arguments."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}
