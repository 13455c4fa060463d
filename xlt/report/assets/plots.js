"use strict";
// Plots of what the filters leave. uPlot draws axes and lines; marks, their bars and the hovering are ours.

const SHAPES = ["circle", "square", "triangle", "diamond", "cross", "down", "plus", "ring"];
const MOST_SERIES = SHAPES.length;
const SPARSE = 25; // points up to which a curve shows each
const REACH = 28; // pixels from which a mark answers
const drawn = new Map(); // what each plot shows, by the id of its place

// A colour of the style sheet as canvas understands it.
function colour(name) {
  const probe = element("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function mark(context, shape, x, y, size) {
  const path = new Path2D();
  if (shape === "circle" || shape === "ring") path.arc(x, y, size, 0, 2 * Math.PI);
  else if (shape === "square") path.rect(x - size * 0.9, y - size * 0.9, size * 1.8, size * 1.8);
  else if (shape === "cross" || shape === "plus") {
    const [across, along] = shape === "cross" ? [size, size] : [size * 1.2, 0];
    path.moveTo(x - across, y - along);
    path.lineTo(x + across, y + along);
    path.moveTo(x - along, y + across);
    path.lineTo(x + along, y - across);
  } else {
    const corners = { triangle: [[0, -1.2], [1.1, 0.8], [-1.1, 0.8]], down: [[0, 1.2], [1.1, -0.8], [-1.1, -0.8]],
      diamond: [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]] }[shape];
    corners.forEach(([right, down], place) => path[place ? "lineTo" : "moveTo"](x + right * size, y + down * size));
    path.closePath();
  }
  if (shape === "ring" || shape === "cross" || shape === "plus") context.stroke(path);
  else context.fill(path);
}

