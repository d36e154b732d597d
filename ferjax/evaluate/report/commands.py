"""Writes an HTML and a Markdown page on one or several models: `ferjax report --model MODEL… --out DIR`.

All models are evaluated on the validation split, or on --split. The HTML file embeds its figures.
"""

import json
import pathlib
import shlex
from collections.abc import Sequence

from ferjax import cli, errors, folders
from ferjax.evaluate import predictor
from ferjax.evaluate.report import models
from ferjax.runtime.show import page
from ferjax.runtime.show.page import Block, Code, Heading, Text


def main(argv: Sequence[str]) -> None:
    """Runs `ferjax report`."""
    parser = cli.parser("report", __doc__)
    cli.add_model(parser, several=True)
    cli.add_out(parser, "folder for the page and its figures")
    cli.add_data(parser)
    cli.add_split(parser)
    parser.add_argument("--without-robustness", action="store_true", help="skip the corrupted images")
    parser.add_argument("--benchmark", type=pathlib.Path, help="benchmark.csv of `ferjax benchmark`, to include")
    options = parser.parse_args(argv)
    folders.check_out(options.out)
    opened = [predictor.open_model(name) for name in dict.fromkeys(options.model)]
    first = opened[0].spec
    if odd := [
        s.name for s in opened if s.spec.class_names != first.class_names or s.spec.input_shape != first.input_shape
    ]:
        raise errors.InputError(
            f"{odd[0]} and {opened[0].name} differ in classes or input shape: write a separate report for it"
        )
    dataset = options.data or first.dataset
    faces = predictor.load_split(first, options.split, dataset=dataset, data_dir=options.data_dir)
    timings = models.timings(options.benchmark) if options.benchmark else []
    options.out.mkdir(parents=True, exist_ok=True)
    measured = [
        models.measure(s, faces, dataset=dataset, split=options.split, corrupted=not options.without_robustness)
        for s in opened
    ]
    blocks: list[Block] = [Heading(1, f"{first.architecture} on {dataset}"), *models.overview(measured)]
    blocks += [*models.comparison(measured, faces.labels), *timings]
    for number, model in enumerate(measured):
        blocks += models.chapter(model, faces, options.out, number)
        if pathlib.Path(model.scorer.name).is_dir():
            blocks += models.attention(model.scorer, faces, model.logits.argmax(1), options.out, number)
    blocks += [
        Heading(2, "Command"),
        Code(f"ferjax report {shlex.join(argv)}"),
        Text(page.NOTICE),
    ]
    page.write(blocks, options.out)
    with folders.atomic_file(options.out / "report.json") as part:
        part.write_text(json.dumps([m.result for m in measured], indent=1), encoding="utf-8")
    print(f"saved {options.out / 'report.html'}, report.md and report.json")
