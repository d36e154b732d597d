"""Writes the leak report of a prepared data set: duplicates, their splits and their labels."""

import csv
import json
from pathlib import Path
from typing import Any

from PIL import Image

from ferjax.cli import counted
from ferjax.data import loading
from ferjax.data.prepare import duplicates
from ferjax.data.prepare.contact_sheets import COLORS, Tile, contact_sheet, save
from ferjax.data.prepare.duplicates import Member
from ferjax.data.store import FaceData

_SHEET_ROWS, _SHEET_COLUMNS = 14, 12


def write_report(name: str, out: str | Path, data_dir: str | Path | None = None) -> str:
    """Finds exact and near duplicates in and across all splits of a prepared data set; returns the counts as text.

    Writes `leaks.json` (counts), `leaks.csv` (all images with a duplicate, by group) and `leaks.png` (groups across
    splits first, then groups with conflicting labels).

    Args:
      name: name of a prepared data set.
      out: output folder; created if missing.
      data_dir: folder of prepared data; `default_data_dir()` if None.
    """
    facts = loading.load(name, data_dir, splits=()).manifest
    data = loading.load(name, data_dir, splits=tuple(facts["counts"]))
    exact = duplicates.exact_groups(data.splits)
    pairs = duplicates.near_pairs(data.splits, exact)
    near = duplicates.connected_groups(pairs, exact)
    counts = {
        "exact": duplicates.summary(exact, data.splits),
        "exact_or_near": duplicates.summary(near, data.splits),
        "near_pairs": len(pairs),
        "training_images_that_drop_leaks_removes": len(duplicates.leaks(pairs, exact)),
    }
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "leaks.json").write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
    _write_table(out / "leaks.csv", data, exact, near)
    save(_sheet(data, near), out / "leaks.png")
    return f"{_text(name, counts)}\nwritten to {out}"


def _text(name: str, counts: dict[str, Any]) -> str:
    lines = [f"{name}: duplicates"]
    for kind, title in (("exact", "exact duplicates (equal pixels)"), ("exact_or_near", "exact or near duplicates")):
        found = counts[kind]
        lines.append(
            f"  {title}: {counted(found['groups'], 'group')}, {found['across_splits']:,} across splits, "
            f"{found['conflicting_labels']:,} with conflicting labels"
        )
        for key, value in found.items():
            if key.endswith("_images_with_twin_in_train"):
                lines.append(f"    {key.split('_')[0]}: {counted(value, 'image')} with a duplicate in training")
    lines.append(
        "  near duplicates are found by correlation: check in leaks.png that they are one photograph (rendered faces "
        "are not)"
    )
    removed = counts["training_images_that_drop_leaks_removes"]
    lines.append(f"  prepare --drop-leaks would remove {counted(removed, 'training image')}")
    return "\n".join(lines)


def _write_table(path: Path, data: FaceData, exact: list[list[Member]], near: list[list[Member]]) -> None:
    same = {m: i for i, g in enumerate(exact, 1) for m in g}
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        table = csv.writer(file)
        table.writerow(["group", "exact_group", "split", "index", "class", "name", "across_splits", "conflict"])
        for number, group in enumerate(near, 1):
            across = len({m.split for m in group}) > 1
            conflict = duplicates.is_conflict(group, data.splits)
            for m in group:
                split = data.splits[m.split]
                row = [m.split, m.row, data.class_names[split.labels[m.row]], split.names[m.row]]
                table.writerow([number, same.get(m, ""), *row, int(across), int(conflict)])


def _sheet(data: FaceData, groups: list[list[Member]]) -> Image.Image:
    def priority(group: list[Member]) -> tuple[bool, bool, int]:
        return len({m.split for m in group}) == 1, not duplicates.is_conflict(group, data.splits), -len(group)

    def tile(member: Member) -> Tile:
        split = data.splits[member.split]
        return Tile(split.images[member.row], data.class_names[split.labels[member.row]], COLORS[member.split])

    rows = []
    for group in sorted(groups, key=priority)[:_SHEET_ROWS]:
        parts = {s: sum(m.split == s for m in group) for s in data.splits}
        caption = ", ".join(f"{n} {s}" for s, n in parts.items() if n)
        held_out_first = sorted(group, key=lambda m: (m.split == "train", m))
        rows.append((caption, [tile(m) for m in held_out_first[:_SHEET_COLUMNS]]))
    title = f"{data.name}: duplicates, first across splits and with conflicting labels (blue: train)"
    return contact_sheet(title, rows)
