"""The page as a person meets it: typed in, moved, clicked, read, with keys alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

import laplm

expect.set_options(timeout=30_000)  # the first answer waits for weights and kernels

pytest_plugins = ("browsing",)  # its fixtures; a second conftest would hide the first one

TABS = ("write", "look", "tune", "models")
WEB = Path(laplm.__file__).parent / "web"
STORY = "Tom had a red boat. The boat was fast. Tom and his boat went to the lake.\n<|endoftext|>\n"


def write(page: Any, *, tokens: int = 12, seed: int = 3) -> None:
    form = page.locator("#write form")
    form.get_by_label("Tokens").fill(str(tokens))
    form.get_by_label("Seed").fill(str(seed))
    form.get_by_role("button", name="Write", exact=True).click()
    expect(page.locator("#write .status").first).to_contain_text(f"seed {seed}")


def look(page: Any) -> None:
    expect(page.locator("#look .tower > li")).to_have_count(6)


def bars(page: Any) -> list[str]:
    # Not the inner texts: where they break depends on whether the page is drawn already.
    found: list[str] = page.locator("#look .side .bars li").all_text_contents()
    return found


def when_changed(page: Any, before: list[str]) -> list[str]:
    """The next token's bars, once they are others.

    Asked again and again from here: the page's policy lets no code be made of a string, which is
    how playwright would wait inside of it.
    """
    for _ in range(200):
        if (now := bars(page)) and now != before:
            return now
        page.wait_for_timeout(50)
    raise AssertionError("the bars did not change")


# --- write ------------------------------------------------------------------------------------


def test_a_prompt_goes_on_with_coloured_tokens_and_a_seed_repeats_it(watched: Any) -> None:
    page = watched.open("write")
    write(page)
    tokens = page.locator("#write .token")
    expect(tokens).to_have_count(12)
    first = tokens.all_text_contents()
    label = tokens.first.get_attribute("aria-label")
    assert re.fullmatch(r"token \S+, (< )?\d+\.\d %", label)
    write(page)
    assert tokens.all_text_contents() == first
    write(page, seed=4)
    assert tokens.all_text_contents() != first


def test_a_token_tells_its_alternatives_and_another_one_goes_on(watched: Any) -> None:
    page = watched.open("write")
    write(page)
    tokens = page.locator("#write .token")
    kept = tokens.all_text_contents()[:3]
    tokens.nth(3).click()
    other = page.locator("#write .alternative:not(.own)").nth(1)
    word = other.locator(".word").inner_text()
    other.click()
    expect(page.locator("#write .sample h3")).to_have_text("with another token")
    expect(tokens.nth(3)).to_have_text(word.replace("·", " ").replace("↵", "\n"))
    expect(page.locator("#write .status").first).to_contain_text("12 tokens in")
    assert tokens.all_text_contents()[:3] == kept
    # And once more from there: its own prompt is still known.
    tokens.nth(5).click()
    page.locator("#write .alternative:not(.own)").first.click()
    expect(page.locator("#write .status").first).to_contain_text("12 tokens in")
    assert tokens.all_text_contents()[:3] == kept


def test_the_end_of_a_text_is_a_mark_and_no_text(watched: Any) -> None:
    page = watched.open("write")
    prompt = "They were happy. The end"
    page.get_by_label("Prompt", exact=True).fill(prompt)
    write(page)
    tokens = page.locator("#write .token")
    expect(tokens.last).to_have_text("end of text")
    expect(tokens.last).to_have_attribute("aria-label", re.compile(r"token end of text, \d"))
    page.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    page.get_by_role("button", name="Copy the text").click()
    expect(page.get_by_role("button", name="Copy the text")).to_have_text("Copied")
    words = "".join(tokens.all_text_contents()[:-1])
    assert words and page.evaluate("window.copied") == prompt + words
    assert "endoftext" not in page.locator("#write").inner_text()
    tokens.last.click()
    expect(page.locator("#write .choice h4")).to_have_text("In place of the end of the text")


LOOSE = "ends in a space, but tokens of words begin with theirs"


def test_a_prompt_that_ends_in_a_space_is_told_of(watched: Any) -> None:
    page = watched.open("write")
    for prompt, told in (("Once upon a ", True), ("Once upon a", False)):
        page.get_by_label("Prompt", exact=True).fill(prompt)
        write(page, seed=3 + told)
        assert page.locator("#write").inner_text().count(LOOSE) == told


def test_a_text_that_ends_in_a_space_is_told_of(watched: Any) -> None:
    page = watched.open("look")
    look(page)
    for text, told in (("The little cat ", True), ("The little cat", False)):
        page.get_by_label("Text", exact=True).fill(text)
        expect(page.locator("#look .status").first).to_contain_text(
            re.compile(rf"computed.*ms\.{'.*' + LOOSE if told else '$'}")
        )


def test_ten_samples_stand_side_by_side_and_the_first_is_the_one_alone(watched: Any) -> None:
    page = watched.open("write")
    write(page)
    alone = page.locator("#write .token").all_text_contents()
    page.get_by_label("Samples").select_option("10")
    write(page)
    samples = page.locator("#write .sample")
    expect(samples).to_have_count(10)
    assert samples.first.locator(".token").all_text_contents() == alone


def test_a_long_text_can_be_stopped(watched: Any) -> None:
    page = watched.open("write")
    page.get_by_label("Samples").select_option("10")
    form = page.locator("#write form")
    form.get_by_label("Tokens").fill("400")
    # The model may be done before a click from here arrives: the page itself clicks at once.
    stop = form.get_by_role("button", name="Stop").element_handle()
    page.evaluate(
        """stop => new MutationObserver((_, observer) => {
            if (!document.querySelector("#write .token")) return;
            observer.disconnect();
            stop.click();
        }).observe(document.querySelector("#write"), {childList: true, subtree: true})""",
        stop,
    )
    form.get_by_role("button", name="Write", exact=True).click()
    expect(page.locator("#write .status").first).to_contain_text("Stopped.")
    count = page.locator("#write .token").count()
    assert 0 < count < 4000
    page.wait_for_timeout(300)
    assert page.locator("#write .token").count() == count


def test_what_the_server_refuses_is_said_next_to_the_form(watched: Any) -> None:
    page = watched.open("write")
    page.locator("#write form").get_by_label("Tokens").fill("999")
    page.get_by_label("Prompt", exact=True).fill("word " * 600)
    page.get_by_role("button", name="Write", exact=True).click()
    alert = page.locator("#write form [role=alert]")
    expect(alert).to_be_visible()
    expect(alert).to_contain_text("512")
    assert page.locator("#write .sample").count() == 0
    # The browser itself notes the refused request; that is all.
    assert [c for c in watched.complaints if "status of 400" not in c] == []
    watched.complaints.clear()


def test_text_of_a_prompt_never_becomes_markup(watched: Any) -> None:
    page = watched.open("write")
    text = "<img src=x onerror=alert(1)><b>bold"
    page.get_by_label("Prompt", exact=True).fill(text)
    write(page)
    assert page.locator("#write .passage img, #write .passage b").count() == 0
    expect(page.locator("#write .passage .prompt")).to_have_text(text)


# --- look inside ------------------------------------------------------------------------------


def test_typing_shows_tokens_blocks_and_the_next_token(watched: Any) -> None:
    page = watched.open("look")
    look(page)
    page.get_by_label("Text", exact=True).fill("The capital of Spain is")
    chips = page.locator("[data-stage=tokens] .chip")
    expect(chips).to_have_count(5)
    expect(page.locator("#look .side .bars li").first).to_contain_text("·Madrid")
    assert page.locator("#look .heads .head").count() == 8
    expect(page.locator("table.lens tbody tr")).to_have_count(7)
    # Another token is followed: what comes after it is asked for.
    chips.nth(1).click()
    expect(page.locator("#look .side .note").first).to_contain_text("·capital")


def test_a_slider_moves_the_bars(watched: Any) -> None:
    page = watched.open("look")
    look(page)
    before = bars(page)
    page.locator("#look").get_by_label("Top-k").fill("3")
    after = when_changed(page, before)
    assert sum("out" in bar for bar in after) == len(after) - 3
    page.locator("#look").get_by_label("Temperature").fill("0")
    assert "100.0 %" in when_changed(page, after)[0]


def test_a_head_is_switched_off_and_the_bars_show_before_and_after(watched: Any) -> None:
    page = watched.open("look")
    look(page)
    before = bars(page)
    head = page.locator("#look .head").nth(3)
    assert head.get_attribute("aria-pressed") == "false"
    head.click()
    after = when_changed(page, before)
    assert after != before
    expect(page.locator("#look .head").nth(3)).to_have_attribute("aria-pressed", "true")
    assert page.locator("#look .side .bars .ghost").count() > 5
    expect(page.locator("#look .offs")).to_contain_text("head 0.3")
    page.get_by_role("button", name="Switch all on").click()
    assert when_changed(page, after) == before


def test_one_block_is_open_at_a_time(watched: Any) -> None:
    page = watched.open("look")
    look(page)
    page.get_by_role("button", name=re.compile("^Layer 3")).click()
    expect(page.locator("#look .tower li.open")).to_have_count(1)
    expect(page.locator("#look .tower li.open .floor-name")).to_have_text("Layer 3")
    page.get_by_role("button", name=re.compile("^Layer 3")).click()
    expect(page.locator("#look .tower li.open")).to_have_count(0)


def test_hovering_a_token_shows_where_it_looks(watched: Any) -> None:
    page = watched.open("look")
    look(page)
    page.locator("#look .chip.look").nth(4).hover()
    expect(page.locator("#look .looks")).to_contain_text("“,” attends to")


def test_the_walk_goes_through_all_stages_in_order_with_arrow_keys(watched: Any) -> None:
    page = watched.open("look")
    look(page)
    page.get_by_role("button", name=re.compile("^Layer 0")).click()  # closed: the walk opens one
    expect(page.locator("#look .tower li.open")).to_have_count(0)
    page.get_by_role("button", name="Walk through").click()
    seen = []
    for _ in range(11):
        expect(page.locator(".stage.here")).to_have_count(1)
        seen.append(page.locator(".stage.here").get_attribute("data-stage"))
        page.keyboard.press("ArrowRight")
    assert seen == [
        "tokens", "embeddings", "positions", "block", "norm", "attention", "residual", "feed",
        "final", "logits", "sampling",
    ]  # fmt: skip
    expect(page.locator(".walk")).to_be_hidden()


def test_a_text_that_does_not_fit_is_told_and_what_is_shown_is_marked_as_old(watched: Any) -> None:
    page = watched.open("look")
    look(page)
    field = page.get_by_label("Text", exact=True)
    field.fill("word " * 600)
    expect(page.locator("#look [role=alert]")).to_contain_text("512")
    expect(page.locator("#look.stale")).to_have_count(1)
    field.fill("word " * 300)
    expect(page.locator("#look.stale")).to_have_count(0)
    # The token that is followed is in sight, though there are many before it.
    here = page.locator("[data-stage=tokens] .chip.here")
    box, around = here.bounding_box(), page.locator("[data-stage=tokens] .chips").bounding_box()
    assert box and around
    assert around["y"] <= box["y"] <= around["y"] + around["height"]
    watched.complaints[:] = [c for c in watched.complaints if "status of 400" not in c]


@pytest.mark.parametrize("width", [360, 1280])
def test_the_next_token_is_in_sight_while_a_head_is_switched_off(watched: Any, width: int) -> None:
    watched.page.set_viewport_size({"width": width, "height": 740})
    page = watched.open("look")
    look(page)
    page.locator("#look .head").nth(3).scroll_into_view_if_needed()
    page.locator("#look .head").nth(3).click()
    place = page.locator("#look .glance" if width < 1000 else "#look .side .bars li").first
    expect(place).to_be_in_viewport()
    if width < 1000:
        expect(place).to_contain_text("was")


def test_no_word_is_broken_at_the_end_of_a_line(watched: Any) -> None:
    watched.page.set_viewport_size({"width": 360, "height": 740})
    page = watched.open("write")
    write(page, tokens=120)
    words = page.locator("#write .whole")
    assert words.count() < page.locator("#write .token").count()
    for box in (words.nth(i).bounding_box() for i in range(words.count())):
        assert box is not None
        assert box["height"] < 45  # one line


# --- tune -------------------------------------------------------------------------------------


def test_a_tuning_is_planned_watched_stopped_gone_on_with_and_compared(watched: Any) -> None:
    pytest.importorskip("torch")
    page = watched.open("tune")
    page.locator("#model").select_option("tiny")  # whose steps are short
    stories = "".join(STORY.replace("red", f"boat of {i} sails, a") for i in range(400))
    page.locator("#tune input[type=file]").set_input_files(
        {"name": "lake.txt", "mimeType": "text/plain", "buffer": stories.encode()}
    )
    page.get_by_label("Epochs").fill("2")
    page.get_by_role("button", name="Show the plan").click()
    start = page.get_by_role("button", name="Start", exact=True)
    start.wait_for(timeout=180_000)
    expect(page.locator("#tune .facts").first).to_contain_text("400 documents")
    start.click()
    steps = page.locator("#tune .steps")
    expect(steps).to_contain_text(re.compile(r"step [1-9]"), timeout=120_000)
    expect(page.locator("#tune .chart path.curve").first).to_be_attached()
    page.reload()  # what is on its way is seen at once
    expect(steps).to_contain_text(re.compile(r"step [1-9]"))
    page.get_by_role("button", name="Stop", exact=True).last.click()
    resume = page.get_by_role("button", name="Resume")
    resume.wait_for(timeout=120_000)
    expect(page.locator("#tune .state")).to_contain_text("it can go on from here")
    step, of = map(int, re.findall(r"step (\d+) of (\d+)", steps.inner_text())[0])
    assert 0 < step < of
    assert page.locator("#tune .two").count() == 0
    # It is found again by somebody who comes back later, and goes on from where it was.
    page.reload()
    page.get_by_role("button", name="Show the run lake.txt").first.click()
    expect(steps).to_contain_text(f"step {step} of {of}")
    resume.click()
    expect(page.locator("#tune .state")).to_have_text("done", timeout=180_000)
    expect(steps).to_contain_text(f"step {of} of {of}")
    texts = page.locator("#tune .two .sample-text")
    for text in (texts.first, texts.last):
        expect(text).to_contain_text("Once upon a time", timeout=60_000)
    assert texts.first.inner_text() != texts.last.inner_text()
    expect(page.locator("#tune iframe.report")).to_be_visible()
    assert page.locator("#tune iframe.report").get_attribute("sandbox") == ""
    assert any(n.startswith("run:") for n in page.locator("#model option").all_text_contents())


def test_the_address_of_the_tab_before_leads_to_it(watched: Any) -> None:
    page = watched.open("teach")
    expect(page.get_by_role("tab", name="Tune")).to_have_attribute("aria-selected", "true")


def test_no_file_and_an_unusable_one_are_told_next_to_the_form(watched: Any) -> None:
    page = watched.open("tune")
    page.get_by_role("button", name="Show the plan").click()
    expect(page.locator("#tune form [role=alert]")).to_contain_text("Choose a text file")
    page.locator("#tune input[type=file]").set_input_files(
        {"name": "a.jsonl", "mimeType": "text/plain", "buffer": b"not json\n"}
    )
    page.get_by_role("button", name="Show the plan").click()
    failed = page.locator("#tune .card [role=alert]").filter(has_text="a.jsonl")
    expect(failed).to_be_visible(timeout=120_000)


# --- models -----------------------------------------------------------------------------------


def test_models_are_listed_with_sizes_loaded_and_unloaded(watched: Any) -> None:
    page = watched.open("models")
    card = page.locator("#models .model").filter(has=page.get_by_role("heading", name="pocket"))
    expect(card).to_contain_text("6.2 million")
    expect(card).to_contain_text("6 layers × 8 heads")
    button = card.get_by_role("button", name=re.compile("^(Load|Unload) pocket"))
    if button.inner_text() == "Load":
        button.click()
    expect(card).to_contain_text("in memory")
    card.get_by_role("button", name="Unload pocket").click()
    expect(card).to_contain_text("not loaded")


# --- for everybody ----------------------------------------------------------------------------


def test_keys_alone_are_enough(watched: Any) -> None:
    page = watched.open("")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("tab", name="Write")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Look inside")).to_be_focused()
    look(page)
    head = page.locator("#look .head").first
    head.focus()
    page.keyboard.press("Space")
    expect(head).to_have_attribute("aria-pressed", "true")
    # What was pressed still has the focus, though all was drawn anew.
    expect(page.locator("#look .head").first).to_be_focused()
    page.get_by_role("tab", name="Look inside").focus()
    page.keyboard.press("Home")
    page.get_by_label("Prompt", exact=True).focus()
    page.keyboard.press("Control+Enter")
    expect(page.locator("#write .status").first).to_contain_text("tokens in")
    # One stop for all tokens of a text, arrow keys inside; then what else a token could have been.
    tokens = page.locator("#write .token")
    page.get_by_role("button", name="Copy the text").focus()
    page.keyboard.press("Tab")
    expect(tokens.first).to_be_focused()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(tokens.nth(2)).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.locator("#write .alternative").first).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#write .sample h3")).to_have_text("with another token")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("tab", TABS)
def test_no_serious_barrier_is_found_by_axe(watched: Any, tab: str, theme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    watched.page.emulate_media(color_scheme=theme)
    page = watched.open(tab)
    if tab == "write":
        write(page)
        page.locator("#write .token").nth(1).click()
    if tab == "look":
        look(page)
        page.locator("#look .head").first.click()
        expect(page.locator("#look .offs")).to_contain_text("head 0.0")
    found = Axe().run(page).response["violations"]
    serious = [
        f"{v['id']}: {v['nodes'][0]['html'][:200]} {v['nodes'][0]['failureSummary'][:300]}"
        for v in found
        if v["impact"] in ("serious", "critical")
    ]
    assert serious == []


@pytest.mark.parametrize("width", [360, 768, 1920])
@pytest.mark.parametrize("tab", TABS)
def test_nothing_is_wider_than_the_screen(watched: Any, tab: str, width: int) -> None:
    watched.page.set_viewport_size({"width": width, "height": 800})
    page = watched.open(tab)
    if tab == "write":
        write(page)
    if tab == "look":
        look(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_theme_is_switched_and_kept(watched: Any) -> None:
    page = watched.open("write")
    before = page.evaluate("document.documentElement.dataset.theme")
    page.locator("#theme").click()
    other = {"light": "dark", "dark": "light"}[before]
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == other


def test_files_hold_no_inline_code_and_no_address_outside() -> None:
    html = (WEB / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|\sstyle=|\son\w+=|javascript:", html)
    for file in WEB.rglob("*"):
        if file.suffix in (".html", ".css", ".js"):
            text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
            assert max(map(len, text.splitlines())) <= 100, file
            assert not re.search(r"https?://|innerHTML|insertAdjacentHTML|\beval\(", text), file
