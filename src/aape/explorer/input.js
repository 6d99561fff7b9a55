// Mouse, wheel, touch and keyboard on the map.

const pointers = new Map(); // of fingers, or the mouse, that are down: where they are
let moved = 0; // pixels since the first came down

function zoom(factor, x = view.width / 2, y = view.height / 2) {
  const scale = Math.min(400, Math.max(0.5, view.scale * factor));
  const ratio = scale / view.scale;
  view.x = (x - view.width / 2) * (1 - ratio) + view.x * ratio;
  view.y = (y - view.height / 2) * (1 - ratio) + view.y * ratio;
  view.scale = scale;
  redraw();
}

function showAll() {
  Object.assign(view, { scale: 1, x: 0, y: 0 });
  redraw();
}

// Move the map so that a dot is in sight.
function bringIntoSight(point) {
  const [x, y] = toScreen(point);
  const margin = 24;
  view.x -= Math.max(0, x - (view.width - margin)) + Math.min(0, x - margin);
  view.y -= Math.max(0, y - (view.height - margin)) + Math.min(0, y - margin);
}

function within(event) {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

function middle() {
  const all = [...pointers.values()];
  const x = all.reduce((sum, p) => sum + p[0], 0) / all.length;
  const y = all.reduce((sum, p) => sum + p[1], 0) / all.length;
  const spread = all.length > 1 ? Math.hypot(all[0][0] - all[1][0], all[0][1] - all[1][1]) : 0;
  return { x, y, spread };
}

function onPointerDown(event) {
  if (event.button > 0) return;
  if (!pointers.size) moved = 0;
  pointers.set(event.pointerId, within(event));
  canvas.setPointerCapture(event.pointerId);
}

function onPointerMove(event) {
  if (!pointers.has(event.pointerId)) {
    hover(event);
    return;
  }
  const before = middle();
  pointers.set(event.pointerId, within(event));
  const after = middle();
  moved += Math.hypot(after.x - before.x, after.y - before.y) + Math.abs(after.spread - before.spread);
  if (moved < 5) return;
  view.x += after.x - before.x;
  view.y += after.y - before.y;
  if (before.spread > 0 && after.spread > 0) zoom(after.spread / before.spread, after.x, after.y);
  byId('tip').hidden = true;
  redraw();
}

function onPointerUp(event) {
  if (!pointers.delete(event.pointerId) || pointers.size || moved >= 5 || event.type === 'pointercancel') return;
  const [x, y] = within(event);
  const point = dotAt(x, y, event.pointerType === 'touch' ? 26 : 14);
  if (point >= 0) select(point, { play: true });
}

function hover(event) {
  if (event.pointerType === 'touch') return;
  const [x, y] = within(event);
  const point = dotAt(x, y, 10);
  const tip = byId('tip');
  canvas.style.cursor = point >= 0 ? 'pointer' : 'crosshair';
  tip.hidden = point < 0;
  if (point < 0) {
    hovered = -1;
    return;
  }
  if (point !== hovered) tip.textContent = nameOf(point);
  hovered = point;
  const toLeft = x > view.width / 2;
  tip.style.left = toLeft ? '' : `${x + 14}px`;
  tip.style.right = toLeft ? `${view.width - x + 14}px` : '';
  tip.style.top = `${Math.min(y + 12, view.height - 40)}px`;
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key;
  if (ARROWS[key]) {
    const point = dotTowards(...ARROWS[key]);
    if (point >= 0) select(point, { play: false });
  } else if (key === 'Enter' || key === ' ') {
    if (state.selected >= 0) playOrPause();
  } else if (key === '+' || key === '=') zoom(1.4);
  else if (key === '-' || key === '−') zoom(1 / 1.4);
  else if (key === '0') showAll();
  else return;
  event.preventDefault();
}

function listenToMap() {
  canvas.addEventListener('pointerdown', onPointerDown);
  canvas.addEventListener('pointermove', onPointerMove);
  canvas.addEventListener('pointerup', onPointerUp);
  canvas.addEventListener('pointercancel', onPointerUp);
  canvas.addEventListener('pointerleave', () => {
    byId('tip').hidden = true;
  });
  canvas.addEventListener('wheel', (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), ...within(event));
  }, { passive: false });
  canvas.addEventListener('keydown', onKey);
  byId('closer').addEventListener('click', () => zoom(1.4));
  byId('wider').addEventListener('click', () => zoom(1 / 1.4));
  byId('whole').addEventListener('click', showAll);
  new ResizeObserver(resize).observe(canvas);
}
