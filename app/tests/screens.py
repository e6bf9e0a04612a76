"""Makes the pictures of an answer that grows: a bot and the simulator on this machine, its page in Debian's Chromium.

Needs chromium and fonts-wqy-microhei. Run it by `make chat-screenshots`.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .site import APP, Site, site

ROOT = Path(__file__).resolve().parents[2]
ANSWER = """**年假天数**按工龄计算：

1. 满一年不满十年：五天
2. 满十年不满二十年：十天
3. 满二十年：十五天

请在 OA 系统提交申请，提前三个工作日，由直属主管批准。当年未休完的年假可以顺延到次年三月底。"""
# Seconds before the first word, between two words, and for Chromium to show the page.
BEFORE, PACE, LOOK = 12.0, 2.0, 2.0


def picture(bot: Site, name: str) -> None:
    """Take a picture of the page as it is now."""
    control = bot.config.control_token
    task = {"url": f"{bot.config.public_url}/#{control}", "authorization": "", "width": 460, "height": 420}
    browse = ROOT / "molecule/monitoring/files/browse.py"
    given = json.dumps({**task, "language": "zh-CN", "seconds": LOOK})
    done = subprocess.run([sys.executable, str(browse)], input=given, capture_output=True, text=True, check=True)
    seen: dict[str, Any] = json.loads(done.stdout)
    if seen["errors"] or seen["overflow"] > 0:
        sys.exit(f"{name}: {seen['errors']}, {seen['overflow']} pixels too wide")
    (ROOT / "docs/images" / f"{name}.png").write_bytes(base64.b64decode(seen["picture"]))
    print(f"{name}: {' | '.join(seen['text'].splitlines()[-3:])}")


def main() -> None:
    """Ask, and look three times."""
    with tempfile.TemporaryDirectory() as folder, site(Path(folder), APP, CLAWDBOT_LANGUAGES="zh,en") as bot:
        bot.control.set_model_answer(ANSWER, before=BEFORE, pace=PACE)
        began = time.monotonic()
        bot.control.ask(bot.url, "feishu", "李雷", "我今年有几天年假？")
        picture(bot, "card-thinking")
        time.sleep(max(0.0, BEFORE + 3 - (time.monotonic() - began)))
        picture(bot, "card-growing")
        while any(card["growing"] for card in bot.control.cards()):
            time.sleep(0.5)
        picture(bot, "card-done")


if __name__ == "__main__":
    main()
