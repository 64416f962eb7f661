"""One symbol has one meaning, and prose uses the field's words; docs/glossary.md says which."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.helpers import ROOT, written_pages

BANNED = {
    "law (say distribution)": r"(?i)\blaws?\b",
    "floors (say relative to real against real)": r"(?i)(?<![\"'.])\bfloors\b(?![\"'])",
    "reckon (say assume)": r"(?i)\breckon",
    "See above. (say what the error means)": r"See above\.",
    "κ, ϱ, ρ for σ/α (say noise_ratio, or write σ/α)": (
        r"[κϱ]|\\kappa\b|\\varrho\b|(ρ|\\rho|\brho)\s*=\s*(σ|\\sigma|\\?t?frac{?\\sigma)"
    ),
    "a private name": r"^\s*(\.\.\. |>>> )?(def )?(given|kept|places|chosen|folds|Weighed)( = |\()",
    "λ for the log-SNR": (
        r"(?i)log.snrs? [`$(]*(λ|\\lambda)|(λ|\\lambda)[$`]*,? (is|the) (the )?log.snr"
    ),
    "λ for a weight": r"(?i)weight(ing)?s?,? [`$(]*(λ|\\lambda)",
}
LAMBDA = re.compile(r"(?<![_\w])(?:λ|\\lambda)(?:_\w|\(t\)|`)*\s*&?=\s*([^,;\n]*)")
HALF_LOG_SNR = re.compile(
    r"[`$(]*(\\log|log|half|½|0\.5|\\t?frac12|\\lambda|λ)"  # or the next of several times
)
PRIVATE = {"given", "kept", "places", "chosen", "folds", "Weighed"}
PROSE = [*sorted(ROOT.glob("*.md")), *written_pages()]
ROOMS = sorted(
    path.relative_to(ROOT / "sdescore").parts[0].removesuffix(".py")
    for path in (ROOT / "sdescore").iterdir()
    if path.suffix == ".py" or (path / "__init__.py").exists()
)


def faults(path: Path) -> list[str]:
    """Lines with a banned word, or with λ as anything but log(α/σ)."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        where = f"{path.relative_to(ROOT)}:{number}: "
        found += [where + name for name, pattern in BANNED.items() if re.search(pattern, line)]
        for match in LAMBDA.finditer(line):
            value = match[1].strip()
            squared = re.search(r"\^2|²|log_snr|SNR", value) and "half" not in value
            if not HALF_LOG_SNR.match(value) or (
                squared and not re.match(r"0\.5|½|\\t?frac12", value)
            ):
                found.append(f"{where}λ = {value}")
    if path.suffix == ".py":
        found += [f"{path.relative_to(ROOT)}: the name {name}" for name in names(path) & PRIVATE]
    return found


def names(path: Path) -> set[str]:
    """All identifiers of a file that it defines: functions, classes, arguments, variables."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name):
            found.add(node.id)
    return found


def look(paths: list[Path]) -> None:
    found = [fault for path in paths for fault in faults(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("page", PROSE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_pages_use_the_fields_words(page: Path) -> None:
    look([page])


@pytest.mark.parametrize("room", ROOMS)
def test_the_package_uses_the_fields_words(room: str) -> None:
    folder = ROOT / "sdescore" / room
    look(sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")])


def prose(path: Path) -> list[str]:
    """A file's docstrings, and the names of its tests as words."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
            name = getattr(node, "name", "")
            name = name.replace("_", " ") if name.startswith("test_") else ""
            found += [f"{path.relative_to(ROOT)}: {name}: {ast.get_docstring(node) or ''}"]
    return found


def test_tests_use_the_fields_words() -> None:
    paths = [path for path in sorted((ROOT / "tests").rglob("*.py")) if path != Path(__file__)]
    words = [name for name in BANNED if name.startswith(("law", "floors", "reckon"))]
    found = [text for path in paths for text in prose(path)]
    assert not [text for text in found for word in words if re.search(BANNED[word], text)]


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.name)
def test_benchmarks_use_the_fields_words(script: Path) -> None:
    look([script])


@pytest.mark.parametrize(
    "line",
    [
        "the law of x", "W2 in floors", "it reckons", "See above.", "κ = σ/α", "ρ = σ/α",
        "kept = 3", "def given(x):", "the log-SNR λ", "weight λ(t)",
        "$\\lambda = \\log(\\alpha^2/\\sigma^2)$", "λ = σ²", "``λ_t = log_snr(t)``",
    ],
)  # fmt: skip
def test_faults_are_seen(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.docs.test_words.ROOT", tmp_path)
    (tmp_path / "page.md").write_text(line)
    assert faults(tmp_path / "page.md")


@pytest.mark.parametrize(
    "line",
    [
        "Lawson's method", "the noise floor", "the SDE given", "λ = log(α/σ)", "h = λ_s − λ_t",
        "$\\lambda_t = \\log(\\alpha_t/\\sigma_t)$", "lambda x: x", "λ = ½ log-SNR",
    ],
)  # fmt: skip
def test_other_lines_pass(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.docs.test_words.ROOT", tmp_path)
    (tmp_path / "page.md").write_text(line)
    assert not faults(tmp_path / "page.md")
