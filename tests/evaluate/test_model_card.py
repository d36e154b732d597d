import json
import os
import re

import pytest

from ferjax.errors import InputError
from ferjax.evaluate import metrics, model_card
from ferjax.evaluate.benchmark import tables
from tests.support import small_files
from tests.support.small_files import GRAY

SPEC = GRAY.replace(
    architecture="resnet20",
    quantization="int8",
    dataset="fer2013",
    dataset_sha256="ab" * 32,
    split_sha256={"train": "cd" * 32},
    license="Terms of FER2013.",
    accuracy={"validation": 0.639},
)
EVALUATION = {
    **metrics.summary(metrics.confusion([0, 0, 1, 1, 2, 2, 2], [0, 0, 1, 2, 2, 2, 2], 3), GRAY.class_names),
    "dataset": "fer2013",
    "split": "validation",
}
ACCURACIES = {"noise": [0.5, 0.524], "fog": [0.4, 0.4]}
ROBUSTNESS = {"n": 1000, "clean": 0.6, "qin": 0.55, "mean": 0.456, "accuracy": ACCURACIES}
TIMING = {"runtime": "LiteRT", "provider": "cpu", "threads": 2, "load_ms": 3.456, "p50_ms": 0.789, "memory_opencv": 7e7}


def page(tmp_path, spec=SPEC, **measured):
    model_card.write(spec, tmp_path / "card.md", measured)
    assert os.listdir(tmp_path) == ["card.md"]
    text = (tmp_path / "card.md").read_text()
    sections = re.split(r"^#+ ", text, flags=re.MULTILINE)[1:]
    return {section.split("\n")[0]: section for section in sections}


def test_a_card_lists_the_measurements(tmp_path):
    found = page(
        tmp_path,
        file="m.tflite",
        bytes=331_234,
        evaluation={**EVALUATION, "robustness": ROBUSTNESS},
        benchmark=[TIMING],
        held_out="accuracy 69.9 %",
        parity={"images": 512, "top1_agreement": 0.98765, "by_layer": [1, 2]},
    )
    head = found["Model card: m.tflite"]
    for part in ("resnet20", "angry, happy, sad", "5×6 pixels, gray", "mean 0.4000", "int8", "93", "331,234 bytes"):
        assert part in head
    assert "Terms of FER2013." in found["Data and license"] and f"train: `{'cd' * 32}`" in found["Data and license"]
    accuracy = found["Accuracy"]
    assert "validation: 63.9%" in accuracy and "accuracy 85.7%" in accuracy
    assert "| happy | 1.000 | 0.500 | 0.667 | 2 |" in accuracy and "Held-out test: accuracy 69.9 %" in accuracy
    assert "60.0% clean, 45.6% corrupted (mean), 55.0% with" in found["Robustness"]
    assert "| noise | 50.0% | 52.4% | 51.2% |" in found["Robustness"] and "simulated" in found["Limits"]
    assert "| LiteRT | cpu | 2 | 3.46 | 0.79 | – | – | 70 |" in found["Speed and memory"]
    assert "- parity, images: 512\n- parity, top1 agreement: 0.9877" in found["Checks at export"]
    assert "Weakest class: happy, recall 50.0%" in found["Limits"]
    assert "masks and head poses were not tested" not in found["Limits"]


def test_a_card_marks_missing_measurements(tmp_path):
    found = page(tmp_path, GRAY)
    assert "Not measured." in found["Accuracy"] and "Not measured." in found["Robustness"]
    assert "ferjax benchmark" in found["Speed and memory"] and "None recorded" in found["Checks at export"]
    assert "names no training data" in found["Data and license"] and "were not tested" in found["Limits"]


def test_a_card_has_intervals_calibration_and_selection(tmp_path):
    more = {
        "intervals": {"accuracy": [0.857, 0.571, 1.0]},
        "without_twins": {"accuracy": 0.8, "interval": [0.5, 1.0], "n": 5},
        "calibration": {"ece": 0.0321},
    }
    accuracy = page(tmp_path, evaluation={**EVALUATION, **more})["Accuracy"]
    assert "57.1% to 100.0%" in accuracy and "5 images without an exact copy in training: 80.0%" in accuracy
    assert "calibration error: 0.032" in accuracy and "The epoch was selected on this split" in accuracy
    assert "selected" not in page(tmp_path, evaluation={**EVALUATION, "split": "test"})["Accuracy"]


