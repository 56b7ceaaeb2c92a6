"""The report in a real browser: it draws, filters, explains and obeys the keyboard, and texts stay texts."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from report_runs import HOSTILE, write_hostile_run
from runs import config, run
from sweeps import write_ladder

from dapo_lightning.report.__main__ import report
from dapo_lightning.run.visit import visit

pytestmark = pytest.mark.browser
DOCTOR = (
    "mode=doctor", "policy.warm_start=null", "policy.hidden_size=32", "policy.intermediate_size=64",
    "policy.num_heads=2", "data=jsonl", "rollout._target_=scripted.Scripted", "doctor.num_prompts=4",
    "max_new_tokens=8", "evaluation.num_prompts=null",
)  # fmt: skip
sync_api = pytest.importorskip("playwright.sync_api", reason="make test-browser installs it")


@pytest.fixture(scope="module")
def chromium():
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    assert path, "there is no Chromium: make test-browser installs it"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A run of the small policy with two held-out sets, a hostile one, a sweep with a set, and what the doctor says
    about hostile data."""
    folder = tmp_path_factory.mktemp("pages")
    sets = (
        "+evaluation.sets.more={num_completions: 4}",
        "+evaluation.sets.greedy={num_completions: 1, temperature: 0}",
    )
    trained = run(folder / "trained", "callbacks.rollouts.tokens_every=1", "optimizer.lr=3e-2", *sets)
    hostile = write_hostile_run(folder / "hostile")
    sweep = write_ladder(folder / "sweep", seeds=(0, 1), overrides=["+evaluation.sets.long.num_completions=4"])
    rows = [
        {"prompt": f"{i}+1=", "answer": f"{i + 1}{'#' * (i % 2 == 0)}{text}"}
        for i, text in enumerate([*HOSTILE.values()][:8])
    ]
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = [f"data.{split}_path={folder}/{split}.jsonl" for split in ("train", "validation")]
    visit(config(*DOCTOR, *data, f"run_folder={folder / 'doctor'}"))
    doctor = folder / "doctor/doctor.html"
    return {"run": trained / "report.html", "hostile": report(hostile), "sweep": report(sweep), "doctor": doctor}


@pytest.fixture
def opened(chromium, pages):
    """Opens a page; at the end, nothing was complained of and nothing requested but the file itself."""
    trouble, requests, tabs = [], [], []

    def opens(name, width=1300, height=900, scheme="light", anchor=""):
        page = chromium.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("dialog", lambda dialog: trouble.append(dialog.message))
        page.on("request", lambda request: requests.append(request.url))
        url = f"file://{pages[name]}{anchor}"
        page.goto(url)
        tabs.append((page, url.partition("#")[0]))
        return page

    yield opens
    for page, _ in tabs:
        page.close()
    assert not trouble
    assert {url.partition("#")[0] for url in requests} <= {url for _, url in tabs}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1300, 390])
@pytest.mark.parametrize("name", ["run", "hostile", "sweep"])
def test_it_draws_at_every_width(opened, name, width, scheme):
    page = opened(name, width=width, scheme=scheme)
    page.wait_for_selector("path.curve", state="attached")
    assert page.locator("path.curve").count() >= 5
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(250, 249, 246)"
    assert light == (scheme == "light")
    page.get_by_text("theme: auto").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(250, 249, 246)"


def test_hostile_texts_do_nothing_wherever_they_are_shown(opened):
    page = opened("hostile")
    wanted = page.locator("#completions select").first
    for step in ("1", "2", "3", "4"):
        wanted.select_option(step)
        for entry in page.locator(".list button").all():
            entry.click()
            for mode in page.locator(".switch label").all():
                mode.click()
            for token in page.locator(".t").all()[:2]:
                token.hover()
    for chart in page.locator("figure svg").all():
        chart.hover()
    page.wait_for_timeout(300)
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main script, main b > b, main iframe, main a[href^=javascript]").count() == 0
    assert page.url.startswith("file://")


def test_a_text_is_shown_as_it_was_written(opened):
    page = opened("hostile")
    page.locator("#completions input[type=search]").fill(HOSTILE["end of script"])
    page.wait_for_timeout(300)
    page.locator(".list button").first.click()
    page.locator(".switch label").first.click()  # plain text
    assert any(text == HOSTILE["end of script"] for text in page.locator(".completion > .text").all_inner_texts())
    page.locator("#completions input[type=search]").fill("right \u202etfel")
    page.wait_for_timeout(300)
    page.locator(".list button").first.click()
    assert "right ⟨U+202E⟩tfel⟨U+202C⟩" in page.locator(".detail").inner_text()


