"""Which models are in memory, and what they are called."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from laplm.errors import InputError
from laplm.hub import locate
from laplm.hub.tuning_runs import TuningRun
from laplm.serve.models import ModelRegistry, ServingSettings, _describe, given_models
from laplm.serve.problems import ApiError

RUNS = {"1": None, "2": "tales"}  # the second's model has a name


def with_registry(
    model: Path, scenario: Callable[[ModelRegistry], Coroutine[Any, Any, Any]], **settings: Any
) -> Any:
    """What a scenario comes to with one model under three names."""

    async def main() -> Any:
        given = dict.fromkeys("abc", str(model))
        runs = {id_: TuningRun(Path("/runs", id_), {}, name) for id_, name in RUNS.items()}
        registry = ModelRegistry(given, "a", ServingSettings(**settings), runs=lambda: runs)
        try:
            return await asyncio.wait_for(scenario(registry), 60)
        finally:
            registry.stop(ApiError(503, "over"))
            await registry.join(30)

    return asyncio.run(main())


def names(registry: ModelRegistry) -> list[str]:
    return [served.name for served in registry.loaded]


def test_the_least_recently_used_model_is_let_go(tiny_model_dir: Path) -> None:
    async def scenario(registry: ModelRegistry) -> None:
        first = await registry.load("a")
        await registry.load("b")
        async with registry.use(None) as served:  # the default
            assert served is first
        await registry.load("c")
        assert names(registry) == ["a", "c"]

    with_registry(tiny_model_dir, scenario, keep=2)


def test_a_model_that_is_used_stays(tiny_model_dir: Path) -> None:
    async def scenario(registry: ModelRegistry) -> None:
        async with registry.use("a"), registry.use("a"):
            async with registry.use("b"):
                assert names(registry) == ["a", "b"]
                with pytest.raises(ApiError) as error:
                    await registry.unload("b")
                assert error.value.status == 409
            assert names(registry) == ["a"]
        await registry.unload("a")
        await registry.unload("a")  # which it is already
        assert names(registry) == []
        with pytest.raises(ApiError) as error:
            await registry.unload("nobody")
        assert error.value.status == 404

    with_registry(tiny_model_dir, scenario, keep=1)


def test_a_model_that_many_ask_for_at_once_is_loaded_once(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = ModelRegistry._open

    def counted(self: ModelRegistry, name: str, *more: Any) -> Any:
        opened.append(name)
        return real(self, name, *more)

    monkeypatch.setattr(ModelRegistry, "_open", counted)

    async def scenario(registry: ModelRegistry) -> None:
        found = await asyncio.gather(*(registry.load("a") for _ in range(5)))
        assert all(served is found[0] for served in found)
        assert opened == ["a"]
        models = await asyncio.gather(*(registry.look_model(found[0]) for _ in range(5)))
        assert all(model is models[0] for model in models)
        assert opened == ["a", "a"]
        assert models[0].precision == "fp32"
        assert models[0].name == found[0].lm.name == "a"

    with_registry(tiny_model_dir, scenario)


def test_a_model_to_look_at_in_the_same_precision_is_the_same(tiny_model_dir: Path) -> None:
    async def scenario(registry: ModelRegistry) -> None:
        served = await registry.load("a")
        assert (await registry.entry("a"))["look_precision"] is None
        weights = served.memory_bytes
        assert await registry.look_model(served) is served.lm
        assert served.memory_bytes == weights
        assert (await registry.entry("a"))["look_precision"] == "int8"

    with_registry(tiny_model_dir, scenario, look_precision="int8")


def test_the_context_is_of_all_models_but_none_holds_more_than_its_own(
    tiny_model_dir: Path, tiny_llama_dir: Path
) -> None:
    async def scenario(registry: ModelRegistry) -> None:
        served = await registry.load("a")
        assert served.lm.context == served.lm.gpt.context == registry.settings.context
        assert (await registry.look_model(served)).context == min(128, served.lm.context)
        installed = await registry._load("other", str(tiny_model_dir))  # not named at the start
        assert installed.lm.context == min(128, registry.settings.context or 0)
        installed.scheduler.stop()

    for context in (100, 200):
        with_registry(tiny_llama_dir, scenario, context=context)


def test_memory_of_a_model_that_is_looked_at_is_counted(tiny_model_dir: Path) -> None:
    async def scenario(registry: ModelRegistry) -> None:
        served = await registry.load("a")
        before = served.memory_bytes
        looked = await registry.look_model(served)
        assert served.memory_bytes == before + 4 * looked.config.n_parameters
        assert looked.gpt
        assert served.memory_bytes > before + 7 * looked.config.n_parameters

    with_registry(tiny_model_dir, scenario)


def test_a_name_that_was_given_comes_before_what_is_on_disk(tiny_model_dir: Path) -> None:
    async def main() -> dict[str, str]:
        return await ModelRegistry({"pocket": "elsewhere"}, "pocket", ServingSettings()).names()

    found = asyncio.run(main())
    assert found["pocket"] == "elsewhere"
    assert next(iter(found)) == "pocket"

    async def scenario(registry: ModelRegistry) -> None:
        names = await registry.names()
        assert names["run:1"] == "/runs/1/model" == await registry.target("run:1")
        assert names["tales"] == "/runs/2/model" == await registry.target("run:2")
        assert "run:2" not in names
        assert [(await registry.entry(name))["run"] for name in ("tales", "run:2")] == ["2", "2"]
        entry = await registry.entry("run:1")
        assert (entry["run"], entry["loaded"]) == ("1", False)
        assert (await registry.entry("a"))["run"] is None

    with_registry(tiny_model_dir, scenario)


def test_the_disk_is_not_looked_at_for_every_request(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []

    def installed() -> list[Any]:
        looked.append(1)
        return []

    monkeypatch.setattr(locate, "installed", installed)

    async def scenario(registry: ModelRegistry) -> None:
        for _ in range(3):
            await registry.names()
        assert looked == [1]
        registry._scanned -= 2.0
        await registry.names()
        assert looked == [1, 1]

    with_registry(tiny_model_dir, scenario)


def test_the_tables_of_a_gguf_file_are_read_once_to_describe_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf_files = pytest.importorskip("gguf_files")  # it needs torch and gguf
    tokens = gguf_files.byte_tokens(300)
    kinds = gguf_files.matrices_as("Q4_1")
    model = gguf_files.make_hf_model("llama")
    plain = gguf_files.write_gguf(tmp_path / "plain.gguf", model, kinds, tokens)
    tokens["chat_template"] = "{{ messages }}"
    chat = gguf_files.write_gguf(tmp_path / "chat.gguf", model, kinds, tokens)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    values = {"peft_type": "LORA", "r": 2, "base_model_name_or_path": str(chat)}
    (adapter / "adapter_config.json").write_text(json.dumps(values))
    (adapter / "README.md").write_text("---\nlicense: mit\n---\n")
    reads = gguf_files.list_reads(monkeypatch)
    entries = {path: _describe("a", str(path)) for path in (plain, chat, adapter)}
    assert reads == [plain, chat, chat]
    for path, chats, adapts in ((plain, False, False), (chat, True, False), (adapter, True, True)):
        entry = entries[path]
        assert (entry["chat"], entry["adapter"], entry["family"]) == (chats, adapts, "llama")
        assert entry["stored_as"] == (None if adapts else "Q4_1")
        assert entry["licence"] == ("mit" if adapts else None)
        assert entry["parameters"] == sum(p.numel() for p in model.parameters())


def test_a_model_that_is_forgotten_is_let_go_and_described_anew(tiny_model_dir: Path) -> None:
    async def scenario(registry: ModelRegistry) -> None:
        served = await registry.load("a")
        await registry.entries()
        registry.forget("a")
        registry.forget("nobody")
        assert names(registry) == []
        assert "a" not in registry._described
        await asyncio.to_thread(served.scheduler.join, 30)
        assert not served.scheduler._thread.is_alive()

    with_registry(tiny_model_dir, scenario)


def test_a_model_that_cannot_be_loaded_is_asked_for_anew(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise InputError("not now")

    async def scenario(registry: ModelRegistry) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(ModelRegistry, "_open", broken)
            with pytest.raises(InputError, match="not now"):
                await registry.load("a")
        assert (await registry.load("a")).name == "a"

    with_registry(tiny_model_dir, scenario)


def test_models_are_named_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "a=b").mkdir()
    assert given_models(["gpt2", "./mine", "other=mine", "a=b"]) == {
        "gpt2": "gpt2", "mine": "./mine", "other": "mine", "a=b": "a=b",
    }  # fmt: skip
    assert given_models([str(tmp_path / "mine")]) == {"mine": str(tmp_path / "mine")}
    assert given_models(["gpt2", "gpt2"]) == {"gpt2": "gpt2"}
    assert given_models(["mine=gpt2", "mine=gpt2"]) == {"mine": "gpt2"}
    for wrong in ("=mine", "name=", "run:1", "run:1=mine"):
        with pytest.raises(InputError, match="no model"):
            given_models([wrong])
    with pytest.raises(InputError, match="two models are called mine"):
        given_models(["mine=gpt2", "./mine"])
