from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer
from tuning_examples import VOCAB, tiny_model

from laplm.errors import InputError
from laplm.model.chat import ChatTemplate
from laplm.model.tokenizer import Tokenizer
from laplm.tune.data import packing
from laplm.tune.data.corpus import IGNORE
from laplm.tune.data.packing import Documents, EncodedDocument, encode_example
from laplm.tune.data.read import Example
from laplm.tune.loss import chunked_cross_entropy

END = VOCAB - 1


def document(n: int, rng: np.random.Generator, prompt: int = 0) -> EncodedDocument:
    ids = np.append(rng.integers(0, END, n), END).astype(np.int32)
    return EncodedDocument(ids, np.arange(n + 1) >= prompt)


def corpus(lengths: list[int], seed: int = 0, prompts: bool = False) -> Documents:
    rng = np.random.default_rng(seed)
    made = [document(n, rng, int(rng.integers(0, n)) if prompts else 0) for n in lengths]
    return Documents(made, n_bytes=3 * sum(lengths), padding=END)


lengths_lists = st.lists(st.integers(1, 60), min_size=1, max_size=30)


@settings(deadline=None, max_examples=60)
@given(lengths_lists, st.integers(1, 40), st.booleans())
def test_every_token_of_every_document_is_in_the_windows_once(
    lengths: list[int], n_positions: int, prompts: bool
) -> None:
    data = corpus(lengths, prompts=prompts)
    windows = data.windows(n_positions, seed=1)
    batch = windows.windows(range(len(windows)))
    segments = batch.segments if batch.segments is not None else np.zeros_like(batch.inputs)
    found = []
    for row, marks in enumerate(segments):
        for segment in np.unique(marks[marks >= 0]):
            here = marks == segment
            places = np.flatnonzero(here)
            assert (np.diff(places) == 1).all(), "a text stands in one piece"
            found.append((batch.inputs[row, here], batch.targets[row, here]))
    expected = []
    for d in data.documents:
        for begin in range(0, len(d.ids) - 1, n_positions):
            end = min(begin + n_positions, len(d.ids) - 1)
            after = slice(begin + 1, end + 1)
            targets = np.where(d.loss_mask[after], d.ids[after], IGNORE)
            expected.append((d.ids[begin:end], targets))
    key = lambda pair: (len(pair[0]), pair[0].tolist(), pair[1].tolist())  # noqa: E731
    for ours, theirs in zip(sorted(found, key=key), sorted(expected, key=key), strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])
    assert (batch.targets[segments < 0] == IGNORE).all()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 32), min_size=1, max_size=60))
def test_windows_are_filled_nearly_as_well_as_can_be(lengths: list[int]) -> None:
    """Best fit, longest first, needs at most 11/9 of the fewest windows and one (Johnson 1973)."""
    windows = corpus(lengths).windows(32, seed=0)
    fewest = math.ceil(sum(lengths) / 32)
    largest = max(fewest, sum(n > 16 for n in lengths))
    assert len(windows) <= 11 / 9 * max(largest, fewest) * 1.25 + 1
    assert windows.filled == pytest.approx(sum(lengths) / (32 * len(windows)))