// A plot of points {x, y, low, high, series, title, lines, system}. Series are {name, joined}: "marked" or "densely" joined ones are
// lines, with or without marks. The order of series gives their colours and shapes; those without points are left out.
function plot(id, { series, points, xRange, xLabels, xLog, yTitle, xTitle, zero, empty }) {
  const place = byId(id);
  drawn.get(id)?.destroy();
  drawn.delete(id);
  place.replaceChildren();
  place.removeAttribute("tabindex");
  if (!points.length) {
    place.append(element("p", { className: "empty" }, empty));
    return;
  }
  const off = new Set();
  series = series.map((one, number) => ({ ...one, unused: points.every((point) => point.series !== number) }));
  const shown = () => points.filter((point) => !off.has(point.series));
  const colours = series.map((_, number) => colour(`series-${number % MOST_SERIES}`));
  const tip = element("div", { className: "tip", hidden: true, role: "status" });
  const axis = { stroke: colour("quiet"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line"), width: 1 },
    font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif", labelSize: 20 };
  const [bottom, top] = yRange(points, zero);
  const xs = [...new Set(points.map((point) => point.x))].sort((a, b) => a - b);
  const columns = series.map((one, number) => {
    if (!one.joined) return xs.map(() => null);
    const values = new Map(points.filter((point) => point.series === number).map((point) => [point.x, point.y]));
    return xs.map((x) => values.get(x) ?? null);
  });
  let active = null;
  const turned = xLabels && (xLabels.length > 24 || place.clientWidth / xLabels.length < 34);
  const chart = new uPlot({
    width: place.clientWidth, height: Math.max(240, Math.min(360, innerHeight * 0.5)), legend: { show: false },
    cursor: { drag: { x: !xLabels, y: false }, points: { show: false }, x: false, y: false },
    scales: { x: { time: false, distr: xLog ? 3 : 1, range: () => xRange }, y: { range: () => [bottom, top] } },
    series: [{}, ...series.map((one, number) => ({ stroke: colours[number], width: 1.5, spanGaps: true, points: { show: false },
      dash: number >= 4 ? [6, 4] : undefined }))],
    axes: [
      { ...axis, label: xTitle, size: turned ? 54 : 34, rotate: turned ? -90 : 0, ...(xLabels && {
        splits: () => every(xLabels, place.clientWidth), values: (_, splits) => splits.map((split) => xLabels[split] ?? ""), grid: { show: false },
      }), ...(xLog && { splits: () => decades(...xRange), filter: (_, splits) => splits, values: (_, splits) => splits.map(xLog) }) },
      { ...axis, label: yTitle, size: 58, values: (_, splits) => ticks(splits) },
    ],
    hooks: {
      draw: [(u) => drawMarks(u, { shown, series, colours, zero, ink: colour("ink"), line: colour("quiet") }, active)],
      setScale: [() => hide()],
    },
  }, [xs, ...columns], place);
  place.append(tip, keysOf(series, colours, off, () => {
    series.forEach((_, number) => chart.setSeries(number + 1, { show: !off.has(number) }));
    hide();
    chart.redraw();
  }));
  drawn.set(id, chart);

  // -- hovering, by pointer and by keys
  const at = (point) => [chart.valToPos(point.x, "x"), chart.valToPos(point.y, "y")];
  function show(point) {
    if (point === active) return;
    active = point;
    chart.redraw(false);
    tip.hidden = !point;
    if (!point) return;
    tip.replaceChildren(element("b", {}, point.title), ...point.lines.map((line) => element("div", {}, line)));
    const [x, y] = at(point);
    const left = chart.over.offsetLeft + x;
    const above = chart.over.offsetTop + y;
    tip.style.left = `${Math.max(0, Math.min(left + 12, place.clientWidth - tip.offsetWidth))}px`;
    tip.style.top = `${Math.max(0, above > tip.offsetHeight + 16 ? above - tip.offsetHeight - 12 : above + 14)}px`;
  }
  function hide() { if (active) show(null); }
  function nearest(event) {
    const box = chart.over.getBoundingClientRect();
    let found = null;
    let best = REACH;
    for (const point of shown()) {
      const [x, y] = at(point);
      const away = Math.hypot(x - (event.clientX - box.left), y - (event.clientY - box.top));
      if (away < best) [found, best] = [point, away];
    }
    return found;
  }
  chart.over.addEventListener("pointermove", (event) => show(nearest(event)));
  chart.over.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
  chart.over.addEventListener("click", (event) => {
    const point = nearest(event);
    const again = point && point === active;
    show(point);
    if (again) openPanel(point.system);
  });
  const ordered = () => shown().sort((a, b) => a.x - b.x || b.y - a.y);
  place.tabIndex = 0;
  place.setAttribute("role", "group");
  place.setAttribute("aria-label", `${yTitle}: ${points.length} points. Arrow keys move from one to the next, Enter opens its runs.`);
  place.onkeydown = (event) => {
    if (event.target !== place) return;
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step) {
      const all = ordered();
      const now = all.indexOf(active);
      show(all[now < 0 ? (step > 0 ? 0 : all.length - 1) : Math.max(0, Math.min(all.length - 1, now + step))]);
      event.preventDefault();
    } else if (event.key === "Enter" && active) openPanel(active.system);
    else if (event.key === "Escape") hide();
  };
  place.onblur = hide;
}

function drawMarks(u, { shown, series, colours, zero, ink, line }, active) {
  const context = u.ctx;
  const ratio = devicePixelRatio;
  context.save();
  context.beginPath();
  context.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
  context.clip();
  context.setLineDash([]);
  if (zero) {
    const y = u.valToPos(0, "y", true);
    context.strokeStyle = line;
    context.lineWidth = ratio;
    context.strokeRect(u.bbox.left, y, u.bbox.width, 0);
  }
  for (const point of shown()) {
    if (series[point.series].joined === "densely" && point !== active) continue;
    const [x, y] = [u.valToPos(point.x, "x", true), u.valToPos(point.y, "y", true)];
    context.strokeStyle = context.fillStyle = colours[point.series];
    context.lineWidth = 1.5 * ratio;
    if (point.low !== undefined) {
      context.globalAlpha = 0.55;
      context.beginPath();
      context.moveTo(x, u.valToPos(point.low, "y", true));
      context.lineTo(x, u.valToPos(point.high, "y", true));
      context.stroke();
      context.globalAlpha = 1;
    }
    mark(context, SHAPES[point.series % MOST_SERIES], x, y, (series[point.series].joined ? 3.2 : 4.5) * ratio);
    if (point === active) {
      context.strokeStyle = ink;
      mark(context, "ring", x, y, 8 * ratio);
    }
  }
  context.restore();
}

function keysOf(series, colours, off, changed) {
  return element("ul", { className: "keys" }, ...series.flatMap((one, number) => {
    if (one.unused) return [];
    const canvas = element("canvas", { width: 28, height: 28, ariaHidden: "true" });
    canvas.style.width = canvas.style.height = "14px";
    const context = canvas.getContext("2d");
    context.strokeStyle = context.fillStyle = colours[number];
    context.lineWidth = 3;
    if (one.joined) {
      context.setLineDash(number >= 4 ? [8, 5] : []);
      context.strokeRect(0, 14, 28, 0);
      context.setLineDash([]);
    }
    if (one.joined !== "densely") mark(context, SHAPES[number % MOST_SERIES], 14, 14, 9);
    const button = element("button", { type: "button", ariaPressed: "true" }, canvas, one.name);
    button.addEventListener("click", () => {
      off[off.has(number) ? "delete" : "add"](number);
      button.ariaPressed = String(!off.has(number));
      changed();
    });
    return element("li", {}, button);
  }));
}

// ---- scales

function yRange(points, zero) {
  const values = points.flatMap((point) => [point.y, point.low ?? point.y, point.high ?? point.y]);
  let [low, high] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
  if (zero) [low, high] = [Math.min(low, 0), Math.max(high, 0)];
  const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return [low - room, high + room];
}

// Numbers with as many digits as tell them apart.
function ticks(values) {
  const step = values.length > 1 ? Math.abs(values[1] - values[0]) : 1;
  const digits = [0, 1, 2, 3, 4, 5].find((count) => Math.abs(Number(step.toFixed(count)) - step) < step / 100) ?? 6;
  return values.map((value) => minus(value.toFixed(digits)));
}

// 1, 2 and 5 times powers of ten, or the latter alone where there are many.
function decades(low, high) {
  const found = [];
  const many = high / low > 1e3;
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const factor of many ? [1] : [1, 2, 5]) found.push(factor * 10 ** power);
  }
  return found.filter((value) => value >= low && value <= high);
}

