"""What a person does on the pages about runs, by pointer and by keyboard, and what a screen reader meets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from chromium import Page

Checks = Iterator[tuple[str, str]]
"""What was checked, and what is wrong with it ("" if nothing)."""

MOST_CARDS = 200
NAMED = ("radio", "button", "searchbox", "listbox", "image", "link", "region", "checkbox")
"""Roles that are nothing without a name."""


def click(page: Page, selector: str) -> None:
    """Click on the middle of the first line of an element, as a person does."""
    element = f"document.querySelector({selector!r})"
    page.evaluate(f"{element}.scrollIntoView({{block: 'center'}})")
    x, y = page.evaluate(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({element}.getClientRects()[0])")
    page.click(x, y)
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def text(page: Page, selector: str) -> str:
    return page.evaluate(f"document.querySelector({selector!r}).textContent")


def cards(page: Page) -> list[str]:
    return page.evaluate("[...document.querySelectorAll('.example')].map(card => card.textContent)")


def check_names(page: Page, path: Path) -> Checks:
    """A screen reader can say what everything is."""
    met = page.accessible()
    nameless = sorted({role for role, name in met if role in NAMED and not name.strip()})
    yield "everything has a name", ", ".join(nameless)
    found = {role for role, _ in met}
    yield "it is met by its role", ", ".join({"main", "heading", "radio", "status", "image", "table"} - found)


def check_filter(page: Page, path: Path) -> Checks:
    """Each kind shows its cards, few at a time, by pointer; the next ones by a button."""
    labels = page.evaluate("[...document.querySelectorAll('.samples [name=kind]')].map(input => input.value)")
    everything = set(cards(page))
    for number, kind in enumerate(labels, start=1):
        selector = f".samples fieldset label:nth-of-type({number})"
        count = int(text(page, f"{selector} .muted").replace(",", ""))
        click(page, selector)
        shown, said = cards(page), text(page, ".found")
        fine = f"of {count} samples" in said and 0 < len(shown) <= min(count, MOST_CARDS)
        yield f"shows {kind or 'all'}", "" if fine else f"{len(shown)} cards of {count}: {said}"
    yield "kinds differ", "" if set(cards(page)) != everything else "they do not"
    click(page, ".samples fieldset label:nth-of-type(1)")
    first = cards(page)
    click(page, ".pages .on")
    second = cards(page)
    fresh = second and not set(first) & set(second)
    yield "next shows others", "" if fresh and len(second) <= MOST_CARDS else f"{len(second)} cards"
    click(page, ".pages .back")
    yield "previous goes back", "" if cards(page) == first else "it does not"


def check_keyboard(page: Page, path: Path) -> Checks:
    """Kinds by arrow, the search by typing, a table by Enter."""
    page.evaluate("document.querySelector('.samples [name=kind]').focus()")
    page.press("ArrowRight")
    chosen = page.evaluate("document.querySelector('.samples [name=kind]:checked').value")
    yield "an arrow chooses a kind", "" if chosen and text(page, ".found").strip() else f"chosen is {chosen!r}"
    page.press("ArrowLeft", "Tab")
    page.press(*"zqzq")
    yield "a search without a hit", "" if text(page, ".found") == "no samples" and not cards(page) else "shows cards"
    page.evaluate(
        "(f => { f.value = ''; f.dispatchEvent(new Event('input', {bubbles: true})); })(document.activeElement)"
    )
    word = page.evaluate("document.querySelector('.question').textContent.trim().split(/\\s+/)[0]")
    page.press(*word)
    held = cards(page)
    fine = held and all(word.lower() in card.lower() for card in held)
    yield f"a search for {word}", "" if fine else f"{len(held)} cards"
    page.evaluate(
        "(f => { f.value = ''; f.dispatchEvent(new Event('input', {bubbles: true})); })(document.activeElement)"
    )


def check_learnt(page: Page, path: Path) -> Checks:
    """A token says its losses when clicked, and when the arrow keys reach it; the switch tints by another loss."""
    click(page, ".heat i:nth-of-type(2)")
    said = text(page, ".heat + .said")
    yield "a click says the losses", "" if " before, " in said else f"it says {said!r}"
    page.evaluate("document.querySelector('.heat').focus()")
    page.press("ArrowRight")
    third = page.evaluate("document.querySelector('.heat i:nth-of-type(3)').getAttribute('aria-selected')")
    active = page.evaluate(
        "document.querySelector('.heat [aria-selected]').id === "
        "document.querySelector('.heat').getAttribute('aria-activedescendant')"
    )
    yield "an arrow goes on to the next", "" if third and active else "it does not"
    page.press("End")
    last = page.evaluate("document.querySelector('.heat i:last-of-type').hasAttribute('aria-selected')")
    yield "End goes to the last", "" if last else "it does not"
    tints = []
    for switch in ("change", "before", "after"):
        click(page, f".see-{switch}")
        tints.append(page.evaluate("getComputedStyle(document.querySelector('.heat i')).backgroundColor"))
    yield "three tints", "" if len(set(tints)) == 3 else str(tints)
    click(page, ".see-change")
    click(page, "details summary")
    page.press("Enter")
    closed = page.evaluate("document.querySelector('details').open")
    page.press("Enter")
    opened = page.evaluate("document.querySelector('details').open")
    yield "Enter opens the table", "" if opened and not closed else f"{closed}, {opened}"
    page.press("Enter")


def check_links(page: Page, path: Path) -> Checks:
    """Every part is reached by its link."""
    links = page.evaluate("[...document.querySelectorAll('nav a')].map(link => link.getAttribute('href'))")
    lost = [link for link in links if not page.evaluate(f"document.querySelector('{link}') !== null")]
    yield f"{len(links)} links", ", ".join(lost) if links else "there is none"
    page.evaluate("scrollTo(0, 0)")
    click(page, "nav a[href='#samples']")
    top = page.evaluate("document.querySelector('#samples').getBoundingClientRect().top")
    yield "a link goes there", "" if abs(top) < 40 else f"it is {top} pixels away"


def check_column(page: Page, path: Path) -> Checks:
    """In a notebook's column, which is narrower than its window, text wraps, nothing scrolls sideways or is cut off."""
    for width in (700, 360):
        page.evaluate(f"document.querySelector('.cot').style.width = '{width}px'")
        wide = page.evaluate("""(() => {
          const edge = document.querySelector('.cot').getBoundingClientRect().right;
          const outside = element => [...element.getClientRects()].some(r => r.width && r.right > edge + 1);
          const cut = element => element.scrollWidth > element.clientWidth + 1 && element.clientWidth > 0
            && getComputedStyle(element).display !== 'inline';
          return [...document.querySelectorAll('.cot main, .cot main *')].filter(e => !(e instanceof SVGElement))
            .filter(e => outside(e) || cut(e)).map(e => e.tagName + '.' + e.className).slice(0, 5);
        })()""")
        yield f"fits a column of {width}", ", ".join(wide)
    page.evaluate("document.querySelector('.cot').style.width = ''")
