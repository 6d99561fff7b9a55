// Lists of sounds: neighbours, what a search finds, what is like several; their rows select, play and can be dragged.

const PAGE = 30; // rows at once

function rowOf(point, note) {
  const name = nameOf(point);
  const pick = make('button', { type: 'button', class: 'pick' }, makeName(name));
  if (note) pick.append(make('span', { class: 'number' }, note));
  pick.addEventListener('click', () => select(point, { play: true }));
  const add = make('button', { type: 'button', class: 'add', title: 'Find more like this', 'aria-label': `Find more like ${name}` }, '+');
  add.addEventListener('click', () => like(point));
  const row = make('li', { draggable: 'true', class: point === state.selected ? 'current' : '' }, pick, add);
  row.dataset.point = point;
  row.addEventListener('dragstart', (event) => {
    event.dataTransfer.setData('text/plain', String(point));
    event.dataTransfer.effectAllowed = 'copy';
  });
  return row;
}

// Fill a list with rows, and a button for more of them.
function fill(list, points, noteOf, most = PAGE) {
  const rows = Array.from(points.slice(0, most), (point, i) => rowOf(point, noteOf(point, i)));
  list.replaceChildren(...rows);
  if (points.length > most) {
    const further = make('button', { type: 'button', class: 'further' }, `Show more of ${points.length.toLocaleString()}`);
    further.addEventListener('click', () => {
      fill(list, points, noteOf, most + PAGE);
      list.children[most].firstChild.focus();
    });
    list.append(make('li', {}, further));
  }
}

function showNeighbours(point) {
  const first = point * near.count;
  const cosines = near.cosines.slice(first, first + near.count).filter(Number.isFinite);
  const points = Array.from(near.rows.slice(first, first + cosines.length));
  byId('near-title').textContent = points.length ? `${points.length} nearest, by cosine` : 'There is no other to be near.';
  fill(byId('near'), points, (_, i) => cosines[i].toFixed(3));
}

function showLabels(item, point) {
  const part = byId('labels-part');
  part.hidden = !item.labels;
  if (!item.labels) return;
  const line = (label, score, when = '') => make('li', {}, makeName(label), make('span', { class: 'number' }, `${when}${(100 * score).toFixed(1)} %`));
  const isSame = (a, b) => Math.abs(a - b) < 0.011; // a frame
  const chosen = item.spans.find(([start, end]) => isSame(start, starts[point]) && isSame(end, ends[point]));
  const lines = (data.windows && chosen ? chosen[2] : item.labels).map(([label, score]) => line(label, score));
  if (!data.windows && item.spans.length > 1) {
    for (const [start, end, labels] of item.spans.slice(0, 200)) {
      if (labels.length) lines.push(line(...labels[0], `${clock(start)} to ${clock(end)}: `));
    }
  }
  byId('labels').replaceChildren(...lines);
}

function showFacts(point, item) {
  const facts = [clock(item.seconds)];
  for (const column of columns.values()) {
    const value = column.values[column.codes[point]];
    if (value !== '' && column.values.length > 1 && column.name !== 'predicted label' && !(data.windows && column.name === 'time')) facts.push(`${column.name}: ${value}`);
  }
  byId('name').textContent = nameOf(point);
  byId('facts').replaceChildren(...facts.flatMap((fact, i) => [i ? ' · ' : '', makeName(fact)]));
}

// Select a dot: show all about its sound, and play it if asked to.
function select(point, { play }) {
  state.selected = point;
  const number = source[point];
  bringIntoSight(point);
  redraw();
  for (const row of document.querySelectorAll('.rows li')) row.classList.toggle('current', row.dataset.point === String(point));
  byId('details').hidden = false;
  byId('now').hidden = false; // on a phone, where the rest is below the map
  byId('now').textContent = `${nameOf(point)} ↓`;
  showNeighbours(point);
  const isOther = playing.source !== number;
  const item = load(number);
  if (!item) {
    byId('name').textContent = nameOf(point);
    byId('facts').textContent = 'This sound is still being loaded: choose it again in a moment.';
    return;
  }
  showFacts(point, item);
  showLabels(item, point);
  if (isOther || !playing.still) showPicture(item, number);
  else drawPicture();
  byId('live').textContent = `${nameOf(point)}, ${byId('facts').textContent}${play ? ', playing' : ''}`;
  if (play) playFrom(starts[point]);
  else if (isOther) audio.pause();
}