function every(labels, width) {
  const step = Math.max(1, Math.ceil((labels.length * 13) / Math.max(width - 60, 100)));
  return labels.map((_, place) => place).filter((place) => place % step === 0);
}

// ---- the three plots

// Those of some systems that are most, each with a series; the rest are left out, and counted.
function seriesOf(systems, axis) {
  const counts = new Map();
  for (const system of systems) counts.set(system[axis], (counts.get(system[axis]) || 0) + 1);
  const noneFirst = (a, b) => (b === "none") - (a === "none");
  const names = [...counts.keys()].sort((a, b) => noneFirst(a, b) || counts.get(b) - counts.get(a)).slice(0, MOST_SERIES);
  names.sort((a, b) => noneFirst(a, b) || a.localeCompare(b, "en", { numeric: true }));
  return { names, missing: counts.size - names.length };
}

function plotScores() {
  const { task, axis } = chosenOfPlots();
  const systems = state.visible.filter((system) => system.task === task && system.mean !== null);
  const { names, missing } = seriesOf(systems, axis);
  const kept = systems.filter((system) => names.includes(system[axis]));
  const languages = [...new Set(kept.map((system) => system.lang))].sort();
  const metric = kept.length ? kept[0].metric : "";
  const points = kept.filter((system) => system.metric === metric).map((system) => {
    const number = names.indexOf(system[axis]);
    const spread = system.deviation;
    return {
      x: languages.indexOf(system.lang) + (names.length > 1 ? (number / (names.length - 1) - 0.5) * 0.5 : 0), y: system.mean,
      ...(spread === null ? {} : { low: system.mean - spread, high: system.mean + spread }),
      series: number, system, title: `${system.language || system.lang}: ${scoreOf(system)}`, lines: linesOf(system),
    };
  });
  const more = missing ? ` (the ${MOST_SERIES} most frequent of ${names.length + missing} colours)` : "";
  byId("scores-title").textContent = `Scores by language${task ? `: ${task}` : ""}${more}`;
  plot("scores", {
    series: names.map((name) => ({ name })), points, xLabels: languages, xRange: [-0.6, languages.length - 0.4], yTitle: metric,
    empty: "No scores pass the filters.",
  });
}

function plotGains() {
  const { task, axis } = chosenOfPlots();
  const all = state.visible.filter((system) => system.task === task && system.mean !== null);
  const { names } = seriesOf(all, axis); // the colours of the other plot
  const systems = all.filter((system) => system.gain && system.bytes);
  const points = systems.filter((system) => names.includes(system[axis])).map((system) => {
    const [, value, low, high] = system.gain;
    return { x: system.bytes, y: value, ...(low === undefined ? {} : { low, high }), series: names.indexOf(system[axis]), system,
      title: `${system.language || system.lang}: ${signed(value)}${low === undefined ? "" : ` ${range(low, high, signed)}`}`,
      lines: [`${bytes(system.bytes)} of text`, ...linesOf(system)] };
  });
  const sizes = points.map((point) => point.x);
  const [least, most] = [Math.min(...sizes), Math.max(...sizes)];
  byId("gains-title").textContent = `Gain over none against training text${task ? `: ${task}` : ""}`;
  plot("gains", {
    series: names.map((name) => ({ name })), points, xLog: bytes, xRange: [least / 1.6, most * 1.6], yTitle: "gain",
    xTitle: "training text of the language module", zero: true,
    empty: "Gains need runs with method=none beside others, on the same task and language.",
  });
}