def test_a_card_has_commands_to_load_rebuild_and_fine_tune(tmp_path):
    found = page(
        tmp_path, file="m.tflite", model="m", weights="m.safetensors", training="9 epochs", commands=["a", "b"]
    )
    assert 'load("m")' in found["Use"] and "init.pretrained=m.safetensors" in found["Use"]
    assert "- training: `9 epochs`" in found["Origin"] and "Made by\n\n```\na\nb\n```" in found["Origin"]
    assert "None recorded" in found["Checks at export"]
    assert "Made by" not in page(tmp_path)["Origin"]


def test_every_card_cites_the_ai_act(tmp_path):
    intended = " ".join(page(tmp_path, GRAY)["Intended use"].split())
    assert "at workplaces and in education is prohibited" in intended
    assert "Regulation (EU) 2024/1689" in intended and "Article 5(1)(f)" in intended


def test_a_card_follows_the_calibration_and_the_data(tmp_path):
    assert "is not calibrated" in page(tmp_path)["Limits"]
    found = page(tmp_path, SPEC.replace(temperature=1.4, abstention_threshold=0.35, dataset="synthetic_faces"))
    assert "is calibrated" in found["Limits"] and "below a confidence of 0.35" in found["Limits"]
    assert "do not apply to photographs" in found["Data and license"]


def test_the_command_reads_the_file_its_evaluation_and_its_rows_of_the_benchmark(tmp_path, capsys):
    path = small_files.onnx_file(tmp_path / "m.onnx")
    (tmp_path / "metrics.json").write_text(json.dumps(EVALUATION))
    entries = [{"file": name, "agreement": 0.5, "accuracy_interval": [0.6, 0.7]} for name in ("m.tflite", "m.onnx")]
    entries[1]["agreement"], entries[1]["faults"] = 0.998, []
    (tmp_path / "export.json").write_text(json.dumps({"files": entries}))
    rows = [{**TIMING, "file": name, "runtime": name} for name in ("m.onnx", "other.onnx")]
    (tmp_path / "benchmark.csv").write_text(tables.csv_text(rows))
    model_card.main([str(path), "--evaluation", f"{tmp_path}/metrics.json", "--benchmark", f"{tmp_path}/benchmark.csv"])
    text = (tmp_path / "m.onnx.md").read_text()
    assert "accuracy 85.7%" in text and "| m.onnx | cpu | 2 | 3.46 |" in text and "other.onnx" not in text
    assert "- agreement: 0.998\n- accuracy interval: 0.6 to 0.7\n" in text
    assert f"{path.stat().st_size:,} bytes" in text and "saved" in capsys.readouterr().out


def test_other_tables_and_evaluations_of_other_models_are_rejected(tmp_path):
    spec = small_files.GRAY.replace(accuracy={"validation": 0.05})
    path = small_files.onnx_file(tmp_path / "m.onnx", spec)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"other\.csv"):
        model_card.main([str(path), "--benchmark", str(tmp_path / "other.csv")])
    with pytest.raises(InputError, match=r"m\.onnx"):
        model_card.main([str(path), "--benchmark", str(path)])
    (tmp_path / "metrics.json").write_text(json.dumps({**EVALUATION, "dataset": spec.dataset}))
    with pytest.raises(InputError, match=r"accuracy 0\.8571.*0\.0500"):
        model_card.main([str(path), "--evaluation", str(tmp_path / "metrics.json")])
    (tmp_path / "metrics.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not valid JSON"):
        model_card.main([str(path), "--evaluation", str(tmp_path / "metrics.json")])


@pytest.mark.parametrize(
    "text, message", [("{", "is not valid JSON"), ('{"per_class": {"a": 1}}', "classes of the model")]
)
def test_a_malformed_evaluation_is_rejected(tmp_path, text, message):
    path = small_files.onnx_file(tmp_path / "m.onnx")
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(InputError, match=message):
        model_card.main([str(path), "--evaluation", f"{tmp_path}/metrics.json"])
    assert not (tmp_path / "m.onnx.md").exists()


def test_a_malformed_export_json_is_rejected(tmp_path):
    path = small_files.onnx_file(tmp_path / "m.onnx")
    (tmp_path / "export.json").write_text("[]")
    with pytest.raises(InputError, match=r"export\.json"):
        model_card.main([str(path)])


def test_two_files_of_one_name_and_other_suffixes_are_rejected(tmp_path):
    rows = [{"file": f"{folder}/m.tflite", **TIMING} for folder in "ab"]
    (tmp_path / "benchmark.csv").write_text(tables.csv_text(rows))
    with pytest.raises(InputError, match=r"a/m.tflite, b/m.tflite"):
        model_card.read_benchmark(tmp_path / "benchmark.csv", "m.tflite")
    path = small_files.onnx_file(tmp_path / "m.onnx", GRAY)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"--out must be a \.md file"):
        model_card.main([str(path), "--out", str(path)])
    assert path.read_bytes() == before
