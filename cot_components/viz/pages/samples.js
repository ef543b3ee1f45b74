// Shows the cards of one kind, or those that match a search, a page at a time.
for (const root of document.querySelectorAll('.cot .samples:not([data-live])')) {
  root.dataset.live = '';
  const cards = JSON.parse(root.querySelector('script').textContent);
  const shown = Number(root.dataset.shown), form = root.querySelector('form'), list = root.querySelector('.cards');
  const [back, on] = root.querySelectorAll('.pages button');
  const number = n => n.toLocaleString('en');
  const made = html => { const t = document.createElement('template'); t.innerHTML = html; return t.content; };
  let texts, first = 0;
  const show = () => {
    const kind = form.elements.kind.value, sought = form.elements.find.value.trim().toLowerCase();
    if (sought) texts ??= cards.map(([, html]) => made(html).textContent.toLowerCase());
    const found = cards.filter(([its], i) => (!kind || its === kind) && (!sought || texts[i].includes(sought)));
    const last = Math.min(first + shown, found.length);
    list.replaceChildren(...found.slice(first, last).map(([, html]) => made(html)));
    root.querySelector('.found').textContent = !found.length ? 'no samples'
      : `${number(first + 1)} to ${number(last)} of ${number(found.length)} samples`;
    root.querySelector('.pages').hidden = found.length <= shown;
    back.disabled = !first;
    on.disabled = last === found.length;
  };
  const go = by => { first += by; show(); root.scrollIntoView({block: 'start'}); };
  form.addEventListener('input', () => { first = 0; show(); });
  form.addEventListener('submit', event => event.preventDefault());
  back.addEventListener('click', () => go(-shown));
  on.addEventListener('click', () => go(shown));
  show();
}
