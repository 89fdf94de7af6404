"""The Chat tab as a person meets it, on a tiny model that was tuned on conversations."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pages import look
from playwright.sync_api import expect

pytest_plugins = ("browsing",)  # its fixtures; a second conftest would hide the first one


@pytest.fixture
def page(watched: Any) -> Any:
    """A new chat, with short answers."""
    found = watched.open("chat", model="talker")
    expect(found.locator("#chat .message.assistant > .note")).to_contain_text("tokens/s")
    found.get_by_role("button", name="New chat").click()
    found.locator("#chat .composer summary").click()
    found.locator("#chat").get_by_label("Tokens at most").fill("8")
    found.locator("#chat").get_by_label("Temperature").fill("0")  # an answer is the same each time
    return found


def say(page: Any, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_label("Message", exact=True).press("Enter")
    answered(page)


def answered(page: Any) -> None:
    expect(page.locator("#chat .messages")).not_to_have_attribute("aria-busy", "true")
    expect(page.locator("#chat .message.assistant > .note").last).to_contain_text("tokens/s")


def said(page: Any) -> list[str]:
    found: list[str] = page.locator("#chat .message .said").all_inner_texts()
    return found


def test_a_chat_model_opens_with_an_answer_being_written(watched: Any) -> None:
    page = watched.open("", model="talker")
    tabs = page.get_by_role("tab")
    expect(tabs.first).to_have_text("Chat")
    expect(tabs.first).to_have_attribute("aria-selected", "true")
    expect(page.locator("#chat .message.user .said")).to_have_text("Why is the sky blue?")
    expect(page.locator("#chat .draws .bars li").first).to_be_visible()
    expect(page.locator("#chat .talks li")).to_have_count(0)  # nobody asked it: it is not kept
    page.locator("#model").select_option("pocket")
    expect(tabs.first).to_have_text("Write")
    expect(tabs.first).to_have_attribute("aria-selected", "true")


def test_messages_are_answered_edited_and_answered_again(page: Any) -> None:
    asked: list[dict[str, Any]] = []
    page.on(
        "request",
        lambda r: asked.append(json.loads(r.post_data)) if "chat/completions" in r.url else None,
    )
    page.get_by_label("System prompt").fill("Speak of cats.")
    say(page, "Hello")
    first = said(page)
    assert first[0] == "Hello" and first[1]
    say(page, "And then?")
    assert [m["role"] for m in asked[-1]["messages"]] == ["system", "user", "assistant", "user"]
    assert asked[-1]["messages"][0]["content"] == "Speak of cats."
    assert asked[-1]["max_tokens"] == 8
    # Again: another answer beside the first, which is still there.
    page.get_by_role("button", name="Again").last.click()
    answered(page)
    expect(page.locator("#chat .siblings .note")).to_have_text("2 of 2")
    page.get_by_role("button", name="The one before").click()
    expect(page.locator("#chat .siblings .note")).to_have_text("1 of 2")
    # Edited: the question has a branch of its own.
    page.get_by_role("button", name="Edit").first.click()
    page.get_by_label("Your message").fill("Good evening")
    page.get_by_label("Your message").press("Enter")
    answered(page)
    assert said(page)[0] == "Good evening" and len(said(page)) == 2
    page.get_by_role("button", name="The one before").click()
    assert said(page)[:2] == first


def test_an_answer_can_be_stopped_and_stays(page: Any) -> None:
    page.get_by_label("Tokens at most").fill("100")
    stop = page.locator("#chat").get_by_role("button", name="Stop").element_handle()
    page.evaluate(
        """stop => new MutationObserver((_, observer) => {
            if (document.querySelector("#chat .assistant .said").textContent.length < 5) return;
            observer.disconnect();
            stop.click();
        }).observe(document.querySelector("#chat .messages"), {childList: true, subtree: true})""",
        stop,
    )
    page.get_by_label("Message", exact=True).fill("Tell me a long story")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#chat .message.assistant > .note")).to_contain_text("Stopped.")
    assert said(page)[1]


def test_conversations_are_kept_branched_exported_and_deleted(page: Any, tmp_path: Path) -> None:
    say(page, "What is red?")
    before = said(page)
    page.reload()
    expect(page.locator("#chat .message")).to_have_count(2)
    assert said(page) == before
    page.get_by_role("button", name="Branch").click()
    expect(page.locator("#chat .talks li")).to_have_count(2)
    assert said(page) == before
    with page.expect_download() as download:
        page.get_by_role("button", name="Export as JSON").click()
    download.value.save_as(tmp_path / "talk.jsonl")
    row = json.loads((tmp_path / "talk.jsonl").read_text(encoding="utf-8"))
    assert [m["role"] for m in row["messages"]] == ["user", "assistant"]
    assert row["messages"][0]["content"] == "What is red?"
    for left in (1, 0):
        page.get_by_role("button", name="Delete What is red?").first.click()
        page.get_by_role("button", name="Delete What is red?").first.click()
        expect(page.locator("#chat .talks li")).to_have_count(left)


def test_an_answer_is_looked_into(page: Any) -> None:
    say(page, "Hello")
    with page.expect_request("**/api/look/inside") as asked:
        page.get_by_role("button", name="Look inside").click()
    expect(page.get_by_role("tab", name="Look inside")).to_have_attribute("aria-selected", "true")
    look(page)
    talk = page.evaluate("JSON.parse(localStorage.getItem('laplm-chats'))[0]")
    answer = talk["messages"][talk["last"]]["text"].strip()
    field = page.get_by_label("Text", exact=True)
    assert answer and field.input_value().strip() == answer
    # At its own tokens, behind the conversation as the model read it: "user: Hello\nassistant: ".
    ids = talk["messages"][talk["last"]]["ids"]
    sent = asked.value.post_data_json["text"]
    assert len(ids) == 8 and sent[-8:] == ids and len(sent) > 12
    before = page.locator("#look .context")
    expect(before).to_contain_text(f"{len(sent) - 8} tokens of the conversation stand before")
    page.reload()
    expect(before).to_contain_text("tokens of the conversation")
    typed = f"{field.input_value()}!"  # another text
    with page.expect_request(
        lambda r: r.url.endswith("/look/inside") and r.post_data_json["text"] == typed
    ):
        field.fill(typed)
    expect(before).to_be_empty()


def test_heads_that_are_switched_off_do_not_count_here(watched: Any) -> None:
    page = watched.open("look", model="talker")
    look(page)
    said = page.locator("#chat .offs-there")
    page.get_by_role("switch", name=re.compile("^Head ")).first.click()
    expect(page.locator("#look .offs")).to_contain_text("Switched off: head")
    off = page.locator("#look .off-names").inner_text().removeprefix("Switched off: ")
    page.get_by_role("tab", name="Chat").click()
    expect(said).to_be_visible()
    there = (
        f"Switched off in Look inside: {off}. That counts there only: here the whole model answers."
    )
    expect(said).to_have_text(there)
    page.get_by_role("tab", name="Look inside").click()
    page.get_by_role("button", name="Switch all on").click()
    page.get_by_role("tab", name="Chat").click()
    expect(said).to_be_hidden()
