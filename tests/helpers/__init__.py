"""What several tests use: strategies, exact maps, methods written out, paths."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def written_pages() -> list[Path]:
    """The documentation's pages that people write; a build beside the tests may make others."""
    return sorted(
        page for f in (".", "howto", "theory") for page in (ROOT / "docs" / f).glob("*.md")
    )
