"""No built page is wider than the window, on a phone or on a desk, in a real browser.

It needs the pages (``make docs``) and Debian's or another ``chromium``; without them it is skipped.
Tables, code and wide formulas may scroll inside themselves; the page and its column may not.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers import ROOT

BUILT = ROOT / "docs" / "_build" / "html"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
WIDTHS = [1280, 390]
# Source code, the maintainers' reference, the page of an empty search, and another language.
LEFT_OUT = {"_modules", "internals", "search.html", "zh_CN"}
PAGES = [
    page
    for page in sorted(BUILT.rglob("*.html"))
    if not LEFT_OUT.intersection(page.relative_to(BUILT).parts)
]
# One page loads the others in a frame, one after the other, and writes what it found.
# Furo cuts the document at the window and lets .content scroll, so both are measured.
HARNESS = """<!doctype html><meta charset="utf-8">
<iframe id="frame" style="border: 0; height: 800px"></iframe>
<script>
const pages = PAGES, widths = WIDTHS, frame = document.getElementById('frame');
const box = element => element.getBoundingClientRect();
const scrolls = e => e.matches('.content *') && getComputedStyle(e).overflowX !== 'visible';

function widest(content) {  // what hangs out of the column, and where
  const right = box(content).left + content.clientWidth + 1;
  const out = [...content.querySelectorAll('*')].filter(element => {
    if (box(element).right <= right) return false;
    for (let e = element.parentElement; e !== content; e = e.parentElement)
      if (scrolls(e)) return false;
    return true;
  });
  return out.slice(-2).map(e => e.cloneNode(false).outerHTML + e.textContent.slice(0, 40));
}

function over(number) {  // does the formula that one sees lie under its number?
  const formula = number.parentElement.querySelector('mjx-container');
  const shown = box(formula.querySelector('mjx-math')), frame = box(formula), n = box(number);
  const right = scrolls(formula) ? Math.min(shown.right, frame.right) : shown.right;
  return right > n.left + 1 && shown.left < n.right - 1
    && shown.bottom > n.top + 1 && shown.top < n.bottom - 1;
}

async function look(page) {
  const found = [], loaded = new Promise(resolve => { frame.onload = resolve; });
  frame.style.width = widths[0] + 'px';
  frame.src = page;
  await loaded;
  const view = frame.contentWindow, root = view.document.documentElement;
  if (view.MathJax) await view.MathJax.startup.promise;
  const content = root.querySelector('.content');
  const numbers = [...root.querySelectorAll('.eqno')];
  const plain = [...root.querySelectorAll('.math')].filter(e => !e.querySelector('mjx-container'));
  if (plain.length) found.push('no formula was made of ' + plain[0].textContent);
  for (const width of widths) {
    frame.style.width = width + 'px';
    if (view.innerWidth !== width) found.push('is shown at ' + view.innerWidth);
    if (root.scrollWidth > width + 1) found.push(`at ${width} is ${root.scrollWidth} wide`);
    if (content.scrollWidth > content.clientWidth + 1)
      found.push(`at ${width} has a column of ${content.clientWidth} and content of `
                 + `${content.scrollWidth}: ${widest(content).join(' and ')}`);
    for (const number of numbers.filter(over))
      found.push(`at ${width} has the number ${number.innerText} over its formula`);
  }
  return [numbers.length, found];
}

(async () => {
  const answers = [];
  for (const page of pages) answers.push(await look(page).catch(e => [0, [String(e)]]));
  const written = document.createElement('pre');
  written.textContent = JSON.stringify(answers);
  document.body.replaceChildren(written);
})();
</script>
"""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs chromium"),
    pytest.mark.skipif(not (BUILT / "searchindex.js").is_file(), reason="needs make docs"),
]


def look(pages: list[Path], folder: Path) -> list[tuple[int, list[str]]]:
    """How many equations of each page have a number, and what is wrong with the page."""
    harness = folder / "harness.html"
    addresses = json.dumps([page.as_uri() for page in pages])
    code = HARNESS.replace("PAGES", addresses).replace("WIDTHS", json.dumps(WIDTHS))
    harness.write_text(code, encoding="utf-8")
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu"]
    command += ["--allow-file-access-from-files", "--window-size=1400,900"]
    command += ["--virtual-time-budget=100000000", "--dump-dom", harness.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout
    written = re.search(r"<pre>(.*)</pre>", shown, re.DOTALL)
    assert written is not None, shown[-1000:]
    answers = json.loads(html.unescape(written[1]))
    return [(numbers, found) for numbers, found in answers]


def test_no_page_is_wider_than_its_window(tmp_path: Path) -> None:
    answers = look(PAGES, tmp_path)
    assert len(answers) == len(PAGES) > 300
    assert sum(numbers for numbers, _ in answers) > 100
    wrong = [
        f"{page.relative_to(BUILT)} {what}"
        for page, (_, found) in zip(PAGES, answers, strict=True)
        for what in found
    ]
    assert not wrong, "\n".join(wrong)


def test_what_is_too_wide_is_seen(tmp_path: Path) -> None:
    """A page with something wide in its column, the same where the column lets it out, and a page
    whose numbers stand where a theme would have them: at the right, over a formula that is wide.
    """
    page = BUILT / "theory" / "04-learning.html"
    text = page.read_text(encoding="utf-8")
    text = text.replace("<head>", f'<head><base href="{page.as_uri()}">', 1)
    wide = text.replace("</article>", '<div style="width: 700px">wide</div></article>', 1)
    out = ".content { overflow: visible !important }"
    over = "div.math.math { display: block } div.math > mjx-container { overflow: visible }"
    over += "div.math > span.eqno.eqno { position: absolute; right: 0 }"
    changed = {
        "column.html": wide,
        "document.html": wide.replace("</head>", f"<style>{out}</style></head>", 1),
        "number.html": text.replace("</head>", f"<style>{over}</style></head>", 1),
    }
    for name, content in changed.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    column, document, number = (
        "\n".join(found) for _, found in look([tmp_path / name for name in changed], tmp_path)
    )
    assert re.match(r"at 390 has a column of \d+ and content of 7\d\d: .*>wide$", column)
    assert re.match(r"at 390 is 7\d\d wide\n", document)
    assert "at 390 has the number (4." in number
