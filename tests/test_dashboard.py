"""The dashboard speaks the languages of its readers: each of its texts has a translation, and none is there in vain."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
import yaml
from rendering import evaluate, render

PAGE = "dashboard.html"
LANGUAGES = sorted(evaluate("monitoring", "__monitoring_words"))
# They look the same everywhere.
NAMES = {"", "%", "ms", "{} %", "{} ms", "{}", "CPU", "Nginx", "Redis"}
# What stands beside a text in the page's script.
CODE = {"good", "bad", "dim", "firing", "strong", "div", "a", "th", "href", "rel", "noopener"}


def texts() -> set[str]:
    """What the page may say: what it looks up, the names of its pictures and columns, and figures of alerts."""
    page = render("monitoring", PAGE)
    found = set(re.findall(r"'([^']+)'", " ".join(re.findall(r"(?:say|yes)\(.*", page)))) - CODE
    found |= set(re.findall(r"(?:title|unit|none): '([^']*)'", page))
    found |= set(re.findall(r"'(\{\} [^']+)'", page)) | set(re.findall(r"'(\d [dh])'", page))
    rules = yaml.safe_load(render("monitoring", "rules.yml"))
    for rule in (rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule):
        value = rule["annotations"]["value"]
        figure = re.fullmatch(r'\{\{ printf "(.*)" \$value \}\}', value)
        found.add(re.sub(r"%\.\df", "{}", figure[1]).replace("%%", "%") if figure else re.sub(r"[\d.]+", "{}", value))
    return {text for text in found if not text.startswith("{{")} - NAMES


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_has_a_translation(language: str) -> None:
    words = evaluate("monitoring", "__monitoring_words")[language]
    assert {"missing": texts() - set(words), "in vain": set(words) - texts()} == {"missing": set(), "in vain": set()}
    assert all(text.count("{}") == said.count("{}") for text, said in words.items())


@pytest.mark.parametrize(
    ("language", "said"),
    [("en-US", "2 messages, 3 h ago"), ("zh-CN", "2 条消息, 3 小时前"), ("fr", "2 messages, 3 h ago")],
)
def test_what_a_browser_says(language: str, said: str) -> None:
    """The page's own function, run by Node."""
    page = render("monitoring", PAGE)
    code = re.search(r"^const LANGUAGE.*?^const say = .*?$", page, re.MULTILINE | re.DOTALL)
    assert code
    script = f"const navigator = {{language: {json.dumps(language)}}};\n{code[0]}\n"
    script += "console.log([say('{} messages', 2), say('{} h ago', 3)].join(', '))"
    done = subprocess.run(["node", "-e", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == said


def test_the_script_is_sound() -> None:
    page = render("monitoring", PAGE)
    script = page.partition("<script>")[2].partition("</script>")[0]
    subprocess.run(["node", "--check", "-"], input=script, text=True, check=True)
