// The start: the page's choices, its legend, and what it has to say about what is missing.

function showLegend() {
  const box = byId('legend');
  box.replaceChildren();
  if (legend.ramp) {
    const ramp = make('span', { id: 'ramp' });
    ramp.style.background = `linear-gradient(90deg, ${RAMP.join(', ')})`;
    const [low, high] = legend.ramp.map((x) => x.toLocaleString(undefined, { maximumSignificantDigits: 4 }));
    box.append(low, ramp, high);
    return;
  }
  if (legend.list.length < 2) return;
  legend.list.forEach((look, number) => {
    const swatch = sprite(look, 5, 2).image;
    swatch.setAttribute('aria-hidden', 'true');
    const button = make('button', { type: 'button', title: look.name, 'aria-label': `${look.name}, ${look.total}` }, swatch, make('span', {}, look.name));
    button.setAttribute('aria-pressed', String(!state.hidden.has(number)));
    button.addEventListener('click', () => {
      if (!state.hidden.delete(number)) state.hidden.add(number);
      button.setAttribute('aria-pressed', String(!state.hidden.has(number)));
      redraw();
    });
    box.append(button);
  });
}

function showColumns() {
  const choice = byId('color');
  for (const name of columns.keys()) choice.append(make('option', { value: name }, name));
  choice.value = state.column;
  choice.addEventListener('change', () => {
    state.column = choice.value;
    state.hidden.clear();
    colorDots();
    showLegend();
    redraw();
  });
  byId('color-choice').hidden = columns.size < 2;
}

function showMaps() {
  const box = byId('maps');
  for (const name of maps.keys()) {
    const radio = make('input', { type: 'radio', name: 'map', value: name });
    radio.checked = name === state.map;
    radio.addEventListener('change', () => {
      state.map = name;
      placeDots();
      showAll();
      if (playing.source >= 0) follow();
    });
    box.append(make('label', {}, radio, name));
  }
  box.hidden = maps.size < 2;
}

function showSummary() {
  const number = data.names.length;
  const sounds = `${number.toLocaleString()} ${number === 1 ? 'sound' : 'sounds'}`;
  const what = data.windows ? `${sounds} in ${count.toLocaleString()} windows` : sounds;
  byId('summary').textContent = `${what}, as the model ${data.model} hears ${number === 1 ? 'it' : 'them'}`;
  canvas.setAttribute('aria-label', `Map of ${what}`);
}

function showNotes(totals) {
  const notes = [...data.notes];
  const number = data.names.length;
  if (totals && totals.linked > 0) {
    notes.push(`${totals.embedded.toLocaleString()} of ${number.toLocaleString()} sounds are in this page; ${totals.linked.toLocaleString()} play from their files, which must stay where they are.`);
  }
  if (data.pictures < number) notes.push(`${data.pictures.toLocaleString()} of ${number.toLocaleString()} sounds have a spectrogram here.`);
  if (!data.kernels) notes.push('The model has the standard stem: there are no frequencies and decays to show.');
  if (typeof audio.play !== 'function') notes.push('This browser has no audio.');
  else if (audio.canPlayType('audio/ogg; codecs=opus') === '') notes.push('This browser does not play Opus: sounds in the page stay silent in it.');
  const explained = data.explained.reduce((sum, x) => sum + x, 0);
  if (data.explained.length) notes.push(`PCA shows ${(100 * explained).toFixed(0)} % of the variance. aape ${data.version}`);
  byId('notes').replaceChildren(...notes.map((text) => make('li', {}, text)));
}

function showBad() {
  byId('bad-part').hidden = data.bad.length === 0;
  byId('bad-title').textContent = `${data.bad.length.toLocaleString()} left out`;
  byId('bad').replaceChildren(...data.bad.map(([name, reason]) => make('li', {}, makeName(name), `: ${reason}`)));
}

function onThemeChange() {
  sprites = [];
  showLegend();
  redraw();
  if (state.selected >= 0) showPicture(load(source[state.selected]) || {}, source[state.selected]);
}

function start() {
  showSummary();
  showColumns();
  showMaps();
  showBad();
  showNotes(null);
  placeDots();
  colorDots();
  showLegend();
  resize();
  listenToMap();
  listenToLists();
  listenToAudio();
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', onThemeChange);
  document.addEventListener('DOMContentLoaded', () => showNotes(JSON.parse(byId('totals').textContent)));
  draw();
  performance.mark('ready'); // what the tests, and people with a stopwatch, look for
  document.documentElement.dataset.ready = 'true';
}

start();
