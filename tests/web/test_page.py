"""The page as a person meets it: typed in, moved, clicked, read, with keys alone."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from pages import Watched, look, write
from playwright.sync_api import expect

import laplm
from laplm.hub import tuning_runs
from tests.hub.hub_server import Hub

pytest_plugins = ("browsing",)  # its fixtures; a second conftest would hide the first one

TABS = ("chat", "write", "look", "tune", "models")
PROMPT = "Once upon a time, there was a little girl"
WEB = Path(laplm.__file__).parent / "web"
STORY = "Tom had a red boat. The boat was fast. Tom and his boat went to the lake.\n<|endoftext|>\n"


def refused(watched: Watched) -> None:
    """One request was refused, as was wanted; the browser complains of each."""
    (complaint,) = watched.complaints
    assert "400" in complaint
    watched.complaints.clear()


# --- tune -------------------------------------------------------------------------------------


def test_a_tuning_is_planned_watched_compared_named_and_exported(
    run_elsewhere: str, watched: Any
) -> None:
    pytest.importorskip("torch")
    page = watched.open("tune")
    page.locator("#model").select_option("tiny")  # whose steps are short
    stories = "".join(STORY.replace("red", f"boat of {i} sails, a") for i in range(40))
    page.locator("#tune input[type=file]").set_input_files(
        {"name": "lake.txt", "mimeType": "text/plain", "buffer": stories.encode()}
    )
    page.get_by_label("Epochs").fill("1")
    page.get_by_role("button", name="Show the plan").click()
    start = page.get_by_role("button", name="Start", exact=True)
    start.wait_for(timeout=180_000)
    expect(page.locator("#tune .facts").first).to_contain_text("40 documents")
    start.click()
    with page.expect_request("**/api/models/load", timeout=180_000) as loading:
        expect(page.locator("#tune .state")).to_have_text("done", timeout=180_000)
    assert loading.value.post_data_json == {"model": "lake"}  # while the other one writes
    expect(page.locator("#tune .steps")).to_contain_text(re.compile(r"step ([1-9]\d*) of \1(?!\d)"))
    expect(page.locator("#tune .run .chart path.curve")).to_have_count(2)
    texts = page.locator("#tune .two .sample-text")
    # On what it was tuned on: as a document begins that it has not seen.
    opening = re.compile(r"^Tom had a boat of \d+")
    for text in (texts.first, texts.last):
        expect(text).to_have_text(opening, timeout=60_000)
    assert texts.first.inner_text() != texts.last.inner_text()
    expect(page.locator("#tune .run")).to_contain_text(
        re.compile(r"better what comes next in held-out text.*\(perplexity\).*\d\.\d\d bits")
    )
    report = page.get_by_role("link", name="Open the report")
    for theme in ("dark", "light"):  # as the page is, whatever the system is
        page.locator("#theme").click()
        expect(report).to_have_attribute("href", re.compile(rf"/report\?theme={theme}$"))
    with page.expect_popup() as opened:
        report.click()
    expect(opened.value.locator("h1")).to_contain_text(", tuned")
    opened.value.close()
    # With the run that a command has made meanwhile on one chart, until one takes it off.
    compared = page.locator("#tune .runs + div .chart path.curve")
    expect(compared).to_have_count(2)
    expect(page.get_by_label("Compare lake")).to_be_checked()
    page.get_by_label(f"Compare {run_elsewhere}").uncheck()
    expect(compared).to_have_count(0)
    page.get_by_role("button", name="Export for Ollama").click()
    expect(page.locator("#tune .run")).to_contain_text("ollama create lake -f", timeout=60_000)
    page.get_by_label("Name", exact=True).fill("pocket")
    page.get_by_role("button", name="Rename").click()
    expect(page.locator("#tune .run [role=alert]").first).to_contain_text("name of another model")
    refused(watched)
    page.get_by_label("Name", exact=True).fill("boats")
    page.get_by_role("button", name="Rename").click()
    expect(page.locator("#tune .run h3")).to_have_text("lake.txt → boats")
    page.get_by_role("button", name="Write with it").click()
    expect(page.locator("#model")).to_have_value("boats")
    expect(page.get_by_role("tab", name="Write")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#about")).to_contain_text("boats")
    expect(page.locator("#write .token").first).to_be_attached()
    expect(page.locator("#write").get_by_label("Prompt")).to_have_value(opening)
    for tab in ("write", "look"):
        expect(page.locator(f"#{tab} .example").first).to_have_text(opening)
    page.locator("#model").select_option("tiny")
    expect(page.locator("#write .example").first).to_have_text("The capital of Spain is")


def test_a_plan_says_what_a_lone_short_text_can_teach(watched: Any, runs_directory: Path) -> None:
    there = runs_directory / "20260101-000000-dddd"
    there.mkdir()
    plan = {
        "documents": 1, "tokens": 700, "train_documents": 1, "heldout_documents": 1, "window": 512,
        "filled": 0.6, "seconds": 1.9, "max_steps": 2, "tokens_per_step": 1024,
    }  # fmt: skip
    entry = {
        "name": "sea.txt", "model": "tiny", "state": "planned", "created": 1.0, "settings": {},
        "model_name": "waves", "plan": plan, "message": "",
    }  # fmt: skip
    tuning_runs.write_entry(there, entry)
    page = watched.open("tune")
    page.get_by_role("button", name="Show the run waves", exact=True).click()
    facts = page.locator("#tune .facts").first
    expect(facts).to_contain_text(
        "about 1.9 s for 2 steps of 1,024 tokens; beginning and measuring"
    )
    expect(facts).to_contain_text("Base modeltiny")
    few = page.locator("#tune .few-steps")
    expect(few).to_contain_text("Only 2 steps: the text is short")
    expect(few).to_contain_text("Read 30 times (epochs) it teaches more")
    expect(few.get_by_role("button")).to_have_count(0)  # its text is not at hand
    expect(facts).to_contain_text("1 document, of which the end is kept back to measure on")
    expect(facts).to_contain_text("1 document in windows of 512")
    expect(facts).to_contain_text("the end of the text, only measured on")
    shutil.rmtree(there)


def test_a_plan_with_few_steps_is_planned_again_with_more(watched: Any) -> None:
    page = watched.open("tune")
    expect(page.locator("#tune .base")).to_have_text("Base model: pocket, as chosen at the top.")
    entry: dict[str, Any] = {
        "id": "x1", "name": "rhymes.txt", "model": "pocket", "model_name": "rhymes",
        "state": "planned", "message": "", "created": 1.0, "elsewhere": False, "opening": None,
        "asks": False, "step": 0, "losses": [], "heldout_losses": [], "samples": [],
        "settings": {}, "directory": "/runs/x1/model", "result": None,
    }  # fmt: skip
    asked: list[Any] = []
    gone: list[str] = []

    def created(route: Any) -> None:
        if route.request.method != "POST":
            route.fulfill(json={"runs": [entry]} if asked else {"runs": []})
            return
        asked.append(route.request.post_data_json)
        epochs = asked[-1]["settings"]["epochs"]
        steps = {"max_steps": epochs, "tokens_per_step": 1024, "seconds": 2.0}
        entry.update(id=f"x{len(asked)}", settings=asked[-1]["settings"], plan=steps)
        route.fulfill(status=201, json=entry)

    def one(route: Any) -> None:
        if route.request.method == "DELETE":
            gone.append(route.request.url.rsplit("/", 1)[-1])
        if route.request.url.endswith("/events"):
            route.fulfill(body="", content_type="text/event-stream")
        else:
            route.fulfill(json=entry)

    page.route("**/api/tune", created)
    page.route("**/api/tune/*", one)
    page.route("**/api/tune/*/events", one)
    page.get_by_role("button", name=re.compile("Nursery rhymes")).click()
    page.get_by_role("button", name="Show the plan").click()
    few = page.locator("#tune .few-steps")
    expect(few).to_contain_text("Only 3 steps")
    few.get_by_role("button", name="Plan 20 epochs").click()
    expect(few).to_have_count(0)
    expect(page.locator("#tune .facts").first).to_contain_text("20 steps of 1,024 tokens")
    expect(page.get_by_label("Epochs")).to_have_value("20")
    assert [body["settings"]["epochs"] for body in asked] == [3, 20] and gone == ["x1"]
    assert asked[1] == asked[0] | {"settings": asked[1]["settings"]}


def test_a_run_that_trains_is_watched_stopped_and_gone_on_with(
    training: Path, watched: Any
) -> None:
    """What trains is a command's run; tests/serve have a server's stopped and go on."""
    page = watched.open("tune")  # what is on its way is seen at once
    steps = page.locator("#tune .steps")
    expect(page.locator("#tune .state")).to_have_text("tuning, started elsewhere")
    expect(steps).to_contain_text("step 3 of 9")
    with (training / "model" / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "max_steps": 9, "train_loss": 2.5}\n')
    expect(steps).to_contain_text("step 4 of 9")
    expect(steps).to_contain_text("loss 2.500")
    with (training / "model" / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "max_steps": 9, "train_loss": 2.4}\n')
    expect(steps).to_contain_text("measuring what it has learnt…")
    page.get_by_role("button", name="Stop", exact=True).last.click()
    resume = page.get_by_role("button", name="Resume")
    expect(page.locator("#tune .state")).to_have_text("stopped; it can go on from here")
    assert page.locator("#tune .two").count() == 0
    page.reload()  # it is found again by somebody who comes back later
    page.get_by_role("button", name="Show the run waves", exact=True).click()
    expect(steps).to_contain_text("step 9 of 9")
    page.route(f"**/api/tune/{training.name}/start", lambda route: route.fulfill(json={}))
    with page.expect_request(f"**/api/tune/{training.name}/start") as asked:
        resume.click()
    assert asked.value.method == "POST"


def test_the_list_shows_what_others_do(watched: Any, runs_directory: Path) -> None:
    page = watched.open("tune")
    there = runs_directory / "20260101-000000-aaaa"
    there.mkdir()
    entry = {
        "name": "sea.txt", "model": "tiny", "state": "running", "created": 1.0, "settings": {},
        "model_name": "waves", "plan": None, "message": "",
    }  # fmt: skip
    with tuning_runs.lock_run(there):
        tuning_runs.write_entry(there, entry)
        row = page.locator("#tune .runs li").filter(has_text="waves")
        expect(row).to_contain_text("tuning, started elsewhere")
        tuning_runs.write_entry(there, entry | {"state": "stopped", "model_name": "surf"})
        expect(page.locator("#tune .run h3")).to_have_text("sea.txt → surf")
        row = page.locator("#tune .runs li").filter(has_text="surf")
        expect(row).to_contain_text("stopped; it can go on from here")
    shutil.rmtree(there)
    expect(page.locator("#tune .runs li").filter(has_text="surf")).to_have_count(0)
    expect(page.locator("#tune .run")).to_be_hidden()


def test_an_example_is_a_text_and_gives_the_result_its_name(watched: Any) -> None:
    page = watched.open("tune")
    page.get_by_role("button", name=re.compile("Nursery rhymes")).click()
    text = page.get_by_label("The text to learn from").input_value()
    assert text.startswith("Hey diddle diddle,\n") and text.count("<|endoftext|>") == 36
    sent: list[Any] = []
    page.on("request", lambda r: sent.append(r.post_data_json) if r.method == "POST" else None)
    page.get_by_label("Name of the result").fill("a b")
    page.get_by_role("button", name="Show the plan").click()
    alert = page.locator("#tune form [role=alert]").first
    expect(alert).to_contain_text("cannot be a model's name")
    refused(watched)
    (body,) = (body for body in sent if "content" in body)
    assert (body["name"], body["content"], body["model_name"]) == ("rhymes.txt", text, "a b")


def test_the_address_of_the_tab_before_leads_to_it(watched: Any) -> None:
    page = watched.open("teach")
    expect(page.get_by_role("tab", name="Tune")).to_have_attribute("aria-selected", "true")


def test_a_model_that_cannot_be_tuned_is_told_before_anything_is_sent(watched: Any) -> None:
    def changed(route: Any) -> None:
        answer = route.fetch().json()
        for model in answer["models"]:
            model["tunable"] = model["name"] != "tiny"
        route.fulfill(json=answer)

    watched.page.route("**/api/models", changed)
    page = watched.open("tune")
    plan = page.get_by_role("button", name="Show the plan")
    expect(plan).to_be_enabled()
    page.locator("#model").select_option("tiny")
    expect(plan).to_be_disabled()
    expect(page.locator("#tune form")).to_contain_text("tiny cannot be tuned here")
    page.locator("#model").select_option("pocket")
    expect(plan).to_be_enabled()


def test_no_file_and_an_unusable_one_are_told_next_to_the_form(watched: Any) -> None:
    page = watched.open("tune")
    page.get_by_role("button", name="Show the plan").click()
    expect(page.locator("#tune form [role=alert]").first).to_contain_text("Paste a text")
    page.locator("#tune input[type=file]").set_input_files(
        {"name": "a.jsonl", "mimeType": "text/plain", "buffer": b"not json\n"}
    )
    page.get_by_role("button", name="Show the plan").click()
    failed = page.locator("#tune .run [role=alert]").filter(has_text="a.jsonl")
    expect(failed).to_be_visible(timeout=120_000)


# --- models -----------------------------------------------------------------------------------


def test_models_are_listed_with_sizes_loaded_and_unloaded(watched: Any) -> None:
    page = watched.open("models")
    card = page.locator("#models .model").filter(has=page.get_by_role("heading", name="pocket"))
    expect(card).to_contain_text("6.2 million")
    expect(card).to_contain_text("6 layers × 8 heads")
    for said in ("base: it goes on", "gpt2", "fp16", "apache-2.0", "laplm/pocket"):
        expect(card).to_contain_text(said)
    assert card.locator("dd wbr").count()  # a path breaks behind its slashes
    talker = page.locator("#models .model").filter(has_text="talker")
    expect(talker).to_contain_text("chat: it answers messages")
    expect(talker).not_to_contain_text("licence")
    button = card.get_by_role("button", name=re.compile("^(Load|Unload) pocket"))
    if button.inner_text() == "Load":
        button.click()
    expect(card).to_contain_text("in memory")
    card.get_by_role("button", name="Unload pocket").click()
    expect(card).to_contain_text("not loaded")


def test_a_model_is_pulled_with_progress_and_may_be_cancelled(watched: Any, hub: Hub) -> None:
    page = watched.open("models")
    name = page.get_by_label("Name on the Hugging Face hub")
    pull = page.get_by_role("button", name="Pull", exact=True)
    name.fill("me/typo")
    pull.click()
    expect(page.locator("#models [role=alert]")).to_contain_text("no public model me/typo")
    expect(pull).to_be_enabled()
    hub.hold.clear()  # the weights do not come
    name.fill("distilgpt2")
    expect(page.locator("#models .hint")).to_contain_text("82 million parameters, licence apache")
    pull.click()
    said = page.locator("#models .hint .status")
    expect(said).to_contain_text(re.compile(r"distilgpt2: .+ of \d"))
    expect(page.locator("#models [role=alert]")).to_be_hidden()
    page.reload()  # it goes on
    expect(said).to_contain_text(re.compile(r"distilgpt2: .+ of \d"))
    page.get_by_role("button", name="Cancel").click()
    hub.hold.set()
    expect(said).to_contain_text("cancelled; what has arrived is kept")
    card = page.locator("#models .model").filter(has_text="distilgpt2")
    assert card.count() == 0
    name.fill("distilgpt2")
    pull.click()
    expect(said).to_contain_text("distilgpt2 is here")
    expect(card).to_be_visible()
    watched.page.locator("#model").select_option("distilgpt2")


def test_a_choice_that_is_made_while_models_are_listed_stays(watched: Any) -> None:
    page = watched.open("write")
    held: list[Any] = []
    page.route("**/api/models", lambda route: held.append(route))
    page.get_by_role("tab", name="Models").click()
    while not held:
        page.wait_for_timeout(25)
    page.locator("#model").select_option("tiny")
    with page.expect_response("**/api/models"):
        held[0].continue_()
    expect(page.locator("#models .current h3")).to_have_text("tiny")
    expect(page.locator("#model")).to_have_value("tiny")


def test_a_page_that_may_not_pull_says_how_models_come(watched: Any) -> None:
    watched.page.route(
        "**/api/models/pull",
        lambda route: route.fulfill(json={"allowed": False, "known": [], "pull": None}),
    )
    page = watched.open("models")
    expect(page.locator("#models .hint")).to_contain_text("laplm serve --allow-pull")
    assert page.get_by_label("Name on the Hugging Face hub").count() == 0


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
    switch = page.get_by_role("switch", name="Head 4.6", exact=True)
    switch.focus()
    page.keyboard.press("Space")
    expect(switch).to_have_attribute("aria-checked", "false")
    # What was pressed still has the focus, though all was drawn anew.
    expect(switch).to_be_focused()
    page.get_by_role("tab", name="Look inside").focus()
    page.keyboard.press("Home")
    prompt = page.get_by_label("Prompt", exact=True)
    prompt.fill(PROMPT)
    prompt.press("Control+Enter")
    expect(page.locator("#write .status").first).to_contain_text("tokens in")
    # One stop for all tokens of a text, arrow keys inside; then what else a token could have been.
    page.locator("#write .settings summary").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    tokens = page.locator("#write .token")
    expect(tokens.first).to_be_focused()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(tokens.nth(2)).to_be_focused()
    page.keyboard.press("Enter")
    for _ in range(5):  # past what can be done with the text
        page.keyboard.press("Tab")
    expect(page.locator("#write .draws .alternative").first).to_be_focused()
    page.keyboard.press("Tab")
    word = page.locator("#write .draws .alternative .word").nth(1).inner_text()
    page.keyboard.press("Enter")
    expect(tokens.nth(2)).to_have_text(word.replace("·", ""))


def shown(watched: Watched, tab: str) -> Any:
    """A tab with all that it has on the first screen."""
    page = watched.open(f"{tab}?text={PROMPT}", model="talker" if tab == "chat" else "pocket")
    if tab == "chat":
        expect(page.locator("#chat .message.assistant > .note")).to_contain_text("tokens/s")
    if tab == "write":
        write(page)
        page.locator("#write .token").nth(1).click()
    if tab == "tune":
        page.get_by_role("button", name="Show the run waves", exact=True).click()
        expect(page.locator("#tune .run .chart")).to_be_visible()
    if tab == "look":
        look(page)
        page.get_by_role("switch").first.click()
        expect(page.locator("#look .offs")).to_contain_text("head")
    return page


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.usefixtures("run_elsewhere")
@pytest.mark.parametrize("tab", TABS)
def test_no_serious_barrier_is_found_by_axe(watched: Any, tab: str, theme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    watched.page.emulate_media(color_scheme=theme)
    page = shown(watched, tab)
    found = Axe().run(page).response["violations"]
    serious = [
        f"{v['id']}: {v['nodes'][0]['html'][:200]} {v['nodes'][0]['failureSummary'][:300]}"
        for v in found
        if v["impact"] in ("serious", "critical")
    ]
    assert serious == []


@pytest.mark.usefixtures("run_elsewhere")
@pytest.mark.parametrize("tab", TABS)
def test_nothing_is_wider_than_the_screen_nor_higher_than_five_of_a_phone(
    watched: Any, tab: str
) -> None:
    page = shown(watched, tab)
    for width in (1920, 768, 360):
        watched.page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.documentElement.scrollHeight <= 5 * innerHeight")


def test_the_theme_is_switched_and_kept(watched: Any) -> None:
    page = watched.open("write")
    before = page.evaluate("document.documentElement.dataset.theme")
    page.locator("#theme").click()
    other = {"light": "dark", "dark": "light"}[before]
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == other


def test_what_stands_in_empty_fields_is_no_fainter_than_notes(watched: Any) -> None:
    watched.page.emulate_media(color_scheme="dark")
    page = watched.open("tune")
    field = page.get_by_label("Name of the result")
    shown = field.evaluate("element => getComputedStyle(element, '::placeholder').color")
    assert shown == page.locator("#about").evaluate("element => getComputedStyle(element).color")


def test_files_hold_no_inline_code_and_no_address_outside() -> None:
    html = (WEB / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|\sstyle=|\son\w+=|javascript:", html)
    for file in WEB.rglob("*"):
        if file.suffix in (".html", ".css", ".js"):
            text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
            assert max(map(len, text.splitlines())) <= 100, file
            assert not re.search(r"https?://|innerHTML|insertAdjacentHTML|\beval\(", text), file
