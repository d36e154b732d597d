"""Defines the parameters of a rendered face: action units of an expression, and features of a person.

Expressions are combinations of facial action units (AU; Ekman & Friesen 1978, *Facial Action Coding System*). The seven
prototypes follow the predictions of EMFACS (Friesen & Ekman 1983).
"""

import dataclasses

import numpy as np

from ferjax.data.datasets.sources import EXPRESSIONS
from ferjax.errors import unknown


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActionUnits:
    """Intensity of each action unit, 0 (rest) to 1 (maximum).

    Attributes:
      au1, au2: inner brow raiser, outer brow raiser.
      au4: brow lowerer; also draws the brows together.
      au5, au6, au7: upper lid raiser, cheek raiser, lid tightener.
      au9, au10: nose wrinkler, upper lip raiser.
      au12, au15: lip corner puller, lip corner depressor.
      au17, au20, au24: chin raiser, lip stretcher, lip pressor.
      au25, au26: lips part, jaw drop.
    """

    au1: float = 0.0
    au2: float = 0.0
    au4: float = 0.0
    au5: float = 0.0
    au6: float = 0.0
    au7: float = 0.0
    au9: float = 0.0
    au10: float = 0.0
    au12: float = 0.0
    au15: float = 0.0
    au17: float = 0.0
    au20: float = 0.0
    au24: float = 0.0
    au25: float = 0.0
    au26: float = 0.0

    def blend(self, other: "ActionUnits", weight: float) -> "ActionUnits":
        """Interpolates between these units (weight 0) and others (weight 1)."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        return ActionUnits(**{name: (1 - weight) * mine[name] + weight * theirs[name] for name in mine})


# Expression -> (units always present, optional units); EMFACS lists several variants of each expression.
PROTOTYPES: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "angry": ({"au4": 1.0, "au7": 0.6, "au24": 1.0}, {"au5": 0.4, "au17": 0.5}),
    "disgust": ({"au9": 1.0, "au10": 1.0, "au25": 0.4}, {"au4": 0.3, "au25": 0.3, "au15": 0.3}),
    "fear": ({"au1": 0.9, "au2": 0.5, "au4": 0.6, "au5": 0.9, "au20": 1.0, "au25": 1.0}, {"au7": 0.3, "au26": 0.3}),
    "happy": ({"au6": 0.8, "au12": 1.0}, {"au25": 0.9, "au26": 0.2}),
    "neutral": ({}, {}),
    "sad": ({"au1": 1.0, "au4": 0.5, "au15": 1.0}, {"au17": 0.6, "au7": 0.3}),
    "surprise": ({"au1": 1.0, "au2": 1.0, "au5": 0.8, "au25": 0.7, "au26": 1.0}, {}),
}


def sample_action_units(rng: np.random.Generator, expression: str, intensity: float | None = None) -> ActionUnits:
    """Samples the action units of an expression.

    Args:
      rng: random generator; the number of draws is constant.
      expression: one of EXPRESSIONS.
      intensity: intensity of the expression in 0..1; sampled from 0.6..1 if None.

    Returns:
      The prototype scaled by the intensity, with jitter per unit; each optional unit is present with probability 1/2.

    Raises:
      InputError: if the expression is unknown.
    """
    if expression not in PROTOTYPES:
        raise unknown("expression", expression, EXPRESSIONS)
    core, optional = PROTOTYPES[expression]
    drawn = rng.uniform(0.6, 1.0)
    strength = drawn if intensity is None else intensity
    names = [field.name for field in dataclasses.fields(ActionUnits)]
    gain, shown, rest = rng.uniform(0.8, 1.2, len(names)), rng.random(len(names)) < 0.5, rng.normal(0, 0.05, len(names))
    units = {}
    for k, name in enumerate(names):
        target = core.get(name, 0.0) + optional.get(name, 0.0) * bool(shown[k])
        units[name] = float(np.clip(target * strength * gain[k] + rest[k], 0.0, 1.0))
    return ActionUnits(**units)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """Features of one person. Lengths are in half face widths.

    Attributes:
      width: half width of the head at the cheekbones.
      chin: distance from the middle of the face down to the chin.
      jaw: squareness of the jaw, about 2 (oval) to 3 (square).
      eye_distance: distance from the nose bridge to a pupil.
      eye_size: half width of an eye.
      eye_tilt: height of the outer eye corner above the inner one.
      brow_height: distance from the pupil to the brow.
      brow_thickness: half thickness of the brow.
      brow_arch: height of the middle of the brow above its ends.
      nose_length: distance from the eye line to the nose base.
      nose_width: half width of the nose wings.
      mouth_width: half width of the resting mouth.
      mouth_curve: resting height of the mouth corners, positive is upward.
      lips: thickness of one lip.
      skin, hair, iris: RGB in 0..255; the skin at full illumination.
      hair_style: 0 bald, 1 short, 2 side parting, 3 bangs, 4 long.
      hairline: height of the hairline above the middle of the face.
      beard, mustache: density in 0..1, 0 is none.
      glasses: darkness of the frames in 0..1, 0 is no glasses.
      age: depth of resting wrinkles in 0..1.
    """

    width: float
    chin: float
    jaw: float
    eye_distance: float
    eye_size: float
    eye_tilt: float
    brow_height: float
    brow_thickness: float
    brow_arch: float
    nose_length: float
    nose_width: float
    mouth_width: float
    mouth_curve: float
    lips: float
    skin: tuple[float, float, float]
    hair: tuple[float, float, float]
    iris: tuple[float, float, float]
    hair_style: int
    hairline: float
    beard: float
    mustache: float
    glasses: float
    age: float


_SKIN = np.array([(255, 226, 204), (250, 205, 170), (232, 178, 138), (196, 138, 100), (150, 100, 72), (112, 74, 55)])
_HAIR = np.array(
    [(28, 24, 24), (60, 40, 30), (100, 66, 40), (160, 116, 66), (205, 170, 110), (150, 70, 40), (150, 150, 150)]
)
_IRIS = np.array([(60, 38, 24), (90, 60, 35), (80, 90, 60), (80, 110, 140)])


def sample_identity(rng: np.random.Generator) -> Identity:
    """Samples a person."""
    u, normal = rng.uniform, rng.normal
    tone = rng.beta(1.2, 1.6) * (len(_SKIN) - 1)
    low = min(int(tone), len(_SKIN) - 2)
    skin = _SKIN[low] + (tone - low) * (_SKIN[low + 1] - _SKIN[low]) + normal(0, 4, 3)
    dark = tone > 3
    hair = _HAIR[rng.integers(2) if dark else rng.integers(len(_HAIR))] * u(0.8, 1.2)
    iris = _IRIS[rng.integers(2) if dark else rng.integers(len(_IRIS))] * u(0.8, 1.2)
    bearded, mustached, spectacled = rng.random(3) < (0.15, 0.12, 0.15)
    hair_style = int(rng.choice(5, p=(0.08, 0.27, 0.22, 0.18, 0.25)))
    bearded, mustached = bearded and hair_style != 4, mustached and hair_style != 4
    return Identity(
        width=u(0.92, 1.06),
        chin=u(1.25, 1.42),
        jaw=u(2.0, 2.8),
        eye_distance=u(0.40, 0.48),
        eye_size=u(0.20, 0.25),
        eye_tilt=normal(0, 0.02),
        brow_height=u(0.24, 0.30),
        brow_thickness=u(0.028, 0.06),
        brow_arch=u(0.02, 0.07),
        nose_length=u(0.60, 0.72),
        nose_width=u(0.17, 0.24),
        mouth_width=u(0.32, 0.40),
        mouth_curve=normal(0.01, 0.012),
        lips=u(0.055, 0.10),
        skin=_rgb(skin),
        hair=_rgb(hair),
        iris=_rgb(iris),
        hair_style=hair_style,
        hairline=u(0.85, 1.05),
        beard=float(bearded) * u(0.3, 0.9),
        mustache=float(mustached) * u(0.5, 0.9),
        glasses=float(spectacled) * u(0.5, 1.0),
        age=u(0.0, 0.5),
    )


def _rgb(color: np.ndarray) -> tuple[float, float, float]:
    r, g, b = np.clip(color, 0, 255)
    return float(r), float(g), float(b)
