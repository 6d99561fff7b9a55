// Hearing and seeing one sound: the audio element, the pictures of it, and playheads in both.

const audio = byId('audio');
const picture = byId('picture');
const playing = { source: -1, address: '', from: 0, to: Infinity, span: 1, still: null };

function showTrouble(text) {
  byId('trouble').textContent = text;
  byId('trouble').hidden = text === '';
}

function load(number) {
  const item = sound(number);
  if (playing.source === number || !item) return item;
  if (playing.address.startsWith('blob:')) URL.revokeObjectURL(playing.address);
  const address = item.opus ? URL.createObjectURL(new Blob([bytes(item.opus)], { type: 'audio/ogg' })) : item.href || '';
  Object.assign(playing, { source: number, address, from: item.from || 0, to: item.to || Infinity });
  showTrouble('');
  audio.hidden = address === '';
  if (address === '') {
    audio.removeAttribute('src');
    audio.load();
    showTrouble(`There is no sound of ${data.names[number]} here: ${item.silent || 'it was left out'}.`);
  } else if (item.opus && audio.canPlayType('audio/ogg; codecs=opus') === '') {
    showTrouble('This browser does not play Opus, in which the sounds of this page are: open it in another one.');
  } else {
    audio.src = address;
    audio.currentTime = playing.from;
  }
  return item;
}

function onAudioError() {
  if (playing.address === '' || !audio.getAttribute('src')) return;
  const name = data.names[playing.source];
  const file = playing.address.startsWith('blob:') ? '' : decodeURIComponentOr(playing.address);
  showTrouble(file
    ? `${name} cannot be played: ${file}, as seen from this page, is not there any more, or is of a kind that this browser does not play.`
    : `${name} cannot be played: this browser does not play Opus, or has no audio.`);
}

