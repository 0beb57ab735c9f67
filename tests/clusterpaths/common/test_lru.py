"""What is cached stays within its limit, and is computed once however many threads ask for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from clusterpaths.common import lru
from clusterpaths.common.lru import LRUCache


def recorder(cache: LRUCache[bytes], size: int = 40) -> tuple[list[str], Callable[..., bytes]]:
    """The names that were computed so far, and a function that asks for one of them."""
    computed: list[str] = []

    def ask(name: str, version: int = 0) -> bytes:
        def compute() -> bytes:
            computed.append(name)
            return name.encode() * size

        return cache.get(name, compute, version)

    return computed, ask


def test_values_stay_within_their_bytes_and_the_least_recently_used_go_first() -> None:
    cache = LRUCache[bytes](100, len)
    computed, ask = recorder(cache)
    assert ask("a") == ask("a") == b"a" * 40
    ask("b")
    ask("a")
    ask("c")  # b goes: a was asked for after it
    ask("a")
    ask("b")
    assert computed == ["a", "b", "c", "b"]
    assert cache.size == 80
    with pytest.raises(ZeroDivisionError):
        cache.get("bad", lambda: bytes(1 // 0))
    assert cache.get("bad", lambda: b"good") == b"good"


def test_without_sizes_the_limit_is_a_number_of_values() -> None:
    cache = LRUCache[bytes](2)
    computed, ask = recorder(cache)
    for name in "abacab":
        ask(name)
    assert computed == ["a", "b", "c", "b"]
    assert len(cache) == cache.size == 2


@pytest.mark.parametrize(("limit", "largest"), [(39, None), (200, 39)])
def test_a_value_that_is_too_large_is_returned_and_evicts_nothing(limit: int, largest: int | None) -> None:
    cache = LRUCache[bytes](limit, len, largest=largest)
    cache.get("small", lambda: b"small")
    computed, ask = recorder(cache)
    assert ask("a") == ask("a") == b"a" * 40
    assert computed == ["a", "a"]
    assert "small" in cache
    assert cache.size == 5


def test_the_minimum_stays_however_large() -> None:
    cache = LRUCache[bytes](39, len, minimum=1)
    computed, ask = recorder(cache)
    for name in "aab":
        ask(name)
    assert computed == ["a", "b"]
    assert (len(cache), cache.size) == (1, 40)


def test_another_version_replaces_a_value_and_an_old_one_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(lru.time, "monotonic", lambda: now[0])
    cache = LRUCache[bytes](100, len, seconds=5)
    computed, ask = recorder(cache)
    for version in (1, 1, 2, 1):
        ask("a", version)
    assert computed == ["a"] * 3
    assert cache.size == 40
    now[0] = 5
    ask("a", 1)
    assert len(computed) == 3
    now[0] = 5.1
    ask("a", 1)
    ask("a", 1)
    assert len(computed) == 4


def test_what_is_discarded_or_not_retained_is_gone() -> None:
    cache = LRUCache[bytes](1000, len)
    computed, ask = recorder(cache)
    for name in "abcd":
        ask(name)
    cache.discard("a")
    cache.discard("a")
    cache.retain({"b", "x"})
    assert (len(cache), cache.size, "b" in cache) == (1, 40, True)
    for name in "ab":
        ask(name)
    assert computed == [*"abcd", "a"]


def test_of_many_who_ask_for_the_same_at_once_one_computes_it_and_others_do_not_wait() -> None:
    cache, computed, all_here, go_on = LRUCache[bytes](100, len), list[str](), threading.Barrier(21), threading.Event()

    def compute() -> bytes:
        computed.append("page")
        assert go_on.wait(20)
        return b"page"

    def ask(_: int) -> bytes:
        all_here.wait(20)
        return cache.get("page", compute)

    with ThreadPoolExecutor(20) as pool:
        answers = pool.map(ask, range(20))
        all_here.wait(20)
        time.sleep(0.1)  # long enough for all of them to ask
        assert cache.get("other", lambda: b"other") == b"other"
        go_on.set()
        assert set(answers) == {b"page"}
    assert computed == ["page"]


def test_many_threads_get_their_own_values_and_sizes_add_up() -> None:
    cache = LRUCache[bytes](40, len)

    def ask(seed: int) -> list[tuple[int, bytes]]:
        rng = np.random.default_rng(seed)
        return [(one, cache.get(one, lambda one=one: bytes([one]) * 9)) for one in rng.integers(0, 12, 200).tolist()]

    with ThreadPoolExecutor(8) as pool:
        found = [pair for pairs in pool.map(ask, range(8)) for pair in pairs]
    assert all(value == bytes([one]) * 9 for one, value in found)
    assert cache.size == 9 * len(cache) <= 40
