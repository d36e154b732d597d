"""Draws Grad-CAM heat maps of a checkpoint: `ferjax explain --model MODEL --out DIR`.

Writes a contact sheet per class (faces with their heat maps), faces before and after Qin's perturbation, and
regions.json: the share of the heat in each region of the face, averaged per class.
"""

import functools
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import colormaps

from ferjax import augment, cli, data, errors, folders, models, weights
from ferjax.data import subsets
from ferjax.data.prepare.contact_sheets import Tile, contact_sheet, file_names, save
from ferjax.evaluate import corruptions, inference, predictor
from ferjax.weights import Trained

# (top, bottom, left, right) in 0..1 of a cropped face. The regions partition the image.
REGIONS: dict[str, tuple[float, float, float, float]] = {
    "forehead": (0.0, 0.2, 0.0, 1.0),
    "brows": (0.2, 0.35, 0.0, 1.0),
    "eyes": (0.35, 0.5, 0.0, 1.0),
    "nose": (0.5, 0.68, 0.3, 0.7),
    "left cheek": (0.5, 0.68, 0.0, 0.3),
    "right cheek": (0.5, 0.68, 0.7, 1.0),
    "mouth": (0.68, 0.88, 0.0, 1.0),
    "chin": (0.88, 1.0, 0.0, 1.0),
}

COLUMNS = 10
GradCam = Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def make_grad_cam(
    module: Any, input_shape: tuple[int, int, int], *, apply: Callable[..., Any] | None = None
) -> GradCam:
    """Builds Grad-CAM (Selvaraju et al. 2017; Paraschiv 2026, eq. 24 and 25) for a network of the registry.

    The features A are the intermediate `features`: the last feature map or, in a transformer, the patch tokens before
    the last block.

    Args:
      module: from `models.create`.
      input_shape: (H, W, C) of its images.
      apply: replaces `module.apply`, see `ferjax.weights.Trained.apply`.

    Returns:
      A jitted function (variables, inputs float (N, H, W, C), classes int (N,)) -> (maps (N, H, W), logits (N, K)).
      A map is ReLU(Σ_k α_k A^k), α_k the mean over the map of ∂ logit / ∂ A^k, resized bilinearly to the image. It is
      non-negative and not normalized.
    """
    apply = apply or module.apply
    layout = functools.partial(models.feature_map, module, image_shape=input_shape)

    @jax.jit
    def grad_cam(variables: Any, inputs: jax.Array, classes: jax.Array) -> tuple[jax.Array, jax.Array]:
        features = _features(apply, variables, inputs)

        def scores(perturbation: jax.Array) -> tuple[jax.Array, jax.Array]:
            probed = {**variables, "perturbations": {"features": perturbation}}
            logits = apply(probed, inputs, train=False)
            chosen = jnp.take_along_axis(logits, classes[:, None], axis=1)
            return chosen.sum(), logits  # the gradient of the sum is that of each image: images are independent

        gradient, logits = jax.grad(scores, has_aux=True)(jnp.zeros_like(features))
        gradient, maps = layout(gradient).astype(jnp.float32), layout(features).astype(jnp.float32)
        weights = gradient.mean(axis=(1, 2), keepdims=True)
        heat = jax.nn.relu((weights * maps).sum(axis=-1))
        return jax.image.resize(heat, (len(heat), *input_shape[:2]), "bilinear"), logits

    return grad_cam


