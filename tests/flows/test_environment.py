"""An environment in which no flow can run, and mistakes that show before one: a paragraph and exit code 2, without Prefect."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterpaths.errors import ClusterPathsError, DownloadError, OfflineError
from clusterpaths.records import DatasetSpec
from tests.flows.test_command_line import assert_one_paragraph, mounted
from tests.runs import PROJECT, SAMPLE_MODEL

RUN = """
import sys
from flows.cli import main
try:
    main(sys.argv[1:])
finally:
    print("imported:", sorted({"prefect", "onnx", "onnxruntime", "sklearn", "torch"} & set(sys.modules)))
"""
FROM = {"PREFECT_API_URL": None, "PREFECT_PROFILE": None, "PREFECT_SERVER_EPHEMERAL_ENABLED": None}


def environment(**changes: str | None) -> dict[str, str]:
    merged = {**os.environ, "PYTHONPATH": str(PROJECT), **FROM, **changes}
    return {name: value for name, value in merged.items() if value is not None}


def refused(*argv: str | Path, cwd: Path = PROJECT, **changes: str | None) -> str:
    """What `clusterpaths …` prints to stderr, where it ends with 2 before Prefect or a library of models is imported."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, argv)],
        capture_output=True, text=True, env=environment(**changes), cwd=cwd, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stdout == "imported: []\n"
    assert done.stderr.startswith("\nerror: ")
    return done.stderr


@pytest.fixture
def photos(faces: Path) -> tuple[str | Path, ...]:
    """A command that has all that it needs."""
    return ("images", "--model", SAMPLE_MODEL, "--data-root", faces)


# Prefect's server


def profiles(home: Path, text: str) -> Path:
    home.mkdir(exist_ok=True)
    (home / "profiles.toml").write_text(text)
    return home


def test_a_configured_server_that_is_down_is_told(photos: tuple[str | Path, ...], tmp_path: Path) -> None:
    shown = refused(*photos, "--cache-root", tmp_path, PREFECT_API_URL="http://127.0.0.1:1/api")
    assert_one_paragraph(shown, "http://127.0.0.1:1/api does not answer (Connection refused)", "unset it")
    assert list(tmp_path.iterdir()) == []


def test_a_server_of_the_active_profile_that_is_down_is_told(photos: tuple[str | Path, ...], tmp_path: Path) -> None:
    home = profiles(
        tmp_path / "home",
        'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "http://127.0.0.1:1/api"\n[profiles.other]\n',
    )
    shown = refused(*photos, "--cache-root", tmp_path, PREFECT_HOME=str(home))
    assert_one_paragraph(shown, "http://127.0.0.1:1/api does not answer")


@pytest.mark.parametrize("url", ["127.0.0.1:4200", "nonsense"])
def test_an_address_that_is_none_is_told(url: str, photos: tuple[str | Path, ...], tmp_path: Path) -> None:
    shown = refused(*photos, "--cache-root", tmp_path, PREFECT_API_URL=url)
    assert_one_paragraph(shown, f"The Prefect server at {url} does not answer", "PREFECT_API_URL")


SETTINGS = """
import os
from flows.environment import require_environment
require_environment()
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_EPHEMERAL_ENABLED
print(PREFECT_API_URL.value(), PREFECT_SERVER_EPHEMERAL_ENABLED.value())
"""


def test_a_profile_of_prefect_2_gets_the_temporary_server_that_is_promised(tmp_path: Path) -> None:
    home = profiles(tmp_path / "home", 'active = "default"\n\n[profiles.default]\n')
    done = subprocess.run(
        [sys.executable, "-c", SETTINGS],
        capture_output=True, text=True, env=environment(PREFECT_HOME=str(home)), check=True,
    )  # fmt: skip
    assert done.stdout == "None True\n"


def test_where_a_temporary_server_is_forbidden_the_ways_out_are_named(
    photos: tuple[str | Path, ...], tmp_path: Path
) -> None:
    shown = refused(*photos, "--cache-root", tmp_path, PREFECT_SERVER_EPHEMERAL_ENABLED="false")
    assert_one_paragraph(shown, "PREFECT_SERVER_EPHEMERAL_ENABLED=false forbids", "prefect server start")


def test_settings_that_prefect_does_not_understand_are_told(photos: tuple[str | Path, ...], tmp_path: Path) -> None:
    home = profiles(tmp_path / "home", 'active = "old"\n[profiles.old]\nPREFECT_API_ENABLE_HTTP2 = "perhaps"\n')
    done = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, photos), "--cache-root", tmp_path / "cache"],
        capture_output=True, text=True, env=environment(PREFECT_HOME=str(home)), cwd=PROJECT, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    shown = done.stderr
    assert_one_paragraph(shown, "Prefect's settings are not valid", "http2", str(home / "profiles.toml"))


