for (const root of document.querySelectorAll('.cot:not([data-live])')) {
  root.dataset.live = '';
  const tokens = new WeakMap();
  const tokensOf = draw => {
    if (!tokens.has(draw)) tokens.set(draw, JSON.parse(draw.querySelector('script').textContent));
    return tokens.get(draw);
  };
  // One element per token only under the pointer: titles for single tokens while the page stays small.
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
