"""Names by a vision-language model, against a server of our own: ordinary answers, refusals, garbage, 429, slow, down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clusterpaths.commands import name as command
from clusterpaths.errors import ConfigError, EndpointError
from clusterpaths.naming.annotations import ANNOTATIONS, read_annotations
from clusterpaths.naming.endpoint import ATTEMPTS, Budget, Endpoint, estimate_tokens
from clusterpaths.naming.from_model import ANSWERS, Outcome, choose_questions, name_by_model, plan
from clusterpaths.naming.prompts import agreement, read_answer
from clusterpaths.naming.questions import pair_questions
from clusterpaths.sets.published import PublishedSet, open_set
from tests.clusterpaths.naming.vlm_server import Asked, Reply, names, said, slow, speaking
from tests.generated_set import generate

LAYERS = {"conv1": (4,), "fc1": (3,)}


@pytest.fixture
def published(tmp_path: Path) -> PublishedSet:
    return open_set(generate(tmp_path, n=300, layers=LAYERS, k=3, attributes=2))


def picture(file: str) -> Image.Image:
    """Stands for the image of that name: its colour."""
    return Image.new("RGB", (60, 80), (int(file[:6]) % 256, 90, 160))


def ask(published: PublishedSet, url: str, budget: Budget | None = None, **options: Any) -> tuple[Outcome, list[float]]:
    """Ask, without waiting; the outcome, and what would have been waited."""
    waited: list[float] = []
    endpoint = Endpoint(url, sleep=waited.append, key=options.pop("key", ""), **options)
    outcome = name_by_model(published, endpoint, "vlm-1", budget or Budget(100, 10_000, 10**6), picture)
    return outcome, waited


# Ordinary answers ---------------------------------------------------------------------------------------------------------


def test_names_are_asked_for_written_and_not_asked_for_again(published: PublishedSet) -> None:
    with speaking(names) as server:
        outcome, _ = ask(published, server.url, key="secret")
        sent = len(server.asked)
        assert sent == outcome.sent == plan(published.index, 100).calls
        assert outcome.sent_images == plan(published.index, 100).images
        assert outcome.tokens == 500 * sent  # as the server counted them
        first = server.asked[0]
        assert (first.path, first.body["model"]) == ("/v1/chat/completions", "vlm-1")
        assert first.headers["Authorization"] == "Bearer secret"
        assert [picture.format for picture in first.pictures] == ["JPEG", "JPEG"]
        text = json.dumps([one.body["messages"] for one in server.asked])
        assert not any(
            word in text for word in ("Blond", ".jpg", "CelebA", "conv1", str(published.path))
        )  # names nothing

        again, _ = ask(published, server.url)
        assert len(server.asked) == sent
        assert (again.sent, again.cached) == (0, sent)
    entries = read_annotations(published).entries
    assert len(entries) == 6
    assert {(one.source, one.name, one.by) for one in entries} == {("model", "dark hair", "vlm-1")}
    assert all(one.check and (one.check.agreement, one.check.n) == (1.0, 2) for one in entries)
    assert any("On paths that differ only here: " in one.note for one in entries)
    assert "secret" not in (published.path / ANNOTATIONS).read_text()


def test_another_model_is_asked_anew(published: PublishedSet) -> None:
    with speaking(names) as server:
        ask(published, server.url)
        sent = len(server.asked)
        name_by_model(published, Endpoint(server.url), "vlm-2", Budget(100, 10_000, 10**6), picture)
        assert len(server.asked) == 2 * sent


def test_two_askings_that_disagree_are_shown_as_low_agreement(published: PublishedSet) -> None:
    def differing(asked: Asked, number: int) -> Reply:
        return said(json.dumps({"name": f"word{number}", "a": "x", "b": "y"}))

    with speaking(differing) as server:
        outcome, _ = ask(published, server.url)
    assert all(one.check and one.check.low and one.check.agreement == 0 for one in outcome.named)
    assert "6 names have low agreement." in outcome.sentence
    page_words = outcome.named[0].check
    assert page_words is not None
    assert page_words.sentence == "two answers about different exemplars agree by 0%"


# Budget -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "sent"),
    [(Budget(5, 10_000, 10**6), 5), (Budget(100, 40, 10**6), 2), (Budget(100, 10_000, 1500), 2), (Budget(1, 1, 1), 0)],
    ids=["calls", "images", "tokens", "nothing"],
)
def test_nothing_is_sent_beyond_the_budget(published: PublishedSet, budget: Budget, sent: int) -> None:
    with speaking(names) as server:
        outcome, _ = ask(published, server.url, budget)
    assert len(server.asked) == outcome.sent == sent
    assert outcome.sent_images <= budget.images
    assert outcome.unasked > 0
    assert "the budget is spent" in outcome.sentence


def test_a_small_budget_still_asks_about_pairs_and_clusters(published: PublishedSet) -> None:
    chosen, left_out = choose_questions(published.index, 8)
    assert [len(one.clusters) for one in chosen] == [2, 2, 1, 1, 1, 1, 1, 1]
    assert left_out == len(pair_questions(published.index)) + 12 - 8


def test_repetitions_are_in_the_budget(published: PublishedSet) -> None:
    with speaking(lambda _a, _n: (503, {}, b"")) as server:
        outcome, _ = ask(published, server.url, Budget(3, 10_000, 10**6))
    assert len(server.asked) == outcome.sent == 3


def test_tokens_are_estimated_where_the_server_does_not_count(published: PublishedSet) -> None:
    reply = json.dumps({"choices": [{"message": {"content": '{"name": "x", "a": "x", "b": "y"}'}}]}).encode()
    with speaking(lambda _a, _n: (200, {}, reply)) as server:
        outcome, _ = ask(published, server.url, Budget(1, 10_000, 10**6))
        assert outcome.tokens == estimate_tokens(server.asked[0].prompt, 2)


# Servers that are busy, slow, down, or answer nonsense ----------------------------------------------------------------------


def test_429_waits_as_the_server_asks(published: PublishedSet) -> None:
    def busy(asked: Asked, number: int) -> Reply:
        return (429, {"Retry-After": "7"}, b"slow down") if number == 0 else names(asked, number)

    with speaking(busy) as server:
        outcome, waited = ask(published, server.url)
    assert waited == [7.0]
    assert len(outcome.named) == 6


def test_a_wait_that_is_too_long_ends_the_run(published: PublishedSet) -> None:
    with (
        speaking(lambda _a, _n: (429, {"Retry-After": "3600"}, b"")) as server,
        pytest.raises(EndpointError, match=r"answers 429 \(asks to wait 3600 s\)"),
    ):
        ask(published, server.url)
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_retries_are_bounded_and_waits_grow(published: PublishedSet, status: int) -> None:
    waited: list[float] = []
    with speaking(lambda _a, _n: (status, {}, b"overloaded")) as server:
        endpoint = Endpoint(server.url, sleep=waited.append)
        with pytest.raises(EndpointError, match=rf"answers {status} \('overloaded'\) \(after 4 attempts\).*0 names"):
            name_by_model(published, endpoint, "vlm-1", Budget(100, 10_000, 10**6), picture)
    assert len(server.asked) == ATTEMPTS
    assert len(waited) == ATTEMPTS - 1
    assert waited == sorted(waited)


def test_a_model_that_takes_no_limits_is_asked_without_them(published: PublishedSet) -> None:
    def reasoning(asked: Asked, number: int) -> Reply:
        if "max_tokens" in asked.body:
            return (
                400,
                {},
                b'{"error": {"message": "Unsupported parameter: \'max_tokens\'. Use \'max_completion_tokens\'."}}',
            )
        return names(asked, number)

    with speaking(reasoning) as server:
        outcome, waited = ask(published, server.url)
        assert len(outcome.named) == 6
        assert waited == []
        assert ["max_tokens" in one.body for one in server.asked] == [True] + [False] * (len(server.asked) - 1)
        assert all("temperature" not in one.body for one in server.asked[1:])
        sent = len(server.asked)
        ask(published, server.url)
        assert len(server.asked) == sent  # the same question: cached


def test_a_slow_server_is_not_waited_for(published: PublishedSet) -> None:
    with speaking(slow(1.0)) as server, pytest.raises(EndpointError, match=r"did not answer within 0\.2 s"):
        ask(published, server.url, timeout=0.2)


def test_a_server_that_is_down_is_one_paragraph(published: PublishedSet) -> None:
    with speaking(names) as server:
        url = server.url
    with pytest.raises(EndpointError, match=r"127\.0\.0\.1:\d+ cannot be reached: .*Start it") as raised:
        ask(published, url)
    assert "\n" not in str(raised.value)


def test_names_found_before_a_failure_are_kept(published: PublishedSet) -> None:
    whole = plan(published.index, 100).calls

    def dying(asked: Asked, number: int) -> Reply:
        return names(asked, number) if number < whole - 1 else (500, {}, b"")

    with speaking(dying) as server, pytest.raises(EndpointError, match="6 names from the answers before were saved"):
        ask(published, server.url)
    assert len(read_annotations(published).entries) == 6


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((200, {}, b"<html>It works!</html>"), r"not that of a chat completions API \('<html>It works!</html>'\)"),
        ((200, {}, b""), "not that of a chat completions API"),
        ((200, {}, b'{"choices": []}'), "not that of a chat completions API"),
        ((200, {}, b'{"choices": [{"message": {"content": 3}}]}'), "not that of a chat completions API"),
        ((200, {}, b"[1]"), "not that of a chat completions API"),
        ((200, {}, b"x" * (1 << 21)), "longer than 1,048,576 bytes"),
        ((401, {}, b'{"error": "no key"}'), "status 401 .*no key.*CLUSTERPATHS_VLM_KEY"),
        ((404, {}, b"no such model"), "status 404 .*--model"),
        ((400, {}, b"no images"), "status 400 .*takes images"),
        ((307, {"Location": "http://127.0.0.1:1/"}, b""), "status 307.*Redirects are not followed"),
    ],
)
def test_what_is_no_such_api_ends_the_run_at_once(published: PublishedSet, reply: Reply, message: str) -> None:
    with speaking(lambda _a, _n: reply) as server, pytest.raises(EndpointError, match=message):
        ask(published, server.url)
    assert len(server.asked) == 1
    assert not (published.path / ANNOTATIONS).exists()


@pytest.mark.parametrize(
    "content",
    [
        "I'm sorry, I can't help with that.",
        "",
        '{"name": 3}',
        '{"nom": "x"}',
        "{",
        '{"name": "???"}',
        json.dumps({"name": "x" * 500}),
    ],
)
def test_refusals_and_garbage_name_nothing_and_are_not_cached(published: PublishedSet, content: str) -> None:
    with (
        speaking(lambda _a, _n: said(content)) as server,
        pytest.raises(EndpointError, match="5 answers in a row that are no names"),
    ):
        ask(published, server.url)
    assert len(server.asked) == 5
    assert not (published.path / ANNOTATIONS).exists()
    assert not (published.path.parent / ANSWERS).exists()


def test_single_refusals_are_counted_and_the_other_asking_names_the_cluster(published: PublishedSet) -> None:
    def reluctant(asked: Asked, number: int) -> Reply:
        return said(None, refusal="no") if number % 2 else names(asked, number)

    with speaking(reluctant) as server:
        outcome, _ = ask(published, server.url)
    assert outcome.unusable == outcome.sent // 2
    assert all(
        one.check and one.check.n == 1 and one.check.low for one in outcome.named if one.check and one.check.n == 1
    )
    assert f"{outcome.unusable} answers were no names." in outcome.sentence


def test_images_that_are_gone_are_counted_and_nothing_is_sent(published: PublishedSet) -> None:
    def gone(file: str) -> Image.Image:
        raise FileNotFoundError(file)

    with speaking(names) as server:
        outcome = name_by_model(published, Endpoint(server.url), "vlm-1", Budget(100, 10_000, 10**6), gone)
    assert server.asked == []
    assert outcome.without_images == plan(published.index, 100).calls


def test_cached_answers_that_are_corrupted_are_asked_for_again(published: PublishedSet) -> None:
    with speaking(names) as server:
        ask(published, server.url)
        for file in (published.path.parent / ANSWERS).iterdir():
            file.write_bytes(b"\x00")
        sent = len(server.asked)
        ask(published, server.url)
        assert len(server.asked) == 2 * sent


# Answers, and the command -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"name": "long hair"}', ("long hair",)),
        ('Sure!\n```json\n{"name": " \'long hair.\' "}\n```', ("long hair",)),
        ('{"name": "a\\u202eb\\n c"}', ("a b c",)),
        ('<think>Like {"name": "…"}? {x} Or {"name": "hats"}.</think>{"name": "dark hair"}', ("dark hair",)),
        ('{"other": "x"}', None),
        ("no", None),
    ],
)
def test_answers_are_read_leniently_and_cleaned(content: str, expected: tuple[str, ...] | None) -> None:
    assert read_answer(content, ("name",)) == expected


def test_agreement_is_the_share_of_words_that_both_have() -> None:
    assert agreement("long blond hair", "blond hair") == pytest.approx(2 / 3)
    assert agreement("the dark backgrounds", "A dark background") == 1
    assert agreement("hats", "sky") == 0


@pytest.mark.parametrize(
    "url", ["localhost:8000", "file:///etc/passwd", "http://", "http://user:secret@host/v1", "http://host/v1?key=1", ""]
)
def test_what_is_no_base_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="--endpoint should be the base address") as raised:
        Endpoint(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "in_clear"),
    [
        ("http://localhost:8000/v1", False),
        ("https://host/v1", False),
        ("http://host/v1", True),
        ("http://[::1]:1/v1", False),
    ],
)
def test_it_is_known_whether_photographs_cross_a_network_unencrypted(url: str, in_clear: bool) -> None:
    assert Endpoint(url).in_clear == in_clear


def test_without_endpoint_the_plan_is_printed_and_nothing_is_sent(
    published: PublishedSet, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["CelebA", "--cache-root", str(published.path.parent.parent)])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "at most" in out
    assert "photographs" in out
    assert "Nothing was sent" in out


def test_without_yes_nothing_is_sent_where_nobody_can_be_asked(
    published: PublishedSet, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ["--cache-root", str(published.path.parent.parent)]
    with speaking(names) as server:
        with pytest.raises(SystemExit) as ended:
            command.main(["CelebA/set_01", "--endpoint", server.url, "--model", "vlm-1", *root])
        assert ended.value.code == 2
        assert server.asked == []
        said_before = capsys.readouterr()
        assert "leave this machine for 127.0.0.1" in said_before.out
        assert "--yes" in said_before.err
        with pytest.raises(SystemExit):
            command.main(["CelebA", "--endpoint", server.url, *root])
        assert "--model is missing" in capsys.readouterr().err
