"""Style and script of the token view."""

from __future__ import annotations

from cot_components.roles import Role
from cot_components.viz.page import role_class

_ROLES = "".join(f".cot .{role_class(role)} {{ --c: var(--{role_class(role)}); }}\n" for role in Role)

STYLE = (
    _ROLES
    + """
.cot table { border-collapse: collapse; border: 0; margin: .9rem 0 0; font-size: .85rem; background: none; }
.cot tr, .cot th, .cot td { background: none; border: 0; }
.cot th { font-weight: 600; text-align: left; padding: .12rem 1.2rem .12rem 0; white-space: nowrap; color: var(--ink); }
.cot td { text-align: left; padding: .12rem 0; color: var(--muted); }
.cot .legend { display: flex; flex-wrap: wrap; gap: .4rem 1.1rem; align-items: center; margin-top: 1.1rem;
  font-size: .85rem; color: var(--muted); }
.cot .legend .s { padding: .1em .45em; border-radius: .2em; }
.cot .title { display: flex; flex-wrap: wrap; gap: .5rem 2rem; align-items: baseline; justify-content: space-between; }
.cot .title label { cursor: pointer; font-size: .85rem; }
.cot .sharpen { accent-color: var(--thought); vertical-align: -.1em; margin: 0 .3em 0 0; }
.cot nav { margin-top: 1rem; font-size: .85rem; display: flex; flex-wrap: wrap; gap: .2rem .7rem; }

.cot .strips { width: 100%; }
.cot .strips td:last-child { white-space: nowrap; }
.cot .strip { width: 100%; padding-right: 1.2rem; }
.cot .strip svg { display: block; width: 100%; height: .8rem; border-radius: .15rem; background: var(--panel); }
@media (max-width: 60rem) {
  .cot .strips td { display: block; white-space: normal !important; padding-right: 0; }
  .cot .strips th { vertical-align: top; }
}

.cot .draws { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr));
  gap: 1.5rem 2.2rem; margin-top: 1.2rem; }
.cot .draw { min-width: 0; }
.cot .draw:only-child { max-width: 50rem; }
.cot .draw h3 { color: var(--muted); margin-bottom: .35rem; }
.cot .block { white-space: pre-wrap; overflow-wrap: anywhere; tab-size: 4; line-height: 1.75; content-visibility: auto;
  contain-intrinsic-size: auto 30rem; }

.cot .s, .cot .x, .cot .b, .cot .w, .cot .r { text-decoration: none; }
.cot .s { color: color-mix(in srgb, var(--c) 30%, var(--ink)); padding: .1em 0;
  background: color-mix(in srgb, var(--c) min(var(--w, 1) * 15%, 60%), transparent); }
.cot .x { color: var(--muted); }
.cot .b { color: color-mix(in srgb, var(--c) 15%, transparent); text-shadow: 0 0 .28em var(--c); }
.cot .b:hover { color: var(--c); text-shadow: none; }
.cot:has(.sharpen:checked) .b { color: var(--c); text-shadow: none; }
.cot .w { color: var(--muted); text-decoration: line-through; }
.cot .r { color: var(--muted); text-decoration: line-through dotted; }
.cot i { font-style: normal; }
.cot i:hover { outline: 1px solid var(--c, var(--muted)); outline-offset: 1px; border-radius: 1px; }
@media print { .cot .b { color: var(--c); text-shadow: none; } .cot .block { content-visibility: visible; } }
"""
)

SCRIPT = """
for (const root of document.querySelectorAll('.cot:not([data-live])')) {
  root.dataset.live = '';
  const tokens = new WeakMap();
  const tokensOf = draw => {
    if (!tokens.has(draw)) tokens.set(draw, JSON.parse(draw.querySelector('script').textContent));
    return tokens.get(draw);
  };
  // One element per token only where the pointer is: titles for single tokens without a heavy page.
  root.addEventListener('pointerover', event => {
    const run = event.target.closest('[data-p]');
    if (!run) return;
    const [lengths, ids, counters] = tokensOf(run.closest('.draw'));
    const text = run.textContent;
    const said = run.title.match(/^ids? [^,]*, ([a-z_]+)[^,]*, label ([^,]*), (.*)$/);
    const pieces = [];
    for (let at = 0, p = Number(run.dataset.p); at < text.length; at += lengths[p], p++) {
      const piece = document.createElement('i');
      piece.textContent = text.slice(at, at + lengths[p]);
      const id = [ids[p]].flat().join(' ');
      const label = said[2] === 'itself' ? id : said[2];
      const place = counters[p] < 0 ? '' : ' ' + counters[p];
      piece.title = `id ${id}, ${said[1]}${place}, label ${label}, ${said[3]}`;
      pieces.push(piece);
    }
    delete run.dataset.p;
    run.removeAttribute('title');
    run.replaceChildren(...pieces);
  });
}
"""
