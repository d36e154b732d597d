import os
import subprocess
import sys

import pytest

from ferjax import cli, errors


def outcome(script, **kwargs):
    """Runs a script in a new process; returns exit code, standard output, standard error."""
    code = f"import sys\nfrom ferjax import cli\n{script}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **kwargs)
    return done.returncode, done.stdout, done.stderr


def exit_of(main, capsys, **options):
    with pytest.raises(SystemExit) as stopped:
        cli.run(main, **options)
    return stopped.value.code, capsys.readouterr().err


def raising(error):
    def main():
        raise error

    return main


def test_a_command_that_returns_exits_with_0():
    assert outcome("cli.run(lambda: print('done'))") == (0, "done\n", "")


def test_bad_input_is_one_line_and_exit_2(capsys):
    code, err = exit_of(raising(errors.InputError("batch_size must be positive,\n  got 0")), capsys)
    assert (code, err) == (2, "ferjax: error: batch_size must be positive, got 0\n")


def test_a_failing_disk_names_the_file(tmp_path, capsys):
    path = tmp_path / "missing.npy"
    code, err = exit_of(lambda: path.read_bytes(), capsys)
    assert (code, err) == (2, f"ferjax: error: {path}: No such file or directory\n")
    code, err = exit_of(raising(OSError("the archive is truncated")), capsys)
    assert (code, err) == (2, "ferjax: error: the archive is truncated\n")


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: 1 / 0)
    with pytest.raises(ValueError, match="not an InputError"):
        cli.run(raising(ValueError("not an InputError")))


def test_an_interrupt_reports_whether_the_command_can_be_continued(capsys, monkeypatch):
    monkeypatch.setattr(cli.atexit, "register", lambda *_: None)  # it would end the tests
    code, err = exit_of(raising(KeyboardInterrupt()), capsys)
    assert (code, err) == (130, "ferjax: interrupted\n")
    code, err = exit_of(raising(KeyboardInterrupt()), capsys, interrupted=cli.RESUMES)
    assert (code, err) == (130, "ferjax: interrupted; the same command continues\n")


def test_an_interrupt_skips_the_shutdown_of_jax():
    script = "import atexit, types; sys.modules['jax'] = types; atexit.register(print, 'taken down'); print('said')\n"
    script += "def main(): raise KeyboardInterrupt\ncli.run(main)"
    assert outcome(script) == (130, "said\n", "ferjax: interrupted\n")


def test_an_exit_code_of_the_command_itself_is_kept():
    assert outcome("cli.run(lambda: sys.exit(3))") == (3, "", "")


@pytest.mark.parametrize("lines", [1, 100_000])  # fails at exit, fails before
@pytest.mark.parametrize("options", [[], ["-u"]])
def test_a_closed_pipe_prints_no_error(lines, options):
    script = f"from ferjax import cli\ncli.run(lambda: [print('x' * 50) for _ in range({lines})])"
    process = subprocess.Popen(
        [sys.executable, *options, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
    )
    process.stdout.close()
    with process.stderr as err:
        assert err.read() == b""
    assert process.wait() == 1


@pytest.mark.parametrize(
    "setting", [{"PYTHONIOENCODING": "ascii:strict"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""}]
)
def test_characters_that_the_encoding_lacks_are_replaced(setting):
    script = r"""def main():
    print("a \u2192 b, \udce9", flush=True)  # bytes of file names that are not UTF-8 are single surrogates
    raise errors.InputError("expected 1 \xb1 2 \u2026")"""
    script = f"from ferjax import errors\n{script}\ncli.run(main)"
    assert outcome(script, env=os.environ | setting) == (2, "a ? b, ?\n", "ferjax: error: expected 1 ? 2 ?\n")


def test_the_list_of_commands_is_printed_in_any_encoding():
    env = os.environ | {"PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run([sys.executable, "-m", "ferjax"], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "") and "usage: ferjax COMMAND ?" in done.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux only")
def test_a_full_disk_behind_standard_output_is_one_line():
    command = f"{sys.executable} -m ferjax --version > /dev/full"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "ferjax: error: No space left on device\n")


def test_matplotlib_says_nothing_of_its_own_cache(tmp_path):
    (tmp_path / "file").touch()
    code = "cli.run(lambda: __import__('matplotlib'))"
    assert outcome(code, env=os.environ | {"MPLCONFIGDIR": str(tmp_path / "file" / "none")}) == (0, "", "")


def test_notes_go_to_standard_error():
    assert outcome("cli.note('restored step 4'); print('result')") == (0, "result\n", "ferjax: restored step 4\n")


def test_an_unknown_name_lists_near_ones_first_then_all():
    error = errors.unknown("model", "resnet81", ("resnet18", "resnet20", "deit_tiny"))
    assert isinstance(error, errors.InputError)
    assert str(error) == (
        "unknown model 'resnet81'. Did you mean 'resnet18' or 'resnet20'? Accepted: resnet18, resnet20, deit_tiny."
    )


def test_an_unknown_name_without_similar_names_has_no_suggestion():
    assert str(errors.unknown("split", 7, iter(["train", "test"]))) == "unknown split 7. Accepted: train, test."


def test_numbers_have_nouns_in_the_singular_and_the_plural():
    assert [cli.counted(n, "image") for n in (0, 1, 2, 1200)] == ["0 images", "1 image", "2 images", "1,200 images"]
