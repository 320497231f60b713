"""The page in a browser, as a person uses it: by keys, with a server in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lplgrad.labeling.batch import Batch
from tests.browser import CHROMIUM, Browser
from tests.labeling.page_server import THEN, make_batch, process

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian's package of that name)"),
]

CLASSES = ["cat", "dog", "hen"]
READY = "!document.getElementById('panel').hidden"
STORED = "unsaved.size == 0 && !sending"
DONE = "!document.getElementById('done').hidden"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    chromium.errors.clear()
    yield chromium
    chromium.run("unsaved.clear()")  # otherwise the browser asks before it leaves the page
    assert [error for error in chromium.errors if "ERR_CONNECTION_" not in error] == []


def begin(browser: Browser, url: str) -> None:
    browser.go(url)
    browser.wait_for(f"typeof batch != 'undefined' && batch != null && {READY}")


def text(browser: Browser, name: str) -> Any:
    return browser.run(f"document.getElementById({json.dumps(name)}).textContent.trim()")


def press(browser: Browser, *keys: str, shift: bool = False) -> None:
    """Press keys and wait until all answers are stored."""
    browser.press(*keys, shift=shift)
    browser.wait_for(STORED)


def test_a_killed_server_loses_no_answer(folder: Path, browser: Browser, tmp_path: Path) -> None:
    batch = make_batch(folder, CLASSES, suggested=False)
    with process(folder) as (server, url):
        begin(browser, url)
        assert text(browser, "progress") == "0 of 10 answered"
        press(browser, "1", "2", "?", "3", "1")
        assert text(browser, "progress") == "5 of 10 answered (1 cannot tell)"
        assert text(browser, "place") == "Image 6 of 10"
        assert batch.answers() == ["cat", "dog", "?", "hen", "cat", "", "", "", "", ""]
        server.kill()
        server.wait()
    browser.press("2")
    browser.wait_for("!document.getElementById('problem').hidden")
    assert "The server does not answer" in text(browser, "problem")
    assert "1 answer is not saved" in text(browser, "problem")
    assert text(browser, "progress") == "5 of 10 answered (1 cannot tell) · 1 not saved"
    browser.press("ArrowLeft")
    assert text(browser, "answer") == "Not saved: dog"
    with process(folder, int(url.split(":")[2].split("/")[0])) as (_, again), Browser(tmp_path / "other") as other:
        begin(other, again)
        assert text(other, "place") == "Image 6 of 10"
        assert text(other, "progress") == "5 of 10 answered (1 cannot tell)"
        press(other, "3", "3", "-", "1", "2")
        other.wait_for(DONE)
        assert batch.answers() == ["cat", "dog", "?", "hen", "cat", "hen", "hen", "-", "cat", "dog"]
        assert text(other, "counts") == "cat3dog2hen3cannot tell1later1"
        assert text(other, "then") == THEN
        assert other.errors == []
        # The page of the killed server has a token that is no longer valid.
        browser.wait_for("document.getElementById('problem').textContent.includes('This page is out of date')")
        browser.errors = [error for error in browser.errors if "403" not in error]


def test_undo_goes_back_over_several_steps(folder: Path, browser: Browser) -> None:
    batch = make_batch(folder, CLASSES, images=4)
    with process(folder) as (_, url):
        begin(browser, url)
        press(browser, "1", "2", "ArrowLeft", "3")
        assert batch.answers() == ["cat", "hen", "", ""]
        press(browser, "u")
        assert batch.answers() == ["cat", "dog", "", ""]
        assert text(browser, "place") == "Image 2 of 4"
        press(browser, "Backspace")
        press(browser, "U")
        assert batch.answers() == [""] * 4
        assert text(browser, "place") == "Image 1 of 4"
        press(browser, "u")
        assert text(browser, "hint") == "Nothing to undo."
        # What was changed by hand in the meantime stays.
        press(browser, "1")
        batch.store({0: "dog"})
        browser.run("refresh()")
        press(browser, "u")
        assert batch.answers() == ["dog", "", "", ""]


HOLD = """{
  const send = window.fetch;
  window.held = [];
  window.fetch = async (path, options) => {
    const reply = await send(path, options);
    if (!(WHICH)) return reply;
    await new Promise((go) => held.push(go));
    return reply;
  };
}"""


def test_nothing_is_shown_as_saved_before_it_is(folder: Path, browser: Browser) -> None:
    batch = make_batch(folder, CLASSES, images=4)
    with process(folder) as (_, url):
        begin(browser, url)
        browser.run(HOLD.replace("WHICH", "options.method == 'POST'"))
        browser.press("1", "2")
        assert text(browser, "place") == "Image 3 of 4"
        assert text(browser, "progress") == "0 of 4 answered"
        browser.press("ArrowLeft")
        assert text(browser, "answer") == "Saving: dog"
        # Finishing waits for the answers that are on their way.
        browser.click("Finish with what is labelled")
        browser.click("Finish")
        for _ in range(3):
            browser.wait_for("held.length > 0")
            browser.run("held.shift()()")
        browser.wait_for(DONE)
        assert batch.answers() == ["cat", "dog", "-", "-"]


def test_a_reading_that_arrives_late_does_not_hide_an_answer(folder: Path, browser: Browser) -> None:
    make_batch(folder, CLASSES, images=4)
    with process(folder) as (_, url):
        begin(browser, url)
        browser.run(HOLD.replace("WHICH", "!options.method && path.startsWith('/answers')"))
        browser.run("{ window.over = false; refresh().then(() => { over = true; }); 0; }")
        browser.wait_for("held.length > 0")
        press(browser, "1")
        assert text(browser, "progress") == "1 of 4 answered"
        browser.run("held.splice(0).forEach((go) => go())")
        browser.wait_for("over")
        assert text(browser, "progress") == "1 of 4 answered"


def test_the_grid_answers_for_many_at_once(folder: Path, browser: Browser) -> None:
    batch = make_batch(folder, CLASSES, images=9)  # suggestions: cat, dog, hen, cat, ...
    with process(folder) as (_, url):
        begin(browser, url)
        press(browser, "g")
        assert browser.run("tiles.map(tile => tile.dataset.position).join()") == "0,3,6,1,4,7,2,5,8"
        assert browser.run("document.activeElement.dataset.position") == "0"
        # The three cats by keys, two of them as a hen
        press(browser, "ArrowRight", " ")
        press(browser, "ArrowRight", shift=True)
        press(browser, "3")
        assert batch.answers() == ["", "", "", "hen", "", "", "hen", "", ""]
        press(browser, "u")
        assert batch.answers() == [""] * 9
        # The group of dogs by its button, of which one is answered already
        batch.store({4: "cat"})
        browser.run("refresh()")
        browser.click("Accept 2 suggestions")
        browser.wait_for(STORED)
        assert batch.answers() == ["", "dog", "", "", "cat", "", "", "dog", ""]
        # A range by clicks: 0, 3, 6, 1
        for position, shift in ((0, "false"), (1, "true")):
            event = f"new MouseEvent('click', {{bubbles: true, shiftKey: {shift}}})"
            browser.run(f"tileOf({position}).dispatchEvent({event})")
        assert browser.run("selected.size") == 4
        press(browser, "Enter")
        assert batch.answers() == ["cat", "dog", "", "cat", "cat", "", "cat", "dog", ""]
        assert browser.run("selected.size") == 0
        # Without a selection, a key is for the image with the focus.
        assert browser.run("document.activeElement.dataset.position") == "2"
        press(browser, "?")
        assert batch.answers()[2] == "?"
        for _ in range(3):
            press(browser, "u")
        assert batch.answers() == ["", "", "", "", "cat", "", "", "", ""]
        press(browser, "g")
        assert text(browser, "toggle").startswith("Grid")


def test_a_table_spoilt_by_hand_keeps_the_place(folder: Path, browser: Browser) -> None:
    batch = make_batch(folder, CLASSES, images=4)
    with process(folder) as (_, url):
        begin(browser, url)
        press(browser, "1")
        good = batch.table.read_text()
        batch.table.write_text(good.replace(",cat,cat", ",cow,cat"))
        browser.press("2")
        browser.wait_for("!document.getElementById('problem').hidden")
        assert "1 answer is not saved: " in text(browser, "problem")
        assert "line 2: unknown class 'cow'" in text(browser, "problem")
        assert text(browser, "place") == "Image 3 of 4"
        batch.table.write_text(good)
        browser.click("Try again")
        browser.wait_for(f"{STORED} && document.getElementById('problem').hidden")
        assert batch.answers() == ["cat", "dog", "", ""]
        assert text(browser, "place") == "Image 3 of 4"
        batch.store({3: "hen"})
        browser.run("window.dispatchEvent(new Event('focus'))")
        browser.wait_for("document.getElementById('progress').textContent == '3 of 4 answered'")
        browser.errors = [error for error in browser.errors if "409" not in error]


def test_half_a_batch_can_be_finished_and_reopened(folder: Path, browser: Browser) -> None:
    batch = make_batch(folder, CLASSES, images=4)
    with process(folder) as (_, url):
        begin(browser, url)
        press(browser, "Enter")
        browser.click("Finish with what is labelled")
        browser.press("Escape")
        assert batch.answers() == ["cat", "", "", ""]
        browser.click("Finish with what is labelled")
        assert "3 images of 4 have no answer" in text(browser, "sure")
        browser.press("1", "Enter")  # no key answers here, and Enter presses the button that changes nothing
        assert batch.answers() == ["cat", "", "", ""]
        browser.click("Finish with what is labelled")
        browser.click("Finish")
        browser.wait_for(DONE)
        assert batch.answers() == ["cat", "-", "-", "-"]
        press(browser, "u")
        assert batch.answers() == ["cat", "", "", ""]
        assert browser.run(READY)


def test_keys_do_nothing_by_accident(folder: Path, browser: Browser) -> None:
    batch = make_batch(folder, CLASSES, images=4)
    with process(folder) as (_, url):
        begin(browser, url)
        for options in ("key: '1', repeat: true", "key: '1', ctrlKey: true", "key: 'Enter', metaKey: true", "key: 'x'"):
            event = f"new KeyboardEvent('keydown', {{bubbles: true, {options}}})"
            browser.run(f"document.body.dispatchEvent({event})")
        assert browser.run("undoable.length") == 0
        # After a click on a class, Enter accepts the suggestion for the next image: it does not click again.
        place = browser.run("(b => [b.x + 5, b.y + 5])(document.getElementById('class-2').getBoundingClientRect())")
        browser.tap(*place)
        browser.wait_for(STORED)
        press(browser, "Enter")
        assert batch.answers() == ["hen", "dog", "", ""]


def test_a_class_named_like_a_key_has_this_key(folder: Path, browser: Browser) -> None:
    batch = make_batch(folder, ["cat", "0", "1", "B", "b", "U"], images=6)
    with process(folder) as (_, url):
        begin(browser, url)
        shown = browser.run("[...document.querySelectorAll('#classes button')].map(e => e.textContent)")
        assert shown == ["2cat", "00", "11", "BB", "3b", "4U"]
        press(browser, "0", "1", "b", "2", "3", "4")
        browser.wait_for(DONE)
        assert batch.answers() == ["0", "1", "B", "cat", "b", "U"]


def test_names_are_text(folder: Path, browser: Browser) -> None:
    strange = [
        "<img src=x onerror=alert(1)>", "it's \"so\" & so", "</script><b>", "ключ 猫", "קטן (וגדול)", "a" * 200,
        "constructor", "__proto__",
    ]  # fmt: skip
    batch = make_batch(folder, strange, images=9)
    batch = rename(folder, batch, 0, "<b onclick=x>'\"&.png")
    with process(folder) as (_, url):
        begin(browser, url)
        for position in range(9):
            assert browser.run("document.querySelector('#accept bdi').textContent") == strange[position % 8]
            if position == 0:
                assert text(browser, "file") == "<b onclick=x>'\"&.png"
            press(browser, "Enter")
        browser.wait_for(DONE)
        assert batch.answers() == [strange[position % 8] for position in range(9)]
        assert browser.run("document.querySelectorAll('main b, #counts img, #classes img').length") == 0
        browser.click("Look at the answers again")
        press(browser, "g")
        assert browser.run("document.querySelectorAll('main b, h2 img, .caption img').length") == 0
        assert browser.run("[...document.querySelectorAll('h2 bdi')].map(e => e.textContent)") == strange


def rename(folder: Path, batch: Batch, position: int, name: str) -> Batch:
    about = json.loads((folder / "batch.json").read_text())
    (folder / about["images"][position]["file"]).rename(folder / name)
    about["images"][position]["file"] = name
    (folder / "batch.json").write_text(json.dumps(about))
    return Batch(
        batch.table,
        [
            type(image)(image.index, one["file"], image.sha256)
            for image, one in zip(batch.images, about["images"], strict=True)
        ],
        batch.classes,
    )


def test_a_class_without_a_key_is_found_by_its_letters(folder: Path, browser: Browser) -> None:
    classes = [f"species {number:03}" for number in range(100)]
    batch = make_batch(folder, classes, images=4)
    with process(folder) as (_, url):
        begin(browser, url)
        used = browser.run("[...document.querySelectorAll('#classes kbd')].map(e => e.textContent).join('')")
        assert used == "1234567890ABCDEFHIJKLMNOPQRSTVWXYZ", "no class has the key of a command"
        press(browser, "/", *"es 07", "ArrowDown", "Enter")
        assert batch.answers() == ["species 070", "", "", ""]
        press(browser, "/", *"zz", "Enter")
        assert not browser.run("document.getElementById('none').hidden")
        press(browser, "Escape", "a")
        assert batch.answers() == ["species 070", "species 010", "", ""]


def test_an_image_that_cannot_be_shown_can_be_answered(folder: Path, browser: Browser) -> None:
    batch = make_batch(folder, CLASSES, images=3)
    (folder / "img00.png").write_text("no image")
    (folder / "img01.png").unlink()
    (folder / "img02.png").write_bytes(b"\xff\xd8\xffbroken")
    with process(folder) as (_, url):
        begin(browser, url)
        for reason in ("cannot be read: no image", "is gone", "The browser cannot show this file"):
            browser.wait_for(f"document.getElementById('stage').textContent.includes({json.dumps(reason)})")
            press(browser, "?")
        assert batch.answers() == ["?", "?", "?"]
        browser.errors = [error for error in browser.errors if "404" not in error and "422" not in error]


def test_nothing_moves_and_nothing_sticks_out_on_a_narrow_screen(folder: Path, browser: Browser) -> None:
    make_batch(folder, ["a long name of a class " * 8, *CLASSES], images=6)
    with process(folder) as (_, url):
        browser.resize(400, 800)
        begin(browser, url)
        place = "JSON.stringify(document.getElementById('stage').getBoundingClientRect())"
        before = browser.run(place)
        browser.wait_for("document.querySelector('#stage img').complete")
        press(browser, "ArrowRight")
        assert browser.run(place) == before
        for view in ("single", "grid"):
            assert browser.run("document.documentElement.scrollWidth") == 400, view
            assert browser.run("document.documentElement.scrollHeight") == 800, view
            press(browser, "g")
        browser.resize(0, 0)