def test_filters(opened):
    page = opened("hostile")
    entries, selects = page.locator(".list button"), page.locator("#completions select")
    assert entries.count() == 12
    selects.nth(0).select_option("2")
    assert entries.count() == 3
    selects.nth(1).select_option("v:all_wrong")
    assert entries.count() == 1 and "all wrong" in entries.first.inner_text()
    selects.nth(1).select_option("f:trained")
    selects.nth(2).select_option("truncated")
    assert entries.count() == 0 and "No group matches" in page.locator("#completions").inner_text()
    selects.nth(0).select_option("all")
    selects.nth(1).select_option("all")
    assert entries.count() == 4
    selects.nth(2).select_option("held")
    assert entries.count() == 4 and all("tokens" in text for text in entries.all_inner_texts())


def test_hovering_tells_exact_numbers(opened):
    page = opened("hostile")
    page.locator(".list button", has_text="tokens").first.click()
    page.locator(".completion .t").first.hover()
    tip = page.locator("#tip").inner_text()
    for said in ("0.6065", "0.9048", "1.492", "0.2500 nats", "+1", "held above 1.28"):
        assert said in tip.replace("\t", " "), (said, tip)
    page.mouse.move(2, 2)
    assert page.locator("#tip").is_hidden()
    page.locator("#curves svg").first.hover()
    assert "DAPO step" in page.locator("#tip").inner_text() and "avg@8" in page.locator("#tip").inner_text()


def test_the_keyboard_is_enough(opened):
    page = opened("run")
    page.locator("#curves svg").first.focus()
    page.keyboard.press("ArrowRight")
    first = page.locator("#tip").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("#tip").inner_text() != first
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.type") == "search"
    page.locator(".list button").first.focus()
    page.keyboard.press("ArrowDown")
    assert page.locator(".list button").nth(1).get_attribute("aria-current") == "true"
    page.locator(".list button", has_text="tokens").first.click()
    page.locator(".switch input").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator(".switch input:checked").get_attribute("value") == "entropy"
    page.locator(".completion .text").first.focus()
    page.keyboard.press("ArrowRight")
    assert "probability before" in page.locator("#tip").inner_text()
    page.locator("#step input[type=range]").focus()
    page.keyboard.press("Home")
    assert "step 1 of 4" in page.locator("#step").inner_text()


def test_a_link_to_a_group(opened):
    number = opened("run").locator(".detail h3").first.inner_text().split()[-1]
    step = opened("run").locator(".detail h3").first.inner_text().split()[1].rstrip(",")
    page = opened("run", anchor=f"#group={step}.{number}")
    assert page.locator(".detail h3").first.inner_text() == f"Step {step}, prompt {number}"


def test_each_variant_of_a_sweep_keeps_a_look_of_its_own(opened):
    page = opened("sweep")
    page.locator("#curves select").select_option(label="every variant")
    looks = "paths => paths.map(path => path.getAttribute('stroke') + path.getAttribute('stroke-dasharray'))"
    before = page.locator("#curves figure").first.locator("path.curve").evaluate_all(looks)
    assert len({*before}) == len(before) == 9
    page.locator("#curves input[type=checkbox]").first.uncheck()
    assert page.locator("#curves figure").first.locator("path.curve").evaluate_all(looks) == before[1:]


def test_runs_of_a_sweep_are_drawn_and_hidden(opened):
    page = opened("sweep")
    lines = page.locator("#runs path.curve")
    assert lines.count() == 8
    page.locator("#runs tbody input").first.uncheck()
    assert lines.count() == 7
    page.locator("#runs svg").hover()
    assert "DAPO step" in page.locator("#tip").inner_text()
    assert page.locator("#results table").count() == 5  # one of them of a held-out set


def test_the_accuracies_of_held_out_sets_come_first(opened):
    page = opened("run")
    assert page.locator("#top .big dt").all_inner_texts()[-2:] == ["avg@4, more", "avg@1, greedy"]
    assert page.locator("#curves h3", has_text="ther held-out sets").count() == 2
    assert page.locator("#held-out table").count() == 3
    page = opened("sweep")
    assert page.locator("#curves figure h3", has_text="avg@4 on long").count() == 1
    assert "Held-out set long" in page.locator("#results h3").all_inner_texts()
    assert "long avg@4" in page.locator("#runs thead").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1300, 390])
def test_the_page_of_the_doctor(opened, width, scheme):
    """It is drawn at every width, obeys the scheme, and shows hostile rows as text."""
    page = opened("doctor", width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(250, 249, 246)"
    assert light == (scheme == "light")
    for row in page.locator("details:not([open]) > summary").all():
        row.click()
    assert "prompts are also train prompts" in page.locator("main").inner_text()
    assert HOSTILE["script"][:20] in page.locator("main").inner_text()
    assert page.locator("main img, main script, main iframe, main a").count() == 0
    assert page.locator(".bars i").first.bounding_box()["width"] > 0
