"""The gate's references: where they come from, and what is said when they are not there."""

import subprocess
import sys
import zipfile
from dataclasses import replace

import pytest
from bench_samples import CASE, document, failed, measured
from lstm_bench import bench, check
from lstm_bench.bench import Entrant, Settings
from lstm_bench.check import CheckError

SIDES = (Entrant("fastlstm", "fastlstm"), Entrant("before", "fastlstm", ("/there",)))
SETTINGS = Settings([CASE], ["inference"], [Entrant("fastlstm", "fastlstm"), Entrant("numpy", "numpy")])


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository of two commits; the working folder is in it."""

    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    for text in ("first", "second"):
        (tmp_path / "file.txt").write_text(text)
        git("add", "file.txt")
        git("commit", "-qm", text)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    return tmp_path


@pytest.mark.parametrize("revision, text", [("HEAD", "second"), ("HEAD~1", "first")])
def test_a_revision_is_written_out(repository, tmp_path_factory, revision, text):
    folder = tmp_path_factory.mktemp("out")
    source = check.requirement(revision, folder)
    assert (folder / "source" / "file.txt").read_text() == text and source == str(folder / "source")


@pytest.mark.parametrize("reference", ["no-such-branch", "HEAD~9", "--help", ""])
def test_an_unknown_revision_is_told(repository, tmp_path, reference):
    with pytest.raises(CheckError, match="is neither a JSON or wheel file, nor fastlstm==VERSION, nor a git revision"):
        check.requirement(reference, tmp_path)


def test_releases_and_wheels_are_taken_as_they_are(tmp_path):
    assert check.requirement("fastlstm==0.1.0", tmp_path) == "fastlstm==0.1.0"
    with pytest.raises(CheckError, match=r"gone\.whl is no file"):
        check.requirement("gone.whl", tmp_path)


def test_a_wheel_is_installed_beside_this_code_and_seen_first(tmp_path):
    wheel = tmp_path / "fastlstm-0.0.1-py3-none-any.whl"
    info = "fastlstm-0.0.1.dist-info"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("fastlstm/__init__.py", "__version__ = '0.0.1'\n")
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: fastlstm\nVersion: 0.0.1\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    with check.built(str(wheel)) as path:
        code = f"import sys; sys.path[:0] = {list(path)!r}; import fastlstm, numpy; print(fastlstm.__version__)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "0.0.1"


def test_what_pip_cannot_install_is_told(tmp_path):
    broken = tmp_path / "fastlstm-1-py3-none-any.whl"
    broken.write_bytes(b"no zip")
    with pytest.raises(CheckError, match=r"could not be installed: .*[Ii]nvalid"), check.built(str(broken)):
        pytest.fail("it cannot have been installed")


def test_a_saved_result_says_what_to_run():
    other = CASE._replace(name="other")
    timed = [measured(name, 1.0, mode="training", threads=2) for name in ("fastlstm", "numpy")]
    saved = document(*timed, failed("fastlstm", "wrong", case=other))
    settings = check.settings_of(saved, SETTINGS)
    assert settings.groups() == [bench.Group(CASE, "training", 2)] and settings.threads == (2,)
    with pytest.raises(CheckError, match="no time of fastlstm"):
        check.settings_of(document(failed("fastlstm", "hung")), SETTINGS)


def test_sides_take_turns_in_starting_and_later_passes_see_only_what_is_open():
    other = CASE._replace(name="other")
    asked = []

    def execute(settings):
        asked.append((settings.entrants[0].label, [g.case.name for g in settings.groups()]))
        slow = {"small": 1.2, "other": 1.0}
        sides = ((g.case, label) for g in settings.groups() for label in ("fastlstm", "before"))
        seconds = ((case, label, slow[case.name] if label == "fastlstm" else 1.0) for case, label in sides)
        return document(*(measured(label, s, case=case, noise=0.01, seed=len(asked)) for case, label, s in seconds))

    changes, documents = check.side_by_side(replace(SETTINGS, cases=[CASE, other]), SIDES, 0.05, execute)
    assert asked == [("fastlstm", ["small", "other"]), ("before", ["small"])]
    assert {c.case: c.verdict for c in changes} == {"small": "slower", "other": "same"} and len(documents) == 2
