// The map: dots on a canvas. `view` takes places of the map, 0 to 1, to pixels of the page.

const canvas = byId('map');
const view = { scale: 1, x: 0, y: 0, width: 0, height: 0, dpr: 1 };
let places = new Float32Array(0); // of the dots, 0 to 1, in the map chosen
let legend = classes(columns.get(state.column));
let classOf = new Uint16Array(0);
let sprites = [];
let isDue = false;
let playhead = null; // [x, y] on the path, of what plays
let hovered = -1;

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function placeDots() {
  const xy = maps.get(state.map);
  const bounds = [Infinity, Infinity, -Infinity, -Infinity];
  for (let i = 0; i < 2 * count; i += 1) {
    bounds[i % 2] = Math.min(bounds[i % 2], xy[i]);
    bounds[2 + (i % 2)] = Math.max(bounds[2 + (i % 2)], xy[i]);
  }
  const size = Math.max(bounds[2] - bounds[0], bounds[3] - bounds[1]) || 1;
  places = new Float32Array(2 * count);
  for (let i = 0; i < 2 * count; i += 1) {
    const middle = (bounds[i % 2] + bounds[2 + (i % 2)]) / 2;
    places[i] = 0.5 + ((i % 2 ? -1 : 1) * (xy[i] - middle)) / size;
  }
}

function colorDots() {
  legend = classes(columns.get(state.column));
  classOf = Uint16Array.from({ length: count }, (_, point) => legend.of(point));
  sprites = [];
}

function outline(pen, shape, r) {
  const corners = { 1: [4, 0.25], 2: [3, -0.25], 3: [4, 0], 4: [3, 0.25], 5: [5, -0.25] }[shape];
  pen.beginPath();
  if (!corners) {
    pen.arc(0, 0, r, 0, 2 * Math.PI);
    return;
  }
  const [sides, turn] = corners; // a square stands on a side, a diamond on a corner
  for (let i = 0; i < sides; i += 1) {
    const angle = 2 * Math.PI * ((i + (shape === 1 ? 0.5 : 0)) / sides + turn);
    pen.lineTo(1.25 * r * Math.cos(angle), 1.25 * r * Math.sin(angle));
  }
  pen.closePath();
}

function sprite(look, r, dpr) {
  const half = Math.ceil(1.25 * r + 2);
  const image = document.createElement('canvas');
  image.width = image.height = 2 * half * dpr;
  const pen = image.getContext('2d');
  pen.scale(dpr, dpr);
  pen.translate(half, half);
  outline(pen, look.shape, r);
  pen.fillStyle = look.color.startsWith('--') ? css(look.color) : look.color;
  pen.fill();
  pen.lineWidth = 1;
  pen.strokeStyle = css('--back');
  pen.stroke();
  return { image, half };
}

const radius = () => Math.max(2.5, Math.min(9, (count > 5000 ? 2.5 : count > 500 ? 4 : 5.5) * Math.sqrt(Math.min(4, view.scale))));

function side() {
  return 0.9 * Math.min(view.width, view.height) * view.scale;
}

function toScreen(point) {
  const size = side();
  return [view.width / 2 + view.x + (places[2 * point] - 0.5) * size, view.height / 2 + view.y + (places[2 * point + 1] - 0.5) * size];
}

function isShown(point) {
  return !state.hidden.has(classOf[point]);
}

function isBright(point) {
  return isShown(point) && (!state.matches || state.matches[point] === 1);
}

function draw() {
  isDue = false;
  const pen = canvas.getContext('2d');
  const r = radius();
  if (!sprites.length || sprites.radius !== r) {
    sprites = legend.list.map((look) => sprite(look, r, view.dpr));
    sprites.radius = r;
  }
  pen.setTransform(view.dpr, 0, 0, view.dpr, 0, 0);
  pen.clearRect(0, 0, view.width, view.height);
  if (data.windows) drawPath(pen);
  for (const bright of [false, true]) {
    pen.globalAlpha = bright ? (count > 5000 ? 0.75 : 0.9) : 0.13;
    for (let point = 0; point < count; point += 1) {
      if (!isShown(point) || isBright(point) !== bright) continue;
      const [x, y] = toScreen(point);
      if (x < -12 || y < -12 || x > view.width + 12 || y > view.height + 12) continue;
      const { image, half } = sprites[classOf[point]];
      pen.drawImage(image, x - half, y - half, 2 * half, 2 * half);
    }
  }
  pen.globalAlpha = 1;
  drawMarks(pen, r);
}

function drawPath(pen) {
  pen.strokeStyle = css('--path');
  pen.globalAlpha = count > 3000 ? 0.35 : 0.6;
  pen.lineWidth = 1;
  pen.beginPath();
  for (let point = 0; point < count; point += 1) {
    const isNext = point > 0 && source[point] === source[point - 1];
    pen[isNext ? 'lineTo' : 'moveTo'](...toScreen(point));
  }
  pen.stroke();
}

function ring(pen, [x, y], r, color, width) {
  pen.beginPath();
  pen.arc(x, y, r, 0, 2 * Math.PI);
  pen.strokeStyle = color;
  pen.lineWidth = width;
  pen.stroke();
}

function drawMarks(pen, r) {
  const ink = css('--front');
  if (state.selected >= 0) {
    for (let k = 0; k < near.count; k += 1) {
      const at = state.selected * near.count + k;
      if (Number.isFinite(near.cosines[at])) ring(pen, toScreen(near.rows[at]), r + 2.5, css('--soft'), 1);
    }
    ring(pen, toScreen(state.selected), r + 4, css('--back'), 5);
    ring(pen, toScreen(state.selected), r + 4, ink, 2.5);
  }
  for (const point of state.likes) ring(pen, toScreen(point), r + 6.5, css('--accent'), 2);
  if (playhead) {
    const size = side();
    const at = [view.width / 2 + view.x + (playhead[0] - 0.5) * size, view.height / 2 + view.y + (playhead[1] - 0.5) * size];
    ring(pen, at, 7, css('--back'), 6);
    ring(pen, at, 7, css('--warn'), 3);
  }
}

function redraw() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(draw);
}

function resize() {
  const box = canvas.getBoundingClientRect();
  view.width = box.width;
  view.height = box.height;
  view.dpr = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(box.width * view.dpr));
  canvas.height = Math.max(1, Math.round(box.height * view.dpr));
  sprites = [];
  redraw();
}

// The dot nearest to a place of the screen, within so many pixels; -1 if there is none.
function dotAt(x, y, reach) {
  let best = -1;
  let least = reach * reach;
  for (let point = 0; point < count; point += 1) {
    if (!isBright(point)) continue;
    const [px, py] = toScreen(point);
    const distance = (px - x) ** 2 + (py - y) ** 2;
    if (distance <= least) {
      least = distance;
      best = point;
    }
  }
  return best;
}

// The next dot in a direction: near ones and those straight ahead first, those beyond 45 degrees of it last.
function dotTowards(dx, dy) {
  if (state.selected < 0) return dotAt(view.width / 2, view.height / 2, Infinity);
  const [x, y] = toScreen(state.selected);
  let best = -1;
  let least = Infinity;
  for (let point = 0; point < count; point += 1) {
    if (point === state.selected || !isBright(point)) continue;
    const [px, py] = toScreen(point);
    const along = (px - x) * dx + (py - y) * dy;
    const across = Math.abs((px - x) * dy - (py - y) * dx);
    const cost = along + (across <= along ? 1.5 : 12) * across;
    if (along > 0 && cost < least) {
      least = cost;
      best = point;
    }
  }
  return best;
}
