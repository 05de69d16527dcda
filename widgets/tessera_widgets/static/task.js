/** One task. All text is set as text, never as markup: names and output come from programs. */

/** An amount that was true longer ago than this is not reckoned on. */
const STALE_MS = 60000;

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

/** As `money` of `tessera_hub.client.wording` writes it, so that a ticking amount keeps its form. */
function money(currency, micro) {
  const whole = Math.floor(Math.abs(micro) / 1e6);
  const digits = String(Math.floor(Math.abs(micro) % 1e6)).padStart(6, '0');
  const shown = whole || digits >= '100000' ? digits.slice(0, 2) : digits.replace(/0+$/, '').padEnd(2, '0');
  return `${currency} ${micro < 0 ? '-' : ''}${whole.toLocaleString('en')}.${shown}`;
}

function render({ model, el }) {
  el.classList.add('tessera-view');
  const head = element(el, 'div', 'tessera-head');
  const title = element(head, 'strong');
  const state = element(head, 'span', 'tessera-state');
  const cancel = element(head, 'button', 'tessera-button');
  cancel.type = 'button';
  const problem = element(el, 'div', 'tessera-problem');
  problem.setAttribute('role', 'status');
  const problemText = element(problem, 'span');
  const since = element(problem, 'time');
  const situation = element(el, 'div', 'tessera-situation');
  situation.setAttribute('aria-live', 'polite');
  const bar = element(el, 'progress');
  const facts = element(el, 'dl');
  let ticking = null;
  const details = element(el, 'details');
  details.open = true;
  const summary = element(details, 'summary');
  const log = element(details, 'pre');
  log.tabIndex = 0;
  const old = element(el, 'div', 'tessera-as-of');
  const oldWords = element(old, 'span');
  const oldTime = element(old, 'time');

  cancel.addEventListener('click', () => {
    cancel.disabled = true;
    cancel.textContent = model.get('view').words.cancelling;
    model.send({ action: 'cancel' });
  });

  let heard = Date.now();

  function tick() {
    const view = model.get('view');
    // A kernel that dies does not say so: nothing more comes.
    const silent = view.final === false && Date.now() - heard > (3 * view.every_seconds + 5) * 1000;
    el.classList.toggle('tessera-silent', silent);
    const { cost } = view;
    if (!cost || !ticking) return;
    const age = Date.now() - Date.parse(cost.as_of);
    // Without a kernel or a service nobody knows whether the task still runs.
    const lost = silent || view.problem || el.classList.contains('jupyter-widgets-disconnected');
    const known = !lost && age > 0 && age < STALE_MS;
    ticking.textContent = money(cost.currency, cost.micro + (known ? (cost.nano_per_hour / 1000) * (age / 3600000) : 0));
  }

  function draw() {
    const view = model.get('view');
    const words = view.words ?? {};
    title.textContent = view.title ?? '';
    state.textContent = view.state ?? '';
    state.dataset.phase = view.phase ?? '';
    if (situation.textContent !== (view.situation ?? '')) situation.textContent = view.situation ?? '';
    el.classList.toggle('tessera-stale', Boolean(view.problem));
    problem.hidden = !view.problem;
    problemText.textContent = view.problem ? `${view.problem.text} ${words.since} ` : '';
    showTime(since, view.problem?.since);
    cancel.hidden = view.final !== false;
    if (view.problem) cancel.disabled = false;
    if (!cancel.disabled) cancel.textContent = words.cancel;
    bar.hidden = !view.cells;
    if (view.cells) {
      bar.max = view.cells.total;
      bar.value = view.cells.done;
      bar.setAttribute('aria-label', `${view.cells.done} ${words.of} ${view.cells.total}`);
    }
    facts.replaceChildren();
    ticking = null;
    for (const fact of view.facts ?? []) {
      element(facts, 'dt', '', fact.name);
      const value = element(facts, 'dd', '', fact.value);
      if (fact.ticks) ticking = value;
    }
    details.hidden = !view.log;
    summary.textContent = words.log;
    const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
    if (log.textContent !== view.log) log.textContent = view.log ?? '';
    if (atEnd) log.scrollTop = log.scrollHeight;
    oldWords.textContent = `${words.as_of} `;
    showTime(oldTime, view.as_of);
    tick();
  }

  function hear() {
    heard = Date.now();
    draw();
  }

  model.on('change:view', hear);
  draw();
  const timer = setInterval(tick, 1000);
  return () => {
    clearInterval(timer);
    model.off('change:view', hear);
  };
}

export default { render };
