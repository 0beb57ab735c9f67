"""What a run needs of its environment, checked before Prefect is imported: a home that it can write, a server that answers.

Belongs here: what Prefect's own settings name, read without Prefect. Importing it takes a second, fails where its home
cannot be read, and its errors are tracebacks.
"""

from __future__ import annotations

import functools
import os
import ssl
import tomllib
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from clusterpaths.common.extras import require_extra
from clusterpaths.common.text import without_credentials
from clusterpaths.errors import ConfigError, DiskError
from clusterpaths.storage.atomic import unwritable

API_URL = "PREFECT_API_URL"
EPHEMERAL = ("PREFECT_SERVER_EPHEMERAL_ENABLED", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE")  # one setting, two names
CONNECT_SECONDS = 5.0


def require_environment() -> None:
    """Check what a flow needs before it starts; allow Prefect's temporary server where nothing is configured.

    Raises:
        ConfigError: Prefect is not installed; the configured server does not answer; or there is none and a temporary one
            is forbidden.
        DiskError: Prefect's home cannot be read, or not written where its temporary server has its database.
    """
    require_extra("A flow", "prefect", "prefect", otherwise="use `clusterpaths run`, which does without")
    home = _home()
    profile = _profile(home)
    url = os.environ.get(API_URL) or profile.get(API_URL)
    if url:
        require_server(str(url))
        return
    given = next((str(place[name]) for place in (os.environ, profile) for name in EPHEMERAL if place.get(name)), None)
    if given is None:
        os.environ[EPHEMERAL[0]] = "true"  # a profile of Prefect 2 has no such setting, and forbids it for Prefect 3
    elif given.lower() in ("0", "false", "no", "off", "f", "n"):
        raise ConfigError(
            f"No Prefect server is configured, and {EPHEMERAL[0]}={given} forbids a temporary one. Set {API_URL}, such as "
            f"{API_URL}=http://127.0.0.1:4200/api for one that `prefect server start` starts, or unset {EPHEMERAL[0]}."
        )
    _require_home(home)


def invalid_settings(error: ValidationError) -> str:
    """What to tell of settings that Prefect does not understand, as those of another version may be."""
    said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
    return (
        f"Prefect's settings are not valid ({said}). Correct the environment variable PREFECT_… or the active profile in "
        f"{_home() / 'profiles.toml'}, or set PREFECT_HOME to a directory without profiles."
    )


def _home() -> Path:
    try:
        return Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect").expanduser()
    except RuntimeError as error:  # no HOME, and a user that the system does not know
        raise DiskError(
            f"There is no home directory: {error}. Set HOME to a directory that this user may write to."
        ) from error


def _profile(home: Path) -> dict[str, Any]:
    """The settings of the active profile; empty where there is no file of profiles, or it names none that it has."""
    path = Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml").expanduser()
    try:
        profiles = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise DiskError(
            f"Prefect's profiles {path} cannot be read ({error.strerror}). Allow it, or set PREFECT_HOME to a directory that "
            "this user may read and write."
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"Prefect's profiles {path} are not valid TOML: {error}. Correct the file, or set PREFECT_HOME to another directory."
        ) from error
    active = os.environ.get("PREFECT_PROFILE") or profiles.get("active")
    found = profiles.get("profiles", {}).get(active, {})
    return found if isinstance(found, dict) else {}


def _require_home(home: Path) -> None:
    missing = not home.parent.is_dir()  # Prefect makes its home, not what it is in
    reason = os.strerror(unwritable(home)) if unwritable(home) else "no such directory" if missing else ""
    if not reason and (home / "prefect.db").exists() and not os.access(home / "prefect.db", os.W_OK):
        reason = "prefect.db in it may not be written"
    if reason:
        raise DiskError(
            f"Prefect's home {home} cannot be written ({reason}); its temporary server keeps its database there. Set "
            f"PREFECT_HOME to a directory that this user may write to, or {API_URL} to a running server."
        )


@functools.cache
def require_server(url: str) -> None:
    """Check that something accepts connections at the address of Prefect's API; any answer counts.

    Raises:
        ConfigError: no connection, or no address.
    """
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=CONNECT_SECONDS):  # noqa: S310 - Prefect's own setting
            pass
    except urllib.error.HTTPError:
        pass  # it answers; what it refuses, Prefect reports
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):  # Prefect has certificates of its own
            raise _away(url, error.reason) from error
    except ValueError as error:
        raise _away(url, error) from error
    except OSError:
        pass  # connected, and slow


def _away(url: str, reason: BaseException | str) -> ConfigError:
    return ConfigError(
        f"The Prefect server at {without_credentials(url)} does not answer "
        f"({without_credentials(str(getattr(reason, 'strerror', None) or reason))}). Expected the API of a "
        f"running server: start one with `prefect server start`, correct {API_URL}, or unset it for a temporary server."
    )
