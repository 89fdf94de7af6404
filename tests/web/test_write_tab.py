"""The Write tab as a person meets it."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from pages import Watched, look, write, written
from playwright.sync_api import expect

pytest_plugins = ("browsing",)  # its fixtures; a second conftest would hide the first one

GIRL = "Once upon a time, there was a little girl"


def texts(page: Any) -> list[str]:
    found: list[str] = page.locator("#write .token").all_text_contents()
    return found


def test_it_opens_alive_and_slowly_enough_to_see(browser: Any, address: str) -> None:
    moving = Watched(browser, address)
    moving.page.emulate_media(reduced_motion="no-preference")
    page = moving.open("write")
    assert page.get_by_label("Prompt", exact=True).input_value() == GIRL
    expect(page.locator("#write .draws .bars li")).to_have_count(8)
    expect(page.locator("#write .draws h3")).to_contain_text("Drawn: ")
    seen = page.locator("#write .token").count()
    assert 0 < seen < 40
    assert page.locator("#write .samples").get_attribute("aria-busy") == "true"
    expect(page.locator("#about")).to_have_text(
        re.compile("pocket: 6.2 million parameters in 6 layers.*nothing you type leaves it")
    )
    page.locator("#write .draws h3").click()  # who does something need not wait
    expect(page.locator("#write .status").first).to_contain_text("tokens in")
    assert page.locator("#write .token").count() <= 40
    expect(page.locator("#write .settings")).not_to_have_attribute("open", "")
    moving.context.close()


def test_an_example_is_taken_by_a_click(watched: Any) -> None:
    page = watched.open("write")
    page.get_by_role("button", name="A baby cat is called a").first.click()
    expect(page.locator("#write .token").first).to_have_text("kitten")
    assert page.get_by_label("Prompt", exact=True).input_value() == "A baby cat is called a"


def test_a_seed_repeats_a_text_and_only_surprising_words_are_tinted(watched: Any) -> None:
    page = watched.open(f"write?text={GIRL}")
    write(page, tokens=40)
    first = texts(page)
    tokens = page.locator("#write .token")
    said = tokens.evaluate_all("all => all.map((each) => each.getAttribute('aria-label'))")
    assert all(re.fullmatch(r"token .+, (< )?\d+\.\d %", label, re.DOTALL) for label in said)
    tinted = tokens.evaluate_all("all => all.map((each) => each.className.includes('surprise'))")
    unlikely = [float(re.findall(r"(\d+\.\d) %", label)[0]) < 10 for label in said]
    assert tinted == unlikely and any(tinted) and not all(tinted)
    write(page, tokens=40)
    assert texts(page) == first
    write(page, tokens=40, seed=4)
    assert texts(page) != first


def test_a_token_tells_its_alternatives_beside_it_and_another_one_goes_on(watched: Any) -> None:
    page = watched.open(f"write?text={GIRL}")
    write(page)
    kept = texts(page)
    page.locator("#write .token").nth(3).click()
    expect(page.locator("#write .draws h3")).to_contain_text("In place of")
    other = page.locator("#write .draws li:not(.own) .alternative").nth(1)
    word = other.locator(".word").inner_text()
    other.click()
    expect(page.locator("#write .token").nth(3)).to_have_text(word.replace("·", ""))
    expect(page.locator("#write .status").first).to_contain_text("12 tokens in")
    assert texts(page)[:3] == kept[:3]
    # And once more from there: its own prompt is still known.
    page.locator("#write .token").nth(5).click()
    page.locator("#write .draws li:not(.own) .alternative").first.click()
    expect(page.locator("#write .status").first).to_contain_text("12 tokens in")
    for _ in range(2):
        page.get_by_role("button", name="Undo").click()
    assert texts(page) == kept


def test_a_token_is_looked_into_from_where_it_was_said(watched: Any) -> None:
    page = watched.open("write?text=The capital of France is")
    write(page)
    expect(page.locator("#write .token").first).to_have_text("Paris")
    page.locator("#write .token").first.click()
    kept = page.evaluate("JSON.parse(sessionStorage.getItem('laplm-written')).samples[0]")
    with page.expect_request("**/api/look/inside") as asked:
        page.get_by_role("button", name="Look inside").click()
    # At the tokens that the model wrote, and not at those that the text would be made of.
    ids = [token["id"] for token in kept["tokens"] if not token["ends"]]
    assert asked.value.post_data_json["text"] == kept["promptIds"] + ids
    expect(page.locator("#look .chip.here")).to_have_text("·is")
    expect(page.locator("#look .story")).to_contain_text("“Paris”")
    # With no token chosen it is where the model began to write: why it went on so.
    page.get_by_role("tab", name="Write").click()
    page.locator("#model").select_option("talker")
    expect(page.locator("#write .status").first).to_contain_text("Written by pocket, not by talker")
    expect(page.locator("#write .draws")).to_be_hidden()
    assert page.locator("#write .actions button").all_inner_texts() == ["Keep", "Copy"]
    page.locator("#model").select_option("pocket")
    expect(page.locator("#write .status").first).not_to_contain_text("Written by")
    with page.expect_request("**/api/look/inside") as asked:
        page.get_by_role("button", name="Look inside").click()
    assert asked.value.post_data_json["position"] == len(kept["promptIds"]) - 1
    expect(page.locator("#look .word-row .chip.here")).to_have_text("·is")
    expect(page.locator("#look .word-row .chip").first).to_have_text("The")  # it is in sight
    expect(page.locator("#look .from")).to_contain_text("(here “Paris”)")
    page.get_by_role("tab", name="Write").click()
    page.get_by_role("button", name="Keep", exact=True).click()
    expect(page.locator("#write .status").first).to_contain_text("Kept")
    page.locator("#model").select_option("talker")
    expect(page.locator("#write .status").first).to_be_empty()


def test_a_text_that_stops_at_its_limit_says_so_and_what_to_do(watched: Any) -> None:
    page = watched.open(f"write?text={GIRL}")
    limit = page.locator("#write .limit")
    # What the page writes by itself is as long as the page wants.
    expect(limit).to_have_text("Stopped at the limit of 40 tokens: Continue writes on.")
    write(page)
    expect(limit).to_have_text(
        "Stopped at the limit of 12 tokens: Continue writes on, Settings has the limit."
    )
    page.reload()
    expect(limit).to_contain_text("limit of 12 tokens")
    write(page, button="Ten samples")
    expect(limit).to_have_text("10 of 10 stopped at the limit of 12 tokens: Settings has it.")
    page.get_by_label("Prompt", exact=True).fill("They were happy. The end")
    write(page, seed=4)
    expect(page.locator("#write .token").last).to_have_text("end of text")
    expect(limit).to_be_empty()


def test_heads_that_are_switched_off_do_not_count_here(watched: Any) -> None:
    page = watched.open("look")
    look(page)
    page.get_by_role("switch", name="Head 4.6", exact=True).click()
    page.get_by_role("tab", name="Write").click()
    said = page.locator("#write .offs-there")
    expect(said).to_be_visible()
    expect(said).to_contain_text("Switched off in Look inside: head 4.6. That counts there only")
    page.get_by_role("tab", name="Look inside").click()
    page.get_by_role("button", name="Switch all on").click()
    page.get_by_role("tab", name="Write").click()
    expect(said).to_be_hidden()
    page.get_by_role("tab", name="Look inside").click()
    page.get_by_role("switch", name="Head 4.6", exact=True).click()
    page.get_by_role("tab", name="Write").click()
    expect(said).to_be_visible()
    page.locator("#model").select_option("tiny")  # of which nothing is off
    expect(said).to_be_hidden()


def test_a_model_that_is_loaded_first_says_so(watched: Any) -> None:
    page = watched.open("write")

    def unloaded(route: Any) -> None:
        answer = route.fetch().json()
        for model in answer["models"]:
            model["loaded"] = False
        route.fulfill(json=answer)

    page.route("**/api/models", unloaded)
    page.reload()
    expect(page.locator("#write .status").first).to_contain_text("tokens in")
    held: list[Any] = []
    page.route("**/v1/completions", lambda route: held.append(route))
    page.get_by_role("button", name="Write", exact=True).click()
    expect(page.locator("#write .status").first).to_have_text("loading pocket …")
    page.unroute("**/v1/completions")
    with page.expect_response("**/api/models"):  # it is in memory now: the list is asked for again
        for route in held:
            route.continue_()
    expect(page.locator("#write .status").first).to_contain_text("tokens in")
    page.unroute_all(behavior="wait")


def test_a_text_is_continued_kept_and_undone(watched: Any) -> None:
    page = watched.open(f"write?text={GIRL}")
    write(page)
    first = texts(page)
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#write .token")).to_have_count(24)
    written(page, 3)
    assert texts(page)[:12] == first
    page.get_by_role("button", name="Undo").click()
    assert texts(page) == first
    shown = page.locator("#write .passage").inner_text()
    page.get_by_role("button", name="Keep", exact=True).click()
    prompt = page.get_by_label("Prompt", exact=True)
    assert prompt.input_value() == shown and shown.startswith(GIRL)
    expect(page.locator("#write .token")).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    assert prompt.input_value() == GIRL
    assert texts(page) == first


def test_words_in_grey_are_taken_with_tab(watched: Any) -> None:
    page = watched.open("write?text=The")
    prompt = page.get_by_label("Prompt", exact=True)
    prompt.fill("")
    prompt.press_sequentially("The capital of France is")
    expect(page.locator("#write .grey")).to_contain_text("Paris")
    prompt.press("Escape")
    expect(page.locator("#write .grey")).to_have_text("")
    prompt.press("End")
    prompt.press("Backspace")
    prompt.press("s")
    expect(page.locator("#write .grey")).to_contain_text("Paris")
    prompt.press("Tab")
    expect(prompt).to_have_value(re.compile(r"^The capital of France is Paris"))
    expect(prompt).to_be_focused()


def test_a_reload_loses_nothing(watched: Any) -> None:
    page = watched.open("write")
    page.get_by_label("Prompt", exact=True).fill(GIRL)
    write(page)
    before = texts(page)
    page.reload()
    expect(page.locator("#write .token")).to_have_count(len(before))
    assert texts(page) == before
    assert page.get_by_label("Prompt", exact=True).input_value() == GIRL
    assert f"#/write?text={quote(GIRL)}" in page.url
    # One prompt for all tabs.
    page.get_by_role("tab", name="Look inside").click()
    assert page.get_by_label("Text", exact=True).input_value() == GIRL


def test_the_end_of_a_text_is_a_mark_and_no_text(watched: Any) -> None:
    prompt = "They were happy. The end"
    page = watched.open(f"write?text={prompt}")
    write(page)
    tokens = page.locator("#write .token")
    expect(tokens.last).to_have_text("end of text")
    expect(tokens.last).to_have_attribute("aria-label", re.compile(r"token end of text, \d"))
    page.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    page.get_by_role("button", name="Copy").click()
    expect(page.locator("#write .status").first).to_have_text("Copied.")
    copied = page.evaluate("window.copied")
    assert copied.startswith(prompt) and len(copied) > len(prompt)
    assert "endoftext" not in copied + page.locator("#write .samples").inner_text()
    tokens.last.click()
    expect(page.locator("#write .draws h3")).to_have_text("In place of the end of the text")


def test_a_prompt_that_ends_in_a_space_is_told_of(watched: Any) -> None:
    page = watched.open("write")
    for prompt, told in (("Once upon a ", True), ("Once upon a", False)):
        page.get_by_label("Prompt", exact=True).fill(prompt)
        write(page, seed=3 + told)
        loose = "ends in a space, but tokens of words begin with theirs"
        assert page.locator("#write").inner_text().count(loose) == told


def test_ten_samples_stand_side_by_side_and_one_is_kept(watched: Any) -> None:
    page = watched.open(f"write?text={GIRL}")
    write(page)
    alone = texts(page)
    write(page, button="Ten samples")
    samples = page.locator("#write .sample")
    expect(samples).to_have_count(10)
    assert samples.first.locator(".token").all_text_contents() == alone
    page.get_by_role("button", name="Keep: sample 1", exact=True).click()
    kept = page.get_by_label("Prompt", exact=True).input_value()
    assert kept.startswith(GIRL) and alone[-1] in kept


def test_a_long_text_can_be_stopped(watched: Any) -> None:
    page = watched.open(f"write?text={GIRL}")
    write(page)
    form = page.locator("#write form")
    form.get_by_label("Tokens").fill("400")
    # The model may be done before a click from here arrives: the page itself clicks at once.
    stop = form.get_by_role("button", name="Stop").element_handle()
    page.evaluate(
        """stop => new MutationObserver((_, observer) => {
            if (document.querySelectorAll("#write .token").length < 20) return;
            observer.disconnect();
            stop.click();
        }).observe(document.querySelector("#write"), {childList: true, subtree: true})""",
        stop,
    )
    form.get_by_role("button", name="Ten samples", exact=True).click()
    expect(page.locator("#write .status").first).to_contain_text("Stopped.")
    count = page.locator("#write .token").count()
    assert 0 < count < 4000
    page.wait_for_timeout(300)
    assert page.locator("#write .token").count() == count


def test_what_the_server_refuses_is_said_next_to_the_form(watched: Any) -> None:
    page = watched.open("write")
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


def test_no_word_is_broken_at_the_end_of_a_line(watched: Any) -> None:
    watched.page.set_viewport_size({"width": 360, "height": 740})
    page = watched.open(f"write?text={GIRL}")
    write(page, tokens=120)
    words = page.locator("#write .whole")
    assert words.count() < page.locator("#write .token").count()
    heights = words.evaluate_all("all => all.map((each) => each.getBoundingClientRect().height)")
    assert max(heights) < 45  # one line


def test_on_a_phone_the_bars_lie_over_nothing_that_one_types_in(watched: Any) -> None:
    watched.page.set_viewport_size({"width": 390, "height": 844})
    page = watched.open(f"write?text={GIRL}")
    write(page, tokens=60)  # which unfolds the settings
    form, draws = page.locator("#write form"), page.locator("#write .draws")
    for there in (form.get_by_label("Prompt"), form.get_by_label("Seed"), draws):
        there.scroll_into_view_if_needed()
        below = draws.bounding_box()["y"]
        box = form.bounding_box()
        assert below >= box["y"] + box["height"]
    # While one reads on, they stay in sight.
    page.locator("#write .legend").scroll_into_view_if_needed()
    expect(draws).to_be_in_viewport(ratio=1)
