// Shows the losses of one token at a time: the one hovered over, tapped, or reached with the arrow keys.
for (const heat of document.querySelectorAll('.cot .heat:not([data-live])')) {
  heat.dataset.live = '';
  const tokens = [...heat.querySelectorAll('i')], said = heat.nextElementSibling;
  let at = -1;
  const choose = to => {
    tokens[at]?.removeAttribute('aria-selected');
    at = to;
    const token = tokens[at];
    token.setAttribute('aria-selected', 'true');
    token.id ||= `token-${crypto.getRandomValues(new Uint32Array(2)).join('-')}`;
    token.setAttribute('aria-label', `${token.textContent}, ${token.title}`);
    heat.setAttribute('aria-activedescendant', token.id);
    token.scrollIntoView({block: 'nearest'});
    said.textContent = `${JSON.stringify(token.textContent)}  ${token.title}`;
  };
  const moves = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity};
  heat.addEventListener('keydown', event => {
    if (!(event.key in moves) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    choose(Math.max(0, Math.min(tokens.length - 1, at + moves[event.key])));
  });
  for (const kind of ['pointerover', 'click'])
    heat.addEventListener(kind, event => {
      const token = event.target.closest('i');
      if (token && tokens[at] !== token) choose(tokens.indexOf(token));
    });
}
