"""Flows with a cache in object storage: the commands on its sets, and no secret in Prefect's records.

What a run leaves there, and what it survives: tests/clusterpaths/storage/test_runs_remote.py. Dask: test_dask.py.
"""

from __future__ import annotations

import pytest

pytest.importorskip("obstore", reason="needs the extra [s3]")
pytest.importorskip("moto", reason="needs moto's server")

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clusterpaths.config import RunConfig
from clusterpaths.storage import open_storage
from tests.runs import SAMPLE_MODEL, run_pipeline, shell_environment, start_celeba
from tests.storage import BUCKET, SECRET, TOKEN, Storage, running_storage

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    folder = tmp_path_factory.mktemp("storage")
    with running_storage(folder, folder / "mirror") as storage:
        yield storage


def asked(faces: Path, prefix: str) -> dict[str, Any]:
    return {
        "model": SAMPLE_MODEL, "data_root": faces.parent, "cache_root": f"s3://{BUCKET}/{prefix}", "subset": 60,
        "shard_size": 10, "layers": "conv3,fc2",
    }  # fmt: skip


def test_sets_in_object_storage_are_clustered_again_compared_and_exported(
    server: Storage, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from clusterpaths.commands.explain import main as explain
    from clusterpaths.commands.export import main as export
    from clusterpaths.comparison.compare import CompareConfig
    from flows.compare import compare
    from flows.recluster import recluster

    root = f"s3://{BUCKET}/more"
    run_pipeline(RunConfig(**asked(faces, "more"), evaluate=False, name="Again"))
    monkeypatch.setenv("CLUSTERPATHS_MIRROR", str(tmp_path / "another machine"))
    again = recluster(name="Again", k=4, cache_root=root)
    assert again == open_storage(f"{root}/Again/set_02").path
    keys = set(server.objects("more/Again/set_02/"))
    assert {f"comparison_with_Again_set_01.{kind}" for kind in ("json", "html")} <= {Path(key).name for key in keys}
    monkeypatch.setenv("CLUSTERPATHS_MIRROR", str(tmp_path / "a third"))
    page = compare(
        CompareConfig.model_validate({"first": "Again/set_02", "second": "Again/set_01", "cache_root": root})
    )
    assert page.is_file()
    assert "more/Again/set_01/comparison_with_Again_set_02.html" in server.objects("more/Again/set_01/")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="0"):
        export(["Again/set_02", "--cache-root", root])
    assert (tmp_path / "Again_set_02_paths.onnx").is_file()
    with pytest.raises(SystemExit, match="0"):
        explain([str(faces / "img_align_celeba" / "000001.jpg"), "--set", "Again/set_02", "--cache-root", root])
    assert (tmp_path / "explanation_000001.html").is_file()
    assert "Wrote" in capsys.readouterr().out


def test_no_secret_is_written_anywhere(server: Storage, faces: Path, tmp_path: Path) -> None:
    from prefect.client.orchestration import get_client

    log = tmp_path / "log.jsonl"
    output, given = tmp_path / "output.txt", asked(faces, "secret")
    options = [word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    mirror = tmp_path / "mirror"
    environment = shell_environment(
        CLUSTERPATHS_MIRROR=str(mirror), CLUSTERPATHS_LOG_FILE=str(log), PREFECT_LOGGING_LEVEL="DEBUG"
    )
    good = start_celeba(*options, output=output, environment=environment)
    assert good.wait(120) == 0, output.read_text()
    bad = start_celeba(
        *options, "--refresh", output=tmp_path / "bad.txt",
        environment=environment | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
    )  # fmt: skip
    assert bad.wait(120) == 2, (tmp_path / "bad.txt").read_text()
    assert "does not answer" in (tmp_path / "bad.txt").read_text()
    texts = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    texts |= server.objects()
    with get_client(sync_client=True) as client:
        for asked_for in ("/logs/filter", "/flow_runs/filter", "/task_runs/filter", "/artifacts/filter"):
            texts[asked_for] = client.request("POST", asked_for, json={"limit": 200}).content  # type: ignore[arg-type]
    assert len([name for name in texts if name.endswith("manifest.json")]) >= 1
    assert b"secret" in texts["/flow_runs/filter"]  # the cache root: what is searched is not empty
    found = [name for name, text in texts.items() for secret in (SECRET, TOKEN) if secret.encode() in text]
    assert found == []