def test_profiles_that_are_not_toml_are_told(photos: tuple[str | Path, ...], tmp_path: Path) -> None:
    home = profiles(tmp_path / "home", "active = default\n")
    shown = refused(*photos, "--cache-root", tmp_path, PREFECT_HOME=str(home))
    assert_one_paragraph(shown, f"{home / 'profiles.toml'} are not valid TOML")


# directories


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A directory that its user may not write to; root needs a disk for that."""
    if os.geteuid() == 0:
        yield mounted(tmp_path / "disk", "size=1m,ro")
        subprocess.run(["umount", "-l", tmp_path / "disk"], check=True)
    else:
        (tmp_path / "disk").mkdir(mode=0o555)
        yield tmp_path / "disk"


def test_a_home_of_prefect_that_is_read_only_is_told(
    photos: tuple[str | Path, ...], read_only: Path, tmp_path: Path
) -> None:
    shown = refused(*photos, "--cache-root", tmp_path, PREFECT_HOME=str(read_only))
    assert_one_paragraph(shown, f"Prefect's home {read_only} cannot be written", "Set PREFECT_HOME")


@pytest.mark.parametrize("variable", ["HOME", "PREFECT_HOME"])
@pytest.mark.parametrize("place", ["nowhere/deep", "file/below"])
def test_a_home_that_cannot_be_is_told(
    variable: str, place: str, photos: tuple[str | Path, ...], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    changes = {"PREFECT_HOME": None} | {variable: str(tmp_path / place)}
    shown = refused(*photos, "--cache-root", tmp_path / "cache", **changes)
    home = tmp_path / place / ".prefect" if variable == "HOME" else tmp_path / place
    assert_one_paragraph(shown, f"Prefect's home {home} cannot be written", "Set PREFECT_HOME")
    assert {path.name for path in tmp_path.iterdir()} == {"file"}


@pytest.mark.parametrize("command", [("images",), ("celeba", "--sample"), ("inspect", SAMPLE_MODEL)], ids=str)
def test_a_deleted_working_directory_is_told(command: tuple[str | Path, ...], tmp_path: Path) -> None:
    words = [sys.executable, "-c", "from flows.cli import main; main()", *map(str, command)]
    done = subprocess.run(
        ["sh", "-c", 'mkdir "$0" && cd "$0" && rmdir "$0" && exec "$@"', str(tmp_path / "gone"), *words],
        capture_output=True, text=True, env=environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert_one_paragraph(done.stderr, "The working directory no longer exists")


# mistakes


def zipped(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        archive.writestr("a.jpg", b"")
    return folder / "photos.zip"


def a_file(folder: Path) -> Path:
    (folder / "photos.txt").write_text("none")
    return folder / "photos.txt"


MODEL = ("--model", SAMPLE_MODEL)
MISTAKES: dict[str, tuple[Callable[[Path], tuple[str | Path, ...]], list[str]]] = {
    "no arguments": (
        lambda _: ("images",),
        ["MODEL and FOLDER are missing", "clusterpaths images resnet18.onnx photos/"],
    ),
    "no model named": (lambda tmp: ("images", "--images", tmp), ["--dataset folder needs a model", "--model"]),
    "no data": (lambda _: ("images", *MODEL), ["--images is missing: --dataset folder needs a directory of images"]),
    "no model": (
        lambda tmp: ("images", "--model", tmp / "no.onnx", "--data-root", tmp),
        [
            "There is no model at",
            "no.onnx",
            "an option of `clusterpaths run`, `clusterpaths celeba` and `clusterpaths images`",
        ],
    ),
    "no model of celeba": (
        lambda tmp: ("celeba", "--model", tmp / "no.onnx"),
        ["There is no model at", "clusterpaths sample"],
    ),
    "no such data set": (
        lambda tmp: ("images", *MODEL, "--dataset", "foldr", "--data-root", tmp),
        ["There is no data set called 'foldr'", "folder"],
    ),
    "no directory": (
        lambda tmp: ("images", *MODEL, "--data-root", tmp / "nowhere"),
        ["The image directory", "nowhere' does not exist", "--images"],
    ),
    "a file as directory": (
        lambda tmp: ("images", *MODEL, "--data-root", a_file(tmp)),
        ["photos.txt' is a file, not a directory"],
    ),
    "a zip as directory": (
        lambda tmp: ("images", *MODEL, "--data-root", zipped(tmp)),
        ["photos.zip' is a zip archive, not a directory", "unzip photos.zip -d photos", "--images"],
    ),
    "a zip as CelebA": (
        lambda tmp: ("celeba", *MODEL, "--data-root", zipped(tmp)),
        ["photos.zip' is a zip archive, not a directory"],
    ),
    "a zip as torchvision's root": (
        lambda tmp: ("images", *MODEL, "--dataset", "torchvision:CIFAR10", "--data-root", zipped(tmp)),
        ["photos.zip' is a zip archive, not a directory"],
    ),
    "results in a file": (
        lambda tmp: ("images", *MODEL, "--data-root", tmp, "--cache-root", a_file(tmp)),
        ["photos.txt", "cannot be written", "--cache-root"],
    ),
    "an option that cannot be": (lambda _: ("images", *MODEL, "--k", "0"), ["--k should be >= 1, got 0 instead"]),
    "no such option": (lambda _: ("celeba", "--smple"), ["--smple", "Try --help."]),
    "no results to cluster again": (
        lambda tmp: ("recluster", "--cache-root", tmp),
        ["There are no sets called 'CelebA'", "--cache-root"],
    ),
}


@pytest.mark.parametrize(("argv", "expected"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_mistake_is_told_once_before_prefect_is_imported(
    argv: Callable[[Path], tuple[str | Path, ...]], expected: list[str], tmp_path: Path
) -> None:
    shown = refused(*argv(tmp_path), PREFECT_API_URL="http://127.0.0.1:1/api")
    assert_one_paragraph(shown, *expected)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_script_checks_as_the_command_does(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(PROJECT / "flows" / "images.py"), "--model", "nowhere.onnx"],
        capture_output=True, text=True, env=environment(), cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    imported = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert "flows.cli" in imported
    assert not [name for name in imported if name.partition(".")[0] in ("prefect", "onnx", "onnxruntime")]
    assert done.stderr.rstrip().splitlines()[-1].startswith("error: There is no model at nowhere.onnx.")


def test_a_dry_run_starts_no_server(photos: tuple[str | Path, ...], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, photos), "--plan", "--cache-root", str(tmp_path / "cache")],
        capture_output=True, text=True, check=True, cwd=tmp_path,
        env=environment(PREFECT_API_URL="http://127.0.0.1:1/api"),
    )  # fmt: skip
    assert "\nimages              300: 0 in the cache, 300 to extract in " in done.stderr
    assert "INFO" not in done.stderr
    assert done.stderr.endswith("Next: the same command without --plan\n")
    assert "prefect" not in done.stdout
    assert not list(tmp_path.rglob("*.npy"))


# the network


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(("error", "attempts"), [(OfflineError, 2), (DownloadError, 5)])
def test_a_download_is_tried_once_more_where_a_name_does_not_resolve_and_longer_where_the_network_fails(
    error: type[ClusterPathsError], attempts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect import flow

    from clusterpaths.config import RunConfig
    from tasks import stages

    tried: list[str] = []

    def acquire(*_: Any) -> DatasetSpec:
        tried.append("")
        raise error("no network")

    monkeypatch.setattr("clusterpaths.running.stages.acquire", acquire)
    delays = stages.download.retry_delay_seconds
    assert isinstance(delays, list)
    assert delays[0] <= 5  # the only one without a network
    task = stages.download.with_options(retry_delay_seconds=0, retry_jitter_factor=None)
    with pytest.raises(error):
        flow(lambda: task(RunConfig()), name="downloading")()
    assert len(tried) == attempts


# a server that is gone


LOST = """
import os, signal, sys
import flows.shell
from clusterpaths.errors import InputError
flows.shell.SETTLE_SECONDS = 3.0

def load():
    def flow():
        from prefect import get_client
        from prefect.events import emit_event
        from prefect.server.api.server import SubprocessASGIServer
        with get_client(sync_client=True) as client:
            client.hello().raise_for_status()
        os.kill(SubprocessASGIServer().server_process.pid, signal.SIGKILL)
        emit_event(event="test.lost", resource={"prefect.resource.id": "test.lost"})
        raise InputError("what the user is to know")
    return flow

flows.shell.run_flow(load, {})
"""


def test_a_server_that_is_lost_after_an_error_adds_nothing_to_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOST],
        capture_output=True, text=True, check=False,
        env=environment(
            PREFECT_HOME=str(tmp_path), PREFECT_SERVER_EPHEMERAL_ENABLED="true", PREFECT_SERVER_LOGGING_LEVEL="DEBUG",
            PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="120", PREFECT_SERVER_ANALYTICS_ENABLED="false",
        ),
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    before, error, after = done.stderr.partition("\nerror: what the user is to know\n")
    assert error
    assert [line for line in after.splitlines() if "Stopping temporary server" not in line] == []
    assert "Traceback" not in before
    assert "DEBUG" not in before  # what the server itself has logged
    assert done.stdout == ""
