"""A Chinese page has all that the English one has, as far as it can be counted."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.zh.md"), *ROOT.glob("docs/**/*.zh.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
#: Pages that an operator needs first.
FIRST = (
    "availability",
    "backup",
    "changing",
    "dingtalk",
    "disaster",
    "feishu",
    "growing",
    "languages",
    "models",
    "no-answer",
    "rules",
)


def english(page: Path) -> Path:
    """The page that ``page`` was made from."""
    return page.with_name(page.name.replace(".zh.md", ".md"))


def facts(text: str) -> Counter[str]:
    """What is the same in every language, and how often: commands, code, links, numbers, headings, rows, points."""
    found: Counter[str] = Counter()
    for block in re.findall(r"^ *```(?!mermaid)\w+\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
        found.update(re.sub(r"(^|\s+)# .*", "", line).strip() for line in block.splitlines())  # comments are for people
    text = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    found.update(f"`{code}`" for code in re.findall(r"`([^`]+)`", text))
    found.update(f"({link.replace('.zh.md', '.md')})" for link in re.findall(r"\]\(([^)#]+)", text))
    found.update(re.findall(r"^ *(#+ |- |\d+\. |\|)", text, re.MULTILINE))
    found.update(re.findall(r"\d[\d .]*\d|\d", re.sub(r"`[^`]*`|\]\([^)]*\)", "", text)))
    return found


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_a_page_has_what_the_english_one_has(page: Path) -> None:
    here, there = facts(page.read_text("utf-8")), facts(english(page).read_text("utf-8"))
    differs = {"missing": dict(there - here), "only here": dict(here - there)}
    assert not any(differs.values()), differs


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_its_links_lead_somewhere_and_to_chinese_where_there_is_some(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8")):
        file, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = page.parent / file if file else page
        assert target.exists(), link
        assert target == english(page) or not target.with_name(f"{target.stem}.zh.md").exists(), f"{link} is English"
        heads = re.findall(r"^#+ (.*)", target.read_text("utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}, link


def test_the_pages_that_are_needed_first_are_there() -> None:
    wanted = {ROOT / "README.md", *(ROOT / f"docs/{name}.md" for name in FIRST)}
    wanted |= {page for page in ROOT.glob("docs/runbooks/*.md") if page not in PAGES}
    assert wanted <= set(map(english, PAGES))