// What tells a system from others.
const telling = (system, but = null) => AXES.filter((axis) => varies(axis) && axis !== but && (system[axis] !== "none" || axis === "method"))
  .map((axis) => system[axis]);

const linesOf = (system) => [
  telling(system, "lang").join(", "), system.variant, `${system.seeds} ${system.seeds === 1 ? "seed" : "seeds"}`,
].filter(Boolean);

// The curves of some systems: {name, system, xs, ys, metric}. A module that several runs share is there once.
function curvesOf(systems, kind, what) {
  const seen = new Set();
  return systems.flatMap((system) => system.runs.flatMap((run) => {
    const own = run.steps.filter((number) => STEPS[number].kind === kind && STEPS[number].curves);
    return own.filter((number) => !seen.has(number)).flatMap((number, place) => {
      seen.add(number);
      const step = STEPS[number];
      const words = systems.length > 1 ? telling(system) : [];
      if (systems.length > 1 && system.variant) words.push(system.variant);
      if (kind === "task_module") words.push(own.length > 1 ? `module ${place + 1}` : "", `seed ${run.seed}`);
      else if (own.length > 1 || !words.length) words.push(step.label);
      return step.curves.map((curve, phase) => ({
        name: [...words, step.curves.length > 1 ? `phase ${phase + 1}` : ""].filter(Boolean).join(", "),
        system, xs: curve[what][0], ys: curve[what][1], metric: what === "loss" ? "training loss" : `validation ${curve.metric}`,
      })).filter((curve) => curve.ys.some((y) => y !== null));
    });
  }));
}

function plotCurves(id, systems, kind, what) {
  const all = curvesOf(systems, kind, what);
  const metric = all.length ? all[0].metric : "";
  const curves = all.filter((curve) => curve.metric === metric);
  const shown = curves.slice(0, MOST_SERIES);
  const points = shown.flatMap((curve, series) => curve.xs.map((x, place) => ({
    x, y: curve.ys[place], series, system: curve.system, title: `${score(curve.ys[place])} at step ${whole(x)}`, lines: [curve.name],
  }))).filter((point) => point.y !== null);
  const last = points.reduce((most, point) => Math.max(most, point.x), 0);
  const first = points.reduce((least, point) => Math.min(least, point.x), last);
  plot(id, {
    series: shown.map((curve) => ({ name: curve.name, joined: curve.xs.length > SPARSE ? "densely" : "marked" })), points, xRange: first === last ? [0, last + 1] : [0, last * 1.02],
    xTitle: "step", yTitle: metric, empty: "The store has no learning curves of these runs.",
  });
  if (curves.length > shown.length) {
    byId(id).append(element("p", { className: "quiet" },
      `The first ${shown.length} of ${whole(curves.length)} curves, in the order of the table: filter or sort it to see others.`));
  }
}

// ---- what they show

const chosenOfPlots = () => ({ task: byId("plot-task").value, axis: byId("plot-series").value });

function offerTasks() {
  const select = byId("plot-task");
  const before = select.value;
  const counts = new Map();
  for (const system of state.visible) counts.set(system.task, (counts.get(system.task) || 0) + 1);
  const tasks = [...counts.keys()].sort((a, b) => a.localeCompare(b));
  const most = tasks.reduce((best, task) => (counts.get(task) > (counts.get(best) || 0) ? task : best), tasks[0]);
  select.replaceChildren(...tasks.map((task) => element("option", {}, task)));
  select.value = counts.has(before) ? before : most ?? "";
  byId("task-choice").hidden = tasks.length < 2;
}

function makePlots() {
  const axes = AXES.filter((axis) => axis !== "lang" && axis !== "task" && (axis === "method" || varies(axis)));
  if (SYSTEMS.some((system) => system.variant)) axes.push("variant");
  byId("plot-series").append(...axes.map((axis) => element("option", { value: axis }, TITLES[axis] || "Differs in")));
  byId("plot-series").value = "method";
  byId("plot-series").parentElement.hidden = axes.length < 2;
  for (const id of ["plot-task", "plot-series"]) byId(id).addEventListener("change", () => { plotScores(); plotGains(); });
  for (const id of ["curve-kind", "curve-what"]) byId(id).addEventListener("change", showCurves);
  let waiting = null;
  const soon = () => { // what is typed into the search comes first
    clearTimeout(waiting);
    waiting = setTimeout(showPlots, 60);
  };
  listeners.push(soon);
  new ResizeObserver(soon).observe(byId("plots"));
}

const showCurves = () => plotCurves("curves", state.visible, byId("curve-kind").value, byId("curve-what").value);

function showPlots() {
  offerTasks();
  plotScores();
  plotGains();
  showCurves();
}