def test_packed_documents_give_the_loss_and_gradients_of_the_same_one_by_one() -> None:
    model, alone = tiny_model(), tiny_model()
    data = corpus([5, 9, 14, 3, 30, 12, 1], prompts=True)
    windows = data.windows(32, seed=0)
    batch = windows.windows(range(len(windows)))
    assert batch.segments is not None
    tensors = [torch.from_numpy(array) for array in batch]
    hidden = model.hidden(tensors[0], tensors[2])
    loss = chunked_cross_entropy(hidden, model.output_weight, tensors[1])
    loss.backward()
    total = torch.zeros(())
    for d in data.documents:
        ids = torch.from_numpy(d.ids.astype(np.int64))
        logits = alone(ids[None, :-1])[0]
        losses = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
        total = total + losses[torch.from_numpy(d.loss_mask[1:])].sum()
    expected = total / data.n_loss_tokens
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    for (name, one), two in zip(model.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_a_document_is_not_changed_by_its_neighbours() -> None:
    model = tiny_model()
    ids = torch.randint(0, END, (1, 20))
    segments = torch.tensor([[0] * 7 + [1] * 13])
    before = model(ids, segments)[0, 7:]
    other = ids.clone()
    other[0, :7] = torch.randint(0, END, (7,))
    assert torch.equal(model(other, segments)[0, 7:], before)
    torch.testing.assert_close(model(ids[:, 7:])[0], before, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(model(other)[0, 7:], before)


def test_padding_and_prompts_cost_nothing_and_teach_nothing() -> None:
    model = tiny_model()
    data = corpus([6, 10], prompts=True)
    batch = data.windows(32, seed=0).windows([0])
    inputs, targets, segments = (torch.from_numpy(a) for a in batch)
    hidden = model.hidden(inputs, segments)
    loss = chunked_cross_entropy(hidden, model.output_weight, targets)
    ignored = targets == IGNORE
    assert ignored.sum() > 16
    changed = targets.clone()
    logits = (hidden @ model.output_weight.t())[~ignored]
    exact = torch.nn.functional.cross_entropy(logits, changed[~ignored])
    torch.testing.assert_close(loss, exact, rtol=1e-6, atol=1e-7)
    (gradient,) = torch.autograd.grad(loss, hidden)
    assert gradient[ignored].abs().max() == 0
    assert gradient[~ignored].abs().sum(dim=-1).min() > 0


def test_the_end_of_the_text_is_always_learned() -> None:
    data = corpus([6, 40, 10], prompts=True)
    windows = data.windows(16, seed=0)
    batch = windows.windows(range(len(windows)))
    assert (batch.targets == END).sum() == 3
    assert windows.n_split == 1


def test_windows_of_one_text_each_need_no_mask() -> None:
    windows = corpus([32, 64]).windows(32, seed=0)
    assert windows.windows(range(3)).segments is None
    assert windows.filled == 1


def test_order_depends_on_the_seed_alone_and_every_epoch_shows_all() -> None:
    data = corpus([20] * 30)
    windows = data.windows(40, seed=1)
    n = len(windows)
    once = [windows.batch(i, 3).inputs.tolist() for i in range(n // 3)]
    again = [data.windows(40, seed=1).batch(i, 3).inputs.tolist() for i in range(n // 3)]
    other = [data.windows(40, seed=2).batch(i, 3).inputs.tolist() for i in range(n // 3)]
    assert once == again != other
    assert len({str(row) for batch in once for row in batch}) == n
    assert windows.batch(1, n).inputs.tolist() != windows.batch(0, n).inputs.tolist()


def test_fingerprints_tell_documents_and_what_is_learned_apart() -> None:
    same = corpus([5, 6]).digest()
    assert corpus([5, 6]).digest() == same
    assert corpus([6, 5]).digest() != same
    assert corpus([5, 6], seed=1).digest() != same
    ids = np.array([3, 4, END], np.int32)
    one, other = (
        Documents([EncodedDocument(ids, np.array([first, True, True]))], 3, END).digest()
        for first in (True, False)
    )
    assert one != other


def test_bits_per_byte_count_learned_bytes_only() -> None:
    made = [document(7, np.random.default_rng(0), prompt) for prompt in (5, 3)]
    data = Documents(made, n_bytes=10, padding=END)
    assert (data.n_loss_tokens, data.n_tokens) == (3 + 5, 14)
    assert data.bits_per_byte(2 * math.log(2)) == pytest.approx(2 * 8 / 10)


def test_nothing_to_learn_is_refused() -> None:
    empty = EncodedDocument(np.array([END], np.int32), np.array([True]))
    with pytest.raises(InputError, match="nothing to learn"):
        Documents([empty], 0, END)
    with pytest.raises(InputError, match="nothing to learn"):
        Documents([], 0, END)


def test_a_document_begins_with_the_bos_of_the_tokenizer(bos_model_dir: Path) -> None:
    tokenizer = Tokenizer.from_directory(bos_model_dir)
    encoded = encode_example(Example((("The capital", True),)), tokenizer, 9)
    theirs = AutoTokenizer.from_pretrained(bos_model_dir)
    assert encoded.ids.tolist() == [*theirs("The capital")["input_ids"], 9]
    assert encoded.loss_mask.tolist() == [False] + [True] * (len(encoded.ids) - 1)


def test_a_conversation_in_a_template_has_its_tokens_and_one_end(bos_model_dir: Path) -> None:
    tokenizer = Tokenizer.from_directory(bos_model_dir)
    source = "{% for m in messages %}{{ m.content + '<|endoftext|>' }}{% endfor %}"
    messages = [{"role": r, "content": c} for r, c in (("user", "The"), ("assistant", "capital"))]
    template = ChatTemplate(source, tokenizer)
    (pieces,) = template.training_pieces(messages, [False, True])
    encoded = encode_example(Example(tuple(pieces)), tokenizer, 9)
    assert encoded.ids.tolist() == template.encode(messages)
    n_answer = len(tokenizer.encode("capital")) + 1
    assert encoded.loss_mask.tolist() == [False] * (len(encoded.ids) - n_answer) + [True] * n_answer


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Path) -> Tokenizer:
    return Tokenizer.from_directory(tiny_model_dir)


@pytest.mark.parametrize(
    "flags",
    [(False, True), (True, True), (False, True, False), (True,), (False, True, False, True)],
)
def test_pieces_are_encoded_apart_and_ended(tokenizer: Tokenizer, flags: tuple[bool, ...]) -> None:
    # Together, "once upo" and "n a time" have other tokens than apart.
    texts = ("The capital of Spa", "in is Madrid. The", " capital", " of France")[: len(flags)]
    apart = [i for text in texts for i in tokenizer.encode(text)]
    assert len(texts) == 1 or tokenizer.encode("".join(texts)) != apart
    found = encode_example(Example(tuple(zip(texts, flags, strict=True))), tokenizer, 7)
    ids, learned = [], []
    for text, flag in zip(texts, flags, strict=True):
        piece = tokenizer.encode(text)
        ids += piece
        learned += [flag] * len(piece)
    assert found.ids.tolist() == [*ids, 7] and found.ids.dtype == np.int32
    # An end is learned after an answer, and not after what is only read.
    assert found.loss_mask.tolist() == [*learned, flags[-1]] and found.loss_mask.dtype == np.bool_


def test_an_example_of_nothing_is_an_end_that_is_not_learned(tokenizer: Tokenizer) -> None:
    found = encode_example(Example(()), tokenizer, 7)
    assert (found.ids.tolist(), found.loss_mask.tolist()) == ([7], [False])


def test_documents_go_where_they_leave_the_least_room() -> None:
    """First fit and worst fit need a third window here."""
    windows = corpus([2, 3, 4, 5, 6]).windows(10, seed=0)
    assert (len(windows), windows.filled, windows.n_split) == (2, 1.0, 0)
    sizes = [np.bincount(row[row >= 0]).tolist() for row in windows.windows([0, 1]).segments]
    assert sorted(sizes) == [[5, 3, 2], [6, 4]]


def test_a_document_as_long_as_a_window_is_whole(tmp_path: Path) -> None:
    assert corpus([16, 16]).windows(16, seed=0).n_split == 0
    assert corpus([16, 17]).windows(16, seed=0).n_split == 1


def test_held_out_windows_are_the_first_ones_whatever_the_limit() -> None:
    data = corpus([9] * 7)
    everything = data.windows(10, seed=3).windows(range(7))
    for limit in (1, 3, 7, 99):
        batch = data.heldout(10, limit)
        n = min(limit, 7)
        assert batch.inputs.tolist() == everything.inputs[:n].tolist()
        assert batch.targets.tolist() == everything.targets[:n].tolist()


def test_an_epoch_begins_within_a_batch() -> None:
    windows = corpus([16] * 5).windows(16, seed=2)
    runs = [windows.batch(i, 3).inputs for i in range(5)]
    seen = [str(row.tolist()) for rows in runs for row in rows]
    assert [len(set(seen[i : i + 5])) for i in (0, 5, 10)] == [5, 5, 5]
    assert len({tuple(seen[i : i + 5]) for i in (0, 5, 10)}) == 3


def test_counts_are_those_of_what_is_read_and_what_is_learned() -> None:
    made = EncodedDocument(np.array([3, 9, 60], np.int32), np.array([True, False, True]))
    data = Documents([made, made], n_bytes=5, padding=1)
    assert (data.n_tokens, data.n_loss_tokens) == (4, 2)
    smaller = EncodedDocument(made.ids[:2], made.loss_mask[:2])
    assert Documents([smaller, made, smaller], n_bytes=5, padding=1).largest_id == 60
    batch = data.windows(8, seed=0).windows([0])
    assert batch.inputs.tolist() == [[3, 9, 3, 9, 1, 1, 1, 1]]
    assert batch.targets.tolist() == [[IGNORE, 60, IGNORE, 60, *[IGNORE] * 4]]
    assert batch.segments.tolist() == [[0, 0, 1, 1, -1, -1, -1, -1]]
    rows = data.windows(2, seed=0).windows([0, 1])
    assert rows.segments is None and rows.rows(1, 2).inputs.tolist() == [[3, 9]]
    assert batch.rows(0, 1).segments.tolist() == batch.segments.tolist()


def test_documents_are_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[int] = []
    pack = packing._pack

    def watch(segments: object, room: int) -> object:
        packed.append(room)
        return pack(segments, room)

    monkeypatch.setattr(packing, "_pack", watch)
    data = corpus([5, 9, 3, 12])
    one, two = data.windows(8, seed=1), data.windows(8, seed=2)
    assert np.array_equal(one.windows([0]).inputs, two.windows([0]).inputs)
    data.heldout(8, 2)
    data.windows(16, seed=1)
    assert packed == [8, 16]
