"use strict";
// The three plots of what the filters leave, and the curves of the panel.

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
      return step.curves.map(curveOf).map((curve, phase) => ({
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
  for (const [event, printing] of [["beforeprint", true], ["afterprint", false]]) {
    addEventListener(event, () => { // narrower, and black on white
      document.documentElement.classList.toggle("printing", printing);
      showPlots();
    });
  }
  new ResizeObserver(soon).observe(byId("plots"));
}

const showCurves = () => plotCurves("curves", state.visible, byId("curve-kind").value, byId("curve-what").value);

function showPlots() {
  offerTasks();
  plotScores();
  plotGains();
  showCurves();
}
