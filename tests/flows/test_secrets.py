"""No secret of the environment is in what runs write: logs, tracebacks, artifacts, documents, records, databases.

Those of object storage: test_s3.py. That of the explorer: tests/server/test_security.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clusterpaths.common.text import without_credentials
from tests.runs import SAMPLE_MODEL, start_celeba

PASSWORD = "pw-of-these-tests-5f1c"
SECRETS = {
    "PREFECT_API_KEY": "pnu_key_of_these_tests_8a2d",
    "CLUSTERPATHS_TOKEN": "token-of-these-tests-77aa",
    "CLUSTERPATHS_VLM_KEY": "sk-key-of-these-tests-91ce",
    "MLFLOW_TRACKING_PASSWORD": PASSWORD,
    "MLFLOW_TRACKING_URI": f"http://somebody:{PASSWORD}@127.0.0.1:9",
    "AWS_SECRET_ACCESS_KEY": "aws-secret-of-these-tests-3b",
    "AWS_SESSION_TOKEN": "aws-token-of-these-tests-6e",
}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://u:p@host:4200/api", "http://host:4200/api"),
        ("at postgresql+asyncpg://u:p@db/x does not", "at postgresql+asyncpg://db/x does not"),
        ("https://key@host", "https://host"),
        ("'http://u:a@b@host/' and s3://k:v@bucket", "'http://host/' and s3://bucket"),
        ("http://host/api?x=a@b", "http://host/api?x=a@b"),
        ("mail a@b.c", "mail a@b.c"),
    ],
)
def test_addresses_are_shown_without_user_and_password(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


def environment(home: Path, **more: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_LOGGING_LEVEL": "DEBUG", "PYTHONUNBUFFERED": "1"}
    return own | quiet | {"PREFECT_HOME": str(home)} | SECRETS | more


def leaks(folder: Path) -> list[tuple[str, str]]:
    """Each file with the secret that is in it."""
    found = []
    for file in (file for file in folder.rglob("*") if file.is_file()):
        content = file.read_bytes()
        found += [(str(file.relative_to(folder)), name) for name, value in SECRETS.items() if value.encode() in content]
        found += [(str(file.relative_to(folder)), "password")] if PASSWORD.encode() in content else []
    return found


def test_a_run_and_one_that_fails_leave_no_secret_of_the_environment(faces: Path, tmp_path: Path) -> None:
    """With a temporary server, whose database is searched as well."""
    common = ["--data-root", str(faces.parent), "--cache-root", str(tmp_path / "cache"), "--layers", "conv3,fc2"]
    good = start_celeba(
        "--model", str(SAMPLE_MODEL), *common, "--subset", "60", output=tmp_path / "good.txt",
        environment=environment(tmp_path / "home", CLUSTERPATHS_LOG_FILE=str(tmp_path / "log.jsonl")),
    )  # fmt: skip
    assert good.wait(300) == 0, (tmp_path / "good.txt").read_text()
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(SAMPLE_MODEL.read_bytes()[:5000])
    bad = start_celeba(
        "--model", str(broken), *common, output=tmp_path / "bad.txt", environment=environment(tmp_path / "home")
    )
    assert bad.wait(300) == 2, (tmp_path / "bad.txt").read_text()
    names = {file.name for file in tmp_path.rglob("*")}
    assert {"prefect.db", "manifest.json", "set.json", "log.jsonl"} <= names  # what is searched is there
    database = (tmp_path / "home").glob("prefect.db*")  # SQLite's log beside it may not be in it yet
    assert any(b"conv3" in file.read_bytes() for file in database)
    assert leaks(tmp_path) == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PREFECT_API_URL", f"http://somebody:{PASSWORD}@127.0.0.1:9/api"),
        ("PREFECT_API_URL", f"http://somebody:{PASSWORD}@[broken/api"),
        ("PREFECT_API_DATABASE_CONNECTION_URL", f"postgresql+asyncpg://somebody:{PASSWORD}@127.0.0.1:9/prefect"),
        ("PREFECT_API_DATABASE_CONNECTION_URL", f"nonsense://somebody:{PASSWORD}@127.0.0.1:9/prefect"),
    ],
    ids=["no server", "no address", "no database", "no kind of database"],
)
def test_a_server_or_a_database_that_does_not_answer_is_named_without_its_password(
    variable: str, value: str, faces: Path, tmp_path: Path
) -> None:
    options = ["--model", str(SAMPLE_MODEL), "--data-root", str(faces.parent), "--subset", "60"]
    options += ["--cache-root", str(tmp_path / "cache")]
    failed = start_celeba(
        *options, output=tmp_path / "output.txt", environment=environment(tmp_path / "home", **{variable: value})
    )
    assert failed.wait(300) != 0
    assert (tmp_path / "output.txt").read_text().strip()
    assert leaks(tmp_path) == []
