from __future__ import annotations

import pytest

from clusterpaths.errors import ConfigError
from clusterpaths.models.providers import CPU, choose_providers, require_ran

CUDA = "CUDAExecutionProvider"


def test_the_cpu_comes_last_and_stands_alone_where_nothing_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [CPU])
    assert choose_providers("auto") == choose_providers("cpu") == (CPU,)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["TensorrtExecutionProvider", CUDA, CPU])
    assert choose_providers("auto") == (CUDA, CPU)
    assert choose_providers("cuda") == (CUDA, CPU)
    assert choose_providers("tensorrt, cuda") == ("TensorrtExecutionProvider", CUDA, CPU)


def test_a_provider_that_is_not_installed_is_told_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [CPU])
    with pytest.raises(
        ConfigError, match=r"needs CUDAExecutionProvider.*installed are CPUEx.*pip install onnxruntime-gpu"
    ):
        choose_providers("cuda")
    with pytest.raises(ConfigError, match=r"no execution provider 'cida'\. Did you mean cuda\?"):
        choose_providers("cida")


def test_a_provider_that_did_not_start_is_an_error_only_where_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [CUDA, CPU])
    require_ran("auto", (CPU,))
    require_ran("cuda", (CUDA, CPU))
    with pytest.raises(ConfigError, match=r"could not start CUDAExecutionProvider and ran CPUExecutionProvider"):
        require_ran("cuda", (CPU,))
