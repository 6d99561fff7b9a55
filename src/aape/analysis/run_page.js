const HEIGHT = 190, LEFT = 48, RIGHT = 8, TOP = 8, BOTTOM = 24, NUM_COLOURS = 8;
const shown = data.runs.map(() => true);
const several = data.runs.length > 1;
const colour = (run) => `var(--c${run % NUM_COLOURS})`;

function showNumber(value) {
  if (value === null) return "none";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2).replace(/\.?0+e/, "e");
  return Number(value.toPrecision(4)).toLocaleString("en", { maximumFractionDigits: 6 });
}

const makeSwatch = (run) => {
  const swatch = make("span", { class: "swatch" });
  swatch.style.background = colour(run);
  return swatch;
};

// Where to draw lines on an axis: about `count` round numbers, or powers of ten.
function ticksOf(low, high, count, isLog) {
  const ticks = [];
  if (isLog) {
    const decades = Math.log10(high / low);
    const factors = decades < 1 ? [1, 2, 3, 5, 7] : decades < 3 ? [1, 3] : [1];
    const every = Math.max(1, Math.ceil(decades / 6));
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1)
      if (power % every === 0) for (const factor of factors) ticks.push(factor * 10 ** power);
    const within = ticks.filter((tick) => tick >= low && tick <= high);
    if (within.length > 1) return within;
    ticks.length = 0;
  }
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const first = Math.ceil(low / step);
  // Of numbers from a stranger, the step may be 0, or too small to count in
  for (let index = 0; index < 20 && (first + index) * step <= high; index += 1)
    ticks.push(Number(((first + index) * step).toPrecision(12)));
  return ticks;
}

// The range of numbers, never empty, with a little room where it is not that of steps.
function rangeOf(numbers, isLog, room) {
  let [low, high] = [Infinity, -Infinity];
  for (const number of numbers) [low, high] = [Math.min(low, number), Math.max(high, number)];
  if (low > high) [low, high] = isLog ? [1, 10] : [0, 1];
  if (isLog) {
    const factor = low === high ? 2 : (high / low) ** room;
    return [low / factor, high * factor];
  }
  if (low === high) [low, high] = low === 0 ? [0, 1] : [low - Math.abs(low) / 2, high + Math.abs(high) / 2];
  return [low - room * (high - low), high + room * (high - low)];
}

class Chart {
  constructor(chart, number) {
    this.chart = chart;
    this.svg = makeSvg("svg", { role: "img", tabindex: 0, "aria-labelledby": `title-${number}`,
      "aria-describedby": `description-${number}` });
    this.tip = make("div", { class: "tip", role: "status" });
    this.unit = make("span", { class: "unit" });
    this.figure = make("figure", {}, make("figcaption", {}, make("span", { id: `title-${number}` }, chart.title),
      this.unit), this.svg, this.tip,
      make("p", { id: `description-${number}`, class: "hidden" }, chart.description));
    this.svg.addEventListener("pointermove", (event) => this.point(this.stepAt(event)));
    this.svg.addEventListener("pointerdown", (event) => this.point(this.stepAt(event)));
    this.svg.addEventListener("pointerleave", () => this.point(null));
    this.svg.addEventListener("focus", () => { if (this.svg.matches(":focus-visible")) this.point(this.steps.at(-1)); });
    this.svg.addEventListener("blur", () => this.point(null));
    this.svg.addEventListener("keydown", (event) => this.press(event));
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  get curves() { return this.chart.curves.filter((curve) => shown[curve.run]); }

  draw() {
    this.width = this.svg.clientWidth || 320;
    const curves = this.curves, values = curves.flatMap((curve) => curve.values).filter((value) => value !== null);
    this.steps = [...new Set(curves.flatMap((curve) => curve.steps))].sort((one, other) => one - other);
    this.isLog = this.chart.log && values.every((value) => value > 0);
    this.unit.textContent = this.isLog ? `${this.chart.unit}, logarithmic` : this.chart.unit;
    this.x = rangeOf(this.steps, false, 0);
    this.y = rangeOf(values, this.isLog, 0.05);
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    this.cursor = makeSvg("g");
    this.svg.replaceChildren(...this.axes(), ...curves.map((curve) => this.path(curve)), this.cursor);
    this.point(null);
  }

  left(step) { return LEFT + ((step - this.x[0]) / (this.x[1] - this.x[0])) * (this.width - LEFT - RIGHT); }

  top(value) {
    const [low, high, at] = this.isLog ? [...this.y, value].map(Math.log) : [...this.y, value];
    return HEIGHT - BOTTOM - ((at - low) / (high - low)) * (HEIGHT - BOTTOM - TOP);
  }

  axes() {
    const parts = [];
    for (const tick of ticksOf(...this.y, 4, this.isLog)) {
      const y = this.top(tick);
      parts.push(makeSvg("line", { class: "grid", x1: LEFT, x2: this.width - RIGHT, y1: y, y2: y }),
        makeSvg("text", { x: LEFT - 5, y: y + 4, "text-anchor": "end" }, showNumber(tick)));
    }
    const last = this.width - RIGHT;
    for (const tick of ticksOf(...this.x, this.width / 90, false).filter(Number.isInteger)) {
      const x = this.left(tick), anchor = x > last - 20 ? "end" : "middle";
      parts.push(makeSvg("text", { x: Math.min(x, last), y: HEIGHT - 8, "text-anchor": anchor }, tick.toLocaleString("en")));
    }
    return parts;
  }

  path(curve) {
    let path = "", isBroken = true;
    curve.values.forEach((value, index) => {
      if (value !== null) {
        const point = `${this.left(curve.steps[index]).toFixed(1)},${this.top(value).toFixed(1)}`;
        path += isBroken ? `M${point}h0` : `L${point}`;  // h0: a point between two gaps is seen, too
      }
      isBroken = value === null;
    });
    const line = makeSvg("path", { class: curve.dashed ? "curve dashed" : "curve", d: path });
    line.style.stroke = colour(curve.run);
    return line;
  }

  stepAt(event) {
    const box = this.svg.getBoundingClientRect(), share = (event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT);
    const step = this.x[0] + share * (this.x[1] - this.x[0]);
    return this.steps.reduce((best, each) => (Math.abs(each - step) < Math.abs(best - step) ? each : best), this.steps[0]);
  }

  // Show a step and the values of the curves there, or none.
  point(step) {
    this.step = step ?? null;
    this.cursor.replaceChildren();
    this.tip.replaceChildren();
    if (this.step === null) return;
    const x = this.left(step), rows = [];
    this.cursor.append(makeSvg("line", { class: "cursor", x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM }));
    for (const curve of this.curves) {
      const index = curve.steps.findLastIndex((each) => each <= step);  // runs may log at other steps
      if (index < 0 || step > curve.steps.at(-1)) continue;
      const value = curve.values[index], name = make("span", {}, curve.name.replaceAll("_", " "));
      if (several) name.prepend(makeName(data.runs[curve.run].name), " ");
      rows.push(make("div", {}, makeSwatch(curve.run), name, make("b", {}, showNumber(value))));
      if (value === null) continue;
      const dot = makeSvg("circle", { cx: this.left(curve.steps[index]), cy: this.top(value), r: 3.5 });
      dot.style.fill = colour(curve.run);
      this.cursor.append(dot);
    }
    this.tip.append(make("div", {}, `step ${step.toLocaleString("en")}`), ...rows);
    const isLow = this.figure.getBoundingClientRect().bottom + this.tip.offsetHeight > innerHeight;
    this.tip.classList.toggle("above", isLow);  // never over the curves themselves
  }

  press(event) {
    const at = this.steps.indexOf(this.step), last = this.steps.length - 1, from = at < 0 ? last : at;
    const to = { ArrowLeft: Math.max(0, from - 1), ArrowRight: Math.min(last, from + 1), Home: 0, End: last }[event.key];
    if (event.key === "Escape") this.point(null);
    if (to === undefined) return;
    event.preventDefault();
    this.point(this.steps[to]);
  }
}

function makeTable(head, rows, label) {
  const line = (tag, cells) => make("tr", {}, ...cells.map((cell) => make(tag, tag === "th" ? { scope: "col" } : {}, cell)));
  const table = make("table", {}, make("thead", {}, line("th", head)), make("tbody", {}, ...rows.map((row) => line("td", row))));
  return make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, table);
}

