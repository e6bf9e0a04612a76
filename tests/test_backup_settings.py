"""What the backup is told of the store in which copies lie."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from rendering import render


@pytest.mark.parametrize(
    ("repository", "options"),
    [
        ("s3:https://oss-cn-hangzhou.aliyuncs.com/copies/bot1", "s3.bucket-lookup=dns s3.region=oss-cn-hangzhou"),
        ("s3:https://cos.ap-guangzhou.myqcloud.com/copies-125/bot1", "s3.bucket-lookup=dns s3.region=ap-guangzhou"),
        ("s3:https://s3.cn-north-1.amazonaws.com.cn/copies/bot1", ""),
        ("sftp:keeper@aliyuncs.com:copies", ""),
    ],
)
def test_stores_of_clouds_are_asked_in_their_own_way(tmp_path: Path, repository: str, options: str) -> None:
    file = tmp_path / "settings"
    file.write_text(
        render("backup", "settings", backup_repository=repository, backup_password="x", inventory_hostname="bot1"),
        "utf-8",
    )
    script = 'set -eu; options=(); . "$0"; echo "${options[@]/-o/}"'
    said = subprocess.run(["bash", "-c", script, str(file)], capture_output=True, text=True, check=True).stdout
    assert " ".join(said.split()) == options
