// What the page knows: the data of all sounds at once, that of one sound when it is asked for.

const COLORS = 6; // of the style, --d0 to --d5, which colour-blind people can tell apart
const RAMP = ['#440154', '#472d7b', '#3b528b', '#2c728e', '#21918c', '#28ae80', '#5ec962', '#b5d334']; // viridis
const SHAPES = 6;

const byId = (id) => document.getElementById(id);

function bytes(text) {
  const raw = atob(text);
  const content = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i += 1) content[i] = raw.charCodeAt(i);
  return content;
}

const numbers = (text, Kind) => new Kind(bytes(text).buffer);

const count = data.points;
const source = numbers(data.source, Uint32Array);
const starts = numbers(data.start, Float32Array);
const ends = numbers(data.end, Float32Array);
const near = {
  count: data.neighbours.count,
  rows: numbers(data.neighbours.rows, Uint32Array),
  cosines: numbers(data.neighbours.cosines, Float32Array),
};
const reduced = { rows: numbers(data.reduced.rows, Int8Array), offset: numbers(data.reduced.offset, Float32Array) };
const maps = new Map(Object.entries(data.maps).map(([name, text]) => [name, numbers(text, Float32Array)]));
const columns = new Map(data.columns.map((column) => [column.name, { ...column, codes: numbers(column.codes, Uint32Array) }]));

const state = {
  selected: -1,
  map: maps.has('t-SNE') ? 't-SNE' : 'PCA',
  column: data.color,
  hidden: new Set(), // classes of the legend
  matches: null, // of the search: one byte a dot, 1 where it is found
  likes: [], // dots to find more of
};

function clock(seconds) {
  const minutes = Math.floor(seconds / 60);
  const rest = (seconds - 60 * minutes).toFixed(minutes > 0 || data.windows ? 1 : 2);
  return minutes > 0 ? `${minutes}:${rest.padStart(4, '0')}` : `${rest} s`;
}

function nameOf(point) {
  const name = data.names[source[point]];
  return data.windows ? `${name}, ${clock(starts[point])} to ${clock(ends[point])}` : name;
}

// The data of one sound follow the script in the page, which may still be loading: null until they are there.
const kept = { source: -1, item: null };

function sound(number) {
  if (kept.source === number) return kept.item;
  const element = byId(`sound-${number}`);
  if (!element || !element.nextSibling) return null;
  kept.source = number;
  kept.item = JSON.parse(element.textContent);
  return kept.item;
}

// Legend: the class of each dot, from the values of a column. Columns of many numbers are a ramp of colours.

function classes(column) {
  const values = column.values;
  const amounts = values.map((value) => (value.trim() === '' ? NaN : Number(value)));
  const full = amounts.filter((value) => Number.isFinite(value));
  const isRamp = full.length > 12 && values.every((value, i) => value === '' || Number.isFinite(amounts[i]));
  return isRamp ? rampClasses(column, amounts, full) : namedClasses(column);
}

function rampClasses(column, amounts, full) {
  const low = full.reduce((least, x) => Math.min(least, x), Infinity);
  const high = full.reduce((most, x) => Math.max(most, x), -Infinity);
  const steps = RAMP.length;
  const number = amounts.map((x) => (Number.isFinite(x) ? Math.min(steps - 1, Math.floor((steps * (x - low)) / (high - low))) : steps));
  const list = RAMP.map((color) => ({ color, shape: 0 }));
  list.push({ color: '--other', shape: 0 });
  return { of: (point) => number[column.codes[point]], list, ramp: [low, high] };
}

function namedClasses(column) {
  const totals = new Uint32Array(column.values.length);
  for (let point = 0; point < count; point += 1) totals[column.codes[point]] += 1;
  const order = [...column.values.keys()].filter((code) => totals[code] > 0);
  const most = COLORS * SHAPES;
  if (order.length > most) order.sort((a, b) => totals[b] - totals[a]);
  const number = new Uint32Array(column.values.length).fill(most);
  const list = order.slice(0, most).map((code, i) => {
    number[code] = i;
    const look = { color: `--d${i % COLORS}`, shape: Math.floor(i / COLORS) };
    return { ...look, name: column.values[code] || '(none)', total: totals[code] };
  });
  const others = order.slice(most);
  if (others.length) {
    const total = others.reduce((sum, code) => sum + totals[code], 0);
    list.push({ color: '--other', shape: 0, name: `${others.length} others`, total });
  }
  return { of: (point) => Math.min(number[column.codes[point]], list.length - 1), list, ramp: null };
}