// Search

const plainText = (text) => text.normalize('NFC').toLowerCase();
const searched = [];

function search() {
  const query = plainText(byId('search').value.trim());
  const part = byId('found-part');
  part.hidden = query === '';
  state.matches = null;
  if (query !== '') {
    if (!searched.length) for (let point = 0; point < count; point += 1) searched.push(plainText(nameOf(point)));
    state.matches = Uint8Array.from(searched, (name) => (name.includes(query) ? 1 : 0));
    const points = [...searched.keys()].filter((point) => state.matches[point]);
    byId('found-title').textContent = `${points.length.toLocaleString()} found`;
    byId('live').textContent = `${points.length.toLocaleString()} found`;
    fill(byId('found'), points, () => '');
  }
  redraw();
}

// Find more like several: by the reduced vectors, whose products with their mean are nearly cosines.

function like(point) {
  if (!Number.isInteger(point) || point < 0 || point >= count || state.likes.includes(point)) return;
  state.likes.push(point);
  byId('live').textContent = `${nameOf(point)} is one of ${state.likes.length} to find more of`;
  showMore();
}

function unlike(point) {
  state.likes = state.likes.filter((other) => other !== point);
  showMore();
}

// The likeness of every dot to the mean of some: its cosine, nearly.
function likeness(points) {
  const { scale, square } = data.reduced;
  const width = scale.length;
  const query = new Float32Array(width);
  let offset = 0;
  for (const point of points) {
    for (let k = 0; k < width; k += 1) query[k] += (reduced.rows[point * width + k] * scale[k]) / points.length;
    offset += reduced.offset[point] / points.length;
  }
  const length = Math.sqrt(Math.max(1e-12, square + 2 * offset + query.reduce((sum, x) => sum + x * x, 0)));
  const weights = query.map((x, k) => x * scale[k]);
  return Float32Array.from({ length: count }, (_, point) => {
    let sum = square + offset + reduced.offset[point];
    for (let k = 0; k < width; k += 1) sum += reduced.rows[point * width + k] * weights[k];
    return Math.max(-1, Math.min(1, sum / length));
  });
}

function showMore() {
  const hasAny = state.likes.length > 0;
  byId('likes').replaceChildren(...state.likes.map((point) => {
    const remove = make('button', { type: 'button', 'aria-label': `Remove ${nameOf(point)}` }, '×');
    remove.addEventListener('click', () => unlike(point));
    return make('li', {}, makeName(nameOf(point)), remove);
  }));
  byId('zone-hint').hidden = hasAny;
  byId('more-note').hidden = !hasAny;
  const scores = hasAny ? likeness(state.likes) : new Float32Array(0);
  const points = [...scores.keys()].filter((point) => !state.likes.includes(point)).sort((a, b) => scores[b] - scores[a] || a - b);
  fill(byId('more'), points, (point) => scores[point].toFixed(2), 10);
  byId('more-note').textContent = `By shortened vectors: they find ${data.reduced.agreement.toFixed(1)} of the ${near.count} nearest of a sound, in the mean.`;
  redraw();
}

function listenToLists() {
  const zone = byId('more-part');
  const mark = (isOver) => byId('zone').classList.toggle('over', isOver);
  zone.addEventListener('dragover', (event) => {
    event.preventDefault();
    event.dataTransfer.dropEffect = 'copy';
    mark(true);
  });
  zone.addEventListener('dragleave', () => mark(false));
  zone.addEventListener('drop', (event) => {
    event.preventDefault();
    mark(false);
    const text = event.dataTransfer.getData('text/plain');
    if (/^\d+$/.test(text)) like(Number(text));
  });
  byId('search').addEventListener('input', search);
}
