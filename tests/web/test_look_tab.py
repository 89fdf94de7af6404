"""The Look inside tab as a person meets it."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from pages import bars, look, when_changed
from playwright.sync_api import expect

pytest_plugins = ("browsing",)  # its fixtures; a second conftest would hide the first one

STEPS = [
    "tokens", "embedding", "river", "attention", "pair", "switch", "feed", "lens", "next",
]  # fmt: skip


def switch(page: Any, name: str) -> Any:
    return page.get_by_role("switch", name=name, exact=True)


def test_it_opens_on_what_brings_madrid(watched: Any) -> None:
    page = watched.open("look")
    look(page)
    assert page.get_by_label("Text", exact=True).input_value() == "The capital of Spain is"
    story = page.locator("#look .story")
    expect(story).to_contain_text("“Madrid”")
    expect(story).to_contain_text("head 4.6, which looks at “Spain” with 98 %")
    expect(story).to_contain_text("falls from 98.9 to 94.1 %")
    # Its head is open: an arc to Spain with its share, its map named, the pair in numbers.
    expect(page.locator("#look .layers li.open .layer")).to_have_text("4")
    expect(page.locator("#look .head[aria-pressed=true] b")).to_have_text("4.6")
    expect(page.locator("#look .arc-name:not(.untold)")).to_have_text("98 %")
    expect(page.locator("#look .looks")).to_contain_text("“·is” attends to “·Spain” 98.2 %")
    expect(page.locator("#look .pair h4")).to_contain_text("Head 4.6: “·is” asks, “·Spain” answers")


def test_typing_shows_tokens_layers_and_the_next_token(watched: Any) -> None:
    page = watched.open("look")
    look(page)
    before = bars(page)
    page.get_by_label("Text", exact=True).fill("The capital of France is")
    assert "·Paris" in when_changed(page, before)[0]
    chips = page.locator("#look .word-row .chip")
    expect(chips).to_have_count(5)
    assert page.locator("#look .heads .head").count() == 8
    expect(page.locator("#look .layers > li")).to_have_count(6)
    expect(page.locator("#look .lens-word .mono").last).to_have_text("Paris")
    expect(page.locator("#look .story")).to_contain_text("“Paris”")  # the story follows
    assert "text=The%20capital%20of%20France%20is" in page.url
    # Another token is followed: what comes after it is asked for.
    chips.nth(1).click()
    expect(page.locator("#look .next .note").first).to_contain_text("·capital")


def test_a_tap_looks_and_a_switch_switches_off(watched: Any) -> None:
    page = watched.open("look")
    look(page)
    before = bars(page)
    page.locator("#look .head").nth(2).click()
    expect(page.locator("#look .pair h4")).to_contain_text("Head 4.2")
    assert bars(page) == before  # looking changes nothing
    expect(switch(page, "Head 4.6")).to_have_attribute("aria-checked", "true")
    switch(page, "Head 4.6").click()
    after = when_changed(page, before)
    assert after[0].startswith("·Madrid") and "94.1 %" in after[0]
    expect(switch(page, "Head 4.6")).to_have_attribute("aria-checked", "false")
    # What moved says from where; a row that did not has no mark.
    rows = page.locator("#look .next .bars li")
    expect(rows.first.locator(".number")).to_have_text("94.1 % was 98.9 %")
    moved = rows.locator("small").count()
    assert 1 <= moved < rows.count()
    assert page.locator("#look .bars .ghost:not([hidden])").count() == moved
    # What is said of the head is said of one that is off, and the sentence of the whole model.
    expect(page.locator("#look .why")).to_contain_text("Why the whole model says so:")
    page.locator("#look .story button").click()
    for place in (".looks", ".pair h4"):
        expect(page.locator(f"#look {place}")).to_contain_text("Head 4.6:")
        expect(page.locator(f"#look {place} .off-mark")).to_be_visible()
    expect(page.locator("#look .pair")).to_contain_text("off: not copied")
    expect(page.locator("#look .words.off")).to_have_count(1)
    expect(page.locator("#look .offs")).to_contain_text("head 4.6")
    page.get_by_role("button", name="Switch all on").click()
    assert when_changed(page, after) == before
    expect(page.locator("#look .offs")).to_have_text("No part is switched off.")
    expect(page.locator("#look .looks .off-mark")).to_be_hidden()


def test_a_word_says_what_comes_after_it_and_leads_to_what_brought_it(watched: Any) -> None:
    page = watched.open("look?text=The capital of Spain is Madrid.")
    look(page)
    said = page.locator("#look .from")
    expect(said).to_be_empty()
    page.locator("#look .word-row .chip").nth(5).click()
    expect(said).to_contain_text("What comes after “Madrid” (here “.”). Why “Madrid” itself")
    said.get_by_role("button", name="go on to “.”").click()
    expect(said).to_contain_text("What comes after “.”. Why “.” itself was said:")
    said.get_by_role("button", name="look from “Madrid”").click()
    said.get_by_role("button", name="look from “is”").click()
    expect(page.locator("#look .chip.here")).to_have_text("·is")
    expect(page.locator("#look .story")).to_contain_text("“Madrid”")
    page.locator("#look .word-row .chip").first.click()
    expect(said).to_have_text("What comes after “The” (here “capital”).go on to “capital”")
    page.get_by_label("Text", exact=True).fill("The capital of France is")
    expect(said).to_be_empty()


RED = (
    "Once upon a time there was a little girl named Lily. She had a red ball. One day Lily went to "
    "the park with her mom. She saw a big dog. The dog wanted the red ball. Lily was sad. Then the "
    "dog gave Lily the"
)


def test_sentence_and_picture_say_which_of_the_same_words_they_mean(watched: Any) -> None:
    page = watched.open(f"look?text={RED}")
    look(page)
    story = page.locator("#look .story").inner_text()
    found = re.search(r"looks at “red” \(position (\d+)\) with (\d+) %", story)
    assert found
    first = page.locator("#look .before")
    (before,) = re.findall(r"(\d+) before", first.inner_text())
    assert int(found[1]) < int(before)  # it is out of sight
    # The words beneath the picture say the same; it has an arc to what is out of sight.
    looks = page.locator("#look .looks")
    expect(looks).to_contain_text(
        re.compile(rf"to “·red” \(position {found[1]}\) {found[2]}[.,\d]*")
    )
    expect(page.locator("#look .before-share")).to_have_text(re.compile(r"^8\d %$"))
    expect(page.locator("#look .arc-name:not(.untold)")).to_have_text(["83 %"])
    name = page.locator("#look .arc-name:not(.untold)").bounding_box()
    around = page.locator("#look .words").bounding_box()
    assert name and around and name["x"] >= around["x"]  # it can be read
    # What is compared in numbers is the other one, and says so.
    expect(page.locator("#look .pair h4")).to_contain_text(
        re.compile(r"“·red” \(position \d+\) ans")
    )
    second = re.findall(r"“·red” \((position \d+)\)", page.locator("#look .pair h4").inner_text())
    assert second[0] != f"position {found[1]}"


@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_nothing_moves_when_a_head_is_switched_off(watched: Any, width: int) -> None:
    watched.page.set_viewport_size({"width": width, "height": 900})
    page = watched.open("look")
    look(page)
    # Some browsers hold what is in sight where it is, which would hide that it moves.
    page.evaluate("document.documentElement.style.setProperty('overflow-anchor', 'none')")
    head = switch(page, "Head 4.6")
    head.scroll_into_view_if_needed()
    places = ".story, .look, .river-card, .next, .next .bars, .heads-card, .pair, .details"
    where = f"""() => [...document.querySelectorAll("#look :is({places})")]
        .map((each) => Math.round(each.getBoundingClientRect().y + scrollY))"""
    before, shown = page.evaluate(where), bars(page)
    head.click()
    when_changed(page, shown)
    expect(page.locator("#look .looks .off-mark")).to_be_visible()
    after = page.evaluate(where)
    assert len(before) == 8
    assert max(abs(a - b) for a, b in zip(before, after, strict=True)) <= 1


def test_no_sentence_of_another_text_stands_there(watched: Any) -> None:
    page = watched.open("look")
    look(page)
    held: list[Any] = []
    page.route("**/api/look/why", lambda route: held.append(route))
    page.get_by_label("Text", exact=True).fill("The capital of France is")
    expect(page.locator("#look .word-row")).to_contain_text("France")
    expect(page.locator("#look .story")).to_have_text("Asking why…")
    for _ in range(400):
        if held:
            break
        page.wait_for_timeout(25)
    held[0].continue_()
    expect(page.locator("#look .story")).to_contain_text("“Paris”")


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (1920, 1080)])
def test_the_river_ends_above_what_is_as_wide_as_the_page(
    watched: Any, width: int, height: int
) -> None:
    page = watched.page
    page.set_viewport_size({"width": width, "height": height})
    watched.open("look")
    look(page)
    page.get_by_role("button", name="Walk through").click()
    for _ in range(STEPS.index("feed")):
        page.keyboard.press("ArrowRight")
    table = page.locator("#look [data-part=neurons] table")
    expect(table).to_be_in_viewport()
    river = page.locator("#look .river-card").bounding_box()
    details = page.locator("#look .details").bounding_box()
    assert river and details
    assert river["y"] + river["height"] <= details["y"]
    assert details["y"] < height / 2  # it is scrolled: a card that sticks would be over it


def test_the_head_of_the_sentence_comes_into_sight(watched: Any) -> None:
    watched.page.set_viewport_size({"width": 360, "height": 740})
    page = watched.open("look")
    look(page)
    card = page.locator("#look .head-card").nth(6)
    expect(card).not_to_be_in_viewport()
    page.locator("#look .story button").click()
    expect(card.get_by_role("switch")).to_be_in_viewport(ratio=1)


def test_no_number_of_an_arc_lies_over_another(watched: Any) -> None:
    page = watched.open("look?text=The cat and the dog and the cat and the dog and the cat and")
    look(page)
    shown = page.locator("#look .arc-name:visible")
    left_out = 0
    for head in page.locator("#look .head").all():
        head.click()
        expect(head).to_have_attribute("aria-pressed", "true")
        boxes = shown.evaluate_all(
            "all => all.map((e) => e.getBoundingClientRect()).map((b) => [b.x, b.y])"
        )
        for a, b in itertools.combinations(boxes, 2):
            assert abs(a[0] - b[0]) > 30 or abs(a[1] - b[1]) > 15  # "99 %" is as large
        untold = page.locator("#look .arc-name.untold").all_text_contents()
        left_out += sum(int(number.split()[0]) >= 10 for number in untold)
        if left_out and len(untold) > left_out:
            break
    assert left_out  # some that had no room
    # They are told of while their word is pointed at, or has the focus.
    hidden = untold[-1]
    column = page.locator("#look .word-column").filter(has_text=hidden).last
    column.locator(".share").focus()
    expect(shown).to_have_text([hidden])


def test_a_pair_of_words_is_compared_in_numbers(watched: Any) -> None:
    page = watched.open("look")
    look(page)
    pair = page.locator("#look .pair")
    expect(pair.locator("canvas")).to_have_count(4)  # query, key, product, value
    expect(pair).to_contain_text("All 32 numbers")
    dot, scale, score = re.findall(
        r"Score: (−?\d+\.\d) × (0\.\d+) = (−?\d+\.\d+)", pair.inner_text()
    )[0]
    numbers = [float(number.replace("−", "-")) for number in (dot, scale, score)]
    assert numbers[0] * numbers[1] == pytest.approx(numbers[2], abs=0.02)
    expect(pair.locator("tbody tr")).to_have_count(5)
    expect(pair.locator("tbody tr").first).to_contain_text("98.2 %")
    page.locator("#look .share").nth(1).click()
    expect(pair.locator("h4")).to_contain_text("“·is” asks, “·capital” answers")
    # Of a word in the middle: what comes later is masked.
    page.locator("#look .word-row .chip").nth(2).click()
    expect(pair).to_contain_text("2 later words are masked")
    expect(pair.locator("tbody tr")).to_have_count(3)


def test_a_layer_is_opened_at_its_strongest_head(watched: Any) -> None:
    page = watched.open("look")
    look(page)
    best = page.locator("#look .layers .best").nth(3).inner_text()
    page.get_by_role("button", name=re.compile("^Layer 3: ")).click()
    expect(page.locator("#look .layers li.open .layer")).to_have_text("3")
    expect(page.locator("#look .head[aria-pressed=true] b")).to_have_text(best)
    page.locator("#look .story button").click()  # the head that the sentence names
    expect(page.locator("#look .head[aria-pressed=true] b")).to_have_text("4.6")


def test_draw_appends_a_token_and_a_bar_is_taken(watched: Any) -> None:
    page = watched.open("look")
    look(page)
    before = bars(page)
    page.evaluate("Math.random = () => 0.5")  # the lot falls on the likeliest
    page.get_by_role("button", name="Draw").click()
    field = page.get_by_label("Text", exact=True)
    expect(field).to_have_value("The capital of Spain is Madrid")
    after = when_changed(page, before)
    expect(page.locator("#look .word-row .chip")).to_have_count(6)
    word = page.locator("#look .next .alternative .word").nth(1).inner_text()
    page.locator("#look .next .alternative").nth(1).click()
    expect(field).to_have_value(f"The capital of Spain is Madrid{word.replace('·', ' ')}")
    assert when_changed(page, after) != before


def test_a_token_that_is_not_among_those_shown_can_be_drawn(watched: Any) -> None:
    page = watched.open("look?text=The")
    look(page)
    page.evaluate("Math.random = () => 0.99")
    shown = page.locator("#look .next .word").all_text_contents()
    page.get_by_role("button", name="Draw").click()
    field = page.get_by_label("Text", exact=True)
    expect(field).to_have_value(re.compile("^The."))
    assert field.input_value()[3:].replace(" ", "·") not in shown


def test_all_bars_of_probability_have_one_scale(watched: Any) -> None:
    page = watched.open("look?text=The little")
    look(page)
    rows = page.locator("#look .next .bars li")
    for i in range(3):
        said = float(rows.nth(i).locator(".number").inner_text().split()[0])
        width = rows.nth(i).locator(".fill").evaluate("fill => parseFloat(fill.style.width)")
        assert width == pytest.approx(said, abs=0.06)


def test_a_slider_moves_the_bars(watched: Any) -> None:
    page = watched.open("look")
    look(page)
    page.locator("#look .next summary").click()
    before = bars(page)
    page.locator("#look").get_by_label("Top-k").fill("3")
    after = when_changed(page, before)
    assert sum("out" in bar for bar in after) == len(after) - 3
    page.locator("#look").get_by_label("Temperature").fill("0")
    assert "100.0 %" in when_changed(page, after)[0]


def test_what_is_folded_opens_with_one_scale_and_says_what_is_cut(watched: Any) -> None:
    page = watched.open("look")
    look(page)
    part = page.locator("#look [data-part=norms]")
    part.locator("summary").click()
    expect(part.locator(".vectors").first.locator("canvas")).to_have_count(3)
    expect(part.locator(".note").first).to_contain_text(
        re.compile(r"The first 64 of 256 numbers of each vector, on one scale: full colour is \d")
    )
    lens = page.locator("#look [data-part=lens]")
    lens.locator("summary").click()
    expect(lens.locator("tbody tr")).to_have_count(7)
    expect(lens.locator("tbody tr").last.locator("td").last).to_have_text("·Madrid")
    neurons = page.locator("#look [data-part=neurons]")
    neurons.locator("summary").click()
    before = bars(page)
    neurons.get_by_role("switch").last.click()  # the whole feed-forward
    assert when_changed(page, before)[0] != before[0]
    page.set_viewport_size({"width": 390, "height": 844})
    for switched in neurons.get_by_role("switch").all():  # on a phone none lies beyond the edge
        place = switched.bounding_box()
        assert place and place["x"] + place["width"] <= 390 - 12


def test_the_walk_points_at_numbers_of_this_prompt(watched: Any) -> None:
    page = watched.open("look")
    look(page)
    page.get_by_role("button", name="Walk through").click()
    bar = page.locator(".walk")
    for name in STEPS:
        expect(bar).to_have_attribute("data-step", name)
        expect(page.locator("#look .pointed")).to_have_count(1)
        said = bar.locator("p").inner_text()
        assert re.search(r"\d", said)
        if name == "attention":
            assert "In head 4.6, “·is” looks at “·Spain” with 98.2 %" in said
        if name == "switch":
            assert "from 98.9 % to 94.1 %" in said
        page.keyboard.press("ArrowRight")
    expect(bar).to_be_hidden()
    expect(page.locator("#look .pointed")).to_have_count(0)


def test_a_text_that_does_not_fit_is_told_and_what_is_shown_is_marked_as_old(watched: Any) -> None:
    page = watched.open("look")
    look(page)
    field = page.get_by_label("Text", exact=True)
    field.fill("word " * 600)
    expect(page.locator("#look .form [role=alert]")).to_contain_text("512")
    expect(page.locator("#look.stale")).to_have_count(1)
    field.fill("word " * 100)
    expect(page.locator("#look.stale")).to_have_count(0)
    # The token that is followed is in sight, though there are many before it.
    here = page.locator("#look .chip.here")
    box, around = here.bounding_box(), page.locator("#look .words").bounding_box()
    assert box and around
    assert around["x"] <= box["x"] <= around["x"] + around["width"]
    watched.complaints[:] = [c for c in watched.complaints if "status of 400" not in c]


def test_a_text_that_ends_in_a_space_is_told_of(watched: Any) -> None:
    page = watched.open("look")
    look(page)
    page.get_by_label("Text", exact=True).fill("The little cat ")
    expect(page.locator("#look > .status")).to_contain_text(
        re.compile(r"computed.*ms\..*ends in a space, but tokens of words begin with theirs")
    )


@pytest.mark.parametrize("width", [360, 1280])
def test_the_next_token_is_in_sight_while_a_head_is_switched_off(watched: Any, width: int) -> None:
    watched.page.set_viewport_size({"width": width, "height": 740})
    page = watched.open("look")
    look(page)
    head = page.locator("#look .head").nth(6)
    head.scroll_into_view_if_needed()
    head.click()
    # A tap looks, and switches nothing off.
    expect(page.locator("#look .offs")).to_have_text("No part is switched off.")
    switch(page, "Head 4.6").click()
    expect(page.locator("#look .offs")).to_contain_text("head 4.6")
    place = page.locator("#look .glance" if width < 1000 else "#look .next .bars li").first
    expect(place).to_be_in_viewport()
    if width < 1000:
        expect(place).to_contain_text("was")
