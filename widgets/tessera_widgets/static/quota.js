/** Quotas: one group for me, each queue and each tenant; one bar for each dimension. */

function element(parent, tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

/** `2026-11-24T10:00:00+00:00` in the zone of the viewer, with UTC in the tooltip. */
function showTime(node, iso) {
  const time = new Date(iso);
  const valid = iso && !Number.isNaN(time.valueOf());
  node.textContent = valid ? time.toLocaleString() : '';
  node.title = valid ? time.toISOString() : '';
  node.dateTime = valid ? time.toISOString() : '';
}

function render({ model, el }) {
  el.classList.add('tessera-view');
  const title = element(el, 'strong');
  const problem = element(el, 'div', 'tessera-problem');
  problem.setAttribute('role', 'status');
  const problemText = element(problem, 'span');
  const since = element(problem, 'time');
  // One table, so that the columns of all groups stand below each other.
  const table = element(el, 'table', 'tessera-quota');
  const old = element(el, 'div', 'tessera-as-of');
  const oldWords = element(old, 'span');
  const oldTime = element(old, 'time');

  function draw() {
    const view = model.get('view');
    const words = view.words ?? {};
    const groups = view.groups ?? [];
    title.textContent = view.title ?? '';
    el.classList.toggle('tessera-stale', Boolean(view.problem));
    problem.hidden = !view.problem;
    problemText.textContent = view.problem ? `${view.problem.text} ${words.since} ` : '';
    showTime(since, view.problem?.since);
    table.setAttribute('aria-label', view.title ?? '');
    table.replaceChildren();
    for (const group of groups) {
      const body = element(table, 'tbody');
      const caption = element(element(body, 'tr'), 'th', 'tessera-group', group.title);
      caption.scope = 'rowgroup';
      caption.colSpan = 3;
      if (group.note) element(element(body, 'tr'), 'td', '', group.note).colSpan = 3;
      for (const bar of group.bars) {
        const row = element(body, 'tr');
        const name = element(row, 'th', '', bar.name);
        name.scope = 'row';
        const cell = element(row, 'td');
        if (bar.limit !== null) {
          const meter = element(cell, 'meter');
          meter.setAttribute('aria-label', `${bar.name}: ${bar.text}`);
          meter.max = bar.limit || 1;
          meter.high = (bar.limit || 1) * 0.9;
          meter.optimum = 0;
          meter.value = bar.limit ? bar.used : 1;
        }
        element(row, 'td', 'tessera-amount', bar.text);
      }
    }
    oldWords.textContent = `${words.as_of} `;
    showTime(oldTime, view.as_of);
  }

  let heard = Date.now();

  function hear() {
    heard = Date.now();
    el.classList.remove('tessera-silent');
    draw();
  }

  model.on('change:view', hear);
  draw();
  // A kernel that dies does not say so: nothing more comes.
  const timer = setInterval(() => {
    const patience = (3 * model.get('view').every_seconds + 5) * 1000;
    el.classList.toggle('tessera-silent', Date.now() - heard > patience);
  }, 1000);
  return () => {
    clearInterval(timer);
    model.off('change:view', hear);
  };
}

export default { render };
