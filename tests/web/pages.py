"""A page that is watched, and what a person does on it."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import expect

expect.set_options(timeout=30_000)  # the first answer waits for weights and kernels


class Watched:
    """A page with what it complained of and whom it asked."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.address = address
        options = {"viewport": {"width": 1280, "height": 900}, **options}
        self.context = browser.new_context(reduced_motion="reduce", **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.page.on(
            "console",
            lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None,
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def open(self, tab: str, model: str = "pocket") -> Any:
        """Go to a tab, with a model."""
        if model != "pocket":
            kept = f'sessionStorage.setItem("laplm-model", JSON.stringify("{model}"))'
            self.page.add_init_script(kept)
        self.page.goto(f"{self.address}#/{tab}")
        self.page.locator("#model option").first.wait_for(state="attached")
        return self.page


def write(page: Any, *, tokens: int = 12, seed: int = 3, button: str = "Write") -> None:
    """Write on, and wait for the end."""
    form = page.locator("#write form")
    form.locator("details").evaluate("details => { details.open = true; }")
    form.get_by_label("Tokens").fill(str(tokens))
    form.get_by_label("Seed").fill(str(seed))
    form.get_by_role("button", name=button, exact=True).click()
    written(page, seed)


def written(page: Any, seed: int) -> None:
    """Wait until a text is there."""
    expect(page.locator("#write .status").first).to_contain_text(f"seed {seed}")


def look(page: Any) -> None:
    """Wait until everything is shown: the layers, the story, and the head that it names."""
    expect(page.locator("#look .story button")).to_be_visible()
    expect(page.locator("#look .pair h4")).to_be_visible()


def bars(page: Any) -> list[str]:
    """The next token's bars."""
    # Not the inner texts: where they break depends on whether the page is drawn already.
    found: list[str] = page.locator("#look .next .bars li").all_text_contents()
    return found


def when_changed(page: Any, before: list[str]) -> list[str]:
    """The next token's bars, once they are others.

    Asked again and again from here: the page's policy lets no code be made of a string, which is
    how playwright would wait inside of it.
    """
    for _ in range(400):
        if (now := bars(page)) and now != before:
            return now
        page.wait_for_timeout(25)
    raise AssertionError("the bars did not change")