def explain(
    network: Trained, images: np.ndarray, classes: np.ndarray | None = None, *, batch_size: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """Returns Grad-CAM maps of a trained model.

    Args:
      network: the model.
      images: uint8 (N, H, W, C), N at least 1.
      classes: (N,) classes to explain (default: the predicted ones).
      batch_size: images per pass.

    Returns:
      Non-negative maps float32 (N, H, W) and logits float32 (N, K).
    """
    spec = network.spec
    if classes is None:
        classes = inference.logits(network, images, batch_size=batch_size).argmax(1)
    grad_cam = make_grad_cam(network.module, spec.input_shape, apply=network.apply)
    maps, logits = [], []
    size = min(batch_size, len(images))
    for start in range(0, len(images), size):
        chosen = np.arange(start, start + size) % len(images)  # the first images pad the last batch
        inputs = augment.normalize(augment.to_float(jnp.asarray(images[chosen])), mean=spec.mean, std=spec.std)
        heat, scores = grad_cam(network.variables, inputs, jnp.asarray(classes[chosen], jnp.int32))
        maps.append(np.asarray(heat))
        logits.append(np.asarray(scores))
    return np.concatenate(maps)[: len(images)], np.concatenate(logits)[: len(images)]


def write_sheets(
    network: Trained, faces: data.Split, predictions: np.ndarray, out: pathlib.Path, *, samples: int, seed: int
) -> dict[str, Any]:
    """Writes a contact sheet per class, perturbed.png and regions.json.

    Args:
      network: the model.
      faces: the split.
      predictions: (N,) predicted classes.
      out: the folder, created if missing.
      samples: correctly classified faces per class.
      seed: seed of the choice of faces and of the perturbation.

    Returns:
      `sheets` (paths, perturbed.png last), `samples` and `shares` (by region) of each class.

    Raises:
      InputError: if no face is classified correctly.
    """
    names = network.spec.class_names
    picked = _sample(faces.labels, predictions, len(names), samples, seed)
    if not sum(map(len, picked)):
        raise errors.InputError("the model classifies no face of the split correctly: there is nothing to explain")
    out.mkdir(parents=True, exist_ok=True)
    every = np.concatenate(picked)
    heat, _ = explain(network, faces.images[every], predictions[every])  # one call, so it compiles once
    shares: dict[str, dict[str, float]] = {}
    sheets, before = [], []
    parts = np.split(heat, np.cumsum([len(numbers) for numbers in picked[:-1]]))
    files = file_names(names)
    for name, file, numbers, maps in zip(names, files, picked, parts, strict=True):
        if not len(numbers):
            cli.note(f"no sheet for {name}: no face of this class is classified correctly")
            continue
        tiles = [Tile(picture) for picture in overlay(faces.images[numbers], maps)]
        rows = [("", tiles[i : i + COLUMNS]) for i in range(0, len(tiles), COLUMNS)]
        sheets.append(out / f"gradcam_{file}.png")
        save(contact_sheet(f"Grad-CAM: {name}, {len(tiles)} correctly classified faces", rows), sheets[-1])
        shares[name] = dict(zip(REGIONS, region_shares(maps).mean(0).tolist(), strict=True))
        before.append(numbers[:2])
    sheets.append(_before_and_after(network, faces, np.concatenate(before), seed, out))
    counts = {name: len(numbers) for name, numbers in zip(names, picked, strict=True)}
    with folders.atomic_file(out / "regions.json") as part:
        part.write_text(
            json.dumps({"regions": REGIONS, "samples": counts, "shares": shares}, indent=1), encoding="utf-8"
        )
    return {"sheets": sheets, "samples": counts, "shares": shares}


def region_shares(maps: np.ndarray) -> np.ndarray:
    """Returns the share of each map's heat in each of REGIONS, (N, R); an all-zero map counts as uniform."""
    height, width = maps.shape[1:]
    heat = maps.astype(np.float64) + 1e-12
    rows, columns = (np.arange(n + 1) / n for n in (height, width))
    shares = []
    for top, bottom, left, right in REGIONS.values():
        cover = [
            np.clip(np.minimum(e[1:], b) - np.maximum(e[:-1], a), 0, None) * (len(e) - 1)
            for e, a, b in ((rows, top, bottom), (columns, left, right))
        ]
        shares.append(np.einsum("nij,i,j->n", heat, *cover))
    return np.stack(shares, axis=1) / heat.sum(axis=(1, 2))[:, None]


def overlay(images: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Returns uint8 RGB (N, H, W, 3): each image in gray under its map, scaled to the map's maximum."""
    peak = np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-12)
    heat = maps / peak
    colors = 255 * colormaps["inferno"](heat)[..., :3]
    gray = images.mean(axis=-1, keepdims=True)
    opacity = 0.65 * heat[..., None]
    return np.rint((1 - opacity) * gray + opacity * colors).astype(np.uint8)


def _features(apply: Callable[..., Any], variables: Any, inputs: jax.Array) -> jax.Array:
    _, seen = apply(variables, inputs, train=False, mutable=["intermediates"])
    return seen["intermediates"]["features"][0]


def _sample(labels: np.ndarray, predictions: np.ndarray, num_classes: int, count: int, seed: int) -> list[np.ndarray]:
    """Returns, for each class, the indices of up to `count` correctly classified images, drawn by seed."""
    correct = np.flatnonzero(labels == predictions)
    chosen = correct[subsets.by_class(labels[correct], np.full(num_classes, count), subsets.drawn(seed))]
    return [chosen[labels[chosen] == c] for c in range(num_classes)]


def main(argv: Sequence[str]) -> None:
    """Runs `ferjax explain`."""
    parser = cli.parser("explain", __doc__)
    cli.add_model(parser, files=False)
    cli.add_out(parser, "folder for the sheets and regions.json")
    cli.add_data(parser)
    cli.add_split(parser)
    parser.add_argument("--samples", type=int, default=50, help="correctly classified faces per class (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the faces and of the perturbation (default: 0)")
    options = parser.parse_args(argv)
    if options.samples < 1:
        raise errors.InputError(f"--samples must be at least 1, got {options.samples}")
    if options.seed < 0:
        raise errors.InputError(f"--seed must be 0 or more, got {options.seed}")
    folders.check_out(options.out)
    network = weights.load(options.model)
    chosen = predictor.load_split(network.spec, options.split, dataset=options.data, data_dir=options.data_dir)
    predictions = inference.logits(network, chosen.images).argmax(1)
    found = write_sheets(network, chosen, predictions, options.out, samples=options.samples, seed=options.seed)
    print(_table(found["shares"]))
    print(f"saved {len(found['sheets']) - 1} sheets, perturbed.png and regions.json in {options.out}")


def _before_and_after(
    network: Trained, faces: data.Split, numbers: np.ndarray, seed: int, out: pathlib.Path
) -> pathlib.Path:
    """Draws faces before and after Qin's perturbation, each with its prediction and its map."""
    images = faces.images[numbers]
    both = np.concatenate([images, corruptions.qin(images, seed=seed, indices=numbers.tolist())])
    maps, logits = explain(network, both)
    names = [network.spec.class_names[i] for i in logits.argmax(1)]
    tiles = [Tile(picture, name) for picture, name in zip(overlay(both, maps), names, strict=True)]
    originals = [Tile(image) for image in both]
    rows = []
    for caption, half in (("original", slice(len(images))), ("with Qin's perturbation", slice(len(images), None))):
        rows += [(caption, originals[half]), ("", tiles[half])]
    save(contact_sheet("Grad-CAM before and after a perturbation", rows), out / "perturbed.png")
    return out / "perturbed.png"


def _table(shares: dict[str, dict[str, float]]) -> str:
    width = max(map(len, shares))
    lines = [" " * width + "".join(f"{name:>13}" for name in REGIONS)]
    lines += [f"{name:<{width}}" + "".join(f"{share:13.1%}" for share in row.values()) for name, row in shares.items()]
    return "share of the heat in each region of the face\n" + "\n".join(lines)