function makeAlarms() {
  const lines = data.runs.flatMap((run) => run.alarms.map((text) =>
    make("li", {}, ...(several ? [makeName(run.name), ": "] : []), text)));
  if (lines.length) return make("div", { class: "alarms", role: "note" }, make("strong", {}, "Alarms"), make("ul", {}, ...lines));
  return make("p", { class: "calm" }, "No alarm: no variance has fallen below a tenth of its first value, and no step " +
    "or clip is listed as left out.");
}

function makeLegend(charts) {
  const items = data.runs.map((run, index) => {
    const button = make("button", { type: "button", "aria-pressed": "true" }, makeSwatch(index), makeName(run.name));
    button.addEventListener("click", () => {
      shown[index] = !shown[index];
      button.setAttribute("aria-pressed", String(shown[index]));
      charts.forEach((chart) => chart.draw());
    });
    return make("li", {}, button);
  });
  return make("ul", { class: "legend", "aria-label": "Runs, to show or hide" }, ...items);
}

// One table for all runs: what each lists under `key`.
function makeList(title, key, head) {
  const rows = data.runs.flatMap((run) => run[key].rows.map((cells) => {
    const texts = cells.map((cell) => (typeof cell === "number" ? cell.toLocaleString("en") : makeName(cell)));
    return several ? [makeName(run.name), ...texts] : texts;
  }));
  const more = data.runs.filter((run) => run[key].more).map((run) =>
    make("p", { class: "soft" }, makeName(run.name), `: and ${run[key].more.toLocaleString("en")} more`));
  return rows.length ? [make("h2", {}, title), makeTable(several ? ["run", ...head] : head, rows, title), ...more] : [];
}

const charts = data.charts.map((chart, number) => new Chart(chart, number));
const states = data.runs.map((run) => make("p", { class: "soft" }, ...(several ? [makeName(run.name), ": "] : []), run.state));
document.getElementById("main").append(
  make(data.heading, {}, data.title), ...states, makeAlarms(), ...(several ? [makeLegend(charts)] : []),
  make("div", { class: "charts" }, ...charts.map((chart) => chart.figure)),
  ...(data.options.length ? [make("h2", {}, "Options that differ"), makeTable(["option", ...data.runs.map((run) => makeName(run.name))],
    data.options.map((row) => row.map(makeName)), "Options that differ")] : []),
  ...makeList("Steps left out", "skipped", ["step", "clips"]),
  ...makeList("Clips that could not be read", "bad", ["file", "reason"]),
);