function decodeURIComponentOr(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function playFrom(seconds) {
  if (!audio.getAttribute('src')) return;
  if (typeof audio.play !== 'function') {
    showTrouble('This browser has no audio.');
    return;
  }
  audio.currentTime = playing.from + seconds;
  const started = audio.play();
  if (started) {
    started.catch((error) => {
      if (error.name === 'NotAllowedError') showTrouble('This browser waits for a click: press play.');
    });
  }
}

function playOrPause() {
  if (!audio.paused) audio.pause();
  else playFrom(starts[state.selected]);
}

const heard = () => audio.currentTime - playing.from;

// Where the path through the windows is at a time: between the windows whose middles are before and after it.
function pathAt(number, seconds) {
  let before = -1;
  for (let point = 0; point < count; point += 1) {
    if (source[point] !== number) continue;
    const middleOf = (starts[point] + ends[point]) / 2;
    if (middleOf > seconds) {
      if (before < 0) return { point, x: places[2 * point], y: places[2 * point + 1] };
      const start = (starts[before] + ends[before]) / 2;
      const share = (seconds - start) / (middleOf - start);
      const mix = (axis) => places[2 * before + axis] * (1 - share) + places[2 * point + axis] * share;
      return { point: share < 0.5 ? before : point, x: mix(0), y: mix(1) };
    }
    before = point;
  }
  return before < 0 ? null : { point: before, x: places[2 * before], y: places[2 * before + 1] };
}

function follow() {
  if (playing.source < 0) return;
  if (heard() >= playing.to - playing.from && !audio.paused) audio.pause();
  drawPicture();
  if (data.windows) {
    const at = pathAt(playing.source, heard());
    playhead = at ? [at.x, at.y] : null;
    redraw();
  }
  if (!audio.paused && !audio.ended) requestAnimationFrame(follow);
}

// Pictures: the log-mel above the shares of modulation frequencies and of decays, on one axis of time.

const MEL_STOPS = [[8, 7, 22], [80, 22, 92], [183, 55, 84], [249, 142, 60], [252, 245, 185]];

function mixed(stops, share) {
  const at = Math.min(stops.length - 2, Math.floor(share * (stops.length - 1)));
  const part = share * (stops.length - 1) - at;
  return stops[at].map((value, i) => value * (1 - part) + stops[at + 1][i] * part);
}

async function tinted(text, tint) {
  const image = new Image();
  image.src = `data:image/png;base64,${text}`;
  await image.decode();
  const out = document.createElement('canvas');
  out.width = image.width;
  out.height = image.height;
  const pen = out.getContext('2d');
  pen.drawImage(image, 0, 0);
  const pixels = pen.getImageData(0, 0, out.width, out.height);
  const colors = Array.from({ length: 256 }, (_, level) => tint(level / 255));
  for (let i = 0; i < pixels.data.length; i += 4) pixels.data.set(colors[pixels.data[i]], i);
  pen.putImageData(pixels, 0, 0);
  return out;
}

async function showPicture(item, number) {
  playing.still = null;
  picture.hidden = !item.mel;
  byId('caption').textContent = captionOf(item);
  if (!item.mel) return;
  const accent = css('--accent').match(/\w\w/g).map((pair) => parseInt(pair, 16));
  const share = (x) => [...accent, 255 * Math.min(1, 1.3 * x)];
  const images = [await tinted(item.mel, (x) => [...mixed(MEL_STOPS, x), 255])];
  if (item.frequencies) images.push(await tinted(item.frequencies, share), await tinted(item.decays, share));
  if (source[state.selected] !== number) return; // another one was chosen meanwhile
  picture.setAttribute('aria-label', `Log-mel spectrogram of ${data.names[number]}${item.frequencies ? ', with modulation frequencies and decays' : ''}`);
  playing.span = Math.max(item.seconds, 0.01);
  playing.still = drawStill(item, images);
  drawPicture();
}

function captionOf(item) {
  if (!item.mel) return data.pictures < data.names.length ? `No spectrogram of this one: the page has ${data.pictures.toLocaleString()} for its ${data.names.length.toLocaleString()} sounds.` : '';
  if (!item.frequencies) return 'Log-mel. The model has the standard stem, which chooses no frequencies and decays.';
  return `Above, the log-mel. Below, for each time patch, which modulation frequencies (Hz) and decays (nepers per second) the stem chose; the line is what the patches themselves can represent, ${data.patch_rate.toFixed(1)} Hz.`;
}

function drawStill(item, images) {
  const box = picture.getBoundingClientRect();
  const dpr = window.devicePixelRatio || 1;
  const still = document.createElement('canvas');
  still.width = Math.max(1, Math.round(box.width * dpr));
  const heights = images.length > 1 ? [120, 58, 58] : [246];
  still.height = Math.round(264 * dpr);
  const pen = still.getContext('2d');
  pen.scale(dpr, dpr);
  let top = 0;
  images.forEach((image, i) => {
    const covers = i ? item.patches : item.span;
    pen.save();
    pen.beginPath();
    pen.rect(0, top, box.width, heights[i]);
    pen.clip();
    if (i) {
      pen.fillStyle = css('--back');
      pen.fillRect(0, top, box.width, heights[i]);
    }
    pen.imageSmoothingEnabled = i === 0;
    pen.translate(0, top + heights[i]);
    pen.scale(1, -1); // low is below
    pen.drawImage(image, 0, 0, (box.width * covers) / playing.span, heights[i]);
    pen.restore();
    drawAxis(pen, i, top, heights[i], box.width);
    top += heights[i] + 3;
  });
  drawTimes(pen, box.width);
  return still;
}

function drawAxis(pen, panel, top, height, width) {
  const [low, high] = data.decay_range;
  const marks = [
    data.ticks,
    [['25 Hz', 25 / data.highest_rate]],
    [10, 100].map((decay) => [`${decay} Np/s`, Math.log(decay / low) / Math.log(high / low)]),
  ][panel];
  pen.font = '10px system-ui, sans-serif';
  pen.textBaseline = 'middle';
  for (const [text, share] of marks) {
    const y = top + height * (1 - share);
    pen.fillStyle = panel ? css('--soft') : '#ffffffcc';
    pen.fillRect(0, y, 4, 1);
    pen.fillText(text, 7, Math.max(top + 6, Math.min(top + height - 6, y)));
  }
  if (panel === 1) {
    pen.fillStyle = css('--warn');
    pen.fillRect(0, top + height * (1 - data.patch_rate / data.highest_rate), width, 1);
  }
}

function drawTimes(pen, width) {
  const raw = playing.span / 4;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((n) => n * unit).find((n) => n >= raw);
  pen.fillStyle = css('--soft');
  pen.textBaseline = 'bottom';
  for (let t = 0; t <= playing.span; t += step) {
    const x = (width * t) / playing.span;
    pen.textAlign = t === 0 ? 'left' : x > width - 30 ? 'right' : 'center';
    pen.fillText(playing.span > 90 ? clock(t) : `${Number(t.toPrecision(3))} s`, x, 264);
  }
}

function drawPicture() {
  const still = playing.still;
  if (!still) return;
  picture.width = still.width;
  picture.height = still.height;
  const pen = picture.getContext('2d');
  pen.drawImage(still, 0, 0);
  const dpr = window.devicePixelRatio || 1;
  const bottom = 246 * dpr;
  const toX = (seconds) => (still.width * seconds) / playing.span;
  if (data.windows) {
    pen.strokeStyle = css('--accent');
    pen.lineWidth = 2 * dpr;
    pen.strokeRect(toX(starts[state.selected]), dpr, toX(ends[state.selected] - starts[state.selected]), bottom - 2 * dpr);
  }
  if (playing.source === source[state.selected] && (heard() > 0 || !audio.paused)) {
    pen.fillStyle = '#ffffff';
    pen.fillRect(toX(heard()) - dpr, 0, 3 * dpr, bottom);
    pen.fillStyle = css('--warn');
    pen.fillRect(toX(heard()), 0, dpr, bottom);
  }
}

function listenToAudio() {
  audio.addEventListener('play', () => requestAnimationFrame(follow));
  audio.addEventListener('seeked', follow);
  audio.addEventListener('pause', follow);
  audio.addEventListener('ended', follow);
  audio.addEventListener('error', onAudioError);
  picture.addEventListener('click', (event) => {
    const box = picture.getBoundingClientRect();
    playFrom((playing.span * (event.clientX - box.left)) / box.width);
  });
}
